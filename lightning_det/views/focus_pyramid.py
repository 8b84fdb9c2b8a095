"""AutoFocus at inference (Najibi, Singh and Davis, ICCV 2019): a pyramid whose finer levels show chosen parts only."""

from collections.abc import Sequence
from math import prod

import numpy as np

from lightning_det.protocols.structures import ImageRecord
from lightning_det.views.focus_chips import focus_chips
from lightning_det.views.planner import Planner
from lightning_det.views.pyramid import Pyramid
from lightning_det.views.resolution import Resolution, scale_factor
from lightning_det.views.view import View


class FocusPyramid(Pyramid):
    """The whole image at the coarsest resolution; FocusChips of it at the next finer one, and so on. For inference.

    The chips of a level are found in the views of the level before, by the head that ``strategy=autofocus`` trains.
    Detections near an inner border of a chip are dropped there.

    Args:
        resolutions: see `Resolution`; finest first, at least two.
        valid_ranges: see `Pyramid`.
        thresholds: lowest probability of a cell that is looked at, one for every resolution but the coarsest, in the
            same order; 0 looks at everything, above 1 at nothing.
        least: least sides of the chips in pixels of the view in which they are found, likewise.
        dilation: see `focus_chips`.
        border: detections whose side is nearer than so many original pixels to an inner border are dropped.

    Raises:
        ValueError: see `Pyramid`; or lengths do not match, or a number is out of its range.
    """

    follows = True

    def __init__(
        self,
        resolutions: Sequence[Resolution],
        valid_ranges: Sequence[Sequence[float]] | None = None,
        thresholds: Sequence[float] = (0.2, 0.02),
        least: Sequence[int] = (320, 256),
        dilation: int = 3,
        border: float = 10.0,
    ):
        super().__init__(resolutions, valid_ranges)
        finer = len(resolutions) - 1
        for name, given in (("thresholds", thresholds), ("least", least)):
            if finer < 1 or len(given) != finer:
                raise ValueError(
                    f"views: autofocus needs a pyramid of at least two resolutions, and one of {name} for every one "
                    f"but the coarsest; got {len(resolutions)} resolutions and {name} {list(given)}"
                )
        if not all(t >= 0 for t in thresholds) or min(least) < 1 or dilation < 1 or dilation % 2 == 0 or border < 0:
            raise ValueError(
                f"views: autofocus needs thresholds >= 0, least sides >= 1, an odd dilation and a border >= 0, got "
                f"{list(thresholds)}, {list(least)}, {dilation} and {border}"
            )
        self.thresholds = list(thresholds)
        self.least = list(least)
        self.dilation = dilation
        self.border = border

    def __call__(self, image: ImageRecord, views: list[View], rng: np.random.Generator | None) -> list[View]:
        """The view of the coarsest resolution.

        Raises:
            ValueError: it is planned for a training.
        """
        if rng is not None:
            raise ValueError("views: FocusPyramid is for inference; training takes Pyramid")
        return super().__call__(image, views, rng)[-1:]

    def follow(self, image: ImageRecord, view: View, probabilities: np.ndarray, stride: int) -> list[View]:
        """FocusChips of a view at the next finer resolution, see `Step.follow`."""
        if view.level == 0:
            return []
        level = view.level - 1
        found = focus_chips(
            probabilities,
            view.size,
            stride,
            self.thresholds[level],
            self.dilation,
            -(-self.least[level] // stride),
        )
        scale = scale_factor(image.width, image.height, self.resolutions[level])
        windows = _to_image(found, view).tolist()
        return [
            View(
                scale,
                (x1, y1, x2, y2),
                self.valid_ranges[level],
                level=level,
                inner=(x1 > 0, y1 > 0, x2 < image.width, y2 < image.height),
                border=self.border,
            )
            for x1, y1, x2, y2 in windows
        ]


def pyramid_pixels(planner: Planner, image: ImageRecord, multiple: int = 1) -> int:
    """Pixels of the whole pyramid of an image, and of its mirror image if there is one; AutoFocus looks at a part.

    Args:
        planner: of inference.
        image: the image.
        multiple: of pixels, that the sides of a canvas are padded to.
    """
    window, flips = (0, 0, image.width, image.height), {view.flip for view in planner(image)}
    sizes = [View(scale_factor(image.width, image.height, r), window).size for r in planner.scales.resolutions]
    return len(flips) * sum(prod(-(-side // multiple) * multiple for side in size) for size in sizes)


def _to_image(chips: np.ndarray, view: View) -> np.ndarray:
    """Moves (k, 4) rectangles from pixels of a view to whole pixels of the original image."""
    x1, y1, x2, y2 = view.window
    height, width = view.size
    factors = np.array([(x2 - x1) / width, (y2 - y1) / height] * 2)
    return np.rint(chips * factors + np.array([x1, y1, x1, y1])).astype(np.int64)
