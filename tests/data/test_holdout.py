"""Clips that are set aside: the same ones each time, of every label, and never half of a recording."""

from __future__ import annotations

from collections import Counter

import pytest

from clapkit.data.clip import Clip
from clapkit.data.holdout import hold_out
from clapkit.errors import SpecError


def clips(**counts):
    return [
        Clip(f"{label}{i}", f"{label}{i}.wav", label=label or None) for label, n in counts.items() for i in range(n)
    ]


@pytest.mark.parametrize(
    ("count", "share", "expected"), [(10, 0.2, 2), (5, 0.2, 1), (2, 0.2, 1), (1, 0.2, 0), (40, 0.5, 20)]
)
def test_about_the_share_of_each_label_and_at_least_one_but_never_all(count, share, expected):
    given = clips(dog=count, rain=30)
    kept, aside = hold_out(given, share=share)
    assert Counter(c.label for c in aside)["dog"] == expected
    assert Counter(c.label for c in aside)["rain"] == round(30 * share)
    assert sorted(c.id for c in (*kept, *aside)) == sorted(c.id for c in given)
    assert [c.id for c in kept] == [c.id for c in given if c in kept], "the order stays"


def test_the_same_clips_and_seed_give_the_same_parts_another_seed_others():
    given = clips(dog=40)
    assert hold_out(given) == hold_out(given)
    assert hold_out(given, seed=1) != hold_out(given)
    assert hold_out(given, share=0.0) == (tuple(given), ())


def test_recordings_stay_together():
    given = clips(dog=40, rain=40)
    recordings = [f"{c.label}{i % 7}" for i, c in enumerate(given)]
    kept, aside = hold_out(given, groups=recordings)
    where = {c.id: r for c, r in zip(given, recordings, strict=True)}
    assert aside and not {where[c.id] for c in kept} & {where[c.id] for c in aside}


def test_clips_of_one_file_stay_together_whatever_their_labels():
    given = [Clip(f"{i}", f"{i // 2}.wav", start_s=float(i % 2), label=("dog", "rain")[i % 2]) for i in range(20)]
    kept, aside = hold_out(given, share=0.3)
    assert aside and not {c.audio for c in kept} & {c.audio for c in aside}


def test_clips_without_a_label_count_as_one():
    given = [Clip(f"{i}", f"{i}.wav", captions=("rain",)) for i in range(50)]
    assert len(hold_out(given)[1]) == 10


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_an_impossible_share_is_refused(share):
    with pytest.raises(SpecError, match=str(share)):
        hold_out(clips(dog=3), share=share)
