"""The figures of a dataset that a recommendation depends on."""

from collections.abc import Mapping
from dataclasses import dataclass

from lightning_det.inspection.costs import Cost
from lightning_det.inspection.probe import Speed


@dataclass(frozen=True)
class Figures:
    """The figures of a dataset that a recommendation depends on."""

    images: int
    """Number of training images."""
    val_images: int
    """Number of validation images."""
    without_boxes: int
    """Number of training images without boxes."""
    boxes_per_image: float
    """Mean number of boxes per image."""
    crowd: float
    """Boxes of a crowded image (95th percentile) per allowance of detections: see ``test.detections_per_megapixel``."""
    crowded: float
    """Boxes of a crowded image (95th percentile)."""
    object_share: float
    """Share of the pixels inside boxes."""
    median_size: float
    """Median size of the objects, pixels of the image."""
    small_size: float
    """10th percentile of the sizes."""
    relative_size: float
    """Median of the size divided by the long side of its image."""
    seen: float
    """Size from which the detector sees objects well, pixels of the view."""
    stride: float
    """Pixels of the view per cell of its finest feature map."""
    factor: float
    """Scale at which whole images and tiles show small objects large enough."""
    single: float
    """Scale at which an image of median size is shown whole: lower than ``factor`` if large images would not fit."""
    finest: float
    """Finest scale of chips, at which small objects are seen well."""
    unlearned: float
    """Share of the boxes that no chip shows whole and thick enough."""
    scales: int
    """Number of SNIP's scales; 1: the image in one chip shows small objects well."""
    object_tiles: float
    """Share of the tiles that show a part of a box."""
    costs: Mapping[str, Cost]
    """Cost of an epoch by strategy."""
    speed: Speed | None
    """Speed of this machine; None if it is not known."""
    workers: int
    """Processes of a loader; 0: training and inference wait while it loads."""
