"""Reads PNG files chunk by chunk without decoding pixels; Pillow decodes all pixels to find Exif data after them."""

import os
import zlib
from typing import IO

START = 8
"""Bytes of the signature."""

PIECE = 2**20
"""Number of bytes that are read at once."""


def read_exif(file: IO[bytes]) -> bytes:
    """Reads the Exif data of a PNG file, wherever it is; empty if there is none. The file keeps its position."""
    back = file.tell()
    try:
        file.seek(START)
        while len(head := file.read(8)) == 8:
            length, kind = int.from_bytes(head[:4]), head[4:]
            if kind == b"eXIf":
                return file.read(min(length, PIECE))
            file.seek(length + 4, os.SEEK_CUR)
        return b""
    finally:
        file.seek(back)


def is_complete(file: IO[bytes]) -> bool:
    """Whether a PNG file has an end chunk, and all chunks before it have correct checksums."""
    file.seek(START)
    while len(head := file.read(8)) == 8:
        left, kind = int.from_bytes(head[:4]), head[4:]
        checksum = zlib.crc32(kind)
        while left and (piece := file.read(min(left, PIECE))):
            checksum = zlib.crc32(piece, checksum)
            left -= len(piece)
        if left or file.read(4) != checksum.to_bytes(4):
            return False
        if kind == b"IEND":
            return True
    return False
