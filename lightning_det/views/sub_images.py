"""Random sub-images of the finest resolution, for whole images that do not fit into memory."""

import numpy as np

from lightning_det.protocols.structures import ImageRecord
from lightning_det.views.step import Step
from lightning_det.views.view import View, in_learning_range


class SubImages(Step):
    """Replaces the finest view by the fewest random windows that enclose its objects (SNIP, section 6.2).

    Windows are drawn until every object in the view's range is enclosed. Of every draw, the window that encloses the
    most remaining objects is kept. An image without such an object is not seen at this resolution. Coarser views stay
    whole.

    Args:
        size: side of a window, pixels of the view.
        draws: number of windows per draw, of which one is kept.
    """

    def __init__(self, size: int = 1000, draws: int = 50):
        if size < 1 or draws < 1:
            raise ValueError(f"views: sub-images need size >= 1 and draws >= 1, got {size} and {draws}")
        self.size = size
        self.draws = draws

    def __call__(self, image: ImageRecord, views: list[View], rng: np.random.Generator | None) -> list[View]:
        """The windows of the finest view, and the other views."""
        if rng is None:
            raise ValueError("views: sub-images are for training; inference looks at the whole image")
        return [part for view in views for part in (self._windows(image, view, rng) if view.level == 0 else [view])]

    def _windows(self, image: ImageRecord, view: View, rng: np.random.Generator) -> list[View]:
        boxes = np.clip(image.boxes[~image.ignored], 0, [image.width, image.height] * 2)
        left = boxes[in_learning_range(boxes, view.valid_range)]
        extent = np.array([image.width, image.height])
        side = np.minimum(max(1, int(self.size / view.scale)), extent)
        if (side == extent).all():
            return [view] if len(left) else []
        windows = []
        while len(left):
            corners = rng.integers(0, extent - side + 1, (self.draws, 2))
            # The last window is centred on an object, because the random ones may enclose none.
            centre = (left[0, :2] + left[0, 2:]) / 2
            corners = np.concatenate(
                [corners, np.clip(np.round(centre - side / 2), 0, extent - side)[None].astype(int)]
            )
            inside = (left[:, :2] >= corners[:, None]) & (left[:, 2:] <= (corners + side)[:, None])
            inside = inside.all(axis=2)
            # An object too large to be enclosed counts as enclosed by the window centred on it, so it is shown once.
            inside[-1, 0] = True
            best = int(inside.sum(axis=1).argmax())
            windows.append(view._replace(window=(*corners[best].tolist(), *(corners[best] + side).tolist())))
            left = left[~inside[best]]
        return windows
