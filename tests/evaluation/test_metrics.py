from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, balanced_accuracy_score
from sklearn.metrics import confusion_matrix as sk_confusion

from clapkit.errors import DataError, SpecError
from clapkit.evaluation.metrics import (
    BestRanks,
    Ranking,
    average_precision,
    bootstrap_interval,
    class_mean_of,
    class_ranking_of,
    confusion_matrix,
    mean_of,
    median_of,
    r_precision,
    top_k_hits,
)


def orders(scores):
    """All orders of the items by score: every permutation within the ties, equally likely."""
    return [p for p in permutations(range(len(scores))) if all(scores[a] >= scores[b] for a, b in pairwise(p))]


def slow_ap(flags, cutoff=None):
    """Average precision of one order of relevance flags."""
    shown = flags[: cutoff or len(flags)]
    precisions = [sum(flags[: i + 1]) / (i + 1) for i, flag in enumerate(shown) if flag]
    return sum(precisions) / min(sum(flags), cutoff or len(flags))


small = st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6).filter(
    lambda items: any(relevant for _, relevant in items)
)


@settings(max_examples=80, deadline=None)
@given(items=small, cutoff=st.sampled_from([None, 1, 2, 3, 10]), k=st.integers(1, 7))
def test_ties_get_the_mean_over_all_their_orders(items, cutoff, k):
    scores, relevant = np.array([s for s, _ in items]), np.array([r for _, r in items])
    flags = [[bool(relevant[i]) for i in order] for order in orders(scores)]
    total = int(relevant.sum())

    expected = np.mean([slow_ap(f, cutoff) for f in flags])
    assert average_precision(scores, relevant, cutoff=cutoff) == pytest.approx(expected)
    assert r_precision(scores, relevant) == pytest.approx(np.mean([sum(f[:total]) / total for f in flags]))

    best = BestRanks.of(scores[None], [np.flatnonzero(relevant)])
    assert best.hits(k)[0] == pytest.approx(np.mean([any(f[:k]) for f in flags]))
    assert best.expected()[0] == pytest.approx(np.mean([f.index(True) + 1 for f in flags]))


@settings(max_examples=40, deadline=None)
@given(items=small, counts=st.lists(st.integers(0, 2), min_size=6, max_size=6))
def test_counts_mean_the_same_as_repeating_the_items(items, counts):
    scores, relevant = np.array([s for s, _ in items]), np.array([r for _, r in items])
    counts = np.array(counts[: len(items)])
    repeated_scores, repeated = np.repeat(scores, counts), np.repeat(relevant, counts)
    ranking = Ranking.of(scores, relevant)
    for cutoff in (None, 2):
        got = ranking.average_precision(np.stack([counts, counts]), cutoff=cutoff)
        expected = average_precision(repeated_scores, repeated, cutoff=cutoff)
        np.testing.assert_allclose(got, [expected, expected])
    np.testing.assert_allclose(ranking.r_precision(counts[None])[0], r_precision(repeated_scores, repeated))


def test_average_precision_equals_scikit_learn_without_ties(rng):
    for _ in range(20):
        scores, relevant = rng.standard_normal(50), rng.random(50) < 0.2
        relevant[0] = True
        assert average_precision(scores, relevant) == pytest.approx(average_precision_score(relevant, scores))


def test_a_model_that_scores_everything_the_same_gets_chance():
    scores, truth = np.zeros((30, 10)), np.arange(30) % 10
    assert top_k_hits(scores, truth).mean() == pytest.approx(0.1)
    assert top_k_hits(scores, truth, k=5).mean() == pytest.approx(0.5)
    np.testing.assert_allclose(confusion_matrix(scores, truth), np.full((10, 10), 0.3))
    assert BestRanks.of(scores, truth[:, None]).expected() == pytest.approx(np.full(30, 5.5))
    assert average_precision(np.zeros(4000), np.arange(4000) < 400) == pytest.approx(0.1, abs=2e-3)


def test_top_k_equals_sorting(rng):
    scores, truth = rng.standard_normal((60, 7)), rng.integers(0, 7, 60)
    for k in (1, 3, 7, 9):
        slow = [truth[n] in sorted(range(7), key=lambda c: -scores[n, c])[:k] for n in range(60)]
        np.testing.assert_array_equal(top_k_hits(scores, truth, k=k), slow)


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
def test_macro_accuracy_and_confusion_equal_scikit_learn(rng):
    scores, truth = rng.standard_normal((80, 5)), rng.integers(0, 5, 80) // 2
    predicted, ones = scores.argmax(axis=1), np.ones((1, 80), int)
    macro = class_mean_of(top_k_hits(scores, truth), truth)(ones)[0]
    assert macro == pytest.approx(balanced_accuracy_score(truth, predicted))
    np.testing.assert_allclose(confusion_matrix(scores, truth), sk_confusion(truth, predicted, labels=range(5)))


def test_statistics_over_counts_equal_repeating(rng):
    values, classes = rng.integers(0, 6, 25).astype(float), rng.integers(0, 4, 25)
    counts = rng.integers(0, 3, (30, 25))
    again = [np.repeat(np.arange(25), c) for c in counts]
    np.testing.assert_allclose(mean_of(values)(counts), [values[i].mean() for i in again])
    np.testing.assert_allclose(median_of(values)(counts), [np.median(values[i]) for i in again])
    slow = [np.mean([values[i][classes[i] == c].mean() for c in set(classes[i])]) for i in again]
    np.testing.assert_allclose(class_mean_of(values, classes)(counts), slow)


def test_means_have_the_same_digits_whatever_the_kernels_of_matrix_products():
    """The file of a suite is the same on another processor, up to what embeds."""
    program = (
        "import numpy as np; from clapkit.evaluation.metrics import class_mean_of, mean_of\n"
        "rng = np.random.default_rng(1); values, counts = rng.random((9, 195)), rng.integers(0, 3, (40, 195))\n"
        "classes = np.arange(195) % 7\n"
        "for v in values: print(mean_of(v)(counts).tobytes().hex(), class_mean_of(v, classes)(counts).tobytes().hex())"
    )
    found = set()
    for kernel in ("", "Prescott"):  # one that every x86-64 has; other libraries and processors know no such name
        settings = {**os.environ, "OPENBLAS_CORETYPE": kernel}
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=settings, check=True)
        found.add(done.stdout)
    assert len(found) == 1


def test_mean_over_classes_leaves_out_classes_without_items(rng):
    scores, relevant = rng.standard_normal((40, 3)), rng.random((40, 3)) < 0.3
    relevant[:, 1] = False
    got = class_ranking_of(scores, relevant, metric=Ranking.average_precision)(np.ones((1, 40), int))[0]
    assert got == pytest.approx(np.mean([average_precision_score(relevant[:, c], scores[:, c]) for c in (0, 2)]))
    nothing = class_ranking_of(scores, np.zeros_like(relevant), metric=Ranking.r_precision)(np.ones((2, 40), int))
    assert np.isnan(nothing).all()


def test_nothing_relevant_and_nothing_at_all_have_no_value():
    assert np.isnan(average_precision([1, 2], [False, False]))
    assert np.isnan(r_precision([1, 2], [False, False]))
    assert np.isnan(average_precision([], []))
    assert np.isnan(median_of(np.array([]))(np.ones((1, 0), int)))
    assert len(BestRanks.of(np.zeros((0, 3)), []).hits(1)) == 0


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says(rng):
    covered = 0
    for seed in range(200):
        low, high = bootstrap_interval(rng.standard_normal(60) + 3, samples=200, seed=seed, level=0.9)
        covered += low < 3 < high
    assert 0.82 <= covered / 200 <= 0.96


def test_items_of_one_group_are_drawn_together(rng):
    """Ten copies of each of 20 recordings say no more than the 20; drawn one by one they would claim to."""
    values = rng.standard_normal(20)
    copies, recordings = np.repeat(values, 10), [f"r{n}" for n in range(20) for _ in range(10)]
    assert bootstrap_interval(copies, groups=recordings) == pytest.approx(bootstrap_interval(values))
    low, high = bootstrap_interval(copies)
    wide_low, wide_high = bootstrap_interval(copies, groups=recordings)
    assert high - low < 0.5 * (wide_high - wide_low)


def test_the_same_seed_gives_the_same_interval_in_any_block_size(rng, monkeypatch):
    values = rng.standard_normal(50)
    first = bootstrap_interval(values, seed=4)
    assert bootstrap_interval(values, seed=5) != first
    monkeypatch.setattr("clapkit.evaluation.metrics._COUNTS_AT_ONCE", 130)
    assert bootstrap_interval(values, seed=4) == pytest.approx(first, rel=1e-12)
    assert bootstrap_interval(mean_of(values), n=50, seed=4) == pytest.approx(first, rel=1e-12)


def test_samples_without_a_value_are_left_out():
    rare = np.array([True] + [False] * 5)
    statistic = class_ranking_of(np.arange(6.0)[:, None], rare[:, None], metric=Ranking.average_precision)
    low, high = bootstrap_interval(statistic, n=6)
    assert 0 < low < high <= 1
    assert np.isnan(bootstrap_interval([])).all()
    assert np.isnan(bootstrap_interval(lambda counts: np.full(len(counts), np.nan), n=3)).all()
    assert bootstrap_interval([0.25]) == (0.25, 0.25)


def test_what_a_caller_can_get_wrong_is_named():
    with pytest.raises(SpecError, match="k is 0"):
        top_k_hits(np.zeros((1, 2)), np.array([0]), k=0)
    with pytest.raises(DataError, match="1 scores are NaN"):
        top_k_hits(np.array([[np.nan, 1.0]]), np.array([0]))
    with pytest.raises(SpecError, match="k is -1"):
        average_precision([1.0], [True], cutoff=-1)
    with pytest.raises(DataError, match=r"scores \(2,\) with 1 NaN"):
        average_precision([1.0, np.nan], [True, False])
    with pytest.raises(DataError, match=r"relevance \(3,\)"):
        r_precision([1.0, 2.0], [True, False, True])
    with pytest.raises(DataError, match="of which 1 are empty"):
        BestRanks.of(np.zeros((2, 2)), [np.array([0]), np.array([], int)])
    with pytest.raises(SpecError, match="samples=0"):
        bootstrap_interval([1.0], samples=0)
    with pytest.raises(SpecError, match=r"level=1\.5"):
        bootstrap_interval([1.0], level=1.5)
    with pytest.raises(SpecError, match="needs n"):
        bootstrap_interval(mean_of(np.ones(2)))
    with pytest.raises(DataError, match="3 groups for 2 items"):
        bootstrap_interval([1.0, 2.0], groups=["a", "b", "c"])
