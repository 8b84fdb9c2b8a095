"""Decoded images that a loader process keeps: to decode a large one takes longer than to cut a view out of it."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from lightning_det.annotations.store import AnnotationStore
from lightning_det.data.windows import Pixels
from lightning_det.system.workload import available_memory

MOST = 2_000_000_000
"""Default maximum of the images that a loader keeps in all its processes, bytes."""

SHARE = 8
"""They take at most one part in so many of the memory that is available."""

COPIES = 3
"""Memory that decoding an image takes at most, in sizes of the decoded image."""

WORTHWHILE = 8
"""Where less than one part in so many of a split fits, nothing is kept: it would save hardly any decoding."""


class Reader(NamedTuple):
    """How a loader gets its images."""

    workers: int = 0
    """Processes of the loader; 0: it loads in the process that takes the batches, which waits meanwhile."""
    room: int = 0
    """Bytes of decoded images that each process keeps."""


class ImageMemory:
    """Keeps the first images that fit, for good, and the last one until other images are asked for.

    Epochs visit images in random order, and inference visits them all, one after the other. Then keeping some of them
    for good saves as much decoding as the memory allows; a cache of the latest ones would save nothing. The last image
    is kept because the tiles of a large one fill several batches.

    Args:
        room: bytes of the images that are kept for good.
    """

    def __init__(self, room: int):
        self._room = room
        self._kept: dict[int, Pixels] = {}
        self._last: dict[int, Pixels] = {}

    def recall(self, images: Iterable[int]) -> dict[int, Pixels]:
        """Returns those of some images that are kept, (3, H, W) uint8; forgets the last one unless it is asked for."""
        wanted = set(images)
        self._last = {image: pixels for image, pixels in self._last.items() if image in wanted}
        return self._last | {image: self._kept[image] for image in wanted if image in self._kept}

    def clear(self) -> None:
        """Forgets all images; there is as much room as at first."""
        self._room += sum(pixels.nbytes for pixels in self._kept.values())
        self._kept.clear()
        self._last.clear()

    def keep(self, images: Mapping[int, Pixels], last: int) -> None:
        """Keeps what fits.

        Args:
            images: (3, H, W) uint8 each. One that is read part by part counts as if it were decoded.
            last: the one of them that is needed next, if any is.
        """
        for image, pixels in images.items():
            if image not in self._kept and pixels.nbytes <= self._room:
                self._room -= pixels.nbytes
                self._kept[image] = pixels
        self._last = {last: images[last]}


def room_for(store: AnnotationStore, megabytes: float | None, processes: int = 1, loaders: int = 1) -> int:
    """Returns the bytes of decoded images that each process of a loader keeps.

    Args:
        store: the images.
        megabytes: of all its processes; None takes what memory allows.
        processes: of the loader.
        loaders: of equal kind on this machine, one for each rank.
    """
    if megabytes is not None:
        return int(1e6 * megabytes / processes)
    room = min(MOST, available_memory() // SHARE) // loaders // processes
    return room if WORTHWHILE * room >= decoded_bytes(store) else 0


def decoders(store: AnnotationStore, loaders: int = 1) -> int:
    """Returns how many processes can decode the largest image of a store at once in half of the memory available.

    Args:
        store: the images.
        loaders: see `room_for`.
    """
    largest = 3 * int((store.widths.astype(int) * store.heights).max(initial=1))
    return available_memory() // 2 // loaders // (COPIES * largest)


def decoded_bytes(store: AnnotationStore) -> int:
    """Returns the bytes of all images of a store, decoded."""
    return 3 * int((store.widths.astype(int) * store.heights).sum())
