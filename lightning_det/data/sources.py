"""Finds the images and videos that `predict` is given: files, folders, patterns, and text files that list them."""

import glob
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lightning_det.annotations.problems import IMAGE_LEFT_OUT, DatasetError, Problem
from lightning_det.data.opening import SUFFIXES as IMAGES
from lightning_det.data.text import is_file_name
from lightning_det.data.video import SUFFIXES as VIDEOS
from lightning_det.system.files import files_below

log = logging.getLogger("lightning_det")

PREDICTIONS = "predictions.json"
"""Name of the file of detections that `predict` writes next to its pictures."""

LIST = ".txt"
"""Suffix of text files that list images and videos, one per line."""


@dataclass
class Found:
    """Image and video files, without repetitions."""

    files: list[Path] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    """What is left out: files that a list names and that do not exist, folders of predictions, unusable names."""
    bases: list[Path] = field(default_factory=list)
    """For each source, the folder that its files lie in."""

    @property
    def root(self) -> Path:
        """The folder that all sources have in common."""
        return Path(os.path.commonpath([os.path.abspath(base) for base in self.bases] or [os.getcwd()]))

    @property
    def images(self) -> list[Path]:
        """Files that are no videos by their names."""
        return [file for file in self.files if file.suffix.lower() not in VIDEOS]

    @property
    def videos(self) -> list[Path]:
        """Files that are videos by their names."""
        return [file for file in self.files if file.suffix.lower() in VIDEOS]

    def name(self, file: Path) -> str:
        """Returns the path of a file relative to `root`; it names the pictures and detections of the file."""
        return os.path.relpath(os.path.abspath(file), self.root)


def find_files(sources: Sequence[str], recursive: bool = True) -> Found:
    """Finds images and videos.

    Args:
        sources: each an image, a video, a folder, a pattern such as ``photos/**/*.jpg``, or a text file that lists
            images, videos, folders and patterns, one per line, relative to its own folder or the working directory.
        recursive: whether images and videos in subfolders belong to a folder.

    Raises:
        DatasetError: a source does not exist, or has no image and no video.
    """
    found = Found()
    for source in sources:
        before = len(found.files), len(found.problems)
        if os.path.isfile(source) and Path(source).suffix.lower() == LIST:
            _read_list(Path(source), found, recursive)
        elif not _add(source, found, recursive):
            raise DatasetError(f"{source}: no such image, folder or video, and no file matches it as a pattern")
        if before == (len(found.files), len(found.problems)):
            raise DatasetError(f"{source}: {_nothing(source, recursive)}")
    once: dict[str, Path] = {}
    for file in found.files:
        once.setdefault(os.path.abspath(file), file)
    if repeated := len(found.files) - len(once):
        log.info("files that are named more than once are predicted once: %d repetitions", repeated)
    return Found(list(once.values()), found.problems, found.bases)


def is_pattern(source: str) -> bool:
    """Whether a source is a pattern: it has wildcards, and no file of this name exists."""
    return glob.has_magic(source) and not os.path.lexists(source)


def _add(source: str, found: Found, recursive: bool) -> bool:
    """Adds the files of a source that is no list; returns whether it exists."""
    path = Path(source)
    # os.path: Path's methods raise errors for names that no file can have.
    if os.path.isdir(path):
        found.bases.append(path)
        found.files += _of_folder(path, found.problems, recursive)
    elif os.path.isfile(path):
        found.bases.append(path.parent)
        found.files += _named([path], found.problems)
    elif is_pattern(source):
        matches = [Path(match) for match in sorted(glob.glob(source, recursive=True))]
        if not matches:
            return False
        base = Path(*_fixed_part(path))
        found.bases.append(base)
        files = [match for match in matches if match.is_file()]
        if "**" not in path.parts and (folders := len(matches) - len(files)):
            log.warning(
                "%s also matches %d folders, which are not looked into: end it with **/* for that", source, folders
            )
        below = {place for file in files for place in file.parents if base in place.parents}
        drawn = {place for place in below if (place / PREDICTIONS).is_file()}
        found.problems += map(_drawn_problem, sorted(drawn))
        known = _known([file for file in files if not drawn.intersection(file.parents)])
        found.files += _named(known, found.problems)
    else:
        return False
    return True


def _fixed_part(pattern: Path) -> Iterator[str]:
    """The folders of a pattern before its first wildcard."""
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


def _read_list(file: Path, found: Found, recursive: bool) -> None:
    """Adds the files that a text file lists; empty lines and those that begin with # are skipped."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file}: cannot be read as a list of paths ({error})") from error
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#") or "\0" in line:
            continue
        before = len(found.files), len(found.problems)
        if not _add(str(file.parent / line), found, recursive) and not _add(line, found, recursive):
            found.problems.append(Problem(str(file), f"line {number}", f"no such file: {line}", IMAGE_LEFT_OUT))
        elif before == (len(found.files), len(found.problems)):
            found.problems.append(Problem(str(file), f"line {number}", _nothing(line, recursive), IMAGE_LEFT_OUT))


def _drawn_problem(place: Path) -> Problem:
    """The problem of a folder that `predict` has written."""
    return Problem(str(place), "", f"predicted, for it holds {PREDICTIONS}", IMAGE_LEFT_OUT)


def _of_folder(folder: Path, problems: list[Problem], recursive: bool) -> list[Path]:
    """Finds the images and videos below a folder, without those that `predict` has drawn."""
    files = files_below(folder) if recursive else sorted(file for file in folder.iterdir() if file.is_file())
    drawn = {file.parent for file in files if file.name == PREDICTIONS} - {folder}
    problems += map(_drawn_problem, sorted(drawn))
    known = _known([file for file in files if not drawn.intersection(file.parents)])
    return _named(known, problems)


def _named(files: Sequence[Path], problems: list[Problem]) -> list[Path]:
    """The files whose names can name results too; the others become problems."""
    named = [file for file in files if all(map(is_file_name, file.parts))]
    for file in sorted(set(files) - set(named)):
        reason = f"{file.name!a} is too long for a file name with a suffix more, or not UTF-8"
        problems.append(Problem(ascii(str(file)).strip("'"), "", reason, IMAGE_LEFT_OUT))
    return named


def _known(files: Sequence[Path]) -> list[Path]:
    """The images and videos by their names; the log says what other files there are."""
    others = Counter(f.suffix.lower() or "no suffix" for f in files if f.suffix.lower() not in (*IMAGES, *VIDEOS))
    if others:
        log.info(
            "no images or videos by their names: %s", ", ".join(f"{n} x {kind}" for kind, n in others.most_common())
        )
    return [file for file in files if file.suffix.lower() in (*IMAGES, *VIDEOS)]


def _nothing(source: str, recursive: bool) -> str:
    """Says why a source has no files, and what to do."""
    kinds = f"no image ({', '.join(IMAGES)}) and no video ({', '.join(VIDEOS)})"
    if os.path.isfile(source):
        return f"this list names {kinds}; it needs one path per line"
    if not os.path.isdir(source):
        return f"{kinds} matches this pattern"
    deeper = not recursive and any(path.is_dir() for path in Path(source).iterdir())
    return f"{kinds} in this folder" + "; recursive=true looks into its subfolders too" * deeper
