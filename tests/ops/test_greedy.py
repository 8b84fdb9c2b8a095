"""Greedy matching, against a loop that takes one pair after the other."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_det.ops.greedy import match_greedily


def one_by_one(values, places, count, least):
    """The remaining pair of highest value, as many times as there are rows."""
    batch, rows, width = values.shape
    value, place = values.flatten(1).clone(), places.flatten(1)
    owner = torch.arange(rows).repeat_interleave(width)
    given = torch.full((batch, count), -1)
    for _ in range(rows):
        highest, pair = value.max(dim=1, keepdim=True)
        column, row = place.gather(1, pair), owner[pair]
        given.scatter_(1, column, torch.where(highest > least, row, given.gather(1, column)))
        value = value.masked_fill((place == column) | (owner == row), -1.0)
    return given


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 30),
    count=st.integers(1, 40),
    levels=st.sampled_from([2, 5, 1000]),
)
def test_matches_are_those_of_the_loop(seed, rows, count, levels):
    """With few levels many values are equal; with few columns many rows stay alone."""
    rng = torch.Generator().manual_seed(seed)
    width = min(count, 12)
    places = torch.rand(4, rows, count, generator=rng).argsort(dim=2)[..., :width]
    values = torch.randint(0, levels, (4, rows, width), generator=rng).double() / levels
    # Within a row no two values are equal: which of them is first would be a matter of chance.
    values = values - torch.arange(width, dtype=torch.float64) * 1e-9
    values[0], places[0] = values[0, :1], places[0, :1]  # rows that want the same, in the same order
    found = match_greedily(values, places, count, 0.1)
    assert torch.equal(found, one_by_one(values, places, count, 0.1))


def test_a_row_may_be_sent_on_by_every_other_row():
    """As many rounds as rows: each row is sent from its best column by the one before it."""
    rows = 20
    places = torch.stack([torch.arange(rows), torch.arange(1, rows + 1)], dim=1)[None]
    values = torch.stack([torch.arange(rows), torch.arange(rows) + 1.5], dim=1)[None].double() + 1
    found = match_greedily(values.flip(1), places.flip(1), rows + 1, 0.0)
    assert torch.equal(found, one_by_one(values.flip(1), places.flip(1), rows + 1, 0.0))
    assert found[0, 1:].tolist() == list(range(rows - 1, -1, -1))


def test_the_operator_says_the_truth_to_compilers():
    values = torch.rand(2, 5, 3)
    torch.library.opcheck(match_greedily, (values, torch.randint(0, 3, (2, 5, 3)), 7, 0.1))
