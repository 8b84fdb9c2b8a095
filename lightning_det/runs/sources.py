"""Images and the frames of videos to predict."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from omegaconf import DictConfig, OmegaConf

from lightning_det.annotations import AnnotationStore, LabelMap, Problem
from lightning_det.data.folder import read_images, without_boxes
from lightning_det.data.sources import find_files
from lightning_det.data.video import Video
from lightning_det.data.windows import Pixels, open_pixels
from lightning_det.system.errors import UserError, printable

LEFT_OUT = "video left out"

SHOWN = 20
"""Maximum number of files that are named."""


class Part(NamedTuple):
    """Images, or the frames of one video, without annotations."""

    store: AnnotationStore
    name: str
    """The video's path relative to the folder that all sources have in common; "" for images."""
    video: Video | None
    """Reads the frames if the images are those of a video."""

    def pixels(self, number: int) -> Pixels:
        """Reads an image or a frame, (3, H, W) uint8."""
        return open_pixels(self.store.path(number)) if self.video is None else self.video(number)


class Source(NamedTuple):
    """All that is predicted."""

    parts: Sequence[Part]
    """The images, if there are any, and each video."""
    problems: Sequence[Problem]
    """Files, or parts of a video, that cannot be read."""
    root: Path
    """The folder that the names of images and videos are relative to."""


def sources_of(cfg: DictConfig) -> list[str]:
    """Lists the sources of a configuration: ``source`` is one, or a list of several."""
    return [str(source) for source in (cfg.source if OmegaConf.is_list(cfg.source) else [cfg.source])]


def read_source(sources: Sequence[str], recursive: bool, labels: LabelMap) -> Source:
    """Reads images and videos from files, folders, patterns and lists, see `find_files`.

    Raises:
        UserError: nothing can be read; the message names the files.
    """
    found = find_files(sources, recursive)
    store, damaged = read_images(found, labels)
    parts = [Part(store, "", None)] if len(store) else []
    problems = found.problems + damaged
    for file in found.videos:
        try:
            video = Video(file)
        except UserError as error:
            problems.append(Problem(str(file), "", str(error).removeprefix(f"{file}: "), LEFT_OUT))
        else:
            parts.append(Part(frames_of(video, labels), found.name(file), video))
            problems += video.problems
    if not parts:
        raise UserError("no image and no video can be read:\n" + name_problems(problems))
    return Source(parts, problems, found.root)


def frames_of(video: Video, labels: LabelMap) -> AnnotationStore:
    """The frames of a video as images of a store."""
    names = [f"{video.path.name} frame {number}" for number in range(len(video))]
    widths, heights = (np.full(len(video), side, np.int32) for side in (video.width, video.height))
    return without_boxes(video.path.parent, names, widths, heights, labels)


def name_problems(problems: Sequence[Problem]) -> str:
    """Lists the first problems, one per line, and the number of the others."""
    lines = [f"  {problem}" for problem in problems[:SHOWN]]
    more = len(problems) - SHOWN
    return printable("\n".join([*lines, f"  and {more} more, which predictions.json lists"] if more > 0 else lines))
