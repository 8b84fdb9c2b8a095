"""Video files: frames as a stream in, a drawn copy out."""

import errno
from collections.abc import Iterable, Iterator
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lightning_det.annotations.problems import DatasetError, Problem
from lightning_det.data.images import MAX_PIXELS, progress
from lightning_det.system.errors import UserError
from lightning_det.system.files import atomic_write

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer

SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv")

CONTAINERS = (
    "mov",
    "mp4",
    "m4v",
    "avi",
    "matroska",
    "webm",
    "mpeg",
    "mpegts",
    "mpegvideo",
    "asf",
    "flv",
    "h264",
    "hevc",
)
"""FFmpeg's names of what is opened, whatever a file's name: lists of other files and addresses are not."""

FINEST = Fraction(1, 60_000)
"""Seconds: MPEG-4 knows no shorter unit of time than 1 / 65535; usual rates are whole multiples of this."""

SLACK = 1.0
"""Seconds by which frames may end before the length that the file states: sound often lasts a little longer."""


class Video:
    """The frames of a video. One is in memory at a time; they are best asked for in order.

    A first pass decodes all of them, since only that tells how many can be read. Reading goes on where the last call
    stopped, and starts anew for an earlier frame: every loader process, and views of every shape, read the file once.

    Args:
        path: the file.

    Attributes:
        times: (n,) seconds, when each frame is shown.
        width: of the frames, pixels.
        height: of the frames, pixels.
        rate: frames per second, on average.
        unit: of the file's times, seconds.
        problems: why frames at the end are left out, if some are.

    Raises:
        UserError: PyAV is missing.
        DatasetError: no such file, or no frame that can be read.
    """

    def __init__(self, path: Path):
        if find_spec("av") is None:
            raise UserError(f"{path}: videos need PyAV: pip install 'lightning-det[video]'")
        if not path.is_file():
            raise DatasetError(f"{path}: no such video")
        self.path = path
        self.problems: list[Problem] = []
        self.times: list[float] = []
        self.rate, self.unit, self.width, self.height = Fraction(25), FINEST, 0, 0
        self._frames: Iterator[VideoFrame] = iter(())
        self._next, self._pixels = 0, None
        self._scan()

    def __len__(self) -> int:
        return len(self.times)

    def __call__(self, number: int) -> Tensor:
        """(3, H, W) uint8 RGB of a frame, counted from 0, turned as the file says that it is meant to be seen."""
        if self._pixels is None or number < self._next - 1:
            self._frames, self._next = self._decoded(), 0
        frame = None
        while self._next <= number:
            frame = next(self._frames, None)
            if frame is None:
                raise UserError(f"{self.path}: changed while it was read; let it be written to its end first")
            self._next += 1
        if frame is not None:
            # FFmpeg counts counterclockwise, as numpy does.
            self._pixels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90).copy()
        return torch.from_numpy(self._pixels).permute(2, 0, 1).contiguous()

    def _opened(self) -> "InputContainer":
        import av

        # Absolute, since a name such as http:a.mp4 would be taken for an address.
        options = {"protocol_whitelist": "file", "format_whitelist": ",".join(CONTAINERS)}
        return av.open(str(self.path.absolute()), options=options)

    def _decoded(self) -> Iterator["VideoFrame"]:
        with self._opened() as container:
            stream = container.streams.video[0]
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            stream.thread_type = "AUTO"
            yield from container.decode(stream)

    def _scan(self) -> None:
        """Finds out sizes, times and problems."""
        import av

        try:
            with self._opened() as container:
                if not container.streams.video:
                    raise DatasetError(f"{self.path}: no video in this file, only sound or text")
                stream = container.streams.video[0]
                self.rate = stream.average_rate or self.rate
                self.unit = max(min(stream.time_base, 1 / self.rate), FINEST)
                ticks = stream.duration
                stated = float(ticks * stream.time_base) if ticks else (container.duration or 0) / av.time_base
            expected = int(stated * self.rate)
            for frame in progress(self._decoded(), "reading the video", expected):
                size = (frame.height, frame.width) if frame.rotation % 180 else (frame.width, frame.height)
                if self.times and size != (self.width, self.height):
                    self._ends(f"its size changes from {self.width} x {self.height} to {size[0]} x {size[1]}")
                    return
                self.width, self.height = size
                time = len(self) / float(self.rate) if frame.time is None else frame.time
                if self.times and time <= self.times[-1]:  # files put together, or frames out of order
                    time = self.times[-1] + 1 / float(self.rate)
                self.times.append(time)
        except (av.FFmpegError, OSError) as error:
            if not self.times:
                raise DatasetError(
                    f"{self.path}: not a video that can be read ({_reason(error)}); if it was cut off or is of another "
                    "kind, try `ffmpeg -i FILE NEW.mp4`"
                ) from error
            self._ends(f"damaged ({error.strerror})")
            return
        if not self.times:
            raise DatasetError(f"{self.path}: a video without frames, or without one that can be decoded")
        length = self.times[-1] - self.times[0] + 1 / float(self.rate)
        if stated - length > SLACK:
            self._ends(f"the file states {stated:.1f} s, its frames end after {length:.1f} s; it may be cut off")

    def _ends(self, reason: str) -> None:
        self.problems.append(Problem(str(self.path), f"frame {len(self)} and after", reason, "frames left out"))


def _reason(error: OSError) -> str:
    """An error in words; FFmpeg calls a kind of file that it may not open an invalid argument."""
    kinds = ", ".join(CONTAINERS)
    return f"none of the kinds {kinds}" if error.errno == errno.EINVAL else error.strerror


def write_video(file: Path, pictures: Iterable[np.ndarray], video: Video) -> None:
    """Writes frames with the times of a video to an mp4 file: H.264, or MPEG-4 where it cannot be.

    Args:
        file: to write.
        pictures: (H, W, 3) uint8, one per frame, of the video's size.
        video: whose frames they stand for.
    """
    import av

    # With colours at half the resolution H.264 has even sides only.
    even = video.width % 2 == video.height % 2 == 0
    codec = "libx264" if even and "libx264" in av.codecs_available else "mpeg4"
    with atomic_write(file, "wb") as target, av.open(target, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=video.rate, width=video.width, height=video.height)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = video.unit
        if codec == "mpeg4":
            stream.bit_rate = 4 * video.width * video.height
        last = -1
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.time_base = video.unit
            last = frame.pts = max(last + 1, round((video.times[number] - video.times[0]) / float(video.unit)))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
