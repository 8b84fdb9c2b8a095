"""Reads the frames of video files one by one, and writes videos."""

import errno
import itertools
from collections.abc import Iterable, Iterator
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from lightning_det.annotations.problems import DatasetError, Problem
from lightning_det.data.opening import MAX_PIXELS
from lightning_det.system.errors import UserError
from lightning_det.system.files import atomic_write
from lightning_det.system.workload import progress

if TYPE_CHECKING:
    from av import FFmpegError, VideoFrame
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
"""FFmpeg's names of the formats that are opened, whatever the file's name. Playlists and URLs are not opened."""

FINEST = Fraction(1, 60_000)
"""Smallest unit of time, seconds: MPEG-4 allows 1 / 65535, and periods of common frame rates are multiples of this."""

SLACK = 1.0
"""The frames may end this many seconds before the length in the header: sound is often a little longer."""


class Video:
    """The frames of a video, one of which is in memory at a time.

    A first pass decodes all frames, because only this shows how many can be read. Each call continues after the last
    one. An earlier frame makes it start over, so frames should be read in order. Every loader process reads the
    file once for every shape of views.

    Args:
        path: the file.

    Attributes:
        times: (n,) seconds at which each frame is shown.
        width: of the frames, pixels.
        height: of the frames, pixels.
        rate: frames per second, on average.
        unit: unit of the file's times, seconds.
        problems: empty, or one problem that says why frames at the end are left out.

    Raises:
        UserError: PyAV is missing.
        DatasetError: the file does not exist, or has no readable frame.
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
        self._next = 0
        self._pixels: np.ndarray | None = None
        self._scan()

    def __len__(self) -> int:
        return len(self.times)

    def __copy__(self) -> "Video":
        """The same video, read independently from the first frame on."""
        other = object.__new__(type(self))
        other.__dict__ |= self.__dict__ | {"_frames": iter(()), "_next": 0, "_pixels": None}
        return other

    def __call__(self, number: int) -> Tensor:
        """Decodes frame ``number``, counted from 0.

        Returns:
            (3, H, W) uint8 RGB, rotated as the file says.

        Raises:
            UserError: the file has fewer frames than before.
        """
        pixels = self._pixels
        if pixels is None or number < self._next - 1:
            self._frames, self._next = self._decode(), 0
        frame = None
        while self._next <= number:
            frame = next(self._frames, None)
            if frame is None:
                raise UserError(f"{self.path}: changed while it was read; let it be written to its end first")
            self._next += 1
        if frame is not None:
            # FFmpeg rotates counterclockwise, as numpy does.
            pixels = self._pixels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90).copy()
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()

    def _open(self) -> "InputContainer":
        import av

        # An absolute path: a name such as http:a.mp4 would be read as a URL.
        options = {"protocol_whitelist": "file", "format_whitelist": ",".join(CONTAINERS)}
        return av.open(str(self.path.absolute()), options=options)

    def _decode(self) -> Iterator["VideoFrame"]:
        with self._open() as container:
            stream = container.streams.video[0]
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            stream.thread_type = "AUTO"
            yield from container.decode(stream)

    def _scan(self) -> None:
        """Decodes all frames for size, times and problems.

        Raises:
            DatasetError: the file has no readable frame.
        """
        import av

        try:
            with self._open() as container:
                if not container.streams.video:
                    raise DatasetError(f"{self.path}: no video in this file, only sound or text")
                stream = container.streams.video[0]
                self.rate = stream.average_rate or self.rate
                unit = stream.time_base or FINEST
                self.unit = max(min(unit, 1 / self.rate), FINEST)
                ticks = stream.duration
                stated = float(ticks * unit) if ticks else (container.duration or 0) / av.time_base
            expected = int(stated * self.rate)
            for frame in progress(self._decode(), "reading the video", expected):
                size = (frame.height, frame.width) if frame.rotation % 180 else (frame.width, frame.height)
                if self.times and size != (self.width, self.height):
                    self._cut_short(f"its size changes from {self.width} x {self.height} to {size[0]} x {size[1]}")
                    return
                self.width, self.height = size
                time = len(self) / float(self.rate) if frame.time is None else frame.time
                if self.times and time <= self.times[-1]:  # concatenated files, or frames out of order
                    time = self.times[-1] + 1 / float(self.rate)
                self.times.append(time)
        except (av.FFmpegError, OSError) as error:
            if not self.times:
                raise DatasetError(
                    f"{self.path}: not a video that can be read ({_reason(error)}); if it was cut off or is of another "
                    "kind, try `ffmpeg -i FILE NEW.mp4`"
                ) from error
            self._cut_short(f"damaged ({error.strerror})")
            return
        if not self.times:
            raise DatasetError(f"{self.path}: a video without frames, or without one that can be decoded")
        length = self.times[-1] - self.times[0] + 1 / float(self.rate)
        if stated - length > SLACK:
            self._cut_short(f"the file states {stated:.1f} s, its frames end after {length:.1f} s; it may be cut off")

    def _cut_short(self, reason: str) -> None:
        self.problems.append(Problem(str(self.path), f"frame {len(self)} and after", reason, "frames left out"))


def _reason(error: "FFmpegError | OSError") -> str | None:
    """Returns the message of an error. FFmpeg reports a format that it may not open as an invalid argument."""
    kinds = ", ".join(CONTAINERS)
    return f"none of the kinds {kinds}" if error.errno == errno.EINVAL else error.strerror


def write_video(file: Path, pictures: Iterable[np.ndarray], video: Video) -> None:
    """Writes frames with the times of a video to an mp4 file, in H.264 or, where that is not possible, MPEG-4.

    Args:
        file: to write.
        pictures: (H, W, 3) uint8, one per frame, all of one size.
        video: the video whose frames are replaced.
    """
    import av

    frames = iter(pictures)
    first = next(frames)
    height, width = first.shape[:2]
    # H.264 halves the resolution of colours, so it needs even sides.
    even = width % 2 == height % 2 == 0
    codec: Literal["libx264", "mpeg4"] = "libx264" if even and "libx264" in av.codecs_available else "mpeg4"
    with atomic_write(file, "wb") as target, av.open(target, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=video.rate, width=width, height=height)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = video.unit
        if codec == "mpeg4":
            stream.bit_rate = 4 * width * height
        last = -1
        for number, picture in enumerate(itertools.chain([first], frames)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.time_base = video.unit
            last = frame.pts = max(last + 1, round((video.times[number] - video.times[0]) / float(video.unit)))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
