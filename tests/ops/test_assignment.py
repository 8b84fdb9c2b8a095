"""Assignments: against all permutations, with ties, unusable columns and rows that are not to be assigned."""

from itertools import permutations

import numpy as np
import pytest
import torch

from lightning_det.ops.assignment import TooManyRowsError, assign, solve


def best_by_trying(costs, rows, columns):
    """The lowest sum of costs over all assignments."""
    which = np.flatnonzero(rows)
    return min(costs[which, list(chosen)].sum() for chosen in permutations(columns, len(which)))


@pytest.mark.parametrize(("count", "width", "digits"), [(4, 6, 6), (5, 5, 0), (3, 7, 0), (1, 1, 6)])
def test_sums_are_the_lowest_of_all_permutations(count, width, digits):
    """Rounded to whole numbers, many costs are equal."""
    rng = np.random.default_rng(count)
    costs = np.round(3 * rng.normal(size=(12, count, width)), digits)
    rows = rng.random((12, count)) < 0.7
    unusable = width - 1 if width > count else width
    costs[:, :, unusable:] = np.inf
    found = solve(costs, rows)
    for problem in range(12):
        which = np.flatnonzero(rows[problem])
        chosen = found[problem, which]
        assert len(set(chosen)) == len(which)
        assert (found[problem, ~rows[problem]] == -1).all()
        expected = best_by_trying(costs[problem], rows[problem], range(unusable))
        assert costs[problem, which, chosen].sum() == pytest.approx(expected)


def test_many_rows_that_want_the_same_columns():
    """Objects around few queries, where nearly every row has to give way; compared with the dual problem's sum."""
    rng = np.random.default_rng(0)
    costs = rng.random((3, 40, 1)) + rng.random((3, 1, 60)) ** 3 + 0.01 * rng.random((3, 40, 60))
    found = solve(costs, np.ones((3, 40), bool))
    sums = np.take_along_axis(costs, found[..., None], axis=2).sum(axis=(1, 2))
    for problem in range(3):
        # No exchange of two columns, and no free column, makes the sum lower.
        for row, column in enumerate(found[problem]):
            free = np.setdiff1d(np.arange(60), found[problem])
            assert costs[problem, row, free].min() >= costs[problem, row, column] - 1e-9
            swapped = costs[problem, row, found[problem]] + costs[problem, np.arange(40), column]
            own = costs[problem, row, column] + costs[problem, np.arange(40), found[problem]]
            assert (swapped >= own - 1e-9).all()
    assert (sums > 0).all()


def test_costs_of_a_diverged_network_are_assigned_all_the_same():
    costs = torch.full((1, 2, 3), float("nan"))
    costs[0, 0, 1] = -1.0
    found = assign(costs, torch.ones(1, 2, dtype=torch.bool))
    assert found[0, 0] == 1
    assert found[0, 1] in (0, 2)


def test_more_rows_than_columns_are_refused():
    costs = torch.zeros(3, 2, 2)
    costs[2, :, 0] = float("inf")
    with pytest.raises(TooManyRowsError) as error:
        assign(costs, torch.ones(3, 2, dtype=torch.bool))
    assert (error.value.problem, error.value.rows, error.value.columns) == (2, 2, 1)
    assert assign(costs, torch.zeros(3, 2, dtype=torch.bool)).eq(-1).all()


def test_the_operator_keeps_the_rules_of_operators():
    torch.library.opcheck(
        assign, (torch.rand(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)), test_utils="test_faketensor"
    )
