"""Text of unknown origin."""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_det.annotations.problems import DatasetError


def is_text(value: Any) -> bool:
    """Whether a value is a string of characters that UTF-8 and paths have: no half of a surrogate pair, no NUL."""
    return isinstance(value, str) and not any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value)


def splits_of(split: Any) -> list[str]:
    """Names of the splits that a setting means: one, or several that are read as one."""
    return [str(part) for part in split] if isinstance(split, list | tuple) else [str(split)]


def is_file_name(value: str) -> bool:
    """Whether a text can be the name of a file, with a suffix more: file systems take 255 bytes."""
    return is_text(value) and len(value.encode()) <= 240


def text_of(file: Path) -> str:
    """What a text file holds; a byte order mark, which editors of Windows write, is no part of it.

    Raises:
        DatasetError: the file cannot be read, or is no UTF-8 text.
    """
    try:
        if file.exists() and not file.is_file():  # reading a pipe might never end
            raise DatasetError(f"{file}: not a regular file")
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DatasetError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        utf16 = error.object[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        reason = "it is UTF-16, as Windows writes it: save it as UTF-8" if utf16 else str(error)
        raise DatasetError(f"{file}: not a text file in UTF-8 ({reason})") from error


def lines_of(file: Path) -> Iterator[tuple[int, str]]:
    """Yields number, from 1, and stripped text of every line that is not empty.

    Raises:
        DatasetError: see `text_of`.
    """
    for number, line in enumerate(text_of(file).split("\n"), start=1):
        if line.strip():
            yield number, line.strip()
