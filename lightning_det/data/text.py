"""Text of unknown origin."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_det.annotations.problems import DatasetError


def is_text(value: Any) -> bool:
    """Whether a value is a string of characters that UTF-8 and paths have: no half of a surrogate pair, no NUL."""
    return isinstance(value, str) and not any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value)


def is_file_name(value: str) -> bool:
    """Whether a text can be the name of a file, with a suffix more: file systems take 255 bytes."""
    return is_text(value) and len(value.encode()) <= 240


def lines_of(file: Path) -> Iterator[tuple[int, str]]:
    """Yields number, from 1, and stripped text of every line that is not empty.

    Raises:
        DatasetError: the file cannot be read, or is no UTF-8 text.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise DatasetError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file}: not a text file in UTF-8 ({error})") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.strip()
