"""Balanced samplers against counting by hand: shares, turns, and what cannot be balanced."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clapkit.data.balance import BalancedStreams, ClassBalanced, Rounds, apportioned
from clapkit.data.clip import Clip
from clapkit.data.sampling import GROUPS, ORDER, stream
from clapkit.errors import DataError, SpecError


def clips_of(counts: dict[str, int], *, column: str = "label") -> list[Clip]:
    names = [name for name, count in counts.items() for _ in range(count)]
    if column == "label":
        return [Clip(f"c{n}", "x", label=name) for n, name in enumerate(names)]
    return [Clip(f"c{n}", "x", meta={column: name}) for n, name in enumerate(names)]


def drawn(order, count: int, batch: int, steps: int, seed: int = 0) -> list[int]:
    return [int(row) for step in range(steps) for row in order.rows(count, batch, step, seed)]


def by_turns(groups, turns, total: int, seed: int) -> list[int]:
    """One turn after the other: deal the groups of a round, and take the next clip of the group's own shuffled pile."""
    piles: dict[int, list[int]] = {g: [] for g in range(len(groups))}
    epochs = Counter()
    rows: list[int] = []
    number = 0
    while len(rows) < total:
        for group in stream(seed, ORDER, number).permutation(turns).tolist():
            if not piles[group]:
                piles[group] = stream(seed, GROUPS, group, epochs[group]).permutation(groups[group]).tolist()
                epochs[group] += 1
            rows.append(piles[group].pop(0))
        number += 1
    return rows[:total]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=5), st.data())
def test_equals_dealing_clip_after_clip(sizes, data):
    bounds = np.cumsum([0, *sizes])
    groups = tuple(np.arange(a, b) for a, b in pairwise(bounds))
    turns = np.repeat(np.arange(len(sizes)), [data.draw(st.integers(1, 3)) for _ in sizes])
    batch, steps = data.draw(st.integers(1, 7)), 12
    expected = by_turns(groups, turns, batch * steps, seed=3)
    assert drawn(Rounds(groups, turns), sum(sizes), batch, steps, seed=3) == expected


def test_every_class_is_heard_equally_often_and_its_clips_take_turns():
    clips = clips_of({"rare": 2, "common": 30, "usual": 8})
    rows = drawn(ClassBalanced().prepare(clips), 40, 8, 30)
    assert Counter(clips[row].label for row in rows) == {"rare": 80, "common": 80, "usual": 80}
    heard = Counter(rows)
    for label in ("rare", "common", "usual"):
        counts = [heard[n] for n, clip in enumerate(clips) if clip.label == label]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("batch", [4, 5, 7])
def test_no_class_stands_twice_in_a_batch_that_asks_for_it(batch):
    clips = clips_of({f"class {n:02d}": 2 + n % 3 for n in range(7)})
    order = ClassBalanced(distinct=True).prepare(clips)
    for step in range(50):
        assert len({clips[row].label for row in order.rows(len(clips), batch, step, 0)}) == batch
    counts = Counter(clips[row].label for row in drawn(order, len(clips), batch, 700 // batch))
    assert min(counts.values()) > 0.7 * 700 / 7 and (batch != 7 or set(counts.values()) == {100})


def test_a_batch_of_more_clips_than_classes_is_told_where_it_cannot_be():
    clips = clips_of({"a": 5, "b": 5, "c": 5})
    assert len(ClassBalanced().prepare(clips).rows(15, 8, 0, 0)) == 8
    with pytest.raises(DataError, match="a batch of 8 clips cannot be of different classes, there are 3"):
        ClassBalanced(distinct=True).prepare(clips).rows(15, 8, 0, 0)


def test_a_class_with_one_clip_is_named():
    clips = clips_of({"a": 5, "b": 1, "c": 2})
    with pytest.raises(DataError, match=r"1 of 3 classes \(label\) have fewer than least=2 clips") as caught:
        ClassBalanced().prepare(clips)
    assert caught.value.problems == ("b: 1",)
    assert Counter(drawn(ClassBalanced(least=1).prepare(clips), 8, 3, 10))[5] == 10


def test_what_has_one_class_or_none_cannot_be_balanced():
    with pytest.raises(DataError, match="all 4 clips have label=a"):
        ClassBalanced().prepare(clips_of({"a": 4}))
    with pytest.raises(DataError, match="1 of 5 clips have no 'label'") as caught:
        ClassBalanced().prepare([*clips_of({"a": 2, "b": 2}), Clip("silent", "x")])
    assert caught.value.problems == ("silent",)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ((), {"sound": 1 / 3, "speech": 1 / 3, "music": 1 / 3}),
        ((("sound", 2), ("speech", 1), ("music", 1)), {"sound": 0.5, "speech": 0.25, "music": 0.25}),
        ((("sound", 0.7), ("speech", 0.0), ("music", 0.3)), {"sound": 0.7, "speech": 0.0, "music": 0.3}),
        ((("sound", np.pi), ("speech", 1.0), ("music", 0.01)), {"sound": 0.757, "speech": 0.241, "music": 0.0024}),
    ],
)
def test_streams_are_heard_in_their_shares_whatever_their_sizes(shares, expected):
    clips = clips_of({"music": 3, "sound": 50, "speech": 7}, column="kind")
    order = BalancedStreams(column="kind", shares=shares).prepare(clips)
    counts = Counter(clips[row].meta["kind"] for row in drawn(order, 60, 12, 1000))
    for name, share in expected.items():
        assert counts[name] / 12000 == pytest.approx(share, abs=2e-3)


def test_equal_streams_stand_in_every_batch_alike():
    """Card 034: four streams, one part each, whether they hold 2 clips or 200."""
    clips = clips_of({"a": 200, "b": 2, "c": 30, "d": 9}, column="source")
    order = BalancedStreams().prepare(clips)
    for step in range(40):
        counts = Counter(clips[row].meta["source"] for row in order.rows(241, 16, step, 5))
        assert counts == dict.fromkeys("abcd", 4)


def test_streams_are_the_manifests_where_no_column_says_so():
    clips = [Clip(f"c{n}", "x", provenance=("long" if n else "short",)) for n in range(9)]
    rows = drawn(BalancedStreams().prepare(clips), 9, 6, 10)
    assert Counter(rows)[0] == 30


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ((("sound", 1), ("speach", 1), ("music", 1)), "no clip has kind=speach; .*speech"),
        ((("sound", 1), ("music", 1)), r"1 of 3 streams \(kind\) have no share"),
        ((("sound", 1), ("music", 0), ("speech", 0)), "there is one stream only, kind=sound"),
    ],
)
def test_shares_that_do_not_suit_the_clips_are_told(shares, message):
    clips = clips_of({"music": 3, "sound": 5, "speech": 7}, column="kind")
    with pytest.raises(DataError, match=message):
        BalancedStreams(column="kind", shares=shares).prepare(clips)


def test_an_unknown_column_is_told_with_the_nearest():
    with pytest.raises(DataError, match=r"none of the 8 clips has a 'knid' to go by; .*'kind'"):
        BalancedStreams(column="knid").prepare(clips_of({"music": 3, "sound": 5}, column="kind"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClassBalanced(least=0), "least is a number of clips, 1 or more, not 0"),
        (lambda: BalancedStreams(shares=(("a", 1), ("a", 2))), r"named twice among \['a', 'a'\]"),
        (lambda: BalancedStreams(shares=(("a", -1.0), ("b", 2))), r"shares are 0 or more and not all 0, not .*-1\.0"),
        (lambda: BalancedStreams(shares=(("a", 0), ("b", 0))), "shares are 0 or more and not all 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message):
    with pytest.raises(SpecError, match=message):
        make()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.01, 10.0), min_size=1, max_size=6))
def test_whole_numbers_in_the_proportion_of_any_shares(shares):
    counts = apportioned(shares)
    assert counts.min() >= 1
    np.testing.assert_allclose(counts / counts.sum(), np.array(shares) / sum(shares), atol=4e-3)


def test_simple_shares_have_a_short_round():
    assert apportioned([0.7, 0.2, 0.1]).tolist() == [7, 2, 1]
    assert apportioned([1, 1, 1]).tolist() == [1, 1, 1] and apportioned([2, 1]).tolist() == [2, 1]
