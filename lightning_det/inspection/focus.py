"""Measures what AutoFocus would look at if its head were perfect: the lowest cost that it can have on a dataset."""

from typing import NamedTuple

import torch

from lightning_det.annotations import AnnotationStore
from lightning_det.data.dataset import Look
from lightning_det.detectors.focus import FocusHead
from lightning_det.protocols.structures import ImageRecord
from lightning_det.selection.focus import FOCUS, label_focus
from lightning_det.views.focus_pyramid import pyramid_pixels
from lightning_det.views.planner import Planner
from lightning_det.views.targets import targets
from lightning_det.views.view import View


class PerfectFocus(NamedTuple):
    """The views of AutoFocus with the labels of FocusPixels in place of predictions."""

    looks: list[Look]
    """All views of all images, coarse to fine."""
    share: float
    """Their pixels, as a share of the whole pyramid's, with its mirror image if there is one."""
    chips: float
    """FocusChips per image, of all finer scales."""


def look_perfectly(store: AnnotationStore, planner: Planner, head: FocusHead) -> PerfectFocus:
    """Plans the views of inference of all images as if the head knew every object.

    Args:
        store: at least one image, with its boxes.
        planner: of inference; its views follow.
        head: has the stride and the sizes of the objects that it looks for.
    """
    looks, whole, chips = [], 0, 0
    for number, image in enumerate(store.records()):
        coarse = planner(image)
        views = [*coarse, *(later for view in coarse for later in _follow(planner, image, view, head))]
        looks += [Look(number, view) for view in views]
        chips += len(views) - len(coarse)
        whole += pyramid_pixels(planner, image)
    sizes = [look.view.size for look in looks]
    return PerfectFocus(looks, sum(height * width for height, width in sizes) / whole, chips / len(store))


def _follow(planner: Planner, image: ImageRecord, view: View, head: FocusHead) -> list[View]:
    """All views that follow from a view, level by level."""
    shown = targets(image, view)
    height, width = view.size
    labels = label_focus(
        torch.from_numpy(shown.boxes)[None],
        torch.from_numpy(shown.states)[None],
        torch.tensor([view.size]),
        (-(-height // head.stride), -(-width // head.stride)),
        head.stride,
        head.limits,
    )
    found = (labels[0] == FOCUS).double().numpy()
    later = [] if view.flip else planner.follow(image, view, found, head.stride)
    return [*later, *(further for one in later for further in _follow(planner, image, one, head))]
