"""The splits of a dataset, with their statistics and problems."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_det.annotations import AnnotationStore, Problem
from lightning_det.data.inspection import statistics
from lightning_det.data.splits import nothing_to_learn

UNUSABLE = "split cannot be used"


@dataclass
class Splits:
    """Splits that could be read, by name, and the problems of all splits."""

    stores: dict[str, AnnotationStore] = field(default_factory=dict)
    statistics: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Statistics by split, as json data, see `lightning_det.data.inspection.statistics`."""
    problems: list[Problem] = field(default_factory=list)

    def add(self, name: str, store: AnnotationStore, problems: Sequence[Problem]) -> None:
        """Adds a split; a problem of several splits is listed only once."""
        self.stores[name] = store
        self.statistics[name] = statistics(store) | {"problems": len(problems)}
        if store.ignored.all():
            self.statistics[name]["nothing_to_learn"] = nothing_to_learn(store)
        self.problems = list(dict.fromkeys([*self.problems, *problems]))

    def add_unusable(self, name: str, reason: str) -> None:
        """Adds the problem of a split that cannot be used."""
        self.problems.append(Problem(f"dataset.{name}", "", reason, UNUSABLE))

    def compare_classes(self) -> None:
        """Adds a problem for each split with a class that the training split does not have."""
        if "train" not in self.stores:
            return
        trained = self.stores["train"].label_map
        for name, store in self.stores.items():
            if not set(store.label_map.names) <= set(trained.names):
                self.add_unusable(name, f"{trained.difference(store.label_map)}, compared with dataset.train")
