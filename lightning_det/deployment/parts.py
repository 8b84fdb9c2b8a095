"""The two parts of a detector that can be exported: until the last NMS, or with it."""

from torch import Tensor, nn

from lightning_det.modules.inference import Inference
from lightning_det.protocols.detector import Detector


class Part(nn.Module):
    """The function that a graph computes, of ``images`` (B, 3, H, W) uint8 and ``sizes`` (B, 2) int64."""

    outputs: tuple[str, ...]
    """Names of the results, all of which begin with the batch and the candidates or detections of an image."""

    def __init__(self, detector: Detector):
        super().__init__()
        self.detector = detector


class Candidates(Part):
    """Boxes (B, C, 4), or (B, C, classes, 4), and scores (B, C, classes), see `Detector.candidates`.

    Args:
        detector: in evaluation mode.
    """

    outputs = ("boxes", "scores")

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """See `Detector.candidates`."""
        return self.detector.candidates(images, sizes)


class WithNMS(Part):
    """Boxes (B, D, 4), scores (B, D) and labels (B, D) of detections, best first; those that are missing have score 0.

    Args:
        detector: in evaluation mode.
        inference: thresholds and number of passes.
        count: number D of detections per image.
    """

    outputs = ("boxes", "scores", "labels")

    def __init__(self, detector: Detector, inference: Inference, count: int):
        super().__init__(detector)
        self.thresholds = (inference.score_threshold, inference.nms_iou)
        self.passes = inference.passes
        self.count = count

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """See `Detector.forward`."""
        found = self.detector(images, sizes, *self.thresholds, self.count, passes=self.passes)
        return found.boxes, found.scores, found.labels
