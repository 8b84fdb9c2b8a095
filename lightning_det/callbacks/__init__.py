"""Lightning callbacks and loggers: everything around the training steps."""

from lightning_det.callbacks.averaging import WeightAverage
from lightning_det.callbacks.best import BestCheckpoint
from lightning_det.callbacks.checkpoints import AtomicCheckpointIO, LastCheckpoint
from lightning_det.callbacks.csv_log import CSVLog
from lightning_det.callbacks.evaluation import Collector, Evaluator
from lightning_det.callbacks.explosion import ReportExplosion
from lightning_det.callbacks.keep_settings import KeepSettings
from lightning_det.callbacks.nonfinite import StopOnNonFinite
from lightning_det.callbacks.pictures import Pictures
from lightning_det.callbacks.progress import TrainingProgress
from lightning_det.callbacks.ranks import SameConfiguration
from lightning_det.callbacks.report import REPORT, Report
from lightning_det.callbacks.seeds import StepSeeds
from lightning_det.callbacks.selection import SelectionLog
from lightning_det.callbacks.summary import EpochSummary
from lightning_det.callbacks.throughput import Throughput
from lightning_det.callbacks.wandb_log import WandbLog, end_wandb_run
from lightning_det.callbacks.wandb_media import WandbMedia, log_diagnosis

__all__ = [
    "REPORT",
    "AtomicCheckpointIO",
    "BestCheckpoint",
    "CSVLog",
    "Collector",
    "EpochSummary",
    "Evaluator",
    "KeepSettings",
    "LastCheckpoint",
    "Pictures",
    "Report",
    "ReportExplosion",
    "SameConfiguration",
    "SelectionLog",
    "StepSeeds",
    "StopOnNonFinite",
    "Throughput",
    "TrainingProgress",
    "WandbLog",
    "WandbMedia",
    "WeightAverage",
    "end_wandb_run",
    "log_diagnosis",
]
