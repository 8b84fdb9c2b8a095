"""Many strings in two arrays, which loader processes share; a list would be copied into each of them."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import overload

import numpy as np

from lightning_det.annotations.arrays import check_groups


class Strings(Sequence[str]):
    """Immutable strings in two arrays.

    Args:
        data: (N,) uint8, the UTF-8 bytes of all strings.
        offsets: (n + 1,) int64, where each string begins, and the end.
    """

    def __init__(self, data: np.ndarray, offsets: np.ndarray):
        self.data = data
        self.offsets = offsets

    @classmethod
    def pack(cls, strings: Sequence[str]) -> "Strings":
        """Packs a list of strings."""
        encoded = [s.encode() for s in strings]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(e) for e in encoded], out=offsets[1:])
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], name: str) -> "Strings":
        """Undoes `to_arrays`.

        Raises:
            KeyError: an array is missing.
            ValueError: the arrays do not hold strings.
        """
        data, offsets = arrays[f"{name}_data"], arrays[f"{name}_offsets"]
        if data.dtype != np.uint8 or data.ndim != 1:
            raise ValueError(f"{name}_data holds no bytes")
        check_groups(offsets, len(offsets) - 1, len(data))
        strings = cls(data, offsets)
        list(strings)  # UnicodeDecodeError is a ValueError
        return strings

    def to_arrays(self, name: str) -> dict[str, np.ndarray]:
        """Returns both arrays, named ``NAME_data`` and ``NAME_offsets``, for a file."""
        return {f"{name}_data": self.data, f"{name}_offsets": self.offsets}

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[str]:
        data = self.data.tobytes()
        return (data[start:stop].decode() for start, stop in itertools.pairwise(self.offsets.tolist()))

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        start, stop = self.offsets[index % len(self)], self.offsets[index % len(self) + 1]
        return self.data[start:stop].tobytes().decode()
