"""Batches of like lengths: what is padded, what is heard, and how even they are."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clapkit.data.clip import Clip
from clapkit.data.lengths import ByLength
from clapkit.data.sampling import Shuffled
from clapkit.errors import DataError, SpecError

# From 0.5 to 16 s, short ones more often than long ones.
LENGTHS_S = np.exp(np.random.default_rng(2).uniform(np.log(0.5), np.log(16.0), 400))


def clips_of(lengths_s) -> list[Clip]:
    return [Clip(f"c{n}", "x", duration_s=float(s)) for n, s in enumerate(lengths_s)]


def padded_s(rows) -> float:
    return len(rows) * LENGTHS_S[rows].max()


@pytest.mark.parametrize("even", ["clips", "seconds"])
def test_an_epoch_has_every_clip_once_and_as_few_batches_as_before(even):
    order = ByLength(buckets=5, even=even).prepare(clips_of(LENGTHS_S))
    batches = [order.rows(400, 16, step, 0).tolist() for step in range(25)]
    counts = Counter(row for rows in batches for row in rows)
    assert set(counts) == set(range(400)) and sum(counts.values()) <= 400 + 5 * 16
    assert all(len(set(rows)) == len(rows) for rows in batches)
    assert sorted(map(tuple, batches)) != sorted(tuple(order.rows(400, 16, step, 0)) for step in range(25, 50))


def test_far_less_is_padded_than_in_batches_drawn_at_random():
    order = ByLength(buckets=10).prepare(clips_of(LENGTHS_S))
    heard = LENGTHS_S.sum()
    sorted_s = sum(padded_s(order.rows(400, 16, step, 0)) for step in range(25))
    random_s = sum(padded_s(Shuffled().rows(400, 16, step, 0)) for step in range(25))
    assert sorted_s < 1.35 * heard and random_s > 2.5 * heard


def test_batches_of_even_seconds_need_about_the_same_memory():
    clips = clips_of(LENGTHS_S)
    even, plain = (ByLength(buckets=8, even=by).prepare(clips) for by in ("seconds", "clips"))
    spread = [[padded_s(order.rows(400, 16, step, 0)) for step in range(25)] for order in (even, plain)]
    assert max(spread[0]) < 1.6 * np.mean(spread[0]) < max(spread[1])
    sizes = {len(even.rows(400, 16, step, 0)) for step in range(25)}
    assert min(sizes) < 10 and max(sizes) > 35


def sizes_by_search(lengths_s, buckets: int, batch: int) -> tuple[float, int]:
    """The smallest limit among all that matter, by trying each; and the batches that it makes."""
    parts = np.array_split(np.sort(lengths_s), max(1, min(buckets, len(lengths_s) // batch)))
    wanted = -(-len(lengths_s) // batch)
    limits = sorted({float(part[-1]) * n for part in parts for n in range(1, len(part) + 1)})
    for limit in limits:
        count = sum(-(-len(p) // min(len(p), max(2, int(limit * (1 + 1e-7) / p[-1])))) for p in parts)
        if count <= wanted:
            return limit, count
    raise AssertionError("the largest limit makes one batch of each bucket")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 6), st.integers(2, 12), st.integers(24, 60))
def test_the_limit_is_the_smallest_that_makes_no_more_batches(seed, buckets, batch, count):
    lengths_s = np.random.default_rng(seed).uniform(0.5, 10.0, count)
    order = ByLength(buckets=buckets).prepare(clips_of(lengths_s))
    limit, batches = sizes_by_search(lengths_s, buckets, batch)
    made = [order.rows(count, batch, step, 0) for step in range(batches)]
    assert {int(row) for rows in made for row in rows} == set(range(count))
    largest = max((len(rows) * lengths_s[rows].max() for rows in made if len(rows) > 2), default=0.0)
    assert largest <= limit * (1 + 1e-5)


def test_what_cannot_be_sorted_is_told():
    with pytest.raises(DataError, match="1 of 3 clips have no duration_s") as caught:
        ByLength().prepare([*clips_of([1.0, 2.0]), Clip("endless", "x")])
    assert caught.value.problems == ("endless",)
    with pytest.raises(DataError, match=r"a batch of 4 clips .* cannot be made of 2 clips"):
        ByLength().prepare(clips_of([1.0, 2.0])).rows(2, 4, 0, 0)
    with pytest.raises(SpecError, match="buckets is a number of lengths, 1 or more, not 0"):
        ByLength(buckets=0)
    with pytest.raises(SpecError, match=r"even cannot be 'second'; .*'seconds'"):
        ByLength(even="second")
