"""A trained detector and its settings, out of a checkpoint."""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lightning_det.annotations import AnnotationStore, DatasetError, LabelMap
from lightning_det.build import build_module, load_checkpoint
from lightning_det.cli import chosen, overridden_keys
from lightning_det.config import option_file, validated
from lightning_det.config.signatures import locate
from lightning_det.errors import ConfigError, UserError
from lightning_det.modules.module import DetectionModule

OF_THIS_RUN = ("trainer", "seed", "logger", "dataset.limit", "dataset.limit_val")
"""Keys that never come from a checkpoint: they describe this machine and this run."""

PARTS = tuple(f"lightning_det.{p}." for p in ("backbones", "callbacks", "data", "detectors", "modules", "selection"))
PARTS += ("lightning_det.views.", "pytorch_lightning.", "torch.optim.")
"""Where the parts come from that a checkpoint's settings may name."""

OF_GROUPS = {
    "strategy": ("views", "data", "test"),
    "experiment": ("dataset", "views", "data", "test"),
}
"""What choosing an option of these groups replaces in the settings of a checkpoint. See also `replaced_by_tests`."""


def restored(cfg: DictConfig) -> tuple[DictConfig, DetectionModule]:
    """Settings and module of ``cfg.checkpoint``, with what the user set on the command line.

    Args:
        cfg: as composed for this command.

    Raises:
        UserError: no checkpoint of this package.
        ConfigError: the settings do not fit.
    """
    content = load_checkpoint(cfg.checkpoint)
    saved = content["hyper_parameters"]
    merged = overlaid(saved["settings"], cfg, overridden_keys())
    check_origins(OmegaConf.to_container(merged, resolve=False), OmegaConf.to_container(cfg, resolve=False))
    merged = validated(merged, chosen(), overridden_keys())
    module = build_module(merged, LabelMap.from_dict(saved["labels"]), learning=False)
    try:
        module.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        first = next((line.strip() for line in str(error).splitlines()[1:]), str(error))
        raise UserError(
            f"checkpoint={cfg.checkpoint}: its weights do not fit the detector of these settings ({first[:200]}); "
            "leave out what changes the detector: a checkpoint brings its own"
        ) from error
    return merged, module.eval()


def check_origins(node: Any, now: Any, key: str = "") -> None:
    """Refuses settings of a checkpoint that would call code from elsewhere: they could run anything.

    Args:
        node: the settings as plain data.
        now: what the user's own options and command line came to at the same place; they may call anything there.
        key: of the node.

    Raises:
        ConfigError: naming the code, and how to allow it.
    """
    for name, value in node.items() if isinstance(node, dict) else enumerate(node):
        here = f"{key}.{name}" if key else str(name)
        inside = isinstance(now, type(node)) and (name in now if isinstance(now, dict) else name < len(now))
        named = now[name] if inside else None
        if isinstance(value, dict | list):
            check_origins(value, named, here)
        # An interpolation is the same text in both, and may lead to another part of the checkpoint's settings.
        elif name == "_target_" and (value != named or "${" in str(value)) and not _is_part(here, value):
            raise ConfigError(
                f"{here}: the checkpoint's settings call {value}, which is no part of lightning-det; "
                f"if you know and trust it, give ++{here}={value}"
            )


def _is_part(key: str, target: Any) -> bool:
    """Whether a target is public and was defined in `PARTS`: paths go through imports, as in ``module.os.system``."""
    if not isinstance(target, str) or not target.startswith(PARTS) or "._" in target:
        return False
    return f"{getattr(locate(key, target), '__module__', '')}.".startswith(PARTS)


def overlaid(saved: dict[str, Any], cfg: DictConfig, overridden: list[str]) -> DictConfig:
    """A checkpoint's settings, replaced where the user chose otherwise.

    Args:
        saved: the ``settings`` of a checkpoint.
        cfg: this command's configuration, with everything that the user set.
        overridden: keys and groups that the user set.
    """
    merged = OmegaConf.create(saved)
    wanted = [*OF_THIS_RUN]
    for key in overridden:
        wanted += replaced_by_tests(chosen()["test"]) if key == "test" else OF_GROUPS.get(key, (key,))
    for key in wanted:
        value = OmegaConf.select(cfg, key, throw_on_missing=False)
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value, resolve=False, enum_to_str=True)
        OmegaConf.update(merged, key, value, merge=False, force_add=True)
    return merged


def replaced_by_tests(options: Sequence[str]) -> list[str]:
    """What options of the group ``test`` replace: views as a whole, and of the rest what they set.

    So ``test=[voting]`` refines what a checkpoint's strategy brings, and ``test=[single_scale]`` drops its pyramid.
    """
    files = [option_file(f"test/{name}") for name in options]
    keys = [f"test.{key}" for file in files for key in file.get("test", {})]
    return ["views.test"] * any("views" in file for file in files) + keys


def relabelled(store: AnnotationStore, labels: LabelMap) -> AnnotationStore:
    """A store whose classes are counted as a detector counts them; classes are the same if their names are.

    Raises:
        DatasetError: the store has classes that the detector does not know.
    """
    pairs = zip(store.label_map.names, store.label_map.shown, strict=True)
    unknown = [shown for name, shown in pairs if name not in labels.names]
    if unknown:
        raise DatasetError(
            f"the dataset has classes that the checkpoint does not know: {', '.join(unknown[:10])}; "
            f"it knows {', '.join(labels.shown[:10])}{' ...' if len(labels) > 10 else ''}"
        )
    return store.with_labels(labels)
