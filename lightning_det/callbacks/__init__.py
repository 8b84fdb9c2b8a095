"""Lightning callbacks: what happens around training steps."""

from lightning_det.callbacks.averaging import WeightAverage
from lightning_det.callbacks.best import BestCheckpoint
from lightning_det.callbacks.checkpoints import LastCheckpoint, WholeCheckpoints
from lightning_det.callbacks.csv_log import CSVLog
from lightning_det.callbacks.evaluation import Collector, Evaluator
from lightning_det.callbacks.going_on import GoingOn
from lightning_det.callbacks.nonfinite import StopOnNonFinite
from lightning_det.callbacks.pictures import Pictures
from lightning_det.callbacks.progress import TrainingProgress
from lightning_det.callbacks.ranks import SameConfiguration
from lightning_det.callbacks.seeds import StepSeeds
from lightning_det.callbacks.selection import SelectionLog
from lightning_det.callbacks.summary import EpochSummary
from lightning_det.callbacks.throughput import Throughput
from lightning_det.callbacks.wandb_log import WandbLog, finished_logs
from lightning_det.callbacks.wandb_media import WandbMedia, log_ap_by_size

__all__ = [
    "BestCheckpoint",
    "CSVLog",
    "Collector",
    "EpochSummary",
    "Evaluator",
    "GoingOn",
    "LastCheckpoint",
    "Pictures",
    "SameConfiguration",
    "SelectionLog",
    "StepSeeds",
    "StopOnNonFinite",
    "Throughput",
    "TrainingProgress",
    "WandbLog",
    "WandbMedia",
    "WeightAverage",
    "WholeCheckpoints",
    "finished_logs",
    "log_ap_by_size",
]
