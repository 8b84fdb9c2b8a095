"""Names of classes, files and runs come from anywhere, and are shown without what a terminal or a plot would obey."""

import json
import logging

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.utils import configure_log
from omegaconf import OmegaConf

from lightning_det.annotations import DatasetError, LabelMap
from lightning_det.config import CONF, register_schema
from lightning_det.config.data import usable_split
from lightning_det.evaluation.comparison import RunRecord, compare_runs
from lightning_det.evidence.tables import tables
from lightning_det.inspection.tables import print_report
from lightning_det.plotting.boxes import draw_boxes, page, side_by_side
from lightning_det.plotting.comparison import plot_classes, plot_cost, plot_sizes
from lightning_det.runs import command as cli
from lightning_det.runs.evaluation_report import print_tables
from lightning_det.system import workload
from lightning_det.system.errors import one_line, printable

HOSTILE = {
    "\x1b[31mred": r"\x1b[31mred",
    "a\x07b\rc": r"a\x07b\rc",
    "a\nerror: b": r"a\nerror: b",
    "cat\u202egnp.exe": r"cat\u202egnp.exe",
    "\u200bcat\ufeff": r"\u200bcat\ufeff",
    "a\x9b2Jb": r"a\x9b2Jb",
}
"""What is in a file, and what a person shall see."""

KEPT = ["Straße", "зебра", "自行车", "كلب", "traffic light", "a_b", "x²", "🚲", "[red]x[/red]", ":cat:", "[/]", "a\\"]
"""Letters of all languages, and what other programs than terminals obey."""


@pytest.mark.parametrize(("name", "shown"), [*HOSTILE.items(), *((name, name) for name in KEPT)])
def test_one_line(name, shown):
    assert one_line(name) == shown
    assert one_line(one_line(name)) == shown
    assert LabelMap([name]).printable_names == (shown,)
    assert LabelMap([name]).names == (name,)  # which files are read and written with


def test_long_names_are_cut_off():
    assert one_line("x" * 10**6, 20) == "x" * 20 + "..."
    assert one_line("\n" * 15, 20) == r"\n" * 10 + "..."
    assert len(LabelMap(["x" * 10**6]).printable_names[0]) < 100


def test_differences_of_classes_are_printable():
    one, two = LabelMap(["a", *HOSTILE]), LabelMap(["a", "b" * 1000])
    assert one.difference(two).isprintable()
    assert len(one.difference(two)) < 500


class FakeEvaluation:
    """Every class has one box."""

    def __init__(self, names):
        self.names, self.voc = names, {}

    def per_class(self):
        return {name: {"boxes": 1, "AP": 0.5, "AP50": 0.75} for name in self.names}

    def curve(self):
        return []

    def table(self):
        return ""


def test_tables_of_an_evaluation(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    print_tables(FakeEvaluation([*HOSTILE, *KEPT]))
    said = capsys.readouterr().out
    assert printable(said) == said
    for shown in [*HOSTILE.values(), *KEPT]:
        assert f" {shown} " in said


def test_what_inspect_says(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "2000")
    report = dict.fromkeys(("image_width", "image_height", "box_width", "box_height", "box_size", "boxes_per_image"))
    report = {key: [1.0] * 7 for key in report} | {"splits": {}, "split": "train", "levels": [], "suggestion": None}
    report |= {"views_per_image": 1.0, "boxes_learned": 1, "boxes_unlearned": 0, "pixels_vs_800x1333": 1.0}
    warnings = ("rare_classes", "larger_than_tiles", "unneeded_views", "in_several_ranges", "hidden_from_focus")
    report |= dict.fromkeys((*warnings, "anchors", "anchors_misfit"))
    for names in (list(HOSTILE), KEPT[:9]):
        report |= {"classes": dict.fromkeys(names, 3), "boxes_valid_at_no_scale": 0}
        report |= {"anchors": None, "anchors_misfit": "", "classes_unlearned": names}
        print_report(report, [])
        said = capsys.readouterr().out
        assert printable(said) == said
        assert f"classes: {', '.join(f'{one_line(name)} 3' for name in names)}\n" in said


ANY = [*HOSTILE, *KEPT[:2], "$x_1$", "$\\frac", "a$b", "\\$x$", "", "<b>", "x" * 2 * 10**6]


def test_pictures_take_any_name():
    pixels = np.zeros((40, 60, 3), np.uint8)
    boxes = np.tile([5.0, 15, 30, 30], (len(ANY), 1))
    drawn = draw_boxes(pixels, boxes, ANY, [(255, 0, 0)] * len(ANY))
    assert drawn.any()
    for name in ANY:
        side_by_side(drawn, drawn, (name, name))
    page([drawn] * len(ANY), ANY)


@pytest.mark.slow
def test_plots_and_tables_take_any_name(tmp_path):
    figures = {"AP": 0.5, "AP_small": 0.25}
    classes = dict.fromkeys(ANY, 0.5)
    result = compare_runs([RunRecord(name, 0, figures, classes, (), {"pixels": 5.0}) for name in ANY])
    plot_sizes(result["groups"], tmp_path / "a.png")
    assert plot_cost(result["groups"], tmp_path / "b.png")
    assert plot_classes(result["groups"], result["baseline"], tmp_path / "c.png")
    for table in tables(result):
        assert printable(table) == table
        assert "<" not in table.replace(r"\<", "")


def test_markup_of_markdown_is_text():
    assert r"\<script>" in tables(compare_runs([RunRecord("<script>", 0, {"AP": 0.5})]))[0]


def test_the_log_is_printable(tmp_path, capsys):
    """What a command logs goes to the terminal and into its file."""
    register_schema()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", return_hydra_config=True, overrides=["hydra.job.name=train"])
    node = OmegaConf.create(OmegaConf.to_container(cfg.hydra.job_logging, resolve=False))
    for handler in node.handlers.values():
        if "filename" in handler:
            handler.filename = str(tmp_path / "train.log")
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    try:
        configure_log(node)
        logging.getLogger("lightning_det").info("left out: %s\nnext line", "\x1b[31m\u202e.jpg")
    finally:
        for handler in [h for h in root.handlers if h not in before]:
            root.removeHandler(handler)
            handler.close()
        root.handlers, root.level = before, level
    said = "left out: \\x1b[31m\\u202e.jpg\nnext line\n"
    assert capsys.readouterr().out == said
    assert (tmp_path / "train.log").read_text().endswith(said)


def test_errors_are_printable(capsys):
    with pytest.raises(SystemExit):
        cli._stop("a\x1b[2Jb", 2)
    assert capsys.readouterr().err == "error: a\\x1b[2Jb\n"


def test_a_progress_bar_takes_any_name():
    """Brackets are rich's markup, and a folder may be called like that."""
    for name in ("[/x]", "[red]", "\x1b[31m", "a\nb"):
        assert list(workload.progress(range(3), f"rendering into {name}", 3, threshold=0)) == [0, 1, 2]


@pytest.mark.parametrize("name", ["\x1b[31mcat", "c\nat", "cat\n", "", "x" * 201])
def test_names_that_no_checkpoint_holds_are_refused_with_the_data(name, composed, yolo_folder):
    """A training would end with checkpoints that nothing reads."""
    (yolo_folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: " + json.dumps([name, "dog"]))
    with pytest.raises(DatasetError, match=r"class 0 has an empty name|class names must be printable .*rename it"):
        usable_split(composed("train", "dataset=yolo", f"dataset.root={yolo_folder}"), "train")
