"""Loads an RT-DETRv2 that ``save_pretrained`` of ``transformers`` has written into ours."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, RTDetrV2ForObjectDetection
from transformers.utils.logging import disable_progress_bar

from lightning_det.protocols.detector import Detector

RENAMED = {
    "model.backbone.model.embedder.": "backbone.stages.0.0.",
    "model.backbone.model.encoder.stages.0.": "backbone.stages.0.1.",
    "model.backbone.model.encoder.stages.1.": "backbone.stages.1.",
    "model.backbone.model.encoder.stages.2.": "backbone.stages.2.",
    "model.backbone.model.encoder.stages.3.": "backbone.stages.3.",
    "model.": "network.",
}
"""Prefixes of the library's tensors and of ours, with a `resnet_vd` as backbone; the first that fits counts."""

SETTINGS = {
    "d_model": "capacity.neck",
    "encoder_hidden_dim": "capacity.neck",
    "decoder_layers": "capacity.decoder_layers",
    "num_queries": "capacity.queries",
    "encoder_attention_heads": "detector.heads",
    "decoder_attention_heads": "detector.heads",
    "encoder_ffn_dim": "detector.feedforward times capacity.neck",
    "decoder_ffn_dim": "detector.feedforward times capacity.neck",
    "hidden_expansion": "detector.expansion",
    "decoder_n_points": "detector.points",
    "feat_strides": "detector.finest",
    "encoder_in_channels": "backbone",
}
"""Settings of the library that ours must equal, and what sets ours."""

FIXED = (
    "encoder_layers",
    "encode_proj_layers",
    "normalize_before",
    "learn_initial_query",
    "activation_function",
    "encoder_activation_function",
    "decoder_activation_function",
    "decoder_method",
    "decoder_offset_scale",
    "positional_encoding_temperature",
    "layer_norm_eps",
    "batch_norm_eps",
)
"""Settings of the library that ours leaves at the defaults."""

UNUSED = ("model.denoising_class_embed.",)
"""Prefixes of tensors that ours does not have: those of the denoising queries."""


def load_folder(detector: Detector, config: Any, folder: Path, classes: Sequence[str]) -> str:
    """Loads weights of the library's folder format; nothing is downloaded.

    Args:
        detector: an `RTDETR` with a `resnet_vd` as backbone.
        config: the library's configuration of its network.
        folder: holds ``config.json`` and ``model.safetensors``, and perhaps ``preprocessor_config.json``.
        classes: names of the detector's classes. Their rows of the classification are found by name.

    Returns:
        What was loaded, in words.

    Raises:
        ValueError: the folder cannot be read, or has another network.
    """
    theirs = _read(folder)
    _compare(config, theirs.config)
    _compare_pixels(detector, folder)
    mine = detector.state_dict()
    names = list(theirs.config.id2label.values())
    rows = {place: names.index(name) for place, name in enumerate(classes) if name in names}
    weights = {}
    for name, tensor in theirs.state_dict().items():
        if not name.startswith("model.") or name.startswith(UNUSED):  # heads are there twice
            continue
        prefix = next(p for p in RENAMED if name.startswith(p))
        ours = RENAMED[prefix] + name.removeprefix(prefix)
        weights[ours] = _pick_rows(mine[ours], tensor, rows) if ours.startswith(detector.class_layers) else tensor
    shapes = {n: t.shape for n, t in mine.items() if not n.endswith("num_batches_tracked")}
    wrong = [n for n in shapes if n not in weights or weights[n].shape != shapes[n]]
    wrong += [n for n in weights if n not in mine]
    if wrong:
        raise ValueError(
            f"{len(wrong)} tensors are missing or differ, such as {', '.join(sorted(wrong)[:3])}; set "
            "backbone=resnet18_vd, resnet34_vd, resnet50_vd or resnet101_vd, as the folder's"
        )
    detector.load_state_dict(weights, strict=False)
    return _describe(classes, rows)


def _read(folder: Path) -> RTDetrV2ForObjectDetection:
    disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if config.model_type == "rt_detr_v2":
            return RTDetrV2ForObjectDetection.from_pretrained(
                folder, config=config, local_files_only=True, use_safetensors=True, dtype=torch.float32
            )
    except Exception as error:  # the library and safetensors raise many kinds
        raise ValueError(f"cannot be read by transformers: {str(error).strip() or type(error).__name__}") from error
    raise ValueError(f"holds a model of type {config.model_type}, not rt_detr_v2")


def _compare(ours: Any, theirs: Any) -> None:
    """Refuses a folder whose network is another one."""
    mine, other = (
        {name: list(v) if isinstance(v, tuple) else v for name, v in c.to_dict().items()} for c in (ours, theirs)
    )
    settings = SETTINGS | {name: "no setting" for name in FIXED}
    wrong = [f"{n} is {other[n]}, here {mine[n]} ({key})" for n, key in settings.items() if mine[n] != other[n]]
    if wrong:
        raise ValueError(f"its network is another one: {'; '.join(wrong)}")


def _compare_pixels(detector: Detector, folder: Path) -> None:
    """Refuses a normalisation of pixels that the weights were not trained with; without a file, there is none."""
    file = folder / "preprocessor_config.json"
    settings = json.loads(file.read_text()) if file.is_file() else {}
    normalised = settings.get("do_normalize", False)
    wanted = {
        "mean": settings["image_mean"] if normalised else [0.0] * 3,
        "std": settings["image_std"] if normalised else [1.0] * 3,
    }
    own = {name.rpartition(".")[2]: buffer for name, buffer in detector.named_buffers() if "preprocess." in name}
    for name, values in wanted.items():
        if name in own and not torch.allclose(own[name].flatten().cpu(), torch.tensor(values), atol=1e-4):
            raise ValueError(f"its pixels are normalised otherwise; set detector.preprocess.{name}={values}")


def _pick_rows(mine: Tensor, theirs: Tensor, rows: dict[int, int]) -> Tensor:
    """Our tensor with the rows of the classes that both have."""
    mixed = mine.clone()
    if rows:
        mixed[list(rows)] = theirs[list(rows.values())].to(mixed)
    return mixed


def _describe(classes: Sequence[str], rows: dict[int, int]) -> str:
    if len(rows) == len(classes):
        return "all layers"
    if not rows:
        return "the last layers start fresh: its classes are others"
    fresh = ", ".join(name for place, name in enumerate(classes) if place not in rows)
    return f"all layers, but in the last ones these classes start fresh, which it does not have: {fresh}"
