"""RT-DETRv2 (Zhao et al., CVPR 2024; Lv et al. 2024): a transformer that predicts a set of boxes, without NMS."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_det.backbones import Backbone
from lightning_det.backbones.norms import Norm, set_norm
from lightning_det.detectors.extractor import pad
from lightning_det.detectors.preprocess import Normalize
from lightning_det.detectors.proposals import ProposalNetwork, light_network
from lightning_det.detectors.rtdetr_loss import Queries, set_losses, to_pixels, truth_of
from lightning_det.ops.boxes import clip, gather_boxes, in_detection_range
from lightning_det.ops.nms import best_after_nms
from lightning_det.ops.ranks import mean_count
from lightning_det.protocols.detector import Detector
from lightning_det.protocols.structures import STRIDE, Batch, Detections, State


class RTDETR(Detector):
    """Queries start from the best cells of the encoder's maps, and every decoder layer refines their classes and boxes.

    The network is that of ``transformers`` (see `RTDetrNetwork`), on the maps of our backbones, without denoising
    queries. What may be learned from a box is decided by `set_losses`.

    Args:
        backbone: built with ``form="pyramid"``.
        num_classes: object classes, background not counted.
        queries: most detections of a view, and most objects that it may have in training.
        layers: decoder layers.
        width: channels of encoder and decoder.
        finest: lowest stride of a map that is used. Finer maps of the backbone are left out.
        heads: heads of every attention; they divide ``width``.
        feedforward: width of the feed-forward layers, in units of ``width``.
        expansion: width of the encoder's convolution blocks, in units of ``width``.
        points: sampling points of the decoder per head and map.
        head_norm: normalisation of the encoder's and decoder's convolutions, see `set_norm`.
        prior: probability of every class that the fresh network predicts.
        preprocess: uint8 images to normalised float images; None: `Normalize` as the backbone was trained.
        class_weight: weight of the classification loss.
        l1_weight: weight of the L1 loss of boxes, as shares of the view.
        giou_weight: weight of the GIoU loss.

    Raises:
        ImportError: ``transformers`` is not installed.
        ValueError: the backbone has no suitable maps, or a number is out of its range.
    """

    class_layers = ("network.enc_score_head.", "network.decoder.class_embed.")
    nms_free = True
    not_one_graph = "its queries are assigned to objects on the host"

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        queries: int = 300,
        layers: int = 6,
        width: int = 256,
        finest: int = 8,
        heads: int = 8,
        feedforward: float = 4.0,
        expansion: float = 1.0,
        points: int = 4,
        head_norm: Norm = "batch",
        prior: float = 0.01,
        preprocess: nn.Module | None = None,
        class_weight: float = 1.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
    ):
        super().__init__()
        self.skipped = _find_first(backbone.strides, finest)
        if min(queries, layers, points) < 1 or not 0 < prior < 1:
            raise ValueError(
                f"queries {queries}, layers {layers}, points {points} must be >= 1, prior {prior} in (0, 1)"
            )
        if min(feedforward, expansion) * width < 1:
            raise ValueError(f"feedforward {feedforward} and expansion {expansion} leave no channel of width {width}")
        if heads < 1 or width % (4 * heads):
            raise ValueError(f"width {width} must be a multiple of 4 times heads, got {heads} heads")
        try:
            from lightning_det.detectors.rtdetr_network import RTDetrNetwork
        except ImportError as error:
            raise ImportError("detector=rtdetr needs transformers: pip install 'lightning-det[detr]'") from error
        self.preprocess = preprocess or Normalize(*backbone.pixels)
        self.backbone = backbone
        self.num_classes = num_classes
        network = RTDetrNetwork(
            backbone.channels[self.skipped :],
            backbone.strides[self.skipped :],
            num_classes,
            queries,
            layers,
            width,
            heads,
            int(feedforward * width),
            expansion,
            points,
            prior,
        )
        self.network = set_norm(network, head_norm)
        self.weights = {"class": class_weight, "l1": l1_weight, "giou": giou_weight}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of the last decoder layer by kind, and those of all other stages in one sum.

        All are divided by the number of valid boxes.
        """
        queries = self._predict(batch.images, batch.sizes)
        truth = truth_of(batch)
        found = set_losses(queries, batch.sizes, truth)
        count = mean_count((truth.states == State.VALID).sum())
        scaled = [weight * loss / count for weight, loss in zip(self.weights.values(), found, strict=True)]
        last = {name: loss[-1] for name, loss in zip(self.weights, scaled, strict=True)}
        return last | {"auxiliary": torch.stack(scaled)[:, :-1].sum()}

    def candidates(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (B, Q, 4) of all queries, inside of their views, and class scores (B, Q, classes), float32."""
        queries = self._predict(images, sizes)
        boxes = to_pixels(queries.boxes[-1], sizes)
        return clip(boxes.nan_to_num(0.0), sizes), queries.logits[-1].sigmoid() * queries.usable[..., None]

    def forward(
        self,
        images: Tensor,
        sizes: Tensor,
        score_threshold: float = 0.01,
        nms_iou: float = 1.0,
        max_detections: int = 100,
        ranges: Tensor | None = None,
        passes: int = 1,
    ) -> Detections:
        """Detects objects in views, see `Detector.forward`. The published detector has no NMS: ``nms_iou`` 1."""
        boxes, scores = self.candidates(images, sizes)
        usable = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
        if ranges is not None:
            usable &= in_detection_range(boxes, ranges)
        # After a diverged step scores may be NaN.
        scores = scores.nan_to_num(0.0).masked_fill(~usable[..., None], -torch.inf).flatten(1)
        # NMS needs all pairs; without it, those that are returned suffice.
        count = max_detections if nms_iou >= 1 else scores.shape[1]
        top, place = scores.topk(min(count, scores.shape[1]), dim=1)
        labels = place % self.num_classes
        found = gather_boxes(boxes, place.div(self.num_classes, rounding_mode="floor"))
        index, valid = best_after_nms(found, top, labels, top > score_threshold, nms_iou, max_detections)
        scores = top.gather(1, index).masked_fill(~valid, 0.0)
        return Detections(gather_boxes(found, index), scores, labels.gather(1, index), valid)

    def compiled_parts(self) -> list[nn.Module]:
        """Backbone and network."""
        return [self.backbone, self.network]

    def proposer(self, anchor_sizes: Sequence[float]) -> ProposalNetwork:
        """See `light_network`."""
        return light_network(self.backbone, self.preprocess, anchor_sizes)

    def load_pretrained(self, folder: Path, classes: Sequence[str]) -> str:
        """Loads an RT-DETRv2 of ``transformers``, with a ResNet-vd as backbone; classes go by name."""
        from lightning_det.detectors.rtdetr_weights import load_folder  # transformers, which is optional

        return load_folder(self, self.network.config, folder, classes)

    def _predict(self, images: Tensor, sizes: Tensor) -> Queries:
        images = pad(images)
        maps = self.observe(self.backbone(self.preprocess(images, sizes)))
        return self.network(maps[self.skipped :], sizes)


def _find_first(strides: list[int], finest: int) -> int:
    """Number of the first map that is used.

    Raises:
        ValueError: the strides of the maps from there on do not double up to `STRIDE`.
    """
    used = [stride for stride in strides if stride >= finest]
    if not used or used[-1] > STRIDE or any(2 * a != b for a, b in pairwise(used)):
        raise ValueError(
            f"the maps of the backbone have strides {strides}, and those from {finest} on must double up to {STRIDE} "
            "at most, such as 8, 16 and 32; take a ResNet, tiny or timm as backbone, or another detector.finest"
        )
    return len(strides) - len(used)
