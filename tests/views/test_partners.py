"""What is heard of a clip, how loud it is, and which part of it is kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clapkit.data.clip import Clip, Event
from clapkit.views.audio import rms
from clapkit.views.partners import at_level, draw_partner, excerpt, level, limited, pairs, shifted, spans
from clapkit.views.sequence import Concatenate

RATE_HZ = 1000


def sounding(*parts: tuple[float, float]) -> np.ndarray:
    """Parts of (seconds, height) of noise, one after the other."""
    rng = np.random.default_rng(8)
    noise = [height * rng.choice([-1.0, 1.0], round(seconds * RATE_HZ)) for seconds, height in parts]
    return np.concatenate(noise).astype(np.float32)


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ([(1, 0.1)], [(0, 1000)]),
        ([(0.5, 0), (0.2, 0.1), (0.5, 0), (0.3, 0.05), (0.1, 0)], [(500, 700), (1200, 1500)]),
        ([(0.2, 0.1), (0.1, 0), (0.2, 0.1)], [(0, 500)]),
        ([(0.2, 0.1), (1.0, 0.0005)], [(0, 200)]),  # 46 dB below
        ([(0.2, 0.1), (1.0, 0.002)], [(0, 1200)]),  # 34 dB below
        ([(1, 0.0)], []),
    ],
)
def test_stretches_that_are_heard(parts, found):
    assert spans(sounding(*parts), RATE_HZ) == found


def test_silence_around_a_sound_makes_it_no_quieter():
    sound = sounding((0.3, 0.1))
    padded = sounding((0.7, 0), (0.3, 0.1), (2, 0))
    assert level(sound, RATE_HZ) == pytest.approx(level(padded, RATE_HZ)) == pytest.approx(0.1)
    assert level(at_level(padded, RATE_HZ, 0.025), RATE_HZ) == pytest.approx(0.025)
    silent = np.zeros(5, np.float32)
    assert level(silent, RATE_HZ) == 0.0 and not at_level(silent, RATE_HZ, 0.5).any()


@pytest.mark.parametrize("count", [1, 50, 333])
def test_the_strongest_stretch_is_found_by_trying_all(count):
    samples = np.random.default_rng(9).standard_normal(600).astype(np.float32)
    clip = Clip("c", samples, label="x", rate_hz=RATE_HZ)
    kept = excerpt(clip, count).samples
    assert len(kept) == count
    assert rms(kept) == pytest.approx(max(rms(samples[i : i + count]) for i in range(600 - count + 1)), rel=1e-6)


def test_events_are_moved_and_cut():
    events = (Event("a", 0.0, 1.0), Event("b", 1.5, 3.0), Event("c", 4.0, 5.0))
    assert shifted(events, -0.5, 2.0) == (Event("a", 0.0, 0.5), Event("b", 1.0, 2.0))
    assert shifted(events, 1.0, 9.0) == (Event("a", 1.0, 2.0), Event("b", 2.5, 4.0), Event("c", 5.0, 6.0))


def test_what_is_too_loud_is_turned_down_as_a_whole():
    np.testing.assert_allclose(limited(np.array([0.5, -2.0], np.float32)), [0.25, -1.0])
    fine = np.array([0.5, -1.0], np.float32)
    assert limited(fine) is fine and len(limited(np.zeros(0, np.float32))) == 0


def test_pairs_are_as_many_as_the_longer_list_has():
    assert pairs(["a"], ["x", "y"]) == [("a", "x"), ("a", "y")] and pairs([], ["x"]) == []


def test_every_other_clip_is_somebodys_partner(rng):
    clips = [Clip(str(i), sounding((0.1, 0.1)), label=f"label {i}", rate_hz=RATE_HZ) for i in range(5)]
    drawn = {draw_partner(rng, clips[2], clips).id for _ in range(200)}
    assert drawn == {"0", "1", "3", "4"}


@settings(max_examples=60, deadline=None)
@given(
    seconds=st.tuples(st.floats(0.02, 3.0), st.floats(0.02, 3.0)),
    padding=st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)),
    longest_s=st.floats(0.5, 4.0),
    gap_s=st.floats(-0.3, 0.25),
    clip_first=st.booleans(),
)
def test_whatever_is_joined_stays_within_its_length_and_its_events_within_it(
    seconds, padding, longest_s, gap_s, clip_first
):
    first, second = (
        Clip(name, sounding((p, 0), (s, 0.1), (p, 0)), label=name, rate_hz=RATE_HZ)
        for name, s, p in zip("ab", seconds, padding, strict=True)
    )
    params = {
        "partner": "b",
        "clip_first": clip_first,
        "gap_s": gap_s,
        "difference_db": 0.0,
        "connective": 0,
    }
    made = Concatenate(longest_s=longest_s, gap_s=(-0.3, 0.25)).apply(first, params, {"b": second})
    assert len(made.audio) <= longest_s * RATE_HZ + 1
    assert [e.label for e in made.events] == (["a", "b"] if clip_first else ["b", "a"])
    assert all(0.0 <= e.onset_s < e.offset_s <= made.duration_s + 1e-9 for e in made.events)
