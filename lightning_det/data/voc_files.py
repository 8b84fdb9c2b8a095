"""Files of a folder in VOC's layout, found by the names that lists and annotations have for them."""

from functools import cached_property
from pathlib import Path

from lightning_det.data.images import SUFFIXES
from lightning_det.data.text import is_file_name
from lightning_det.system.files import files_below

FLAGS = ("1", "0", "-1")
"""Last words of the lines of the development kit's class lists: whether the class is in the image."""


class VocFiles:
    """``Annotations`` and ``JPEGImages`` of one folder.

    Args:
        folder: that holds both.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    @cached_property
    def annotations(self) -> dict[str, Path]:
        """XML files by their names without suffix."""
        return {name: found[0] for name, found in _below(self.folder / "Annotations", (".xml",)).items()}

    @cached_property
    def images(self) -> dict[str, list[Path]]:
        """Images by their names without suffix, of which some tools write several."""
        return _below(self.folder / "JPEGImages", SUFFIXES)

    @cached_property
    def _folded(self) -> dict[str, list[str]]:
        """Names of annotations by what they are where upper and lower case are the same."""
        folded: dict[str, list[str]] = {}
        for name in self.annotations:
            folded.setdefault(name.casefold(), []).append(name)
        return folded

    def named(self, line: str, plain: bool) -> str:
        """The annotation that a line of a list names.

        That is the whole line, or less of it where there is no such annotation: without quotes, without a last word 1,
        0 or -1, without the suffix, or without ``JPEGImages`` or ``Annotations`` in front.

        Args:
            line: stripped.
            plain: whether the list has lines without such a last word, so that it is no class list.

        Raises:
            ValueError: it can be no name, or two.
        """
        found = [name for name in map(self._known, dict.fromkeys(_readings(line))) if name is not None]
        if len(set(found)) > 1 and not plain:
            raise ValueError(f'{line[:80]!r} may be {found[0]!r} or {found[1]!r}; write "{found[0]}" in quotes to tell')
        if found:
            return found[0]
        name = _readings(line)[-1]
        if Path(name).name != name or not is_file_name(name):
            raise ValueError(f"{name[:80]!r} is not the name of an annotation file without .xml")
        return name

    def _known(self, name: str) -> str | None:
        if name in self.annotations:
            return name
        others = self._folded.get(name.casefold(), [])
        return others[0] if len(others) == 1 else None

    def annotation(self, name: str) -> Path:
        """The XML file of a name, whether it is there or not."""
        return self.annotations.get(name, self.folder / "Annotations" / f"{name}.xml")

    def image(self, name: str, written: str) -> Path:
        """The image of an annotation.

        Args:
            name: of the annotation.
            written: what it calls its image; this decides where several have its own name, or none.

        Raises:
            ValueError: there is none, or nothing tells which.
        """
        own = self.images.get(name) or self.images.get(self._folded_images.get(name.casefold(), ""), [])
        if len(own) > 1:
            told = [image for image in own if image.name == written]
            if not told:
                names = " and ".join(image.name for image in own)
                raise ValueError(f"{names} are both there, and <filename> names neither; remove one of them")
            return told[0]
        if own:
            return own[0]
        other = self._written(written)
        if other is None:
            raise ValueError(f"no image {name} in {self.folder / 'JPEGImages'}")
        return other

    def is_other_image(self, written: str, image: Path) -> bool:
        """Whether an annotation calls its image by the name of another one that is there."""
        other = self._written(written)
        return other is not None and other != image

    def _written(self, written: str) -> Path | None:
        return next((i for i in self.images.get(Path(written).stem, []) if i.name == written), None)

    @cached_property
    def _folded_images(self) -> dict[str, str]:
        return {name.casefold(): name for name in self.images}


def _below(folder: Path, suffixes: tuple[str, ...]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for file in files_below(folder) if folder.is_dir() else []:
        if file.suffix.lower() in suffixes:
            found.setdefault(file.relative_to(folder).with_suffix("").as_posix(), []).append(file)
    return found


def has_flag(line: str) -> bool:
    """Whether the last of several words of a line is a flag."""
    return len(line.split()) > 1 and line.split()[-1] in FLAGS


def _readings(line: str) -> list[str]:
    """Names that a line of a list may mean: the line, and what is left of it without one thing after the other."""
    readings = [line]
    if line.startswith('"') and '"' in line[1:]:
        inner, _, rest = line[1:].partition('"')
        if rest.strip() in ("", *FLAGS):
            readings = [inner]
    elif has_flag(line):
        readings.append(line.rsplit(maxsplit=1)[0])
    more = []
    for reading in readings:
        path = Path(reading.replace("\\", "/"))
        parts = path.parts[1:] if path.parts[:1] in (("JPEGImages",), ("Annotations",)) else path.parts
        bare = Path(*parts)
        more.append(bare.as_posix())
        if bare.suffix.lower() in (".xml", *SUFFIXES):
            more.append(bare.with_suffix("").as_posix())
    return [*readings, *more]
