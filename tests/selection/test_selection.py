"""Random selection."""

import pytest
import torch
from support.makers import regions

from lightning_det.selection import AllSelector, RandomSelector


def labels(positive, negative, skipped, rows=3):
    row = torch.tensor([2] * positive + [0] * negative + [-1] * skipped)
    return torch.stack([row[torch.randperm(len(row))] for _ in range(rows)])


@pytest.mark.parametrize(
    ("positive", "negative", "skipped", "expected"),
    [
        (50, 200, 10, (16, 48)),  # quota of positives, the rest negative
        (5, 200, 10, (5, 59)),  # too few positives: more negatives
        (50, 10, 10, (16, 10)),  # too few negatives: fewer regions
        (0, 200, 0, (0, 64)),
        (0, 0, 100, (0, 0)),
        (3, 2, 0, (3, 2)),  # fewer regions than slots
    ],
)
def test_quota(positive, negative, skipped, expected):
    given = labels(positive, negative, skipped)
    index, chosen = RandomSelector(64, 0.25)(regions(given))
    assert index.shape == chosen.shape == (3, min(64, positive + negative + skipped))
    for row, ok, label in zip(index, chosen, given, strict=True):
        picked = label[row[ok]]
        assert ((picked > 0).sum(), (picked == 0).sum()) == expected
        assert len(set(row[ok].tolist())) == ok.sum()


def test_every_region_has_the_same_chance():
    torch.manual_seed(0)
    given = torch.zeros(1000, 40, dtype=torch.int64)
    given[:, :20] = 1
    index, chosen = RandomSelector(10, 0.5)(regions(given))
    assert chosen.all()
    counts = torch.bincount(index.flatten(), minlength=40)
    # 5 of 20 each: 250 expected, standard deviation 14
    assert counts.min() > 180
    assert counts.max() < 320


def test_same_seed_same_choice():
    given = labels(20, 100, 5)
    select = RandomSelector(32)
    torch.manual_seed(1)
    first, _ = select(regions(given))
    torch.manual_seed(1)
    second, _ = select(regions(given))
    third, _ = select(regions(given))
    assert torch.equal(first, second)
    assert not torch.equal(second, third)


@pytest.mark.parametrize("arguments", [(0, 0.5), (10, 0), (10, 1.5)])
def test_impossible_quota_is_refused(arguments):
    with pytest.raises(ValueError, match="positive_share"):
        RandomSelector(*arguments)


def test_all_selector_keeps_every_labelled_region():
    labels = torch.tensor([[2, 0, -1, 1], [-1, -1, -1, -1]])
    index, chosen = AllSelector()(regions(labels))
    assert index.tolist() == [[0, 1, 2, 3]] * 2
    assert chosen.tolist() == [[True, True, False, True], [False] * 4]
