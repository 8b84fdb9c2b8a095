"""Optimal one-to-one assignment of many small problems at once, as one operator with a fixed output shape.

The algorithm is that of shortest augmenting paths with dual variables (Jonker and Volgenant, Computing 1987; Crouse,
IEEE Transactions on Aerospace and Electronic Systems 2016), in NumPy over all problems together. scipy's
``linear_sum_assignment`` solves one problem per call. It is not used because torchmetrics imports scipy wherever it is
installed, and every command would start two seconds later.
"""

import numpy as np
import torch
from torch import Tensor


class TooManyRowsError(ValueError):
    """A problem has more rows than columns.

    Args:
        problem: its position.
        rows: number of rows to assign.
        columns: number of columns that may be assigned.
    """

    def __init__(self, problem: int, rows: int, columns: int):
        super().__init__(f"problem {problem} has {rows} rows for {columns} columns")
        self.problem = problem
        self.rows = rows
        self.columns = columns


@torch.library.custom_op("lightning_det::assign", mutates_args=())
def assign(costs: Tensor, rows: Tensor) -> Tensor:
    """Finds the assignment of rows to different columns whose costs have the smallest sum, for every problem.

    It is a custom operator, because its work depends on the data but the shape of its output does not. The device is
    waited for once, when costs and rows are fetched together.

    Args:
        costs: (P, N, M) float. Columns whose costs are infinite in all rows are not assigned; NaN counts as very high.
        rows: (P, N) bool, the rows to assign.

    Returns:
        (P, N) int64, the column of each row; -1 for rows that are not to be assigned.

    Raises:
        TooManyRowsError: a problem has more rows than columns.
    """
    packed = torch.cat([costs, rows[..., None].to(costs)], dim=2).cpu().double().numpy()
    columns = solve(packed[..., :-1], packed[..., -1] > 0)
    return torch.from_numpy(columns).to(costs.device, non_blocking=True)


@assign.register_fake
def _(costs: Tensor, rows: Tensor) -> Tensor:
    return torch.empty_like(rows, dtype=torch.int64)


def solve(costs: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """See `assign`; arrays instead of tensors."""
    problems, count, width = costs.shape
    usable = (costs != np.inf).any(axis=1)
    wanted, offered = rows.sum(axis=1), usable.sum(axis=1)
    if (wanted > offered).any():
        worst = int(np.argmax(wanted - offered))
        raise TooManyRowsError(worst, int(wanted[worst]), int(offered[worst]))
    # Finite costs keep sums exact enough; a diverged network may have any.
    costs = np.where(usable[:, None], np.nan_to_num(costs, nan=1e9, posinf=1e9, neginf=-1e9).clip(-1e9, 1e9), np.inf)
    duals = np.where(rows, costs.min(axis=2, initial=np.inf), 0.0), np.zeros((problems, width))
    owner, column = np.full((problems, width), -1), np.full((problems, count), -1)
    # Most rows get their cheapest column, because no other row wants it.
    cheapest = costs.argmin(axis=2) if width else column
    for row in range(count):
        which = np.flatnonzero(rows[:, row])
        which = which[owner[which, cheapest[which, row]] < 0]
        owner[which, cheapest[which, row]] = row
        column[which, row] = cheapest[which, row]
    while (waiting := rows & (column < 0)).any():
        which = np.flatnonzero(waiting.any(axis=1))
        _augment(costs, duals, owner, column, which, waiting[which].argmax(axis=1))
    return column


def _augment(
    costs: np.ndarray,
    duals: tuple[np.ndarray, np.ndarray],
    owner: np.ndarray,
    column: np.ndarray,
    which: np.ndarray,
    start: np.ndarray,
) -> None:
    """Assigns one more row in some problems, along the path of lowest reduced costs (Dijkstra).

    Args:
        costs: (P, N, M).
        duals: (P, N) of the rows and (P, M) of the columns; changed in place.
        owner: (P, M) the row of each column or -1; changed in place.
        column: (P, N) the column of each row or -1; changed in place.
        which: (K,) the problems.
        start: (K,) the row to assign in each.
    """
    of_rows, of_columns = duals
    each = np.arange(len(which))
    shortest = np.full((len(which), costs.shape[2]), np.inf)
    before = np.full(shortest.shape, -1)
    done = np.zeros(shortest.shape, bool)
    seen = np.zeros((len(which), costs.shape[1]), bool)
    reached, row, end = np.zeros(len(which)), start.copy(), np.full(len(which), -1)
    searching = each
    while len(searching):
        s, problem, current = searching, which[searching], row[searching]
        seen[s, current] = True
        offset = (reached[s] - of_rows[problem, current])[:, None]
        through = costs[problem, current] + offset - of_columns[problem]
        shorter = (through < shortest[s]) & ~done[s]
        shortest[s] = np.where(shorter, through, shortest[s])
        before[s] = np.where(shorter, current[:, None], before[s])
        nearest = np.where(done[s], np.inf, shortest[s]).argmin(axis=1)
        reached[s] = shortest[s, nearest]
        done[s, nearest] = True
        row[s] = owner[problem, nearest]
        end[s] = nearest
        searching = s[row[s] >= 0]
    mine = column[which]
    passed = np.where(mine >= 0, np.take_along_axis(shortest, mine.clip(min=0), axis=1), 0.0)
    of_rows[which] += np.where(seen, reached[:, None] - passed, 0.0)
    of_columns[which] -= np.where(done, reached[:, None] - shortest, 0.0)
    while len(each):
        current = before[each, end]
        owner[which[each], end] = current
        end, column[which[each], current] = column[which[each], current], end
        going = current != start[each]
        each, end = each[going], end[going]
