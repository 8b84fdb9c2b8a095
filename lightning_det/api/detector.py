"""A trained detector as a function of images."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import count

import numpy as np
from omegaconf import DictConfig
from torch import Tensor

from lightning_det.annotations import AnnotationStore
from lightning_det.evaluation.coco import evaluate
from lightning_det.evaluation.figures import Evaluation
from lightning_det.evaluation.results import Results
from lightning_det.evaluation.thresholds import SHOWN, Thresholds
from lightning_det.inference.detections import ImageDetections, detections_of
from lightning_det.inference.engine import Engine, store_of
from lightning_det.inference.pictures import ImageLike, Picture, picture_of
from lightning_det.inference.truth import Truth, TruthLike, annotated, truth_of
from lightning_det.modules.module import DetectionModule

GROUP = 4
"""Batches of images that `LoadedDetector.stream` reads before it detects."""

PIXELS = 2**26
"""Pixels of images after which `LoadedDetector.stream` reads no further: 200 MB."""


class LoadedDetector:
    """A trained detector, made by `load`.

    ``detector(image)`` detects in one image or in many; `stream` in any number, one after another; `evaluate` compares
    with ground truth. Detections are those of the command `predict`, bit by bit if the images are given in one list:
    images of a batch are padded to a common size, which has a small influence near their borders.

    Attributes:
        module: an ordinary LightningModule.
        settings: of the training, with those given to `load`.
        limits: lowest score of the detections that are returned: by class, or one for all; it may be changed.
    """

    def __init__(self, engine: Engine, settings: DictConfig, limits: Thresholds | float):
        self._engine = engine
        self.settings = settings
        self.limits = limits

    def __repr__(self) -> str:
        kind, device = type(self.module.detector).__name__, self.module.device
        return f"<{kind} on {device} for {len(self.classes)} classes: {', '.join(self.classes[:10])}>"

    @property
    def module(self) -> DetectionModule:
        """The LightningModule, in evaluation mode; its ``detector`` is an ordinary ``nn.Module``."""
        return self._engine.module

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.module.labels.names

    def __call__(self, images: ImageLike | Iterable[ImageLike]) -> list[ImageDetections]:
        """Detects objects.

        Args:
            images: one image or several, see `ImageLike`. Files are decoded when their turn comes, so a list of
                thousands of them needs no memory; images of an iterator or generator are read by `stream`. An array
                (n, H, W, 3) or a tensor (n, 3, H, W) is n images.

        Returns:
            Detections of every image, in order; of a single image too, ``detector(image)[0]``.

        Raises:
            ImageError: an image cannot be used; the message names it.
        """
        if isinstance(images, np.ndarray | Tensor) and images.ndim == 4:
            images = list(images)
        if not isinstance(images, Iterable) or isinstance(images, str | bytes | np.ndarray | Tensor):
            images = [images]
        if not isinstance(images, Sequence):
            return list(self.stream(images))
        return self._found(*self._engine([picture_of(image, number) for number, image in enumerate(images)]))

    def stream(self, images: Iterable[ImageLike]) -> Iterator[ImageDetections]:
        """Detects objects in images that an iterable makes, and yields the detections of each in order.

        A few batches of images are read at a time, at most `PIXELS` pixels and one image more.

        Args:
            images: see `ImageLike`.

        Raises:
            ImageError: an image cannot be used; the message names it.
        """
        for group in self._groups(images):
            yield from self._found(*self._engine(group))

    def evaluate(self, truths: Iterable[TruthLike]) -> Evaluation:
        """Compares detections with ground truth, as the command `eval` does.

        All detections count, whatever `limits` are.

        Args:
            truths: images with the boxes and class names of their objects, each a `Truth` or a tuple.

        Returns:
            COCO's figures and others: ``figures()``, ``per_class()`` and ``table()``.

        Raises:
            DatasetError: a class that the detector does not know, or boxes that are none.
            ImageError: an image cannot be used.
        """
        given: list[Truth] = []

        def images() -> Iterator[ImageLike]:
            for truth in map(truth_of, truths, count()):
                given.append(truth._replace(image=""))  # pixels need not stay in memory
                yield truth.image

        parts: list[Results] = []
        sizes: list[Picture] = []
        groups: Iterable[Sequence[Picture]] = self._groups(images())
        if isinstance(truths, Sequence):
            groups = [[picture_of(image, number) for number, image in enumerate(images())]]
        for group in groups:
            results, _ = self._engine(group)
            parts.append(results.moved(len(sizes)))
            sizes += [picture.without_pixels() for picture in group]
        store = annotated(store_of(sizes, self.module.labels), given)
        most = int(self.module.inference.per_image(store).max(initial=self.settings.test.max_detections))
        cuts, test = tuple(self.settings.dataset.size_cuts), self.settings.test
        return evaluate(store, Results.concatenate(parts), cuts, most, backend=test.backend, metric=test.metric)

    def _groups(self, images: Iterable[ImageLike]) -> Iterator[list[Picture]]:
        """Images in groups that are detected in at once."""
        group: list[Picture] = []
        for number, image in enumerate(images):
            # What an iterator has made may change when it makes the next one.
            group.append(picture_of(image, number).kept())
            pixels = sum(picture.width * picture.height for picture in group)
            if len(group) == GROUP * self._engine.data.test_limits.views or pixels >= PIXELS:
                yield group
                group = []
        if group:
            yield group

    def _found(self, results: Results, store: AnnotationStore) -> list[ImageDetections]:
        """Detections by image, without those of too low a score."""
        limits = self._lowest_scores()
        return [image[image.scores >= limits[image.labels]] for image in detections_of(results, store)]

    def _lowest_scores(self) -> np.ndarray:
        """(K,) float64, by class."""
        if isinstance(self.limits, Thresholds):
            return self.limits.of(self.classes, SHOWN)
        return np.full(len(self.classes), self.limits, np.float64)
