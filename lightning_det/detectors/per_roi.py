"""Fast R-CNN's predictor: a network that runs on the features of every RoI (Fast R-CNN, section 2)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_det.detectors.predictor import Predictor
from lightning_det.ops.roi_align import Canvas, pack, roi_align


class TwoFC(nn.Module):
    """Two fully connected layers on the flattened RoI: the head of FPN detectors.

    Args:
        channels: channels of the RoI features.
        size: cells per side of the RoI features.
        width: outputs of both layers.
    """

    cpu_chunk = None

    def __init__(self, channels: int, size: int, width: int = 1024):
        super().__init__()
        self.size = size
        self.width = width
        self.fc6 = nn.Linear(channels * size * size, width)
        self.fc7 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, size, size) to (N, width)."""
        return F.relu(self.fc7(F.relu(self.fc6(x.flatten(1)))))


class Stage(nn.Module):
    """A backbone's last stage on every RoI, then the mean over cells: the head of "C4" detectors (ResNet, appendix).

    Args:
        stage: the layers, which halve the resolution.
        width: their output channels.
        size: cells per side of the RoI features that enter the stage.
    """

    cpu_chunk = 32

    def __init__(self, stage: nn.Module, width: int, size: int = 14):
        super().__init__()
        self.stage = stage
        self.size = size
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, size, size) to (N, width)."""
        return self.stage(x).mean(dim=(2, 3))


class PerRoI(Predictor):
    """Crops every RoI from the feature maps, then classifies it and regresses a box per class or one for all.

    Args:
        trunk: RoI features (N, C, s, s) to (N, width); has ``size`` s, ``width`` and ``cpu_chunk``.
        num_classes: object classes, background not counted.
        strides: pixels of the view per cell of each feature map that RoIs are read from, finest first.
        class_agnostic: whether one box serves all classes.
    """

    per_roi = True
    backbone_layers = ("trunk.stage.",)

    def __init__(self, trunk: TwoFC | Stage, num_classes: int, strides: Sequence[int], class_agnostic: bool = False):
        super().__init__()
        self.trunk: TwoFC | Stage = trunk
        self.cpu_chunk = trunk.cpu_chunk
        self.num_classes = num_classes
        self.strides = list(strides)
        self.class_agnostic = class_agnostic
        self.class_layers = ("classify.",) if class_agnostic else ("classify.", "regress.")
        self.classify = nn.Linear(trunk.width, num_classes + 1)
        self.regress = nn.Linear(trunk.width, 4 * (1 if class_agnostic else num_classes + 1))

    def shared(self, maps: list[Tensor]) -> Canvas:
        """The feature maps, packed for RoIAlign."""
        return pack(maps[: len(self.strides)], self.strides)

    def forward(self, shared: Canvas, rois: Tensor) -> tuple[Tensor, Tensor]:
        """Predicts logits and box deltas of (B, R, 4) RoIs, see `Predictor.forward`."""
        features = self.trunk(roi_align(shared, rois, self.trunk.size))
        logits, deltas = (
            layer(features).float().unflatten(0, rois.shape[:2]) for layer in (self.classify, self.regress)
        )
        return logits, deltas.unflatten(2, (-1, 4))
