"""Small datasets that tests make."""

import json

import numpy as np
from PIL import Image


def write_image(path, width=64, height=48, seed=0):
    """A random JPEG or PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def make_coco(root):
    """A small dataset in COCO's layout: gaps in the category ids, a crowd, an image without boxes."""
    categories = [{"id": 7, "name": "cat"}, {"id": 90, "name": "dog"}]
    for split in ("train2017", "val2017"):
        images, annotations = [], []
        for number in range(4):
            name = f"{number}.jpg"
            write_image(root / split / name, seed=number)
            images.append({"id": 10 * number, "file_name": name, "width": 64, "height": 48})
            for k in range(number):
                annotations.append(
                    {
                        "id": 100 * number + k,
                        "image_id": 10 * number,
                        "category_id": 90 if k else 7,
                        "bbox": [2.5 + 12 * k, 3, 10, 20.5],
                        "area": 150.5,
                        "iscrowd": int(k == 2),
                    }
                )
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def make_voc(root):
    """A small dataset in VOC's layout: a difficult object, one with parts."""
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    for number in range(3):
        write_image(root / "JPEGImages" / f"i{number}.jpg", seed=number)
        (root / "Annotations" / f"i{number}.xml").write_text(
            f"""<annotation><filename>i{number}.jpg</filename>
            <size><width>64</width><height>48</height><depth>3</depth></size>
            <object><name>person</name><difficult>0</difficult>
              <bndbox><xmin>1</xmin><ymin>1</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>
              <part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>
            </object>
            <object><name>bird</name><difficult>1</difficult>
              <bndbox><xmin>31</xmin><ymin>11</ymin><xmax>64</xmax><ymax>48</ymax></bndbox></object>
            </annotation>"""
        )
    (root / "ImageSets/Main/train.txt").write_text("i0\ni1\n")
    (root / "ImageSets/Main/val.txt").write_text("i2\n")
    return root


def make_yolo(root):
    """A small dataset in YOLO's layout: a polygon, an image without a label file."""
    for split in ("train", "val"):
        for number in range(3):
            write_image(root / "images" / split / f"{number}.png", seed=number)
        labels = root / "labels" / split
        labels.mkdir(parents=True)
        (labels / "0.txt").write_text("1 0.5 0.5 0.25 0.5\n\n0 0.1 0.1 0.3 0.1 0.3 0.4 0.1 0.4\n")
        (labels / "1.txt").write_text("0 0.25 0.25 0.5 0.5\n")
    (root / "data.yaml").write_text(
        "path: ../elsewhere\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n"
    )
    return root
