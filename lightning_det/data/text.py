"""Text files and names of unknown origin."""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

from lightning_det.annotations.problems import DatasetError


def is_text(value: Any) -> TypeGuard[str]:
    """Whether a value is a string without lone surrogates and NUL, which UTF-8 and paths cannot represent."""
    return isinstance(value, str) and not any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value)


def splits_of(split: Any) -> list[str]:
    """Lists the names in the setting of a split: one, or several that are read as one split."""
    return [str(part) for part in split] if isinstance(split, list | tuple) else [str(split)]


def is_file_name(value: str) -> bool:
    """Whether a text plus a suffix can be the name of a file: file systems allow 255 bytes."""
    return is_text(value) and len(value.encode()) <= 240


def read_text(file: Path) -> str:
    """Reads a text file, without the byte order mark that Windows editors write.

    Raises:
        DatasetError: the file cannot be read, or is not UTF-8 text.
    """
    try:
        if file.exists() and not file.is_file():  # reading a pipe may never end
            raise DatasetError(f"{file}: not a regular file")
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DatasetError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        utf16 = error.object[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        reason = "it is UTF-16, as Windows writes it: save it as UTF-8" if utf16 else str(error)
        raise DatasetError(f"{file}: not a text file in UTF-8 ({reason})") from error


def lines_of(file: Path) -> Iterator[tuple[int, str]]:
    """Yields the number, counted from 1, and the stripped text of every line that is not empty.

    Raises:
        DatasetError: see `read_text`.
    """
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if line.strip():
            yield number, line.strip()
