"""Figures whose labels are names of classes, which come from anywhere."""

import warnings

from matplotlib.figure import Figure
from PIL import Image

from lightning_det.plotting.figures import label_text, save_png
from lightning_det.runs import command


def test_any_name_is_drawn_without_a_warning(tmp_path):
    """One in a script that the font lacks shows boxes; a warning per character and picture would bury the log."""
    names = ["日本", "$y_1$", "${x}", "<script>", "_", "x" * 150]
    figure = Figure()
    figure.subplots().set_yticks(range(len(names)), labels=[label_text(name) for name in names])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        command._quiet_libraries()
        save_png(figure, tmp_path / "figure.png")
    assert Image.open(tmp_path / "figure.png").size == (768, 576)
