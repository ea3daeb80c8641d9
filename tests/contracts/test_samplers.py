"""The contract of every sampler: batches are a function of (seed, step), whole, and fair as far as it promises."""

from __future__ import annotations

import hashlib
import json
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest

from clapkit.data.balance import BalancedStreams, ClassBalanced
from clapkit.data.clip import Clip
from clapkit.data.grouping import HardGroups, SameSource, WithReplica
from clapkit.data.lengths import ByLength
from clapkit.data.sampling import Sampler, Shuffled
from clapkit.errors import DataError
from clapkit.spec import from_json, to_json

SAMPLERS = [
    Shuffled(),
    ClassBalanced(),
    ClassBalanced(distinct=True),
    BalancedStreams(),
    BalancedStreams(column="place", shares=(("hall", 3.0), ("street", 1.0))),
    SameSource(column="place"),
    SameSource(column="place", per_source=2),
    HardGroups(size=2),
    HardGroups(size=4, neighbours=6),
    ByLength(even="clips"),
    ByLength(buckets=3),
    WithReplica(),
    WithReplica(of=SameSource(column="place", per_source=2)),
    WithReplica(of=HardGroups(size=2)),
]
BATCH, SEED = 4, 7
# Batches after which each of the 30 clips was heard, for those that promise it. The largest class has 12 clips and one
# turn in five, the smaller stream of BalancedStreams 10 clips; an epoch of SameSource is 30 clips in parts of 4 and 2.
EPOCH = {Shuffled: 8, ClassBalanced: 12 * 5 // BATCH, BalancedStreams: 20 * 2 // BATCH, SameSource: 9, HardGroups: 30}
EPOCH[ByLength] = 9  # three to seven buckets, whose last batch is filled up

every_sampler = pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)


def clips() -> list[Clip]:
    """30 clips of five classes of 12, 9, 5, 2 and 2, in two places of 10 and 20, from the same two manifests."""
    kinds = [kind for kind, count in enumerate((12, 9, 5, 2, 2)) for _ in range(count)]
    return [
        Clip(
            f"c{number}",
            "c.wav",
            captions=(f"kind {kind}, number {number}",),
            label=f"kind {kind}",
            meta={"place": "hall" if number % 3 else "street"},
            provenance=("long.csv" if number % 3 else "short.csv",),
            duration_s=5.0,
        )
        for number, kind in enumerate(kinds)
    ]


def embed_text(texts):
    """Vectors that have nothing to do with the words, but are always the same."""
    seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") for text in texts]
    return np.stack([np.random.default_rng(seed).standard_normal(8) for seed in seeds])


def prepared(sampler: Sampler):
    return sampler.prepare(clips(), embed_text=embed_text if sampler.embeds else None)


def batches(sampler: Sampler, steps, *, batch: int = BATCH, seed: int = SEED) -> list[list[int]]:
    order = prepared(sampler)
    return [order.rows(30, batch, step, seed).tolist() for step in steps]


@every_sampler
def test_declares_what_it_is(sampler):
    assert isinstance(sampler, Sampler)
    assert "embeds" not in {f.name for f in fields(sampler)}
    assert from_json(json.loads(json.dumps(to_json(sampler)))) == sampler
    for field in fields(sampler):
        with pytest.raises(FrozenInstanceError):
            setattr(sampler, field.name, None)


@every_sampler
def test_a_batch_is_whole(sampler):
    order = prepared(sampler)
    for step in (0, 1, 7, 1000):
        rows = order.rows(30, BATCH, step, SEED)
        assert rows.dtype == np.int64 and rows.ndim == 1
        # Batches of even seconds have so many clips on average.
        assert len(rows) == BATCH or (getattr(sampler, "even", "clips") == "seconds" and 2 <= len(rows) <= 2 * BATCH)
        assert rows.min() >= 0 and rows.max() < 30


@every_sampler
def test_a_batch_needs_no_history_and_no_state(sampler):
    """A run that was stopped in the middle of an epoch prepares anew and begins anywhere."""
    forwards = batches(sampler, range(20))
    assert batches(sampler, reversed(range(20))) == forwards[::-1]
    assert batches(sampler, [13]) == [forwards[13]]
    assert batches(sampler, range(20), seed=SEED + 1) != forwards


@every_sampler
def test_epochs_are_not_alike(sampler):
    made = batches(sampler, range(60))
    assert made[:30] != made[30:] and len({tuple(rows) for rows in made}) > 20


@every_sampler
def test_every_clip_is_heard_in_an_epoch(sampler):
    inner = sampler.of if isinstance(sampler, WithReplica) else sampler
    if getattr(inner, "distinct", False) or getattr(inner, "shares", ()):
        steps = 200  # by chance, or by its share: all of them some time
    else:
        steps = EPOCH[type(inner)] * (2 if isinstance(sampler, WithReplica) else 1)
    assert {row for rows in batches(sampler, range(steps)) for row in rows} == set(range(30))


@every_sampler
def test_another_number_of_clips_than_it_saw_is_refused(sampler):
    if isinstance(sampler, Shuffled) or (isinstance(sampler, WithReplica) and isinstance(sampler.of, Shuffled)):
        assert prepared(sampler).rows(12, BATCH, 0, SEED).max() < 12
        return
    with pytest.raises(DataError, match="prepared for 30 clips and is asked about 29"):
        prepared(sampler).rows(29, BATCH, 0, SEED)
