"""R-FCN's predictor: all layers run once per image, and RoIs only pool their maps (R-FCN, section 3)."""

from typing import Literal

from torch import Tensor, nn

from lightning_det.detectors.predictor import Predictor
from lightning_det.ops.position_sensitive import deformable_ps_roi_pool, ps_roi_align, ps_roi_pool

Pooling = Literal["align", "classic", "deformable"]


class PositionSensitive(Predictor):
    """Has a score map per class and bin, and box maps per bin; a RoI's prediction is the mean over its bins.

    Boxes are class-agnostic: one regression serves all classes.

    Args:
        trunk: the feature map (B, C, H, W) to (B, width, H, W), on the whole image.
        width: channels of the trunk's output.
        num_classes: object classes, background not counted.
        stride: pixels of the view per cell of the trunk's output.
        bins: k, bins per side of a RoI.
        pooling: ``align`` samples without rounding; ``classic`` averages whole cells, as published; ``deformable``
            shifts every bin by a learned offset (Deformable ConvNets v1): one per class for scores, one for boxes.
    """

    class_agnostic = True
    class_layers = ("classify.", "shift_classify.")
    backbone_layers = ("trunk.0.",)  # see `RFCN.c5`

    def __init__(
        self,
        trunk: nn.Module,
        width: int,
        num_classes: int,
        stride: int,
        bins: int = 7,
        pooling: Pooling = "align",
    ):
        super().__init__()
        if pooling not in ("align", "classic", "deformable"):
            raise ValueError(f"pooling must be align, classic or deformable, got {pooling!r}")
        self.trunk = trunk
        self.num_classes = num_classes
        self.stride = stride
        self.bins = bins
        self.pooling = pooling
        self.classify = linear_conv(width, (num_classes + 1) * bins**2)
        self.regress = linear_conv(width, 4 * bins**2)
        if pooling == "deformable":
            self.shift_classify = linear_conv(width, 2 * (num_classes + 1) * bins**2, std=0.0)
            self.shift_regress = linear_conv(width, 2 * bins**2, std=0.0)

    def shared(self, maps: list[Tensor]) -> list[Tensor]:
        """Runs all convolutions once per image: score maps, box maps, and the maps of their shifts if deformable."""
        features = self.trunk(maps[-1])
        layers = [self.classify, self.regress]
        if self.pooling == "deformable":
            layers += [self.shift_classify, self.shift_regress]
        return [layer(features) for layer in layers]

    def forward(self, shared: list[Tensor], rois: Tensor) -> tuple[Tensor, Tensor]:
        """Predicts logits (B, R, 1 + classes) and box deltas (B, R, 1, 4), float32, of (B, R, 4) RoIs."""
        shifts: list[Tensor | None] = [*shared[2:]] or [None, None]
        scores, boxes = (self._pool(m, rois, s).mean(dim=(-2, -1)) for m, s in zip(shared, shifts, strict=False))
        return scores, boxes[:, :, None]

    def _pool(self, maps: Tensor, rois: Tensor, shifts: Tensor | None) -> Tensor:
        if self.pooling == "classic":
            return ps_roi_pool(maps, rois, self.bins, self.stride)
        if shifts is None:
            return ps_roi_align(maps, rois, self.bins, self.stride)
        # The shifts of bins are pooled from unshifted bins.
        offsets = deformable_ps_roi_pool(shifts, rois, self.bins, self.stride).unflatten(2, (-1, 2))
        return deformable_ps_roi_pool(maps, rois, self.bins, self.stride, offsets)


def linear_conv(inputs: int, outputs: int, std: float = 0.01) -> nn.Conv2d:
    """A 1 x 1 convolution with normally distributed weights and a bias of 0."""
    conv = nn.Conv2d(inputs, outputs, 1)
    nn.init.normal_(conv.weight, std=std)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
