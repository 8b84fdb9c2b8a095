"""``python -m lightning_det.subset root=COCO output=DIR``: a few images of a COCO dataset, as a dataset."""

import json
import shutil
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from lightning_det.annotations import DatasetError
from lightning_det.runs.command import command
from lightning_det.system.errors import UserError


def subset(cfg: DictConfig) -> None:
    """Copies random images of every split and their annotations as they are; categories stay complete."""
    root, output = Path(cfg.root), Path(cfg.output)
    if output.exists():
        raise UserError(f"output={output} exists already")
    for split in cfg.splits:
        name = cfg.annotations.format(split=split)
        content = load(root / name)
        rng = np.random.default_rng(cfg.seed)
        count = min(cfg.images, len(content["images"]))
        chosen = sorted(rng.choice(len(content["images"]), count, replace=False))
        images = [content["images"][i] for i in chosen]
        ids = {image["id"] for image in images}
        small = content | {
            "images": images,
            "annotations": [a for a in content["annotations"] if a["image_id"] in ids],
        }
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text(json.dumps(small))
        folder = cfg.folder.format(split=split)
        for image in images:
            target = output / folder / image["file_name"]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / folder / image["file_name"], target)
        print(f"{split}: {len(images)} images, {len(small['annotations'])} annotations")
    print(output)


def load(file: Path) -> dict:
    """The content of an annotation file.

    Raises:
        DatasetError: it is missing or no COCO json.
    """
    try:
        content = json.loads(file.read_bytes())
        content["images"], content["annotations"]
    except OSError as error:
        raise DatasetError(f"{file}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise DatasetError(f"{file}: not a COCO annotation file ({error})") from error
    return content


main = command("subset")(subset)

if __name__ == "__main__":
    main()
