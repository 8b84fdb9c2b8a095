"""The report as HTML: nothing that is filled in is read as such, and readers of any device can use it."""

import base64
import io
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from support.documents import Document

from lightning_det.report.curves import POINTS, read_learning, thin_out
from lightning_det.report.embedding import BUDGET, Picture, embed_pixels, embed_svg, within_budget
from lightning_det.report.page import Change, Command, Fact, Page, render
from lightning_det.runs.report_settings import next_commands

EVIL = '<script>document.title="run"</script>'
QUOTES = "\" onerror='alert(1)' x=\""


def full_page(name):
    """Every field of a page, with a name wherever there can be one."""
    picture = embed_pixels(np.zeros((6, 8, 3), np.uint8), name, name)
    classes = {"boxes": 12, "AP": 0.5, "AP50": None, "threshold": 0.3, "precision": 0.5, "recall": 1.0, "F1": None}
    return Page(
        title=name,
        kind="training",
        summary=name,
        headline=[Fact("AP", name)],
        notes=[name],
        learning=picture,
        sizes=picture,
        size_rows=[{"from": 8.0, "to": 16.0, "boxes": 3, "AP": 0.25, "AP50": 0.5}],
        class_rows=[{"class": name, "measured": False, **classes}],
        thresholds=name,
        curves=picture,
        confusion=picture,
        confusion_note=name,
        confused=[(name, name, 3, 0.25)],
        key={"right": (1, 2, 3), "missed (broken lines)": (4, 5, 6)},
        worst=[picture],
        best=[picture],
        pictures_note=name,
        cost=[Fact(name, name)],
        overrides=[name],
        changes=[Change(name, name, name)],
        settings=name,
        commands=[Command(name, name)],
    )


@pytest.mark.parametrize("name", [EVIL, QUOTES, "</style></title>", "{{ 7 * 7 }}", "a & b"])
def test_names_are_data(name):
    text = render(full_page(name))
    document, plain = Document(text), Document(render(full_page("cat")))
    assert [tag for tag, _ in document.tags] == [tag for tag, _ in plain.tags]
    assert [set(a) for _, a in document.tags] == [set(a) for _, a in plain.tags]
    assert not document.of("script")
    assert document.text.count(name) == plain.text.count("cat") >= 15
    assert {image["alt"] for image in document.of("img")} == {name}


def test_no_script_runs_and_nothing_is_loaded():
    document = Document(render(full_page("cat")))
    policies = [m["content"] for m in document.of("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert not document.of("script", "link", "iframe", "object")
    assert all(image["src"].startswith("data:image/") for image in document.of("img"))


def test_the_page_can_be_found_and_read():
    document = Document(render(full_page("cat")))
    assert document.of("html") == [{"lang": "en"}]
    assert any(m.get("name") == "viewport" for m in document.of("meta"))
    levels = [int(tag[1]) for tag, _ in document.tags if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
    assert all(image["alt"] and int(image["width"]) and int(image["height"]) for image in document.of("img"))
    targets = {link["href"] for link in document.of("a")}
    assert targets == {f"#{section['id']}" for section in document.of("section")}
    assert all(header.get("scope") for header in document.of("th"))


def test_a_run_without_a_validation_has_a_page():
    page = Page("run", "training", "nothing was validated", [Fact("steps", "3")])
    document = Document(render(page))
    assert {section["id"] for section in document.of("section")} == {"settings", "next"}
    assert "None: the defaults." in document.text


def test_pictures_are_embedded():
    pixels = np.zeros((6, 8, 3), np.uint8)
    picture = embed_pixels(pixels, "black")
    data = base64.b64decode(picture.uri.partition(",")[2])
    assert Image.open(io.BytesIO(data)).size == (picture.width, picture.height) == (8, 6)
    svg = embed_svg("<svg/>", "empty", 10.4, 5)
    assert base64.b64decode(svg.uri.partition("base64,")[2]) == b"<svg/>"
    assert (svg.width, svg.height) == (10, 5)


def test_pictures_have_a_budget():
    picture = Picture("x" * (BUDGET // 3), "", 1, 1)
    assert len(list(within_budget([picture] * 9))) == 3
    assert len(list(within_budget([picture] * 9, used=BUDGET // 2))) == 1


def test_long_curves_are_thinned_out():
    curve = [(float(step), step % 2) for step in range(10 * POINTS + 1)]
    thin = thin_out(curve)
    assert len(thin) <= POINTS
    assert thin[0][0] < thin[-1][0] == pytest.approx(curve[-1][0], abs=20)
    assert np.mean([v for _, v in thin]) == pytest.approx(0.5, abs=0.01)
    assert thin_out(curve[:10]) == curve[:10]
    assert thin_out([]) == []


def test_learning_curves_are_read(tmp_path):
    file = tmp_path / "metrics.csv"
    assert read_learning(file) == ([], [], {})
    file.write_text("step,train/loss,train/epoch_loss,val/AP,lr\n5,2.5,,,1\n9,,2.0,,\n9,,,0.25,\n")
    assert read_learning(file) == ([(5.0, 2.5)], [(9.0, 2.0)], {"AP": [(9.0, 0.25)]})


def test_an_evaluation_is_compared_by_its_own_folder():
    """A checkpoint file is none that `compare` takes."""
    commands = {c.line for c in next_commands("RUN/checkpoints/last.ckpt", False, None, "outputs/eval/001")}
    assert "lightning-det compare outputs/eval/001 OTHER_RUN" in commands
    assert "lightning-det compare RUN OTHER_RUN" in {c.line for c in next_commands("RUN", True, None)}
