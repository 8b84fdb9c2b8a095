"""Processes that a script spawns, forked from the warmed process instead: they need not import what they use."""

import multiprocessing
import os
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

from torchvision import models

from support.makers import vgg16_features


class Process(ForkServerProcess):
    """A process with the environment of who makes it, as a spawned one has; a forked one has the server's."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.environment = dict(os.environ)

    def run(self) -> None:
        os.environ.clear()
        os.environ.update(self.environment)
        super().run()


class Context(ForkServerContext):
    """What ``get_context("spawn")`` is then."""

    Process = Process


def fork_instead_of_spawn() -> None:
    """For `helpers.run_forked` to prepare a script with."""
    usual, instead = multiprocessing.get_context, Context()
    multiprocessing.get_context = lambda method=None: instead if method == "spawn" else usual(method)


def prepare_benchmark() -> None:
    """`fork_instead_of_spawn`, and VGG16 without its classifier, which no network keeps and which takes seconds."""
    fork_instead_of_spawn()
    models.vgg16 = models.detection.ssd.vgg16 = vgg16_features
