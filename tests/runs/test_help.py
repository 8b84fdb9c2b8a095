"""``--help``: what it lists, and where its words come from."""

import pytest

from lightning_det.config import CONF
from lightning_det.runs.help import OF_RUNS, clause, command_names, help_text, read_entries, read_options


@pytest.mark.parametrize("command", command_names())
def test_every_option_of_a_command_has_its_default_and_a_comment(command):
    text = help_text(command, [CONF])
    assert all(len(line) <= 80 for line in text.splitlines()), text
    entries = [e for e in read_entries(CONF / f"{command}.yaml") if not e.name.startswith(("defaults.", "hydra."))]
    shared = [e for e in read_entries(CONF / "base.yaml") if e.name in OF_RUNS.get(command, ())]
    assert len(shared) == len(OF_RUNS.get(command, ()))
    own, groups = text.split("\n\n")[2:4]
    for entry in (*entries, *shared):
        (line,) = (line for line in own.splitlines() if line.startswith((f"  {entry.name} ", f"  {entry.name}=")))
        assert entry.comment
        assert entry.comment.split()[0] in line
        assert ("required" in line) == (entry.value == "???")
        assert entry.value == "???" or f"{entry.name}={entry.value}" in line
    assert f"lightning-det {command} --cfg job" in text
    assert "Options, with" not in groups


def test_every_option_of_every_group_is_listed_with_a_comment():
    text = help_text("train", [CONF])
    groups = [
        e for e in read_entries(CONF / "base.yaml") if e.name.startswith("defaults.") and e.name != "defaults._self_"
    ]
    assert len(groups) == 12
    for group in groups:
        name = group.name.removeprefix("defaults.")
        (part,) = (part for part in text.split("\n\n") if part.startswith(f"{name}: "))
        options = list(read_options(name, [CONF]))
        listed = [line for line in part.splitlines() if line[:4] in ("    ", "  * ")]
        assert [line[4:].split()[0] for line in listed] == [o.name for o in options]
        assert [len(line[4:].split()) > 1 for line in listed] == [True] * len(options), part
        chosen = [line[4:].split()[0] for line in listed if line.startswith("  * ")]
        assert chosen == sorted(group.value.strip("[]").replace("null", "").replace(",", "").split())


def test_commands_on_a_checkpoint_mark_no_defaults_of_training():
    text = help_text("eval", [CONF])
    assert "Settings come from the checkpoint" in text.replace("\n", " ")
    assert "  * " not in text
    assert "\noptimizer: " not in text


def test_own_options_come_first_and_hide_the_packages(tmp_path):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset/mine.yaml").write_text("# Mine.\nroot: here\n")
    (tmp_path / "dataset/coco.yaml").write_text("# @package _global_\n# My COCO.\nroot: here\n")
    lines = help_text("train", [tmp_path, CONF]).splitlines()
    first = lines.index("dataset: the images, and the numbers that depend on their sizes")
    assert [line.split() for line in lines[first + 1 : first + 3]] == [["coco", "My", "COCO"], ["mine", "Mine"]]
    assert sum("coco " in line and "layout" in line for line in lines) == 0


def test_comments_are_read_above_and_beside_keys(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(
        "# top\ndefaults:\n  - _self_\n  # the group\n  - dataset: shapes\n\n# not of a key\n\n# of a,\n"
        "# in two lines\na: [1, 2]\nb: ???  # of b\nnode:  # unused\n  # of c\n  c: ${x:%Y#1}\nd: null\n"
    )
    assert [tuple(e) for e in read_entries(file)] == [
        ("defaults._self_", "", ""),
        ("defaults.dataset", "shapes", "the group"),
        ("a", "[1, 2]", "of a, in two lines"),
        ("b", "???", "of b"),
        ("node.c", "${x:%Y#1}", "of c"),
        ("d", "null", ""),
    ]


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("Short. And more.", 20, "Short"),
        ("ConvNeXt (Liu et al. 2022): large. 28 million.", 40, "ConvNeXt (Liu et al. 2022): large"),
        ("ConvNeXt (Liu et al. 2022): large.", 20, "ConvNeXt"),
        ("One thing, another thing and a third", 20, "One thing"),
        ("a, one thing without any pause in it", 20, "a, one thing ..."),
    ],
)
def test_a_comment_is_cut_where_a_part_of_it_ends(text, width, shown):
    assert clause(text, width) == shown
