"""What the documentation says: its listings and commands work, its tables are complete, its links lead somewhere."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from helpers import run_forked
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from support.shared import made_once

from lightning_det.config import CONF, check_slots, read_option
from lightning_det.config.schema import Config

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
EXTENDING = (DOCS / "extending.md").read_text()
PAGES = {page: page.read_text() for page in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]}
STRATEGIES = {page: text for page, text in PAGES.items() if page.parent == DOCS / "strategies"}
OPTIONS = [(group, file.stem) for group in ("strategy", "test") for file in sorted((CONF / group).glob("*.yaml"))]
OPTIONS.remove(("strategy", "suggested"))  # sets nothing itself


def blocks(text, language):
    """Contents of the fenced blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands(text):
    """The commands of a page's shell blocks, as lists of words."""
    lines = "\n".join(blocks(text, "bash")).replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


LISTING = r"^`([\w/]+\.(?:py|yaml))`:\n```(?:python|yaml)\n(.*?)^```$"


def listings(text):
    """File name and content of every listing; the name stands in the line above it."""
    found = re.findall(LISTING, text, flags=re.MULTILINE | re.DOTALL)
    assert len(found) == len(blocks(text, "(?:python|yaml)"))
    return found


def steps(text):
    """What a reader does from top to bottom: writes files, (name, content), and runs commands, (None, words)."""
    for found in re.finditer(rf"{LISTING}|^```bash\n.*?^```$", text, flags=re.MULTILINE | re.DOTALL):
        yield from [found.groups()] if found[1] else [(None, words) for words in commands(found[0])]


# Forked from a process that has imported the packages. Each command runs in a process of its own, as `python ...` would
# run it. Reports would take longer than the trainings.
RUNNER = """
import json, os, pathlib, runpy, sys, warnings
import hypothesis, pytest
from lightning_det.runs import evaluation_report, run_report

run_report.write_report = evaluation_report.write_report = lambda *_: None

warnings.simplefilter("ignore")
sys.path.insert(0, "")
for file, content in json.loads(sys.argv[1]):
    if file is not None:
        pathlib.Path(file).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(file).write_text(content)
        continue
    print("$", *content, flush=True)
    child = os.fork()
    if not child:
        module = content[1] == "-m"
        name, *sys.argv[1:] = content[2 if module else 1 :]
        sys.modules.pop(name, None)
        if module:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            sys.argv[0] = name
            runpy.run_path(name, run_name="__main__")
        sys.exit(0)
    if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        sys.exit(f"exit code {code}")
"""


@pytest.mark.slow
def test_what_extending_says_works_in_an_empty_folder(tmp_path):
    todo = list(steps(EXTENDING))
    run = [words for name, words in todo if name is None]
    assert run == commands(EXTENDING)
    assert all(words[0] == "python" for words in run)
    assert {words[2].rpartition(".")[2] for words in run if words[1] == "-m"} == {"inspect", "pytest", "train", "eval"}
    runner, folder = tmp_path / "runner.py", tmp_path / "folder"
    runner.write_text(RUNNER)
    folder.mkdir()
    done = run_forked(runner, json.dumps(todo), cwd=folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (folder / "run/metrics.json").exists()
    assert (folder / "points_run/metrics.json").exists()
    assert "passed" in done.stdout
    assert done.stdout.count("Average Precision @[ IoU=0.50:0.95 | size=all ") == 5


@pytest.mark.slow
@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_every_option_has_a_table_of_what_it_sets(group, name):
    assert f"`{group}={name}`" in (DOCS / "strategies/README.md").read_text()
    heads = [text.split(f"| `{group}={name}` sets | default | |\n", 1)[1:] for text in STRATEGIES.values()]
    (table,) = (head[0].split("\n\n", 1)[0] for head in heads if head)
    rows = {key: value for key, value in re.findall(r"^\| `([\w.]+)` \| `(.*?)` \| \S.*\|$", table, flags=re.MULTILINE)}
    assert len(rows) == len(table.strip().splitlines()) - 1
    own, whole = option_values(group, name)
    values = {key: yaml.safe_load(value) for key, value in rows.items()}
    # Of an option that changes another one, a table may have the changes only.
    assert values == whole or (values == own and name in ("random_sampling_bg01", "sniper_no_negatives"))


def option_values(group, name):
    """Dotted keys and values that an option's own file sets, and those that it sets with all that it inherits."""
    own = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())
    own.pop("defaults", None)
    whole = OmegaConf.to_container(read_option(f"{group}/{name}"))
    return dict(leaves(own)), dict(leaves(whole))


def leaves(node, key=""):
    """Dotted keys and values of an option; a node that makes an object is the object's name, and what it is given."""
    for name, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{key}{name}.")
        elif name == "_target_":
            yield key.removesuffix("."), value.rpartition(".")[2]
        else:
            yield f"{key}{name}", value


def known_keys():
    """Every dotted key that a file of the config folder has."""
    for file in CONF.rglob("*.yaml"):
        content = file.read_text()
        whole = file.parent == CONF or content.startswith("# @package _global_")
        for key, _ in leaves(yaml.safe_load(content) or {}, "" if whole else f"{file.parent.name}."):
            yield from beginnings(key)
        if not whole or file.parent.name in ("strategy", "test"):  # and what they inherit
            group = file.parent.name
            if group not in ("claim", "sweep", "shared"):
                for key, _ in leaves(OmegaConf.to_container(read_option(f"{group}/{file.stem}"))):
                    yield from beginnings(key)


def beginnings(key):
    parts = key.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts) + 1))


SCHEMA = {part for key, _ in leaves(OmegaConf.to_container(OmegaConf.structured(Config))) for part in beginnings(key)}


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    """All dotted keys; composing every option for them takes seconds."""

    def collect(_):
        found = {*known_keys(), *SCHEMA, "hydra.run.dir", "hydra.sweep.dir", "hydra.searchpath"}
        found |= {key for option in OPTIONS for values in option_values(*option) for key in values}
        return "\n".join(sorted(found))

    return set(made_once(tmp_path_factory, "keys", collect)[1].splitlines())


@pytest.mark.parametrize("page", STRATEGIES, ids=lambda page: page.stem)
def test_keys_that_pages_name_exist(page, keys):
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.MULTILINE | re.DOTALL))
    named = {word for span in spans for word in re.findall(r"^[a-z_]+(?:\.[a-z_]+)+(?==|$)", span)}
    assert {word for word in named - keys if not word.endswith((".npz", ".png"))} == set()
    if page.stem != "README":
        assert commands(PAGES[page])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_pages_name_options_that_exist(page, keys):
    own = {(Path(n).parent.name, Path(n).stem) for n, _ in listings(EXTENDING) if n.startswith("conf/")}
    own |= {
        ("dataset", word.removeprefix("write="))
        for words in commands(PAGES[page])
        for word in words
        if "write=" in word
    }
    for words in commands(PAGES[page]):
        if words[:2] == ["python", "-m"] and words[2].startswith("lightning_det."):
            words = ["lightning-det", words[2].removeprefix("lightning_det."), *words[3:]]
        if words[0] != "lightning-det" or len(words) == 1:  # alone it lists the commands
            continue
        assert (ROOT / f"lightning_det/{words[1]}.py").is_file()
        given = [word for word in words[2:] if re.match(r"[+~]*[a-z_.]+=", word)]
        overrides = OverridesParser.create().parse_overrides(given)
        for override in overrides:
            key, value = override.key_or_group, override.value()
            if (CONF / key).is_dir():
                choices = value.list if override.is_choice_sweep() else [value]
                for chosen in choices:
                    names = chosen if isinstance(chosen, list) else [chosen]
                    for name in names:
                        assert (CONF / key / f"{name}.yaml").is_file() or (key, name) in own, words
                    if key in ("strategy", "test"):
                        check_slots(key, [n for n in names if (key, n) not in own])
            else:
                assert key in keys or key.removesuffix("._target_") in keys, words


def anchors(text):
    """What links to the headings of a page look like."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_relative_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text()), target
