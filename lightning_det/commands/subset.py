"""A few images of a COCO dataset, as a dataset."""

from pathlib import Path

from omegaconf import DictConfig

from lightning_det.data.subset import CocoLayout, cut_split
from lightning_det.system.errors import UserError


def subset(cfg: DictConfig) -> None:
    """Copies random images of every split with their annotations."""
    output = Path(cfg.output)
    if output.exists():
        raise UserError(f"output={output} exists already")
    source = CocoLayout(Path(cfg.root), cfg.annotations, cfg.folder)
    for split in cfg.splits:
        images, annotations = cut_split(source, output, split, cfg.images, cfg.seed)
        print(f"{split}: {images} images, {annotations} annotations")
    print(output)
