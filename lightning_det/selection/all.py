"""No selection: every region that may carry loss does."""

import torch

from lightning_det.protocols.selector import Regions, Selection, Selector


class AllSelector(Selector):
    """Keeps every region with a label (SNIPER trains on all RoIs of a chip; the "all RoIs" row of OHEM's table 1)."""

    def __call__(self, regions: Regions) -> Selection:
        """Selects all labelled regions; S = R."""
        labels = regions.labels
        index = torch.arange(labels.shape[1], device=labels.device).expand(labels.shape)
        return Selection(index, labels >= 0)
