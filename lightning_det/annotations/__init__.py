"""Annotations in memory: classes, boxes, and what is wrong with them."""

from lightning_det.annotations.labels import LabelMap
from lightning_det.annotations.problems import DatasetError, NoSplitError, Problem
from lightning_det.annotations.raw import RawAnnotations
from lightning_det.annotations.store import AnnotationStore

__all__ = ["AnnotationStore", "DatasetError", "LabelMap", "NoSplitError", "Problem", "RawAnnotations"]
