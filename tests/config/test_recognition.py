"""``dataset.root=DIR`` alone, subsets, folders and held out images as settings of a run."""

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from support.datasets import make_coco, make_yolo

from lightning_det.annotations import DatasetError
from lightning_det.commands.inspect import read_splits
from lightning_det.config.data import read_split, usable_split
from lightning_det.config.module import build_module
from lightning_det.config.recognition import ANY, recognise_other_root
from lightning_det.runs.composition import validate_run
from lightning_det.runs.dataset_option import name_dataset
from lightning_det.runs.splits import read_training_splits
from lightning_det.system.errors import ConfigError


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("dataset.root=DIR", True),
        ("-m dataset.root=A,B seed=0,1", True),
        ("dataset.root=DIR dataset.source.format=yolo dataset.classes=[car]", True),
        ("dataset.root=DIR resume=no_folder.ckpt", True),
        ("dataset.root=DIR experiment=null", True),
        ("dataset=voc dataset.root=DIR", False),
        ("dataset.root=DIR dataset.source.train=24", False),
        ("dataset.root=DIR resume={tmp_path}", False),
        ("dataset.root=DIR experiment=bccd", False),
        ("dataset.root=DIR experiment=shapes_large", False),
        ("dataset.root=DIR -m experiment=bccd,sniper_r101_coco", False),
        ("seed=1", False),
    ],
)
def test_a_root_alone_chooses_the_option(composed, tmp_path, arguments, named):
    composed("train")  # registers what composing needs
    GlobalHydra.instance().clear()  # as where a command starts
    given = arguments.format(tmp_path=tmp_path).split()
    made = name_dataset(given, "train")
    assert [a for a in made if a != "dataset=auto"] == given
    assert ("dataset=auto" in made) == named
    assert name_dataset(given, "eval") == given


def settings(cfg):
    return OmegaConf.to_container(cfg.dataset, resolve=True)


def test_the_record_has_the_format(composed, tmp_path):
    root = make_coco(tmp_path / "d")
    found = settings(validate_run(composed("train", "dataset=auto", f"dataset.root={root}")))
    assert found["source"] == {"_target_": ANY, "root": str(root), "format": "coco"}
    assert (found["train"], found["val"], found["test"], found["holdout"]) == ("train", "val", None, None)


def test_a_validation_split_is_held_out_where_there_is_none(composed, tmp_path, caplog):
    root = make_yolo(tmp_path / "d")
    (root / "data.yaml").write_text("train: images\nnames: [cat, dog]\n")
    with caplog.at_level("INFO"):
        cfg = validate_run(composed("train", "dataset=auto", f"dataset.root={root}"))
        stores = read_training_splits(cfg)
    assert (cfg.dataset.val, cfg.dataset.holdout) == (None, 0.2)
    assert {name: len(store) for name, store in stores.items()} == {"train": 5, "val": 1}
    files = [store.files[i] for store in stores.values() for i in range(len(store))]
    assert len(set(files)) == 6
    inspected = read_splits(validate_run(composed("inspect", "dataset=auto", f"dataset.root={root}")))
    assert {name: len(store) for name, store in inspected.stores.items()} == {"train": 5, "val": 1}
    for words in ("layout of YOLO (data.yaml), with train", "dataset.holdout=0.2", "val: 1 of 6 images are held out"):
        assert words in caplog.text


def test_formats_that_are_named_say_how_to_hold_out(composed, yolo_folder):
    (yolo_folder / "data.yaml").write_text("train: images/train\nnames: [cat, dog]\n")
    given = ("dataset=yolo", f"dataset.root={yolo_folder}")
    with pytest.raises(DatasetError, match=r"no split 'val'.*dataset.holdout=0.2 holds out a fifth"):
        read_split(validate_run(composed("train", *given)), "val")
    cfg = validate_run(composed("train", *given, "dataset.holdout=0.34"))
    assert [len(read_split(cfg, which)[0]) for which in ("train", "val")] == [2, 1]
    with pytest.raises(ConfigError, match=r"dataset.val=val and dataset.holdout=.* both say"):
        validate_run(composed("train", *given, "dataset.holdout=0.34", "dataset.val=val"))
    with pytest.raises(ConfigError, match=r"dataset.holdout must be above 0 and below 1"):
        validate_run(composed("train", *given, "dataset.holdout=1.5"))


def test_chosen_classes_that_a_split_lacks_or_spells_differently_are_said(composed, coco_folder, caplog):
    """Each of the categories of the files is renamed in one of the splits."""
    for split, old, new in (("train2017", "dog", "Cat "), ("val2017", "cat", "dog ")):
        file = coco_folder / f"annotations/instances_{split}.json"
        file.write_text(file.read_text().replace(f'"{old}"', f'"{new}"'))
    given = ("dataset=coco", f"dataset.root={coco_folder}", "dataset.classes=[cat]")
    read_split(validate_run(composed("train", *given)), "train")
    assert "train: dataset.classes leaves out 'Cat '; are these other classes, or misspelt?" in caplog.text
    caplog.clear()
    given = ("dataset=coco", f"dataset.root={coco_folder}", "dataset.classes=[cat,dog]")
    read_split(validate_run(composed("train", *given)), "val")
    assert "val: it has no class cat of dataset.classes, which does not count in its figures" in caplog.text
    assert "leaves out 'dog '" in caplog.text


def test_a_subset_of_the_classes(composed, coco_folder, caplog):
    given = ("dataset=coco", f"dataset.root={coco_folder}", "dataset.classes=[dog]")
    cfg = validate_run(composed("train", *given))
    with caplog.at_level("INFO"):
        stores = read_training_splits(cfg)
    assert "train: 3 boxes of 1 other classes are background (cat 3)" in caplog.text
    assert stores["train"].label_map.names == stores["val"].label_map.names == ("dog",)
    module = build_module(cfg, stores["train"].label_map)
    assert module.hparams["labels"] == {"names": ["dog"], "source_ids": [90]}
    assert module.hparams["settings"]["dataset"]["classes"] == ["dog"]
    ignoring = validate_run(composed("train", *given, "dataset.other_classes=ignore"))
    assert usable_split(ignoring, "train").ignored.sum() == stores["train"].ignored.sum() + 3
    for wrong in ("[]", "[dog,dog]"):
        with pytest.raises(ConfigError, match=r"dataset\.classes must be names of classes, each once, or null"):
            validate_run(composed("train", *given[:2], f"dataset.classes={wrong}"))
    with pytest.raises(DatasetError, match="no class doq; there are cat, dog"):
        usable_split(validate_run(composed("train", *given[:2], "dataset.classes=[doq]")), "train")


def test_several_folders(composed, tmp_path):
    for name in ("site_a", "site_b"):
        make_coco(tmp_path / name)
    make_yolo(tmp_path / "more")
    (tmp_path / "more/data.yaml").write_text("train: images/train\nnames: [cat, dog]\n")
    alike = validate_run(composed("train", "dataset=auto", f"dataset.root='{tmp_path}/site_*'"))
    assert alike.dataset.source.format == "coco"
    assert [len(read_split(alike, which)[0]) for which in ("train", "val")] == [8, 8]
    both = f"dataset.root=[{tmp_path}/site_a,{tmp_path}/more]"
    mixed = validate_run(composed("train", "dataset=auto", both))
    assert list(mixed.dataset.source.format) == ["coco", "yolo"]
    assert [len(read_split(mixed, which)[0]) for which in ("train", "val")] == [7, 4]  # the second has no val
    assert (
        len(read_split(validate_run(composed("train", "dataset=coco", both.replace("more", "site_b"))), "train")[0])
        == 8
    )


def test_a_checkpoint_on_another_folder(composed, tmp_path, coco_folder, yolo_folder):
    trained = composed("train", "dataset=coco", f"dataset.root={coco_folder}", "dataset.resolution=[48,64]")
    assert recognise_other_root(trained, ["dataset.root"]).dataset == trained.dataset  # the layout it was trained on
    moved = trained.copy()
    moved.dataset.root = str(yolo_folder)
    assert recognise_other_root(moved, ["seed"]).dataset == moved.dataset
    other = recognise_other_root(moved, ["dataset.root"])
    assert settings(other)["source"] == {"_target_": ANY, "root": str(yolo_folder), "format": "yolo"}
    assert (other.dataset.val, other.dataset.resolution) == ("val", [48, 64])
    assert len(read_split(other, "val")[0]) == 3
    moved.dataset.root = str(tmp_path / "nowhere")
    assert recognise_other_root(moved, ["dataset.root"]).dataset == moved.dataset  # the reader says what it misses


def test_an_open_format_is_recognised_anew_on_another_folder(composed, coco_folder, yolo_folder):
    trained = validate_run(composed("train", "dataset=auto", f"dataset.root={coco_folder}"))
    trained.dataset.root = str(yolo_folder)
    assert recognise_other_root(trained, ["dataset.root"]).dataset.source.format == "yolo"
    trained.dataset.root = str(yolo_folder / "images")
    with pytest.raises(DatasetError, match="no dataset is recognised"):
        recognise_other_root(trained, ["dataset.root"])


def test_without_any_readable_image_nothing_is_held_out_and_the_images_are_named(composed, tmp_path):
    root = make_coco(tmp_path / "d")
    for image in root.rglob("*.jpg"):
        image.unlink()
    cfg = validate_run(composed("train", "dataset=auto", f"dataset.root={root}", "dataset.holdout=0.5"))
    with pytest.raises(DatasetError, match=r"no file 0.jpg in"):
        usable_split(cfg, "train")


def test_images_of_both_splits_are_counted(composed, yolo_folder, caplog):
    (yolo_folder / "data.yaml").write_text("train: images/train\nval: images/train\nnames: [cat, dog]\n")
    given = ("dataset=yolo", f"dataset.root={yolo_folder}")
    stores = read_training_splits(validate_run(composed("train", *given)))
    number = len(stores["val"])
    assert f"dataset.val: {number} of its {number} images are images of dataset.train too" in caplog.text
    caplog.clear()
    read_training_splits(validate_run(composed("train", *given, "dataset.val=null", "dataset.holdout=0.34")))
    assert "images of dataset.train too" not in caplog.text
