"""Views: which pixels a detector sees, at which scale, and which boxes it learns from in each view.

A planner turns an image's size and boxes into views, for training and for inference alike. It is a chain of up to
four steps, see `Step`: ``scales`` makes views of the whole image, ``windows`` cuts them, ``flip`` mirrors them,
``distort`` changes their colours. A strategy replaces one step and leaves the others alone.
"""

from lightning_det.views.chips import Chips
from lightning_det.views.distort import Distort
from lightning_det.views.flip import BothSides, RandomFlip
from lightning_det.views.focus_pyramid import FocusPyramid
from lightning_det.views.iou_crops import IoUCrops
from lightning_det.views.large import LargeViews
from lightning_det.views.planner import Planner
from lightning_det.views.pyramid import Pyramid
from lightning_det.views.step import Step
from lightning_det.views.sub_images import SubImages
from lightning_det.views.tiles import Tiles
from lightning_det.views.view import View
from lightning_det.views.warp import Warp

__all__ = [
    "BothSides",
    "Chips",
    "Distort",
    "FocusPyramid",
    "IoUCrops",
    "LargeViews",
    "Planner",
    "Pyramid",
    "RandomFlip",
    "Step",
    "SubImages",
    "Tiles",
    "View",
    "Warp",
]
