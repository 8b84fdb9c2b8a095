"""ONNX graphs equal their detectors, and the listing in docs/export.md equals `predict`."""

import json
import re
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from helpers import SMALL, read
from PIL import Image
from support.in_process import run
from support.makers import fpn, retinanet, rfcn, ssd

from lightning_det.backbones import dsod, ssd_tiny, tiny_backbone
from lightning_det.commands import export
from lightning_det.deployment.onnx import to_onnx
from lightning_det.deployment.opsets import OPSETS, convert
from lightning_det.deployment.parts import Candidates, WithNMS
from lightning_det.deployment.verification import compare, differences
from lightning_det.detectors import RTDETR
from lightning_det.modules.inference import Inference
from lightning_det.ops.assignment import assign
from lightning_det.protocols.detector import Detector
from lightning_det.selection import HardNegativeSelector, RandomSelector
from lightning_det.system.errors import UserError

PAGE = Path(__file__).parents[1] / "docs" / "export.md"


def unsettled(model):
    """Running statistics and scales of BatchNorm as after a training."""
    rng = torch.Generator().manual_seed(1)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            for tensor, low, high in (
                (layer.running_mean, -0.3, 0.3),
                (layer.running_var, 0.5, 2.0),
                (layer.weight.data, 0.7, 1.5),
                (layer.bias.data, -0.2, 0.2),
            ):
                tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=rng))
    return model.eval()


def small_ssd():
    torch.manual_seed(0)
    backbone = ssd_tiny(widths=(8, 12, 16), norm="batch")
    return unsettled(ssd(backbone, 6, [8, 64], HardNegativeSelector()))


def small_dsod():
    torch.manual_seed(0)
    backbone = dsod(stem_width=8, bottleneck=16, growth=8, blocks=(1, 1, 1, 1), second=16, halves=(), plain=())
    return unsettled(ssd(backbone, 6, [8, 64], HardNegativeSelector(), l2_norm=True, head_norm="batch"))


def assert_equal(session, detector, shapes):
    rng = torch.Generator().manual_seed(2)
    for count, height, width in shapes:
        images = torch.randint(0, 256, (count, 3, height, width), generator=rng, dtype=torch.uint8)
        sizes = torch.tensor([[height, width - 5 * n] for n in range(count)])
        boxes, scores = session.run(None, {"images": images.numpy(), "sizes": sizes.numpy()})
        with torch.no_grad():
            expected = detector.candidates(images, sizes)
        longest = max(height, width)
        np.testing.assert_allclose(boxes / longest, expected[0] / longest, atol=1e-4, rtol=0)
        np.testing.assert_allclose(scores, expected[1], atol=1e-4, rtol=0)
        assert scores.std() > 1e-3


def shapes_of(values):
    return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


@pytest.mark.slow
def test_any_batch_and_shape_of_images():
    detector = small_ssd()
    model = to_onnx(Candidates(detector), 96, 128)
    assert (model.opset_import[0].version, model.ir_version) == (OPSETS[-1], 10)
    onnx.checker.check_model(model, full_check=True)
    inputs = {"images": ["batch", 3, "height", "width"], "sizes": ["batch", 2]}
    outputs = {"boxes": ["batch", "candidates", 4], "scores": ["batch", "candidates", 6]}
    assert (shapes_of(model.graph.input), shapes_of(model.graph.output)) == (inputs, outputs)
    session = ort.InferenceSession(model.SerializeToString())
    assert_equal(session, detector, [(1, 96, 128), (3, 128, 96), (2, 64, 224), (5, 160, 160), (1, 75, 101)])


@pytest.mark.slow
def test_views_of_one_shape_need_no_other_and_opsets_are_older():
    """As of `strategy=warp`; the shape halves unevenly. In an old opset, which wrote reductions otherwise."""
    detector = small_dsod()
    model = to_onnx(Candidates(detector), 75, 108, dynamic=False, opset=17)
    # Runtimes of opset 17's time read format 8 and no newer one.
    assert ([(entry.domain, entry.version) for entry in model.opset_import], model.ir_version) == ([("", 17)], 8)
    onnx.checker.check_model(model, full_check=True)
    assert shapes_of(model.graph.input)["images"] == ["batch", 3, 75, 108]
    session = ort.InferenceSession(model.SerializeToString())
    assert_equal(session, detector, [(1, 75, 108), (4, 75, 108)])
    # A graph of other weights is noticed.
    compare(model, Candidates(detector), 75, 108)
    with torch.no_grad():
        detector.regress[0][0].weight[0] += 1e-2
    with pytest.raises(UserError, match="the graph differs from the detector, nothing is written"):
        compare(model, Candidates(detector), 75, 108)
    with torch.no_grad():
        detector.regress[0][0].weight.fill_(torch.nan)
        detector.classify[0][0].weight.fill_(torch.nan)
    with pytest.raises(UserError, match="results have no equal"):
        compare(model, Candidates(detector), 75, 108)


def test_a_version_that_cannot_be_had_is_said():
    model = onnx.helper.make_model(onnx.parser.parse_graph("g (float[2] x) => (float[2] y) { y = Identity(x) }"))
    model.opset_import[0].version = 21
    with pytest.raises(UserError, match=r"opset=22: torch .* writes opset 21 instead; nothing is written"):
        convert(model, 22)
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(UserError, match="opset=17: the graph cannot be converted to it, nothing is written: "):
        convert(model, 17)


def trained(folder, *network):
    outcome = run("train", *network, *SMALL, "debug=limit", f"hydra.run.dir={folder}")
    assert outcome.code == 0, outcome.errors
    return folder


@pytest.mark.slow
def test_the_command_and_the_listing_of_its_page(tmp_path, shapes_root):
    """Trains GRP-DSOD a little, exports it, and detects in images at their own resolution and at another."""
    small = ["backbone.blocks=[1,1,1,1]", "backbone.halves=[]", "backbone.plain=[]", f"dataset.root={shapes_root}"]
    folder = trained(tmp_path / "run", "detector=grp_dsod", "backbone=dsod_tiny", *small)
    outcome = run(
        "export",
        f"checkpoint={folder}",
        f"output={tmp_path}/model.onnx",
        "with_nms=true",
        f"hydra.run.dir={tmp_path}/export",
    )
    assert outcome.code == 0, outcome.errors
    assert re.search(r"largest difference \d\.\de-\d\d, of a score or as a share .*; rounding decided", outcome.output)
    about = {p.key: json.loads(p.value) for p in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert about["classes"][0] == "bar-h"
    assert {k: v for k, v in about.items() if k != "classes"} == {
        "resolutions": [[96, 128]], "valid_ranges": None,
        "score_threshold": 0.01, "nms_iou": 0.5, "max_detections": 100, "multiple_of": 1,
        "normalization": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    }  # fmt: skip

    rng = np.random.default_rng(0)
    for name, (height, width) in {"same": (96, 128), "tall": (256, 150)}.items():
        pixels = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).resize((width, height)).save(tmp_path / f"images/{name}.png")
    outcome = run("predict", f"checkpoint={folder}", f"source={tmp_path}/images", f"hydra.run.dir={tmp_path}/predict")
    assert outcome.code == 0, outcome.errors

    scope = {}
    exec(re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1], scope)
    for image in read(tmp_path / "predict/predictions.json")["images"]:
        expected = image["detections"]
        found = scope["detect"](tmp_path / "model.onnx", tmp_path / "images" / image["file"])
        # Pillow and torchvision resize differently by a level of grey.
        exact = image["file"] == "same.png"
        assert_same_detections(found, expected, score=1e-4 if exact else 5e-3, pixels=2e-2 if exact else 0.5)


def assert_same_detections(found, expected, score, pixels):
    """All but those that rounding decides about have a partner; scores may change places."""
    assert len(expected) > 20
    assert abs(len(found[1]) - len(expected)) <= 0.05 * len(expected)
    partners = 0
    for wanted in expected:
        same = np.array([name == wanted["label"] for name in found[2]])
        same &= np.abs(found[1] - wanted["score"]) < score
        partners += (same & (np.abs(found[0] - wanted["box"]).max(axis=1) < pixels)).any()
    assert partners >= 0.95 * len(expected)


@pytest.mark.parametrize(
    ("options", "several", "duplicates"),
    [
        (["strategy=[sniper_no_negatives,flip]"], True, True),
        (["strategy=[sniper_no_negatives,flip]", "test.nms_iou=0.5"], True, False),
        (["strategy=[single_scale,flip]"], False, False),
        (["strategy=[single_scale,flip]", "test=[flip]"], True, False),
        (["strategy=[tiles,flip]"], True, False),
        (["strategy=[single_scale,flip]", "detector=rtdetr"], False, False),
    ],
)
def test_what_a_graph_leaves_to_its_program_is_said(composed, caplog, options, several, duplicates):
    settings = composed("train", *options)
    kind = RTDETR if "detector=rtdetr" in options else Detector
    detector = Mock(kind, nms_free=kind.nms_free)
    export._report_rest(settings, Inference(nms_iou=settings.test.nms_iou), detector, True)
    assert ("predict has several views or ranges" in caplog.text) == several
    assert ("test.nms_iou=1 leaves duplicates to the merge" in caplog.text) == duplicates
    caplog.clear()
    export._report_rest(settings, Inference(nms_iou=1.0), detector, False)
    assert "duplicates" not in caplog.text


def test_results_without_an_equal_are_counted():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [20, 20, 40, 40], [5, 5, 9, 9]]])
    scores, labels = torch.tensor([[0.9, 0.8, 0.0]]), torch.tensor([[0, 1, 1]])
    assert differences((boxes, scores, labels), (boxes, scores, labels), 100) == (0.0, 0, 4)
    # The last one is padding: its box and its place mean nothing.
    turned = [x[:, [1, 0]] for x in (boxes, scores, labels)]
    assert differences(turned, (boxes, scores, labels), 100) == (0.0, 0, 4)
    assert differences((boxes + 5e-3, scores, labels), (boxes, scores, labels), 100)[1:] == (0, 4)
    assert differences((boxes + 5e-2, scores, labels), (boxes, scores, labels), 100)[1:] == (4, 4)
    assert differences((boxes, scores, 1 - labels), (boxes, scores, labels), 100)[1:] == (4, 4)
    assert differences((boxes, scores * torch.nan, labels), (boxes, scores, labels), 100)[1:] == (5, 5)
    assert differences((boxes, scores * 0, labels), (boxes, scores, labels), 100)[1:] == (2, 2)


def two_stages(make, make_backbone, sizes, **settings):
    torch.manual_seed(0)
    limits = {"before_nms": (300, 100), "after_nms": (300, 20), "per_megapixel": 1000}
    selectors = RandomSelector(256, 0.5), RandomSelector(64, 0.25)
    detector = make(make_backbone(), 3, sizes, (0.5, 1.0, 2.0), *selectors, head_width=16, **limits, **settings)
    for parameter in detector.parameters():  # scores that differ
        parameter.data.mul_(2.0)
    return unsettled(detector).for_canvas((128, 256))


@pytest.mark.slow
def test_two_stages_with_images_of_any_shape():
    """Proposals by NMS and RoIAlign over a pyramid are part of the graph, also in an old opset."""
    part = Candidates(two_stages(fpn, partial(ssd_tiny, widths=(8, 12, 16)), [16, 32, 64], neck_width=8))
    model = to_onnx(part, 128, 256, opset=17)
    onnx.checker.check_model(model, full_check=True)
    assert shapes_of(model.graph.output) == {"boxes": ["batch", 33, 3, 4], "scores": ["batch", 33, 3]}
    for height, width in ((128, 256), (256, 192), (64, 64), (320, 384)):
        compare(model, part, height, width)


@pytest.mark.slow
def test_detections_of_two_stages():
    part = WithNMS(two_stages(rfcn, partial(tiny_backbone, "c4", 4), [8, 16, 32, 64]), Inference(0.001, 0.5), 20)
    model = to_onnx(part, 128, 256, dynamic=False, opset=21)
    shapes = {"boxes": ["batch", 20, 4], "scores": ["batch", 20], "labels": ["batch", 20]}
    assert shapes_of(model.graph.output) == shapes
    compare(model, part, 128, 256)


@pytest.mark.slow
def test_images_of_dense_detectors_are_multiples_of_their_coarsest_stride():
    torch.manual_seed(0)
    few = {"width": 8, "finest": 32, "extra": 1, "head_convs": 1}  # the conversion computes with the shape of every map
    detector = retinanet(tiny_backbone("pyramid", 4), 3, [64, 128], prior=0.3, **few)
    assert detector.granularity == 64
    part = Candidates(unsettled(detector))
    model = to_onnx(part, 128, 192)
    for height, width in ((128, 192), (192, 64)):
        compare(model, part, height, width)


class Odd(Detector):
    def candidates(self, images, sizes):
        costs = images[:, 0].float()
        return costs, assign(costs, costs[..., 0] >= 0)


@pytest.mark.slow
def test_an_operator_that_onnx_lacks_is_named():
    with pytest.raises(
        UserError, match=r"Odd cannot be written as a graph, nothing is written: .*lightning_det.assign"
    ):
        to_onnx(Candidates(Odd()), 32, 32, dynamic=False)


@pytest.mark.slow
def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else object())
    outcome = run("export", "checkpoint=none", f"hydra.run.dir={tmp_path}")
    assert outcome.code == 1
    assert "export needs onnxscript: pip install 'lightning-det[export]'" in outcome.errors
