"""Who stands in a batch together: against counting by hand, and neighbours against a loop over all pairs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from clapkit.data.clip import Clip
from clapkit.data.grouping import HardGroups, SameSource, WithReplica
from clapkit.data.sampling import Shuffled
from clapkit.errors import DataError, SpecError


def recorded(counts: dict[str, int]) -> list[Clip]:
    names = [name for name, count in counts.items() for _ in range(count)]
    return [Clip(f"c{n}", "x", captions=(f"clip {n}",), meta={"recording": name}) for n, name in enumerate(names)]


def sources(clips, rows) -> Counter:
    return Counter(clips[row].meta["recording"] for row in rows)


def test_a_batch_is_of_one_source_and_an_epoch_has_every_clip_once():
    """Card 021: one token a batch, every occurrence once an epoch."""
    clips = recorded({"a": 8, "b": 4, "c": 12})
    order = SameSource(column="recording").prepare(clips)
    for epoch in range(4):
        batches = [order.rows(24, 4, 6 * epoch + step, 1).tolist() for step in range(6)]
        assert all(len(sources(clips, rows)) == 1 for rows in batches)
        assert sorted(row for rows in batches for row in rows) == list(range(24))


def test_what_fills_no_whole_part_is_filled_up_from_its_own_source():
    clips = recorded({"a": 5, "b": 4})
    order = SameSource(column="recording").prepare(clips)
    batches = [order.rows(9, 4, step, 0).tolist() for step in range(3)]  # two parts of a, one of b
    assert all(len(sources(clips, rows)) == 1 and len(set(rows)) == 4 for rows in batches)
    counts = Counter(row for rows in batches for row in rows)
    assert set(counts) == set(range(9)) and sum(counts.values()) == 12


def test_several_sources_may_share_a_batch():
    clips = recorded(dict.fromkeys("abcdefgh", 3))
    order = SameSource(column="recording", per_source=3).prepare(clips)
    seen = [order.rows(24, 12, step, 2) for step in range(2)]
    assert all(set(sources(clips, rows).values()) == {3} for rows in seen)
    assert sorted(np.concatenate(seen)) == list(range(24))


def test_small_sources_are_named_or_left_out():
    clips = recorded({"a": 6, "b": 2, "c": 4})
    with pytest.raises(DataError, match=r"1 of 3 sources \(recording\) have fewer than the 4 clips") as caught:
        SameSource(column="recording").prepare(clips).rows(12, 4, 0, 0)
    assert caught.value.problems == ("b: 2",)
    order = SameSource(column="recording", small="leave out").prepare(clips)
    heard = {int(row) for step in range(30) for row in order.rows(12, 4, step, 0)}
    assert heard == {*range(6), *range(8, 12)}
    with pytest.raises(DataError, match=r"3 of 3 sources .* fewer than the 8 clips"):
        order.rows(12, 8, 0, 0)


def test_a_batch_that_is_no_multiple_is_told():
    with pytest.raises(DataError, match="a batch of 8 clips cannot be made of 3 of each source"):
        SameSource(column="recording", per_source=3).prepare(recorded({"a": 6})).rows(6, 8, 0, 0)
    with pytest.raises(DataError, match=r"none of the 6 clips has a 'recordings' to go by; .*'recording'"):
        SameSource(column="recordings").prepare(recorded({"a": 6}))


COUNT = 40
ANGLES = np.random.default_rng(4).permutation(COUNT) / COUNT * 2 * np.pi


def on_a_circle(texts):
    """The text "clip n" is a point at angle n of a circle: its neighbours are known without search."""
    angles = np.array([ANGLES[int(text.split()[1])] for text in texts])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def by_hand(own: int, others: list[int], count: int) -> set[int]:
    """The nearest on the circle, by going over all of them."""
    distance = {}
    for other in others:
        apart = abs(ANGLES[own] - ANGLES[other])
        distance[other] = min(apart, 2 * np.pi - apart)
    return set(sorted(distance, key=distance.__getitem__)[:count])


def test_a_group_is_a_clip_and_its_nearest():
    clips = recorded({"a": COUNT})
    order = HardGroups(size=5, neighbours=6).prepare(clips, embed_text=on_a_circle)
    for step in range(20):
        first, *others = order.rows(COUNT, 5, step, 0).tolist()  # one group a batch: nothing is taken by others
        everybody = [n for n in range(COUNT) if n != first]
        assert set(others) == by_hand(first, everybody, 4)


def test_no_clip_stands_twice_and_groups_stay_near():
    clips = recorded({"a": COUNT})
    order = HardGroups(size=4, neighbours=20).prepare(clips, embed_text=on_a_circle)
    near = total = 0
    for step in range(30):
        rows = order.rows(COUNT, 16, step, 0).tolist()
        assert len(set(rows)) == 16
        for first in range(0, 16, 4):
            wanted = by_hand(rows[first], [n for n in range(COUNT) if n != rows[first]], 20)
            near += len(wanted & set(rows[first + 1 : first + 4]))
            total += 3
    assert near == total
    seeds = [row for step in range(10) for row in order.rows(COUNT, 16, step, 0)[::4]]
    assert sorted(seeds) == list(range(COUNT)), "every clip begins a group once an epoch"


def test_what_says_the_same_is_no_neighbour():
    """Three clips of each caption, one of them in capitals: a group has each caption once."""
    texts = [f"clip {n // 3}" for n in range(24)]
    clips = [Clip(f"c{n}", "x", captions=(text.upper() if n % 3 else text,)) for n, text in enumerate(texts)]
    order = HardGroups(size=3, neighbours=3).prepare(clips, embed_text=lambda t: on_a_circle([x.lower() for x in t]))
    for step in range(16):
        rows = order.rows(24, 3, step, 0)
        assert len({clips[row].captions[0].lower() for row in rows}) == 3
    heard = {int(row) for step in range(24) for row in order.rows(24, 3, step, 0)}
    assert heard == set(range(24))


def test_where_neighbours_run_out_others_take_their_place():
    clips = [Clip(f"c{n}", "x", captions=("clip 0",) if n < 10 else (f"clip {n}",)) for n in range(12)]
    order = HardGroups(size=3, neighbours=2).prepare(clips, embed_text=on_a_circle)
    for step in range(8):
        assert sorted(order.rows(12, 12, step, 0)) == list(range(12))


@pytest.mark.parametrize(
    ("rows", "message"),
    [((40, 6), "a batch of 6 clips cannot be made of groups of 4"), ((40, 44), "a batch of 44 clips .* of 40 clips")],
)
def test_batches_that_cannot_be_are_told(rows, message):
    order = HardGroups().prepare(recorded({"a": COUNT}), embed_text=on_a_circle)
    with pytest.raises(DataError, match=message):
        order.rows(*rows, 0, 0)


def test_clips_that_cannot_be_compared_are_told():
    with pytest.raises(SpecError, match="HardGroups goes by vectors of texts and was given no embed_text"):
        HardGroups().prepare(recorded({"a": 9}))
    with pytest.raises(DataError, match="1 of 10 clips have no text") as caught:
        HardGroups().prepare([*recorded({"a": 9}), Clip("mute", "x")], embed_text=on_a_circle)
    assert caught.value.problems == ("mute",)
    with pytest.raises(DataError, match="groups of 4 clips need as many different descriptions, and there are 3"):
        HardGroups().prepare(recorded({"a": 3}), embed_text=on_a_circle)
    with pytest.raises(DataError, match="embed_text gave 8 vectors for 9 texts"):
        HardGroups().prepare(recorded({"a": 9}), embed_text=lambda texts: on_a_circle(texts)[1:])


def test_a_replica_stands_in_the_second_half():
    clips = recorded({"a": 10})
    order = WithReplica().prepare(clips)
    for step in range(5):
        rows = order.rows(10, 8, step, 3)
        assert rows[:4].tolist() == rows[4:].tolist() == Shuffled().rows(10, 4, step, 3).tolist()
    with pytest.raises(DataError, match="an even number of clips, not 7"):
        order.rows(10, 7, 0, 0)
    assert WithReplica(of=HardGroups()).embeds and not WithReplica().embeds


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SameSource(per_source=1), "per_source is a number of clips, 2 or more, not 1"),
        (lambda: SameSource(small="drop"), "small cannot be 'drop'"),
        (lambda: HardGroups(size=1), "size is a number of clips that stand together, 2 or more, not 1"),
        (lambda: HardGroups(size=9, neighbours=7), "neighbours=7 are too few for groups of size=9"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message):
    with pytest.raises(SpecError, match=message):
        make()
