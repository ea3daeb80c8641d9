"""Measurements in words: bands against ranks, and sentences against bands."""

from __future__ import annotations

import numpy as np
import pytest

from clapkit.data.clip import Clip
from clapkit.errors import DataError, SpecError
from clapkit.views.measured import MeasuredPhrases, Quantity, Values, limits

PITCH = Quantity("pitch_hz", 100.0, 200.0, ("with a low voice", "with a deep voice"), ("with a high voice",))
LEVEL = Quantity("level_db", -30.0, -20.0, ("quiet",), ("loud",), ("neither loud nor quiet",))


def clip(**meta) -> Clip:
    return Clip("c", "c.wav", meta=meta)


def test_limits_leave_three_tenths_on_either_side():
    values = np.random.default_rng(3).permutation(1000).astype(float)
    low, high = limits([*values, float("nan")])
    bands = [Quantity("x", low, high, ("l",), ("h",)).band(v) for v in values]
    ranks = np.argsort(np.argsort(values))  # brute force: how many lie below
    assert all(b == 0 for b, r in zip(bands, ranks, strict=True) if r < 299)
    assert all(b == 2 for b, r in zip(bands, ranks, strict=True) if r > 700)
    assert (bands.count(0), bands.count(1), bands.count(2)) == (300, 400, 300)


def test_more_never_sounds_like_less():
    values = np.sort(np.random.default_rng(4).standard_normal(300))
    for low, high in ((-1.0, 1.0), (0.0, 0.0)):
        bands = [Quantity("x", low, high, ("l",), ("h",)).band(v) for v in values]
        assert bands == sorted(bands)


def test_sentences_say_what_was_measured_and_wrong_ones_turn_one_round(rng):
    view = MeasuredPhrases((PITCH, LEVEL), per_clip=40)
    given = clip(pitch_hz="80", level_db=-5.0)
    made = view.apply(given, view.draw(rng, given, ()), {})
    low, loud = ("with a low voice", "with a deep voice"), "loud"
    pairs = {f"speaker {a} and {b}" for x in low for a, b in ((x, loud), (loud, x))}
    assert set(made.captions) == {f"speaker {x}" for x in (*low, loud)} | pairs
    high, quiet = "with a high voice", "quiet"
    turned = {f"speaker {a} and {b}" for x in low for a, b in ((x, quiet), (quiet, x))}
    turned |= {f"speaker {high} and {loud}", f"speaker {loud} and {high}"}
    assert set(made.wrong) == {f"speaker {high}", f"speaker {quiet}"} | turned


def test_the_middle_is_said_where_it_has_words_and_never_turned_round(rng):
    view = MeasuredPhrases((PITCH, LEVEL), subject="")
    given = clip(pitch_hz=150, level_db=-25)
    assert view.draw(rng, given, ()) == {"captions": ["neither loud nor quiet"], "wrong": []}


@pytest.mark.parametrize("missing", [None, "", " ", float("nan"), float("inf")])
def test_what_was_not_measured_is_not_spoken_of(missing, rng):
    assert MeasuredPhrases((LEVEL,)).draw(rng, clip(level_db=missing), ()) == {"captions": [], "wrong": []}
    assert MeasuredPhrases((LEVEL,)).draw(rng, clip(), ()) == {"captions": [], "wrong": []}


def test_fewer_phrases_are_more_frequent_and_most_is_kept(rng):
    many = tuple(Quantity(f"q{i}", 0.0, 1.0, (f"l{i}",), (f"h{i}",)) for i in range(6))
    given = clip(**{f"q{i}": 2.0 for i in range(6)})
    view = MeasuredPhrases(many, most=3, per_clip=1)
    sizes = [view.draw(rng, given, ())["captions"][0].count(" and ") + 1 for _ in range(900)]
    assert [sizes.count(n) / 900 for n in (1, 2, 3)] == pytest.approx([3 / 6, 2 / 6, 1 / 6], abs=0.05)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: Quantity("x", 2.0, 1.0, ("l",), ("h",)), SpecError, "'x': low=2.0 lies above high=1.0"),
        (lambda: Quantity("x", 1.0, 2.0, (), ("h",)), SpecError, "'x' has no phrase for its low or its high end"),
        (lambda: MeasuredPhrases(()), SpecError, "quantities is empty"),
        (lambda: MeasuredPhrases((LEVEL,), most=0), SpecError, "most is a number of names in a sentence"),
        (lambda: Values(()), SpecError, "columns is empty"),
        (lambda: Values(("a", "b"), units=(1.0,)), SpecError, "2 columns and 1 units"),
        (lambda: Values(("a",), units=(0.0,)), SpecError, r"units are numbers above 0, not \(0.0,\)"),
        (lambda: limits([1.0, float("nan")]), DataError, "1 of 2 values are numbers"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong()


def test_a_value_that_is_no_number_is_named(rng):
    with pytest.raises(DataError, match="clip 'c' has level_db='loud', which is no number"):
        MeasuredPhrases((LEVEL,)).draw(rng, clip(level_db="loud"), ())
    with pytest.raises(DataError, match="clip 'c' has mood='good', which is no number"):
        Values(("mood",)).draw(rng, clip(mood="good"), ())


def test_columns_become_values_in_their_units_and_a_gap_leaves_none(rng):
    view = Values(("pitch_hz", "mood"), units=(100.0, 0.5))

    def made(**meta):
        given = clip(**meta)
        return view.apply(given, view.draw(rng, given, ()), {}).values

    assert made(pitch_hz="250", mood=3) == (2.5, 6.0)
    assert made(pitch_hz=0, mood=-1) == (0.0, -2.0)
    for gap in ({}, {"mood": ""}, {"mood": None}, {"mood": float("inf")}):
        assert made(pitch_hz=250, **gap) == ()
