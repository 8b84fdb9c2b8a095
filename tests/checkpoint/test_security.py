"""Checkpoints and run folders are data: what they say never runs, and what they cannot be is refused by name."""

import contextlib
import copy
import json
import pickle
import struct
import time
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import yaml
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from support.in_process import run

from lightning_det.annotations import LabelMap
from lightning_det.checkpoint import load_checkpoint
from lightning_det.checkpoint.outline import outline
from lightning_det.checkpoint.plain import NODES, references
from lightning_det.config import CONF, read_option
from lightning_det.config.module import build_module, portable_settings
from lightning_det.config.parts import PARTS
from lightning_det.config.schema import Config
from lightning_det.modules.inference import Inference
from lightning_det.runs import overlay
from lightning_det.runs.composition import validate_run
from lightning_det.runs.restore import restore_detector
from lightning_det.runs.resume import complete_overrides
from lightning_det.runs.sweep_record import complete_sweep
from lightning_det.runs.weights import load_weights
from lightning_det.system.errors import ConfigError, UserError

SSD = ("detector=ssd", "backbone=ssd_tiny", "callbacks=[]")
COMMANDS = {"eval": (), "predict": ("source=images",), "export": ()}


@pytest.fixture
def content(composed, made=[]):  # noqa: B006  once for all tests
    """What a checkpoint of a small detector holds; the tests spoil it."""
    if not made:
        made.append(checkpoint(validate_run(composed("train", *SSD))))
    return copy.deepcopy(made[0])


@pytest.fixture
def module(composed, made=[]):  # noqa: B006  once for all tests, which load nothing into it
    """A small detector to be trained."""
    if not made:
        made.append(build_module(validate_run(composed("train", *SSD)), LabelMap(["cat", "dog"])))
    return made[0]


def checkpoint(cfg):
    with torch.random.fork_rng():
        module = build_module(cfg, LabelMap(["cat", "dog"]))
    return {
        "epoch": 0,
        "global_step": 3,
        "pytorch-lightning_version": "2.6.4",
        "state_dict": module.state_dict(),
        "loops": {"fit_loop": {"epoch_progress": {"current": {"processed": 1}}}},
        "callbacks": {},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]}],
        "lr_schedulers": [{"last_epoch": 3}],
        "hyper_parameters": {
            "settings": json.loads(json.dumps(portable_settings(cfg))),
            "labels": {"names": ["cat", "dog"], "source_ids": [1, 2]},
        },
    }


@pytest.fixture
def restore(composed, content, tmp_path_factory):
    """Restores ``content``, spoiled, for a command: ``restore("eval", {"test.merge": ...}, "test.nms_iou=0.3")``."""

    file = tmp_path_factory.getbasetemp() / "x.ckpt"  # for all tests, so that its command is composed once

    def call(command="eval", changes=None, *overrides):
        torch.save(content, file)
        if changes:
            spoiled = copy.deepcopy(content)
            for key, value in changes.items():
                *above, last = key.split(".")
                node = spoiled["hyper_parameters"]["settings"]
                for step in above:
                    node = node[step]
                node[last] = value
            torch.save(spoiled, file)
        given = (f"checkpoint={file}", *COMMANDS[command], *overrides)
        return restore_detector(composed(command, *given))

    return call


# What a checkpoint says is called


def attacks(folder):
    """Settings that would leave a file ``ran`` in a folder, by where they stand."""
    source = f'#include <fstream>\nint f() {{ std::ofstream("{folder}/ran"); return 0; }}'
    hub = {"_target_": "torch.hub.load", "repo_or_dir": str(folder), "source": "local", "model": "x"}
    write = {
        "_target_": "pytorch_lightning.core.saving.save_hparams_to_yaml",
        "config_yaml": f"{folder}/ran",
        "hparams": {"a": 1},
    }
    spelled = f"{{_target_:torch.hub.load,repo_or_dir:'{folder}',source:local,model:x}}"
    load = {"checkpoint_path": f"{folder}/evil.ckpt"}
    touch = {"_target_": "os.system", "command": f"touch {folder}/ran"}
    own = {"_target_": "lightning_det.merging.NMS", "iou": 0.5}
    pyramid = {"_target_": "lightning_det.views.Pyramid", "resolutions": [1.0]}
    return {
        "resolver": ("test.merge", f"${{oc.create:{spelled}}}"),
        "resolver within a text": ("test.merge", {**own, "iou": f"a${{oc.create:{spelled}}}"}),
        "resolver of Hydra": ("test.merge", "${hydra:runtime.output_dir}"),
        "resolver that is put together": ("test.backend", "${${test.backend}}"),
        "escaped resolver": ("test.backend", "\\${oc.env:HOME}"),
        "environment": ("test.backend", "${oc.env:HOME}"),
        "hub": ("test.merge", hub),
        "inline": (
            "test.merge",
            {"_target_": "torch.utils.cpp_extension.load_inline", "name": "x", "cpp_sources": source, "functions": "f"},
        ),
        "fetched": ("module", {"_target_": "pytorch_lightning.LightningModule.load_from_checkpoint", **load}),
        "inherited": ("module", {"_target_": "lightning_det.modules.DetectionModule.load_from_checkpoint", **load}),
        "written": ("test.merge", write),
        "system": ("backbone", touch),
        "through an import": ("backbone", {"_target_": "lightning_det.runs.sweep.subprocess.run", "args": ["true"]}),
        "in an argument": ("views.test.scales", {**pyramid, "valid_ranges": write}),
        "in a list": ("views.test.scales", {**pyramid, "resolutions": [write]}),
        "in a place that nothing makes": ("capacity.head", write),
        "in a key of its own": ("mine", write),
        "part of another slot": ("test.vote", {"_target_": "lightning_det.data.shapes.Shapes", "root": str(folder)}),
        "by a key": ("test.merge", {"_target_": "${dataset.train}"}),
        "by a node": ("test.merge", "${mine}"),
        "arguments by place": ("test.merge", {**own, "_args_": [1]}),
        "another way of calling": ("test.merge", {**own, "_recursive_": False}),
        "partial": ("test.merge", {**own, "_partial_": True}),
        "network from a hub": ("backbone", {"_target_": "lightning_det.backbones.timm_backbone", "name": "hf-hub:a/b"}),
        "network from a folder": (
            "backbone",
            {"_target_": "lightning_det.backbones.timm_backbone", "name": f"local-dir:{folder}"},
        ),
        "split elsewhere": ("dataset.val", "../../etc/passwd"),
        "split anywhere": ("dataset.val", ["a", "/etc/passwd"]),
        "annotations elsewhere": ("dataset.source.annotations", "../x.json"),
        "root elsewhere": ("dataset.source.root", str(folder)),
        "too many processes": ("data.num_workers", 100_000),
    }


ATTACKS = tuple(attacks(Path("x")))


def spoil(content, folder, name):
    """The content with an attack, and a hub that it may find."""
    (folder / "hubconf.py").write_text(f"def x(): open({str(folder / 'ran')!r}, 'w')\n")
    key, value = attacks(folder)[name]
    settings = content["hyper_parameters"]["settings"]
    if name == "by a node":
        settings["mine"] = attacks(folder)["hub"][1]
    *above, last = key.split(".")
    node = settings
    for step in above:
        node = node[step]
    node[last] = value
    return key


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_that_a_checkpoint_says_is_called(content, restore, tmp_path, name):
    key = spoil(content, tmp_path, name)
    if name == "annotations elsewhere":
        content["hyper_parameters"]["settings"]["dataset"]["source"]["_target_"] = "lightning_det.data.coco.Coco"
    with pytest.raises(UserError) as raised:
        restore()
    assert key.rpartition(".")[2] in str(raised.value)
    assert not (tmp_path / "ran").exists()


WAYS = {
    "eval checkpoint=FILE": "inline",
    "predict checkpoint=FILE source=SOURCE": "inherited",
    "export checkpoint=FILE": "written",
    "train resume=FILE": "inherited",
    "train weights=FILE": "inline",
    "mine weights=FILE": "written",
}
"""Commands that read a checkpoint, and one of the attacks for each; all of them are tried above."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resolver", "target"])
@pytest.mark.parametrize("command", WAYS)
def test_no_way_in_is_open(content, tmp_path, shapes_root, monkeypatch, name, command):
    key = spoil(content, tmp_path, WAYS[command] if name == "target" else name)
    file = tmp_path / "x.ckpt"
    torch.save(content, file)
    word, *given = command.replace("FILE", str(file)).replace("SOURCE", str(tmp_path)).split()
    if word in ("train", "mine"):
        small = ["dataset.source.train=2", "dataset.source.val=2", f"dataset.root={shapes_root}"]
        given += [*small, "trainer.max_epochs=1", *(SSD if word == "train" else ())]
        monkeypatch.setattr("lightning_det.commands.train.build_trainer", loaded)
    GlobalHydra.instance().clear()
    outcome = run(word, *given, f"hydra.run.dir={tmp_path}/out")
    assert not (tmp_path / "ran").exists()
    assert outcome.code in (1, 2), outcome
    assert "Traceback" not in outcome.errors
    if name == "resolver" or word not in ("train", "mine"):  # those that read settings name the key
        assert key.rpartition(".")[2] in outcome.errors
    else:  # weights are read without their settings, and a run that goes on calls its own
        assert ("all is loaded" in outcome.errors) == (command == "train weights=FILE"), outcome


def loaded(*given, **named):
    raise UserError("all is loaded")


@pytest.mark.slow
def test_every_part_that_an_option_names_is_listed():
    """And no other: the lists are those of the package's options."""
    named = {}
    for file in CONF.rglob("*.yaml"):
        group = file.relative_to(CONF).parts[0]
        if group in ("claim", "sweep", "shared", "experiment"):  # of no run, or named by options, or without parts
            continue
        node = OmegaConf.to_container(
            OmegaConf.load(file)
            if file.parent == CONF
            else read_option(file.relative_to(CONF).with_suffix("").as_posix())
        )
        for key, target in targets(node):
            named.setdefault(key, set()).add(target)
    other = {"trainer", "callbacks", "logger", "hydra"}  # never of a checkpoint
    named = {key: names for key, names in named.items() if not other & {key, key.split(".")[0]} and key in PARTS}
    listed = {key: names for key, names in PARTS.items() if key != "optimizer"}
    assert named.pop("optimizer") <= PARTS["optimizer"]
    missing = {key: names - listed[key] for key, names in named.items()}
    assert not any(missing.values())
    anywhere = set().union(*named.values())
    assert set().union(*listed.values()) == anywhere


def targets(node, key=""):
    if isinstance(node, dict):
        if "_target_" in node:
            yield key, node["_target_"]
        for name, value in node.items():
            yield from targets(value, f"{key}.{name}" if key else str(name))


@pytest.mark.slow
def test_what_the_user_names_is_called(restore, content):
    """The option, or the part alone, at its place and nowhere else."""
    foreign = {"_target_": "torchvision.models.resnet18"}
    content["hyper_parameters"]["settings"]["test"]["vote"] = foreign
    with pytest.raises(ConfigError, match=r"test\.vote\._target_: .*test=NAME.*\+\+test\.vote\._target_="):
        restore()
    with pytest.raises(ConfigError, match=r"test\.vote\._target_: .*is no part"):
        restore("eval", {}, "++test.merge._target_=torchvision.models.resnet18")
    settings, module = restore("eval", {}, "++test.vote._target_=torchvision.models.resnet18")
    assert settings.test.vote == foreign
    assert type(module.inference.vote).__name__ == "ResNet"


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("${a.b}", ["a.b"]),
        ("${ a }/x/${..c[0].d}", ["a", "..c[0].d"]),
        ("plain", []),
        ("$ {a} {b}", []),
    ],
)
def test_interpolations_that_name_keys(text, keys):
    assert references(text) == keys


@pytest.mark.parametrize(
    "text", ["${a:b}", "x${oc.env:A}", "${${a}}", "${a.${b}}", "\\${a}", "${", "${a:${b}}", "${" * 99]
)
def test_interpolations_that_do_more(text):
    with pytest.raises(ValueError, match=r"interpolation|resolver"):
        references(text)


def test_settings_follow_keys_and_no_resolver(composed, monkeypatch):
    """Checkpoints hold the value of what the user's own options look up."""
    monkeypatch.setenv("BACKEND", "pycocotools")
    saved = portable_settings(
        validate_run(composed("train", "test.backend=${oc.env:BACKEND}", "test.nms_iou=${test.merge.iou}"))
    )
    assert saved["test"]["backend"] == "pycocotools"
    assert saved["test"]["nms_iou"] == "${test.merge.iou}"
    assert saved["views"]["test"]["scales"]["resolutions"] == ["${dataset.resolution}"]


# What grows


def doubling(levels, make):
    """``level0`` to ``levelN``, each twice the next."""
    return {f"level{n}": make(f"${{level{n + 1}}}") for n in range(levels)} | {f"level{levels}": "x"}


def nested(levels):
    node = {}
    for _ in range(levels):
        node = {"a": node}
    return node


def shared(levels):
    node = ["x"]
    for _ in range(levels):
        node = [node, node]
    return node


@pytest.mark.slow
@pytest.mark.parametrize(
    ("grow", "words"),
    [
        (lambda s: s.update(doubling(60, lambda t: t + t)), "grow to more"),
        (lambda s: s.update(doubling(60, lambda t: [t, t])), "grow to more"),
        (lambda s: s.update(a="${b}", b="${a}"), "in a circle"),
        (lambda s: s.update(a={"b": ["${a}"]}), "in a circle"),
        (lambda s: s.update({f"k{n}": f"${{k{n + 1}}}" for n in range(5000)}), "grow to more|too often|not there"),
        (lambda s: s.update(a=nested(100)), "levels deep"),
        (lambda s: s.update(a=nested(3000)), "levels deep|damaged"),
        (lambda s: s.update(a=shared(60)), f"more than {NODES}|levels deep"),
        (lambda s: s.update(a=shared(25)), f"more than {NODES}"),
        (lambda s: s.update(a=s), "levels deep"),
        (lambda s: s.update(a=list(range(100_000))), f"more than {NODES}"),
        (lambda s: s.update(a="x" * 10**6), "characters"),
        (lambda s: s.update(a="${" + "x" * 10**5 + "}"), "characters"),
        (lambda s: s.update(a=2**70), "64 bits"),
        (lambda s: s.update(a=torch.zeros(2)), "not plain data"),
        (lambda s: s.update(a=(1, 2)), "not plain data"),
        (lambda s: s.update(a=b"x"), "damaged"),
        (lambda s: s.update(a={1, 2}), "damaged"),
        (lambda s: s.update({5: 1}), "not a short word"),
        (lambda s: s.update(OrderedDict()) or s.update(a=OrderedDict(x=1)), "not plain data"),
        (lambda s: s["backbone"].update(widths=[10**5] * 5), "differ in shape"),
    ],
)
def test_what_grows_is_refused_in_time(content, restore, grow, words):
    grow(content["hyper_parameters"]["settings"])
    start = time.process_time()
    try:
        with pytest.raises(UserError, match=words):
            restore()
    except RecursionError:  # torch itself cannot write such a file
        pytest.skip("cannot be written")
    assert time.process_time() - start < 20  # instead of centuries


class Odd:
    """An object whose pickle calls a function with arguments."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def strided(count, storage):
    return torch.zeros(storage).as_strided((count,), (0,))


@pytest.mark.parametrize(
    "make",
    [
        lambda: strided(10**9, 1),
        lambda: torch.zeros(4, device="meta"),
        lambda: torch.zeros(3).to_sparse(),
        lambda: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8),
        lambda: torch.zeros(3, dtype=torch.complex64),
        lambda: Odd(bytearray, (10**12,)),
        lambda: Odd(torch.Tensor, (10**12,)),
        lambda: Odd(torch.FloatStorage, (10**12,)),
        lambda: Odd(exec, ("1",)),
    ],
)
def test_tensors_that_are_more_than_their_numbers(content, tmp_path, make):
    content["state_dict"]["x"] = make()
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="damaged, or holds more than"):
        load_checkpoint(tmp_path / "x.ckpt")


def test_numbers_that_many_tensors_share(content, tmp_path):
    """Two names for one tensor are usual, a thousand are not."""
    same = torch.zeros(10**6)
    content["state_dict"]["x"] = content["state_dict"]["y"] = same
    torch.save(content, tmp_path / "x.ckpt")
    load_checkpoint(tmp_path / "x.ckpt")
    content["optimizer_states"][0]["state"] = {n: {"step": same[:-1].view(-1)[: 10**6 - n - 1]} for n in range(100)}
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="damaged, or holds more than"):
        load_checkpoint(tmp_path / "x.ckpt")


def rewritten(source, target, method=zipfile.ZIP_STORED, change=lambda name, data: data):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", method) as new:
        for member in old.infolist():
            new.writestr(member.filename, change(member.filename, old.read(member)))


def test_archives_that_inflate(content, tmp_path):
    file, spoiled = tmp_path / "x.ckpt", tmp_path / "y.ckpt"
    content["state_dict"]["x"] = torch.zeros(10**6)
    torch.save(content, file)
    rewritten(file, spoiled)
    load_checkpoint(spoiled)
    rewritten(file, spoiled, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="damaged, or holds more than"):
        load_checkpoint(spoiled)
    # A storage with fewer numbers than the pickle says: torch would read what lies behind it.
    rewritten(file, spoiled, change=lambda name, data: data[:-4] if name.endswith("/data/0") else data)
    with pytest.raises(UserError, match="damaged, or holds more than"):
        load_checkpoint(spoiled)
    spoiled.write_bytes(file.read_bytes() + file.read_bytes())
    with pytest.raises(UserError, match="damaged, or holds more than"):
        load_checkpoint(spoiled)


def opcodes(*parts):
    return b"\x80\x02" + b"".join(parts) + b"."


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [
        opcodes(b"]", b"r" + struct.pack("<I", 2**32 - 1)),  # a place in the unpickler's memory of 32 GB
        opcodes(b"]" * 300_000),
        opcodes(b"X" + struct.pack("<I", 2**31), b"x"),
        opcodes(b"cposix\nsystem\n", b"X\x04\x00\x00\x00true", b"\x85R"),
        b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"]\x94.",
        b"",
        pickle.dumps({"state_dict": {}, "hyper_parameters": {}}),
    ],
)
def test_pickles_that_lie(tmp_path, monkeypatch, data):
    monkeypatch.setattr("lightning_det.checkpoint.outline.READS", 200_000)
    start = time.process_time()
    with zipfile.ZipFile(tmp_path / "x.ckpt", "w") as archive:
        archive.writestr("x/data.pkl", data)
    (tmp_path / "y.ckpt").write_bytes(data)
    for name in ("x.ckpt", "y.ckpt"):
        with pytest.raises(UserError):
            load_checkpoint(tmp_path / name)
    assert time.process_time() - start < 20


# What is no checkpoint of ours, or a damaged one


def removed(*path):
    def change(content):
        node = content
        for step in path[:-1]:
            node = node[step]
        del node[path[-1]]

    return change


def put(value, *path):
    def change(content):
        node = content
        for step in path[:-1]:
            node = node[step]
        node[path[-1]] = value

    return change


LABELS, SETTINGS = ("hyper_parameters", "labels"), ("hyper_parameters", "settings")
ODD = (None, -5, "x", [], {"x": 1}, float("nan"))

PLACES = [("state_dict",), ("hyper_parameters",), LABELS, (*LABELS, "names"), (*LABELS, "source_ids"), SETTINGS]
PLACES += [
    (*SETTINGS, key) for key in ("backbone", "detector", "module", "data", "dataset", "views", "test", "selection")
]
PLACES += [(*SETTINGS, key) for key in ("optimizer", "callbacks", "proposals")]
PLACES += [(*SETTINGS, "views", "test", "scales"), (*SETTINGS, "views", "test"), (*SETTINGS, "test", "merge")]
PLACES += [(*SETTINGS, "detector", key) for key in ("_target_", "priors", "head_norm")]
PLACES += [(*SETTINGS, "detector", "priors", key) for key in ("_target_", "_partial_", "objects", "ratios")]
PLACES += [(*SETTINGS, "backbone", key) for key in ("_target_", "widths", "norm")]
PLACES += [(*SETTINGS, "dataset", key) for key in ("source", "resolution", "size_cuts", "root", "on_bad")]

# Half of the values at each place: all come at places of every kind.
DAMAGES = {f"{'.'.join(p)}={v!r}": put(v, *p) for n, p in enumerate(PLACES) for v in (ODD * 2)[n % 6 :][:5:2]}
DAMAGES |= {f"without {'.'.join(p)}": removed(*p) for p in PLACES}
DAMAGES |= {
    "names of classes twice": put(["cat", "cat"], *LABELS, "names"),
    "class that is a number": put(["cat", 7], *LABELS, "names"),
    "class with an end of line": put(["cat", "a\nb"], *LABELS, "names"),
    "class that paints the terminal": put(["cat", "\x1b[31m"], *LABELS, "names"),
    "more classes than there are": put([str(n) for n in range(150_000)], *LABELS, "names"),
    "weight that is a list": put([1.0], "state_dict", "x"),
    "weight by a number": put(torch.zeros(1), "state_dict", 5),
    "another weight": put(torch.zeros(1), "state_dict", "x"),
    "weights in a dictionary": lambda c: c.update(state_dict={"model": c["state_dict"]}),
    "weight that is NaN": lambda c: next(iter(c["state_dict"].values())).fill_(float("nan")),
    "weights as whole numbers": lambda c: c.update(state_dict={k: v.int() for k, v in c["state_dict"].items()}),
    "weights of another shape": lambda c: c.update(state_dict={k: v[None] for k, v in c["state_dict"].items()}),
}
DAMAGES |= {
    f"{name}={value!r}": put(value, name)
    for name in ("loops", "callbacks", "optimizer_states", "lr_schedulers", "epoch", "global_step")
    for value in ODD
}


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_damaged_checkpoints_are_refused_or_do_no_harm(composed, content, tmp_path, monkeypatch, part):
    """Not one ends in anything but a message."""
    cfg = composed("eval", f"checkpoint={tmp_path}/x.ckpt")
    monkeypatch.setattr(
        "lightning_det.runs.restore.chosen_options", lambda: {"strategy": ["flip"], "test": []}
    )  # it takes long
    accepted, messages = [], {}
    for name in list(DAMAGES)[part::4]:
        spoiled = copy.deepcopy(content)
        DAMAGES[name](spoiled)
        torch.save(spoiled, tmp_path / "x.ckpt")
        try:
            restore_detector(cfg)
            accepted.append(name)
        except UserError as error:
            messages[name] = str(error)
        except Exception as error:
            raise AssertionError(name) from error
    assert not [name for name, text in messages.items() if not 20 < len(text) < 2000]
    wrong = [n for n in accepted if n.startswith(("state_dict", "hyper_parameters.labels", "class", "weight"))]
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("change", list(DAMAGES)[-12 - 6 * len(ODD) : -6 * len(ODD)])
def test_damaged_weights_are_refused(module, content, tmp_path, change):
    DAMAGES[change](content)
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(UserError):
        load_weights(module, str(tmp_path / "x.ckpt"))


@pytest.mark.slow
def test_cut_and_flipped_files(content, composed, tmp_path):
    file = tmp_path / "x.ckpt"
    torch.save(content, file)
    whole, rng = file.read_bytes(), torch.Generator().manual_seed(0)
    cfg = composed("eval", f"checkpoint={file}")
    spoiled = [whole[: len(whole) * part // 20] for part in range(20)]
    for _ in range(20):
        flipped = bytearray(whole)
        # Towards the end, where names and sizes of members are, and at the beginning, in the pickle.
        for place in (
            *torch.randint(0, 30_000, (3,), generator=rng),
            -int(torch.randint(1, 5000, (1,), generator=rng)),
        ):
            flipped[int(place)] ^= 0x55
        spoiled.append(bytes(flipped))
    for data in spoiled:
        file.write_bytes(data)
        with contextlib.suppress(UserError):
            restore_detector(cfg)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("text.ckpt", lambda f: f.write_text("hello")),
        ("empty.ckpt", lambda f: f.write_bytes(b"")),
        ("x.json", lambda f: f.write_text("{}")),
        ("x.safetensors", lambda f: f.write_bytes(struct.pack("<Q", 2) + b"{}")),
        ("x.onnx", lambda f: f.write_bytes(b"\x08\x07\x12\x07pytorch")),
        ("folder", lambda f: f.mkdir()),
        ("circle.ckpt", lambda f: f.symlink_to(f)),
        ("list.pth", lambda f: torch.save([1], f)),
        ("model.pth", lambda f: torch.save({"model": {"w": torch.zeros(1)}, "epoch": 3}, f)),
        ("mixed.pth", lambda f: torch.save({"w": torch.zeros(1), "epoch": 3}, f)),
        ("numbers.pth", lambda f: torch.save({1: torch.zeros(1)}, f)),
        ("old.pth", lambda f: torch.save({"w": torch.zeros(1)}, f, _use_new_zipfile_serialization=False)),
    ],
)
def test_files_of_other_kinds(module, tmp_path, name, write):
    write(tmp_path / name)
    with pytest.raises(UserError, match=name.split(".")[0]):
        load_checkpoint(tmp_path / name)
    if name != "folder":
        with pytest.raises(UserError) as raised:
            load_weights(module, str(tmp_path / name))
        assert ("['model'] alone" in str(raised.value)) == (name == "model.pth")
        assert ("holds no tensor" in str(raised.value)) == (name == "x.safetensors")


def test_weights_in_the_old_format(tmp_path):
    """Torchvision's older files are no archives."""
    weights = {"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(0)}
    torch.save(weights, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    assert [t.shape for t in outline(tmp_path / "x.pth").values()] == [(2, 3), (0,)]
    (tmp_path / "x.pth").write_bytes((tmp_path / "x.pth").read_bytes().replace(b"K\x06", b"M\xff\xff"))
    with pytest.raises(UserError):
        load_checkpoint(tmp_path / "x.pth")


# Run folders


def recorded(folder, *options):
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints/last.ckpt").touch()
    (folder / "overrides.yaml").write_text(yaml.safe_dump(list(options)))
    return complete_overrides([f"resume={folder}", "seed=3"])


@pytest.mark.parametrize(
    "option",
    [
        "hydra.searchpath=[file:///tmp/evil]",
        "hydra.callbacks.x._target_=os.system",
        "hydra/launcher=evil",
        "++trainer.callbacks._target_=os.system",
        "++trainer={_target_:os.system,command:ls}",
        "+a={b:[{_target_:os.system}]}",
        "backbone._target_=torch.hub.load",
        "callbacks.x._target_=pytorch_lightning.LightningModule.load_from_checkpoint",
        "test.merge='${oc.create:{_target_:os.system}}'",
        "test.merge=${hydra:x}",
        "test.backend=${${a}}",
        "+optimizer._args_=[1]",
        "backbone.name=hf-hub:a/b",
        "experiment=../../evil",
        "experiment=/tmp/evil",
        "backbone@trainer=tiny",
        "callbacks.last.dirpath=/tmp/elsewhere",
        "dataset.val=../x",
        "trainer.max_epochs=1,2",
        "a b",
        "=",
    ],
)
def test_a_run_folder_runs_nothing(tmp_path, option):
    with pytest.raises(ConfigError, match="give the option again"):
        recorded(tmp_path, "strategy=[snip,flip]", option)


@pytest.mark.parametrize("option", ["test.merge._target_=os.system,os.remove", "hydra.searchpath=[file:///tmp/evil]"])
def test_a_sweeps_folder_runs_nothing(tmp_path, option):
    kept = ["seed=0,1", "strategy=[snip],[snip,flip]", "optimizer.lr=interval(0.1,1)", "hydra/launcher=submitit_local"]
    record = {"command": "train", "overrides": kept}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(record))
    again = ["-m", f"hydra.sweep.dir={tmp_path}"]
    assert complete_sweep(again, "train") == ["-m", *kept, again[1]]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(record | {"overrides": [*kept, option]}))
    with pytest.raises(ConfigError, match="give the option again"):
        complete_sweep(again, "train")


def test_what_the_user_gives_again_is_the_users(tmp_path):
    own = "views.train.windows={_target_:mine.Windows,size:96}"
    with pytest.raises(ConfigError, match=r"mine\.Windows"):
        recorded(tmp_path, own)
    assert complete_overrides([f"resume={tmp_path}", own])[:1] == [f"resume={tmp_path}"]


def test_ordinary_options_come_back(tmp_path):
    options = ["strategy=[snip,flip]", "~callbacks.best", "+experiment=bccd", "dataset.root='/a b/c'"]
    options += ["dataset.root=${oc.env:HOME}/data", "views.train.windows={_target_:lightning_det.views.Tiles,size:96}"]
    options += ["dataset.pyramid=[[192,256],[96,128]]", "logger.wandb.name='a=b'", "dataset.limit=null"]
    options += [f"+logger.csv.save_dir={tmp_path}/log"]
    assert recorded(tmp_path, *options)[: len(options)] == options


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["a: 1", "[1]", "[[a]]", "[", "!!python/object/apply:os.system [ls]", "\xff\xfe", "[" * 5000, "a" * 2**21]
)
def test_records_that_are_none(tmp_path, text):
    (tmp_path / "overrides.yaml").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match="not the options of a run"):
        complete_overrides([f"resume={tmp_path}"])


# Keys beside a checkpoint


def leaves(node, key=""):
    """Dotted keys of all values, and nodes without any."""
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from leaves(value, f"{key}.{name}" if key else name)
    else:
        yield key


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_key_beside_a_checkpoint_takes_effect_or_is_refused(composed, content, command):
    """All leaves of the settings: what is given changes what the command goes by, or is refused by name."""
    cfg = composed(command, "checkpoint=x", *COMMANDS[command])
    plain = OmegaConf.to_container(cfg, resolve=False, enum_to_str=True)
    given = OmegaConf.create(plain)
    own = {*plain} - {"trainer", *OmegaConf.structured(Config)}
    saved = overlay.complete(content["hyper_parameters"]["settings"])
    before = overlay.overlay_settings(saved, given, [])
    split = "val" if command == "eval" else None

    def overlaid(key):
        changed = copy.deepcopy(given)
        OmegaConf.update(changed, key, "CHANGED", merge=False)
        return overlay.overlay_settings(saved, changed, [key])

    taken, refused = [], {}
    for key in leaves(plain):
        fed = overlay.referring_settings(plain, [key])
        after = overlaid(key) if fed else None
        try:
            overlay.check_read(after if fed else before, command, split, [key])
        except ConfigError as error:
            refused[key] = str(error)
            continue
        taken.append(key)
        assert key in own or command != "eval" or (after or overlaid(key)) != before, key
    assert all(text.startswith(f"{key} beside a checkpoint") for key, text in refused.items())
    assert {"optimizer.lr", "weights", "resume", "proposals", "miner.epochs", "seed"} <= {*refused}
    assert {"views.train.flip.probability", "selection.rois.count", "trainer.max_epochs"} <= {*refused}
    assert {"test.nms_iou", "dataset.resolution", "backbone.form"} <= {*taken}
    assert "dataset.limit" in refused
    assert ("dataset.limit_val" in taken) == ("callbacks.pictures.count" in taken) == (command == "eval")
    inference = {f"test.{name}" for name in Inference._fields}
    assert command == "export" or inference - {"test.merge"} <= {*taken}  # of which the leaf is test.merge.iou
    assert ("test.view_detections" in taken) == ("trainer.devices" in taken) == (command != "export")


@pytest.mark.slow
def test_checkpoints_of_earlier_versions_keep_their_figures(content, restore):
    """What they do not know is what their version did, and not a default of now."""
    saved = content["hyper_parameters"]["settings"]
    for key in overlay.BEFORE:
        group, name = key.split(".")
        del saved[group][name]
    del saved["dataset"]["limit_val"]
    settings, module = restore()
    assert (module.inference.detections_per_megapixel, module.inference.fragments) == (None, None)
    assert settings.capacity.proposals_per_megapixel is None
    _, module = restore("eval", {}, "test.fragments=0.7", "test.detections_per_megapixel=50")
    assert (module.inference.detections_per_megapixel, module.inference.fragments) == (50, 0.7)


@pytest.mark.slow
def test_capacities_beside_a_checkpoint(composed, tmp_path):
    cfg = validate_run(composed("train", "callbacks=[]"))
    module = build_module(cfg, LabelMap(["cat"]))
    saved = {"settings": json.loads(json.dumps(portable_settings(cfg))), "labels": LabelMap(["cat"]).to_dict()}
    torch.save({"state_dict": module.state_dict(), "hyper_parameters": saved}, tmp_path / "x.ckpt")

    def given(*overrides):
        return restore_detector(composed("eval", f"checkpoint={tmp_path}/x.ckpt", *overrides))

    settings, _ = given("capacity.after_nms=[5,5]")
    assert list(settings.detector.rpn.after_nms) == [5, 5]
    assert list(given()[0].detector.rpn.after_nms) == [300, 300]
    assert given("capacity.proposals_per_megapixel=7")[0].detector.rpn.per_megapixel == 7
    with pytest.raises(UserError, match="do not fit"):
        given("capacity.head=64")
    with pytest.raises(ConfigError, match=r"capacity\.neck beside a checkpoint.*its own settings"):
        given("capacity.neck=64")
    with pytest.raises(ConfigError, match=r"^dataset\.test beside.*with split=val"):
        given("dataset.test=val")
    with pytest.raises(ConfigError, match=r"^dataset\.holdout beside a checkpoint"):
        given("split=test", "dataset.holdout=0.3")
    for limit in ("trainer.limit_val_batches=0.5", "trainer.limit_val_batches=1", "trainer.fast_dev_run=True"):
        with pytest.raises(ConfigError, match=rf"^{limit}: eval looks at all images; dataset\.limit_val=N"):
            given(limit)
    for whole in ("trainer.limit_val_batches=1.0", "trainer.limit_val_batches=null", "trainer.fast_dev_run=false"):
        given(whole)
    for group in ("optimizer=sgd", "schedule=constant", "debug=limit"):
        with pytest.raises(ConfigError, match=f"^{group.split('=')[0]} beside a checkpoint"):
            given(group)


@pytest.mark.slow
def test_an_option_of_a_part_keeps_the_rest_of_the_checkpoint(composed, content, restore, tmp_path):
    """``backbone=MINE`` permits the part; its form, the detector and their numbers are the checkpoint's."""
    (tmp_path / "conf/backbone").mkdir(parents=True)
    mine = "# @package _global_\nbackbone:\n  _target_: torchvision.ops.misc.MLP\n  widths: [1, 2, 3, 4, 5]\n"
    (tmp_path / "conf/backbone/mine.yaml").write_text(mine)
    search = f"hydra.searchpath=[file://{tmp_path}/conf]"
    saved = content["hyper_parameters"]["settings"]
    merged = overlay.overlay_settings(
        saved, composed("eval", "checkpoint=x", "backbone=mine", search), ["checkpoint", "backbone"]
    )
    assert merged.backbone == {"_target_": "torchvision.ops.misc.MLP", "widths": [1, 2, 3, 4, 5], "form": "pyramid"}
    assert merged.detector == saved["detector"]
    assert merged.module == saved["module"]
    # The same part: what it was trained with stays.
    merged = overlay.overlay_settings(
        saved, composed("eval", "checkpoint=x", "backbone=ssd_tiny"), ["checkpoint", "backbone"]
    )
    assert merged.backbone == saved["backbone"]
    given = ("backbone=ssd_tiny", "backbone.norm=batch")
    merged = overlay.overlay_settings(
        saved, composed("eval", "checkpoint=x", *given), ["checkpoint", "backbone", "backbone.norm"]
    )
    assert merged.backbone == saved["backbone"] | {"norm": "batch"}
