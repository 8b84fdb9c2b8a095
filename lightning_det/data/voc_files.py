"""Files of a folder in VOC's layout, found by the names in lists and annotations."""

from collections.abc import Iterable
from functools import cached_property
from itertools import islice
from pathlib import Path

from lightning_det.data.opening import SUFFIXES
from lightning_det.data.text import is_file_name, is_text
from lightning_det.system.files import files_below

FLAGS = ("1", "0", "-1")
"""Flags at the end of a line in the development kit's class lists: whether an image shows the class."""


ANNOTATIONS, IMAGES = ("Annotations", "annotations"), ("JPEGImages", "images", "Images")
"""Names of the folders of annotations and images; the first ones are VOC's own."""

SAMPLE = 5
"""Number of files of which one has to be an annotation."""

WHOLE = "all"
"""Name of the split that is all annotations of a folder, if no list is called so."""


class VocFiles:
    """Annotations and images of one folder: in two folders of their own, or both in the folder itself.

    Args:
        folder: the one that holds both.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        beside = holds_xml(folder)
        self.annotation_folder = folder if beside else _existing(folder, ANNOTATIONS)
        self.image_folder = folder if beside else _existing(folder, IMAGES)

    @cached_property
    def annotations(self) -> dict[str, Path]:
        """XML files by their path in the folder, without suffix."""
        found = _by_name(self.annotation_folder, self._annotation_files, (".xml",))
        return {name: files[0] for name, files in found.items()}

    @cached_property
    def images(self) -> dict[str, list[Path]]:
        """Images by their path in the folder, without suffix; some tools write several of one name."""
        return _by_name(self.image_folder, self._image_files, SUFFIXES)

    @cached_property
    def _annotation_files(self) -> list[Path]:
        return _below(self.annotation_folder)

    @cached_property
    def _image_files(self) -> list[Path]:
        return self._annotation_files if self.image_folder == self.annotation_folder else _below(self.image_folder)

    def misnamed(self) -> list[Path]:
        """Annotations and images whose names are not UTF-8, as some programs unpack archives of Windows."""
        files = dict.fromkeys([*self._annotation_files, *self._image_files])
        return [file for file in files if file.suffix.lower() in (".xml", *SUFFIXES) and not is_text(str(file))]

    def without_annotation(self) -> list[Path]:
        """Images that no annotation has the name of."""
        annotated = set(self._folded)
        return [file for name, files in self.images.items() if name.casefold() not in annotated for file in files]

    @cached_property
    def _folded(self) -> dict[str, list[str]]:
        """Names of annotations by their case-folded form."""
        folded: dict[str, list[str]] = {}
        for name in self.annotations:
            folded.setdefault(name.casefold(), []).append(name)
        return folded

    def resolve(self, line: str, plain: bool) -> str:
        """Finds the name of the annotation that a line of a list refers to.

        This is the whole line. If there is no such annotation, it is the line without quotes, without the flag 1, 0 or
        -1 at the end, without the suffix, or without a leading ``JPEGImages`` or ``Annotations``.

        Args:
            line: stripped.
            plain: whether the list has lines without a flag, so it is not a class list.

        Raises:
            ValueError: the line cannot be a name, or refers to two annotations.
        """
        found = [name for name in map(self._match, dict.fromkeys(_spellings(line))) if name is not None]
        if len(set(found)) > 1 and not plain:
            raise ValueError(f'{line[:80]!r} may be {found[0]!r} or {found[1]!r}; write "{found[0]}" in quotes to tell')
        if found:
            return found[0]
        name = _spellings(line)[-1]
        if Path(name).name != name or not is_file_name(name):
            raise ValueError(f"{name[:80]!r} is not the name of an annotation file without .xml")
        return name

    def _match(self, name: str) -> str | None:
        """Finds the annotation of a name, in the same case, or the only one in another case; None if there is none."""
        if name in self.annotations:
            return name
        others = self._folded.get(name.casefold(), [])
        return others[0] if len(others) == 1 else None

    def annotation(self, name: str) -> Path:
        """The XML file of a name, whether it exists or not."""
        return self.annotations.get(name, self.annotation_folder / f"{name}.xml")

    def image(self, name: str, written: str) -> Path:
        """The image of an annotation.

        Args:
            name: of the annotation.
            written: its ``<filename>``, which is used if no image or several images have the annotation's name.

        Raises:
            ValueError: there is no image, or ``<filename>`` does not decide between several.
        """
        own = self.images.get(name) or self._folded_images.get(name.casefold(), [])
        if len(own) > 1:
            matching = [image for image in own if image.name == written]
            if not matching:
                names = " and ".join(image.name for image in own)
                raise ValueError(f"{names} are both there, and <filename> names neither; remove one of them")
            return matching[0]
        if own:
            return own[0]
        other = self._image_called(written)
        if other is None:
            raise ValueError(f"no image {name} in {self.image_folder}")
        return other

    def is_other_image(self, written: str, image: Path) -> bool:
        """Whether ``<filename>`` is the name of another existing image."""
        other = self._image_called(written)
        return other is not None and other != image

    def _image_called(self, written: str) -> Path | None:
        return next((i for i in self.images.get(Path(written).stem, []) if i.name == written), None)

    @cached_property
    def _folded_images(self) -> dict[str, list[Path]]:
        """Images by the case-folded form of their path without suffix."""
        folded: dict[str, list[Path]] = {}
        for name, files in self.images.items():
            folded.setdefault(name.casefold(), []).extend(files)
        return folded


def holds_xml(folder: Path) -> bool:
    """Whether annotations lie in the folder itself, beside their images; other XML files do not count."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return any(_is_annotation(file) for file in [file for file in files if file.suffix.lower() == ".xml"][:SAMPLE])


def holds_voc(folder: Path) -> bool:
    """Whether a folder holds annotations in VOC's layout."""
    below = (file for name in ANNOTATIONS for file in (folder / name).rglob("*") if file.suffix.lower() == ".xml")
    return holds_xml(folder) or any(map(_is_annotation, islice(below, SAMPLE)))


def _is_annotation(file: Path) -> bool:
    """Whether a file begins like an annotation of VOC."""
    try:
        with file.open("rb") as stream:
            return b"<annotation" in stream.read(1000)
    except OSError:
        return False


def lists_of(folder: Path) -> dict[str, Path]:
    """Lists of images in ``ImageSets/Main``, by name."""
    return {file.stem: file for file in sorted((folder / "ImageSets" / "Main").glob("*.txt"))}


def _existing(folder: Path, names: tuple[str, ...]) -> Path:
    """The first of some folders that exists, by default the first one."""
    return next((folder / name for name in names if (folder / name).is_dir()), folder / names[0])


def _below(folder: Path) -> list[Path]:
    return files_below(folder) if folder.is_dir() else []


def _by_name(folder: Path, files: Iterable[Path], suffixes: tuple[str, ...]) -> dict[str, list[Path]]:
    """Files with some suffixes by their path in a folder, without suffix; names that are not UTF-8 are left out."""
    found: dict[str, list[Path]] = {}
    for file in files:
        if file.suffix.lower() in suffixes and is_text(str(file)):
            found.setdefault(file.relative_to(folder).with_suffix("").as_posix(), []).append(file)
    return found


def has_flag(line: str) -> bool:
    """Whether a line has several words, the last of which is a flag."""
    return len(line.split()) > 1 and line.split()[-1] in FLAGS


def _spellings(line: str) -> list[str]:
    """Lists names that a line of a list may mean: first the whole line, then shorter parts of it."""
    spellings = [line]
    if line.startswith('"') and '"' in line[1:]:
        inner, _, rest = line[1:].partition('"')
        if rest.strip() in ("", *FLAGS):
            spellings = [inner]
    elif has_flag(line):
        spellings.append(line.rsplit(maxsplit=1)[0])
    more = []
    for spelling in spellings:
        path = Path(spelling.replace("\\", "/"))
        parts = path.parts[1:] if path.parts[:1] in (("JPEGImages",), ("Annotations",)) else path.parts
        bare = Path(*parts)
        more.append(bare.as_posix())
        if bare.suffix.lower() in (".xml", *SUFFIXES):
            more.append(bare.with_suffix("").as_posix())
    return [*spellings, *more]
