"""The gap between the two sides of a space: against loops, at its limits, and what cannot be measured."""

from __future__ import annotations

import numpy as np
import pytest

from clapkit.bridge import distance_of, effective_rank, measure
from clapkit.errors import DataError

RNG = np.random.default_rng(5)


def unit(x_ND):
    return x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)


def sides(n=60, d=8, apart=0.0):
    """Pairs that are close, and the text side moved by `apart` along an axis of its own."""
    shared = RNG.normal(size=(n, d))
    text = np.concatenate([shared + 0.3 * RNG.normal(size=(n, d)), np.full((n, 1), apart)], axis=1)
    return np.concatenate([shared, np.zeros((n, 1))], axis=1), text


def test_numbers_against_loops():
    audio, text = sides(n=12, apart=2.0)
    gap = measure(3 * audio, text)
    a, t = unit(audio), unit(text)
    assert gap.pairs == 12
    assert gap.distance == pytest.approx(sum((a[:, d].mean() - t[:, d].mean()) ** 2 for d in range(9)) ** 0.5)
    assert gap.cosine == pytest.approx(np.mean([a[n] @ t[n] for n in range(12)]))
    others = [a[n] @ t[m] for n in range(12) for m in range(12) if n != m]
    assert gap.other_cosine == pytest.approx(np.mean(others))
    assert gap.audio_spread == pytest.approx(np.mean([np.sum((row - a.mean(0)) ** 2) for row in a]))
    assert gap.text_spread == pytest.approx(np.mean([np.sum((row - t.mean(0)) ** 2) for row in t]))
    assert gap.relative == pytest.approx(gap.distance / ((gap.audio_spread + gap.text_spread) / 2) ** 0.5)
    values = np.linalg.svd(a - a.mean(0))[1]
    share = values / values.sum()
    assert gap.audio_rank == pytest.approx(np.exp(-sum(p * np.log(p) for p in share if p > 0)))


def test_sides_that_lie_together_have_no_gap_and_sides_apart_are_told_apart():
    together, apart = measure(*sides(n=400)), measure(*sides(n=400, apart=3.0))
    assert together.distance < 0.15 and 0.35 < together.separability < 0.65
    assert apart.distance > 0.5 and apart.separability > 0.99
    equal = measure(*(sides(n=40)[0],) * 2)
    assert equal.distance == 0 and equal.separability == 0.5 and equal.cosine == pytest.approx(1)


def test_opposite_poles_are_two_apart_and_a_collapsed_space_is_seen():
    pole = np.tile([[1.0, 0.0, 0.0]], (6, 1))
    opposite = measure(pole, -pole)
    assert opposite.distance == pytest.approx(2) and opposite.separability == 1 and np.isinf(opposite.relative)
    collapsed = measure(pole, pole)
    assert (collapsed.distance, collapsed.audio_rank, collapsed.other_cosine) == (0, 0, pytest.approx(1))
    assert collapsed.audio_spread == pytest.approx(0)


def test_effective_rank_counts_equal_directions():
    corners = np.concatenate([np.eye(5), -np.eye(5)])
    assert effective_rank(corners) == pytest.approx(5)
    assert effective_rank(corners * [1, 1, 1e-9, 1e-9, 1e-9]) == pytest.approx(2, abs=1e-6)
    assert effective_rank(np.ones((4, 3))) == 0


def test_the_distance_of_resampled_pairs_is_that_of_the_pairs_written_out():
    audio, text = sides(n=10, apart=1.0)
    counts_SN = RNG.integers(0, 3, size=(4, 10)) + np.eye(4, 10, dtype=int)
    for count_N, found in zip(counts_SN, distance_of(audio, text)(counts_SN), strict=True):
        rows = np.repeat(np.arange(10), count_N)
        assert found == pytest.approx(measure(audio[rows], text[rows]).distance)


@pytest.mark.parametrize(
    ("audio", "text", "message"),
    [
        (np.ones((5, 3)), np.ones((5, 4)), r"\(5, 3\) and those of captions \(5, 4\)"),
        (np.ones((3, 2)), np.ones((3, 2)), r"at least 4 rows"),
        (np.ones(4), np.ones(4), r"the shape \(4,\)"),
        (np.eye(4) * [1, 1, 1, 0], np.eye(4), "audio_ND"),
        (np.eye(4), np.where(np.eye(4) > 0, np.nan, 0), "text_ND"),
    ],
)
def test_what_cannot_be_measured_is_said(audio, text, message):
    for function in (measure, distance_of):
        with pytest.raises(DataError, match=message):
            function(audio, text)
