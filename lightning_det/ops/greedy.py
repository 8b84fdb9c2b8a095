"""Greedy one-to-one matching of many small problems at once, as one operator with a fixed output shape."""

import torch
from torch import Tensor


@torch.library.custom_op("lightning_det::match_greedily", mutates_args=())
def match_greedily(values: Tensor, places: Tensor, count: int, least: float) -> Tensor:
    """Matches rows with columns: the remaining pair of highest value first, until no pair is above ``least``.

    All rows ask for their best column at once, and each column keeps the best that has asked. Then every row asks for
    the best column that has no better one, until nothing changes. That is the stable matching (Gale and Shapley 1962).
    It is the greedy one, because a row and a column give their pair the same value. The first n greedy pairs stand
    after n rounds. So there are as many rounds as rows; a CPU ends when nothing changes, since nothing waits for it.

    It is a custom operator, because the rounds would make large graphs, and end early or not by the device.

    Args:
        values: (B, G, K) float, of the columns that each row may get; of equal ones the first row's counts as higher.
        places: (B, G, K) int64, these columns, each once per row.
        count: number of columns, C.
        least: pairs of this value or less are not matched.

    Returns:
        (B, C) int64, the row of each column, or -1.
    """
    batch, rows, width = values.shape
    pairs = rows * width
    flat = values.flatten(1)
    order = flat.sort(dim=1, descending=True, stable=True).indices
    number = torch.arange(pairs, device=values.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, number)  # 0 for the pair of highest value
    rank = rank.masked_fill(flat <= least, pairs).view_as(places)
    best = torch.full((batch, count + 1), pairs, dtype=torch.int64, device=values.device)  # last: of rows without pair
    nothing = best.clone()
    everywhere = places.flatten(1)
    for _ in range(rows):
        may = rank.flatten(1) <= best.gather(1, everywhere)
        asked, which = rank.masked_fill(~may.view_as(rank), pairs).min(dim=2)
        column = places.gather(2, which[..., None]).squeeze(2).masked_fill(asked == pairs, count)
        before, best = best, nothing.scatter_reduce(1, column, asked, "amin")
        if values.device.type == "cpu" and torch.equal(before, best):
            break
    best = best[:, :count]
    row = order.gather(1, best.clamp(max=max(0, pairs - 1))) // max(1, width)
    return row.masked_fill(best == pairs, -1)


@match_greedily.register_fake
def _(values: Tensor, places: Tensor, count: int, least: float) -> Tensor:
    return places.new_empty((values.shape[0], count))
