"""The config folder, and the types of settings that are not arguments of a constructor."""

import os
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import II, MISSING, OmegaConf

CONF = next(p / "conf" for p in Path(__file__).parents[1:3] if (p / "conf").is_dir())
"""The config folder: inside an installed wheel, or at the root of a checkout."""


class OnBad(Enum):
    """How records that cannot be used are treated."""

    error = "error"
    skip = "skip"


class OtherClasses(Enum):
    """How objects of the classes that ``dataset.classes`` leaves out are treated."""

    background = "background"
    ignore = "ignore"


@dataclass
class TilesConfig:
    """Tiles that suit a dataset."""

    size: int = 512
    """Side of a tile, pixels of the view."""
    overlap: float = 0.25
    """Minimum share of a tile that its neighbour shows too."""


@dataclass
class DatasetConfig:
    """A dataset, and the numbers that depend on the sizes of its images and objects."""

    root: Any = None
    """Folder, pattern that matches folders, or a list of these, which are read as one dataset."""
    source: Any = None
    train: Any = "train"
    val: Any = "val"
    test: Any = None
    holdout: float | None = None
    """Share of the training images that is held out and is the validation split, instead of ``val``."""
    classes: list[str] | None = None
    """Names of the classes to detect; None for all."""
    other_classes: OtherClasses = OtherClasses.background
    on_bad: OnBad = OnBad.error
    limit: int | None = None
    """Number of training images, from the first on. Like ``limit_val``, it is never taken from a checkpoint."""
    limit_val: int | None = None
    """Number of images to validate or evaluate on, from the first on."""
    resolution: Any = None
    pyramid: Any = None
    snip: Any = None
    sniper: Any = None
    focus: Any = None
    tiles: TilesConfig = field(default_factory=TilesConfig)
    anchor_sizes: list[float] = field(default_factory=list)
    anchor_ratios: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0])
    """Height / width of the anchors of a proposal network."""
    proposals_per_megapixel: float | None = 100.0
    """Minimum number of proposals per megapixel of a view at inference; null: only ``capacity.after_nms`` applies."""
    size_cuts: list[float] = field(default_factory=list)
    metric: str | None = None
    """VOC's metric, ``voc07`` or ``voc``, that is computed beside COCO's figures; ``test.metric`` refers to it."""


@dataclass
class PhaseViews:
    """The steps of a planner, see `lightning_det.views.Planner`."""

    scales: Any = None
    windows: Any = None
    flip: Any = None
    distort: Any = None


@dataclass
class ViewsConfig:
    """Planners of training and inference."""

    train: PhaseViews = field(default_factory=PhaseViews)
    test: PhaseViews = field(default_factory=PhaseViews)


@dataclass
class SelectionConfig:
    """Selectors, by the kind of regions that they select."""

    anchors: Any = None
    rois: Any = None
    priors: Any = None


@dataclass
class TestConfig:
    """Inference and evaluation, see `lightning_det.modules.inference.Inference` and `evaluate`."""

    score_threshold: float = 0.01
    nms_iou: float = 0.5
    max_detections: int = 100
    view_detections: int | None = None
    detections_per_megapixel: float | None = 100.0
    passes: int = 1
    fragments: float | None = 0.8
    merge: Any = None
    vote: Any = None
    backend: str = "pycocotools"
    metric: str | None = II("dataset.metric")


@dataclass
class CapacityConfig:
    """Sizes of a detector's parts, and what it learns from: defaults of the detector, which a backbone may override."""

    neck: int = 256
    """Channels of a feature pyramid."""
    finest_stride: int = 8
    """Stride of the finest map that RetinaNet and FCOS read."""
    extra_maps: int = 2
    """Maps of RetinaNet's and FCOS's pyramid that are coarser than the backbone's."""
    head_convs: int = 4
    """Convolutions of each head of RetinaNet and FCOS before its last layers."""
    focal_alpha: float = 0.25
    """Weight of positives in the focal loss of RetinaNet and FCOS."""
    focal_gamma: float = 2.0
    """Exponent of the focal loss of RetinaNet and FCOS."""
    queries: int = 300
    """Queries of RT-DETR: its most detections per view, and most objects of a view in training."""
    decoder_layers: int = 6
    """Decoder layers of RT-DETR."""
    head: int = 1024
    """Width of the RoI head."""
    focus: int = 256
    """Width of AutoFocus's head."""
    roi: int = 7
    """Cells per side of a RoI."""
    rois: int = 512
    """RoIs per view that carry loss."""
    before_nms: list[int] = field(default_factory=lambda: [2000, 1000])
    """(training, inference) proposals per map that enter NMS."""
    after_nms: list[int] = field(default_factory=lambda: [2000, 1000])
    """(training, inference) proposals per view that are kept after NMS."""
    proposals_per_megapixel: float | None = II("dataset.proposals_per_megapixel")
    """Minimum number of proposals per megapixel of a view at inference and in mining."""


@dataclass
class MinerConfig:
    """The light proposal network that finds SNIPER's negative chips."""

    epochs: int = 2
    """Epochs of its training, on positive chips."""
    proposals: int = 300
    """Proposals per view; those of all views of an image are merged."""
    nms_iou: float = 0.7
    """NMS threshold of the merge."""


@dataclass
class Config:
    """The settings of a run."""

    seed: int = 0
    weights: str | None = None
    resume: str | None = None
    proposals: str | None = None
    focus: Any = None
    miner: MinerConfig = field(default_factory=MinerConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    data: Any = None
    views: ViewsConfig = field(default_factory=ViewsConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    test: TestConfig = field(default_factory=TestConfig)
    capacity: CapacityConfig = field(default_factory=CapacityConfig)
    backbone: Any = None
    detector: Any = None
    module: Any = None
    optimizer: Any = None
    schedule: Any = None
    trainer: Any = None
    callbacks: Any = None
    logger: Any = None


@dataclass
class EvalConfig(Config):
    """The settings of `lightning_det.eval`: those of a run, and its own."""

    checkpoint: str = MISSING
    split: str = "val"
    sweep_thresholds: Any = None


@dataclass
class PredictConfig(Config):
    """The settings of `lightning_det.predict`: those of a run, and its own."""

    checkpoint: str = MISSING
    source: Any = MISSING
    recursive: bool = True
    output: str | None = None
    thresholds: str | None = None
    draw_threshold: float | None = None
    pictures: Any = True
    draw_labels: Any = "auto"
    draw_scale: Any = "auto"
    crops: Any = False
    coco: Any = False


@dataclass
class LoadConfig(Config):
    """The settings of `lightning_det.load`: those of a run, and its own."""

    checkpoint: str = MISSING


@dataclass
class ExportConfig(Config):
    """The settings of `lightning_det.export`: those of a run, and its own."""

    checkpoint: str = MISSING
    output: str | None = None
    with_nms: bool = MISSING
    opset: int = MISSING


@dataclass
class InspectConfig(Config):
    """The settings of `lightning_det.inspect`: those of a run, and its own."""

    split: str = "train"
    decode: bool = True
    pictures: int = 12
    write: str | None = None


@dataclass
class MineConfig(Config):
    """The settings of `lightning_det.mine`: those of a run, and its own."""

    split: str = "train"
    output: str | None = None


@cache
def register_schema() -> None:
    """Registers with Hydra, once: the schemas, into which the yaml files are merged, and the user's own options."""
    from lightning_det.config.own_options import register_own_options

    register_own_options()
    schemas = {
        "train": Config,
        "eval": EvalConfig,
        "predict": PredictConfig,
        "load": LoadConfig,
        "export": ExportConfig,
        "inspect": InspectConfig,
        "mine": MineConfig,
    }
    for name, schema in schemas.items():
        ConfigStore.instance().store(name=f"{name}_schema", node=schema)
    OmegaConf.register_new_resolver("env_or_checkout", env_or_checkout, replace=True)


def env_or_checkout(variable: str, folder: str) -> str:
    """``${env_or_checkout:VARIABLE,FOLDER}``: the variable's value, by default a folder of the checkout.

    Raises:
        ValueError: the variable is not set, and the package is installed without a checkout.
    """
    default = CONF.parent / folder
    if variable not in os.environ and not default.is_dir():
        raise ValueError(f"Environment variable '{variable}' not found")  # as ${oc.env:VARIABLE} says it
    return os.environ.get(variable, str(default))
