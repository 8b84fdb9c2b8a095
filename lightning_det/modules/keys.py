"""Names of logged figures, tables and pictures, for the callbacks that log them and the dashboard that shows them."""

LOSS = "train/loss"
EPOCH_LOSS = "train/epoch_loss"
VIEWS_PER_S = "train/views_per_s"
DATA_WAIT = "train/data_wait"
MEMORY = "train/memory_GB"
VIEWS = "train/views"
"""Training views with their boxes."""

PREDICTIONS = "val/predictions"
PER_CLASS = "val/per_class"
PR_CURVES = "val/pr_curves"
AP_BY_SIZE = "val/ap_by_size"
PR_CURVES_BY_IOU = {
    "val/pr_curves_75": (0.75, "IoU 0.75"),
    "val/pr_curves_mean": (None, "mean over IoU 0.5 to 0.95"),
}
"""Further curves of the last validation: their IoU, and words for it."""

THRESHOLDS = "val/thresholds"
CONFUSION = "val/confusion"
WORST = "val/worst"
BEST = "val/best"
"""Images with the most and with the fewest errors."""


def loss_term(name: str) -> str:
    """Name of one of a detector's losses."""
    return f"train/{name}"


def selection(kind: str, figure: str) -> str:
    """Name of a figure of the ``roi``s or ``prior``s that carry loss, see `lightning_det.callbacks.SelectionLog`."""
    return f"train/{kind}/{figure}"


def validation(figure: str) -> str:
    """Name of one of COCO's figures, see `Evaluation.figures`."""
    return f"val/{figure}"


def pictures(name: str) -> str:
    """Name of pictures that are also in the run folder: ``val`` or ``selection``."""
    return f"{name}/pictures"
