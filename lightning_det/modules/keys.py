"""Names that a run's figures, tables and pictures are logged under: callbacks log them, the dashboard lays them out."""

LOSS = "train/loss"
EPOCH_LOSS = "train/epoch_loss"
VIEWS_PER_S = "train/views_per_s"
DATA_WAIT = "train/data_wait"
MEMORY = "train/memory_GB"
VIEWS = "train/views"
"""Views of training with their boxes."""

PREDICTIONS = "val/predictions"
PER_CLASS = "val/per_class"
PR_CURVES = "val/pr_curves"
AP_BY_SIZE = "val/ap_by_size"


def loss_term(name: str) -> str:
    """One of the losses that a detector sums."""
    return f"train/{name}"


def selected(kind: str, figure: str) -> str:
    """A figure of the ``roi``s or ``prior``s that carry loss, see `lightning_det.callbacks.SelectionLog`."""
    return f"train/{kind}/{figure}"


def validated(figure: str) -> str:
    """One of COCO's figures, see `Evaluation.figures`."""
    return f"val/{figure}"


def pictures(name: str) -> str:
    """Pictures that are also in the run folder: ``val``, or ``selection``."""
    return f"{name}/pictures"
