"""Draws the right detections and the errors of an image."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from lightning_det.evaluation.diagnosis import Diagnosis
from lightning_det.evaluation.outcomes import Outcome
from lightning_det.plotting.boxes import Colour, draw_boxes

RIGHT: Colour = (0, 158, 115)
WRONG_CLASS: Colour = (204, 121, 167)
FALSE: Colour = (213, 94, 0)
MISSED: Colour = (240, 228, 66)
"""Colours that people who cannot tell red from green can tell apart (Okabe and Ito, Color Universal Design, 2008)."""

KEY = {"right": RIGHT, "wrong class": WRONG_CLASS, "false": FALSE, "missed (broken lines)": MISSED}
"""The colours by what they mean."""

SMALLEST = 0.5
"""An image that would be shrunk further is cut instead, so that small objects stay visible."""

LARGEST = 3
"""Small images are enlarged at most by this."""


class Marks(NamedTuple):
    """Boxes of an image to draw."""

    boxes: np.ndarray
    """(n, 4) ``xyxy``, pixels of the image."""
    captions: list[str]
    colours: list[Colour]
    dashed: list[bool]


def marks_of(diagnosis: Diagnosis, image: int) -> Marks:
    """Collects the counted detections and missed objects of an image. Right detections have no captions.

    Args:
        diagnosis: of the images.
        image: position in the store.
    """
    rows, missed = diagnosis.of_image(image)
    store, results, found = diagnosis.store, diagnosis.results, diagnosis.found
    names = diagnosis.evaluation.names
    marks = Marks(np.concatenate([results.boxes[rows].reshape(-1, 4), store.boxes[missed]]), [], [], [])
    for row in rows:
        said = f"{names[results.labels[row]]} {results.scores[row]:.2f}"
        kind = Outcome(found.kinds[row])
        if kind == Outcome.WRONG_CLASS:
            said += f", is {names[store.labels[found.rows[row]]]}"
        marks.captions.append("" if kind == Outcome.RIGHT else said)
        marks.colours.append({Outcome.RIGHT: RIGHT, Outcome.WRONG_CLASS: WRONG_CLASS}.get(kind, FALSE))
        marks.dashed.append(False)
    for row in missed:
        marks.captions.append(names[store.labels[row]])
        marks.colours.append(MISSED)
        marks.dashed.append(True)
    return marks


def draw_errors(pixels: np.ndarray, diagnosis: Diagnosis, image: int, side: int) -> np.ndarray:
    """Draws an image with its right detections and errors.

    Args:
        pixels: (H, W, 3) uint8 of the image.
        diagnosis: of the images.
        image: position in the store.
        side: longest side of the picture, pixels. Of an image that is more than twice as large, the part with the most
            errors is drawn.

    Returns:
        (h, w, 3) uint8.
    """
    marks = marks_of(diagnosis, image)
    wrong = [caption != "" for caption in marks.captions]
    x, y, width, height = choose_window(pixels.shape[:2], marks.boxes[wrong if any(wrong) else slice(None)], side)
    part = Image.fromarray(pixels[y : y + height, x : x + width])
    factor = min(LARGEST, side / max(width, height))
    part = part.resize((max(1, round(width * factor)), max(1, round(height * factor))))
    boxes = (marks.boxes - [x, y, x, y]) * factor
    inside = (boxes[:, 2:] > 0).all(axis=1) & (boxes[:, :2] < [part.width, part.height]).all(axis=1)
    kept = np.flatnonzero(inside)
    return draw_boxes(
        np.asarray(part),
        np.clip(boxes[kept], 0, [part.width, part.height] * 2),
        [marks.captions[k] for k in kept],
        [marks.colours[k] for k in kept],
        [marks.dashed[k] for k in kept],
    )


def choose_window(shape: tuple[int, int], boxes: np.ndarray, side: int) -> tuple[int, int, int, int]:
    """Chooses the part of an image to draw: x, y, width and height.

    Args:
        shape: height and width of the image.
        boxes: (n, 4) of which the part shows as many centres as possible.
        side: longest side of the picture.
    """
    height, width = shape
    longest = round(side / SMALLEST)
    if max(height, width) <= longest:
        return 0, 0, width, height
    limits = np.array([min(longest, width), min(longest, height)])
    room = np.array([width, height]) - limits
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 if len(boxes) else np.array([[width / 2, height / 2]])
    corners = np.clip(np.round(centres - limits / 2), 0, room)
    inside = ((centres >= corners[:, None]) & (centres <= corners[:, None] + limits)).all(axis=2).sum(axis=1)
    x, y = corners[int(np.argmax(inside))].astype(int).tolist()
    return x, y, int(limits[0]), int(limits[1])
