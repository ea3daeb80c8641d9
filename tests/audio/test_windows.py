from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clapkit.audio.windows import fit, plan_windows, window_starts
from clapkit.errors import SpecError


def test_policies_on_a_short_sound():
    samples = np.array([1, 2, 3], np.float32)
    assert fit(samples, 8, "pad").tolist() == [1, 2, 3, 0, 0, 0, 0, 0]
    assert fit(samples, 8, "repeat").tolist() == [1, 2, 3, 1, 2, 3, 1, 2]
    assert fit(samples, 8, "repeat-pad").tolist() == [1, 2, 3, 1, 2, 3, 0, 0]
    assert fit(samples, 5, "repeat-pad").tolist() == [1, 2, 3, 0, 0]


@pytest.mark.parametrize("policy", ["pad", "repeat", "repeat-pad", "crop"])
def test_a_long_sound_is_cropped_by_every_policy(policy):
    samples = np.arange(7, dtype=np.float32)
    assert fit(samples, 4, policy).tolist() == [0, 1, 2, 3]
    assert fit(samples, 4, policy, crop="centre").tolist() == [1, 2, 3, 4]
    assert fit(samples, 7, policy, crop="centre").tolist() == samples.tolist()


@given(count=st.integers(1, 200), length=st.integers(1, 500), policy=st.sampled_from(["pad", "repeat", "repeat-pad"]))
@settings(deadline=None, max_examples=60)
def test_fit_against_one_sample_at_a_time(count, length, policy):
    samples = np.arange(1, count + 1, dtype=np.float32)
    repeats = {"pad": 1, "repeat": length, "repeat-pad": max(1, length // count)}[policy]
    slow = [samples[i % count] if i < repeats * count else 0.0 for i in range(length)]
    made = fit(samples, length, policy)
    assert made.dtype == np.float32 and made.tolist() == slow


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((np.ones(3), 5, "loop"), "'loop'"),
        ((np.ones(3), 0, "pad"), "0 samples"),
        ((np.ones(3), 5, "crop"), "cropped to 5"),
        ((np.ones((3, 2)), 5, "pad"), r"\(3, 2\)"),
        ((np.ones(0), 5, "repeat"), r"\(0,\)"),
    ],
)
def test_fit_refuses_and_says_what(arguments, named):
    with pytest.raises(SpecError, match=named):
        fit(*arguments)


def test_fit_refuses_an_unknown_crop():
    with pytest.raises(SpecError, match="'middle'"):
        fit(np.ones(9), 5, "pad", crop="middle")


def test_windows_of_a_small_sound_by_hand():
    plan = plan_windows(10, 4, 3)
    assert [(w.start, w.length) for w in plan] == [(0, 4), (3, 4), (6, 4)]
    # 0-3 | 4-6 | 7-9: an overlap of one sample belongs to the earlier window
    assert [w.weight for w in plan] == pytest.approx([0.4, 0.3, 0.3])


def test_the_last_window_is_moved_back_and_weighs_little():
    plan = plan_windows(101, 50, 50)
    assert [w.start for w in plan] == [0, 50, 51]
    assert plan[2].weight == pytest.approx(25 / 101)  # it shares 49 of its 50 samples with its neighbour
    assert plan[0].weight == pytest.approx(50 / 101)


def test_one_window_for_one_sample_and_for_exactly_one_window():
    assert [(w.start, w.length, w.weight) for w in plan_windows(1, 480000, 240000)] == [(0, 1, 1.0)]
    assert [(w.start, w.length, w.weight) for w in plan_windows(50, 50, 7)] == [(0, 50, 1.0)]


@given(total=st.integers(1, 2000), window=st.integers(1, 300), data=st.data())
@settings(deadline=None, max_examples=150)
def test_windows_cover_everything_and_each_sample_once(total, window, data):
    hop = data.draw(st.integers(1, window))
    plan = plan_windows(total, window, hop)
    assert [w.start for w in plan] == window_starts(total, window, hop)
    covered = np.zeros(total, int)
    for w in plan:
        assert w.length == min(window, total) and w.start >= 0 and w.start + w.length <= total
        covered[w.start : w.start + w.length] += 1
    assert covered.min() >= 1
    assert sum(w.weight for w in plan) == pytest.approx(1.0)
    # The slow meaning of the weights: every sample goes to the window with the nearest centre, the earlier in a tie.
    centres = np.array([w.start + (w.length - 1) / 2 for w in plan])
    owners = np.abs(np.arange(total)[:, None] - centres[None]).argmin(1)
    assert [w.weight * total for w in plan] == pytest.approx(np.bincount(owners, minlength=len(plan)).tolist())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((0, 4, 2), "0 samples"), ((10, 4, 5), "every 5"), ((10, 4, 0), "every 0"), ((10, 0, 0), "of 0")],
)
def test_plans_that_would_leave_sound_out_are_refused(arguments, named):
    with pytest.raises(SpecError, match=named):
        plan_windows(*arguments)
