"""From what is kept of each clip follow the very metrics, for any resampling; controls; the nearest sound."""

from __future__ import annotations

import numpy as np
import pytest

from clapkit.evaluation.classifiers.neighbours import Neighbours
from clapkit.evaluation.metrics import mean_of
from clapkit.evaluation.probe import few_shot, probe
from clapkit.evaluation.report import Result, Score
from clapkit.evaluation.retrieval import label_search, retrieval
from clapkit.evaluation.suite import controls, outcomes
from clapkit.evaluation.suite.scoring import nearest_sound
from clapkit.evaluation.zero_shot import cosines, label_matrix, zero_shot

NAMES = ["a", "b", "c", "d", "e", "f"]


def a_task(rng, n=60, ties=False):
    text = rng.standard_normal((6, 8))
    truth = rng.integers(0, 6, n)
    audio = text[truth] + 1.5 * rng.standard_normal((n, 8))
    if ties:
        audio[::3] = audio[0]
    return audio, [NAMES[t] for t in truth], text


def interval(measure):
    groups = measure.groups.tolist()
    return Score.measure(measure.statistic, n=measure.n, groups=groups, samples=40)


@pytest.mark.parametrize("ties", [False, True])
def test_class_metrics_from_what_is_kept(rng, ties):
    audio, labels, text = a_task(rng, ties=ties)
    groups = [n // 2 for n in range(len(audio))]
    scores = cosines(audio, text, rows="a", columns="t")
    relevant = label_matrix(labels, NAMES)
    kept = {"groups": outcomes.numbered(groups), "relevant": relevant}
    kept |= outcomes.class_outcomes(outcomes.ZERO_SHOT, scores, relevant, single=True)
    measures = outcomes.measures_of(kept)
    told = zero_shot(audio, labels, NAMES, text, groups=groups, samples=40).metrics
    told = {("zero-shot", name): score for name, score in told.items()}
    searched = label_search(audio, labels, text, NAMES, groups=groups, samples=40).metrics
    told |= {("label-search", name): score for name, score in searched.items()}
    assert set(measures) == set(told)
    for name, measure in measures.items():
        found = interval(measure)
        expected = (told[name].value, told[name].low, told[name].high)
        assert (found.value, found.low, found.high) == pytest.approx(expected, abs=1e-6), name


@pytest.mark.parametrize("ties", [False, True])
def test_retrieval_metrics_from_what_is_kept(rng, ties):
    audio, _, _ = a_task(rng, ties=ties)
    owner = np.sort(rng.integers(0, 50, 120))  # several captions for most clips, and ten clips without
    text = audio[owner] + 2.0 * rng.standard_normal((120, 8))
    groups = np.arange(60) // 3
    words = [f"caption {n}" for n in rng.integers(0, 40, 120)]  # most stand several times, some twice with one clip
    kept = outcomes.retrieval_outcomes(audio, text, owner, groups)
    kept |= outcomes.retrieval_outcomes(audio, text, owner, groups, texts=words)
    how = {"groups": groups.tolist(), "samples": 40}
    told = {("retrieval", name): score for name, score in retrieval(audio, text, owner, **how).metrics.items()}
    same = retrieval(audio, text, owner, texts=words, duplicates="relevant", **how).metrics
    told |= {("retrieval-same-words", name): score for name, score in same.items()}
    measures = outcomes.measures_of(kept)
    assert set(measures) == set(told)
    for name, measure in measures.items():
        found = interval(measure)
        expected = (told[name].value, told[name].low, told[name].high)
        assert (found.value, found.low, found.high) == pytest.approx(expected, abs=1e-6), name


def test_other_sounds_are_of_other_recordings_and_each_is_used_once(rng):
    groups = [f"r{n // 5}" for n in range(50)]
    for seed in range(20):
        other = controls.other_sounds(groups, seed=seed)
        assert sorted(other) == list(range(50))
        assert all(groups[n] != groups[o] for n, o in enumerate(other))
    assert not np.array_equal(other, controls.other_sounds(groups, seed=0))
    assert np.array_equal(other, controls.other_sounds(groups, seed=19))
    alone = controls.other_sounds(["one"] * 7, seed=0)
    assert sorted(alone) == list(range(7)) and all(n != o for n, o in enumerate(alone))
    # Within a recording the order is by chance: the third take of one speaker does not meet that of the next.
    assert len({o % 5 - n % 5 for n, o in enumerate(other)}) > 5


def test_what_answers_reach_by_accident_is_the_mean_over_shuffles(rng):
    scores = rng.standard_normal((40, 6)).astype(np.float32)
    scores[:, 2] += 1.5  # says "c" too often, and "c" is frequent
    truth = rng.choice(6, 40, p=[0.1, 0.1, 0.5, 0.1, 0.1, 0.1])
    best = np.argsort(-scores, axis=1)
    for k in (1, 5):
        shuffles = [np.mean((best[:, :k] == rng.permutation(truth)[:, None]).any(axis=1)) for _ in range(4000)]
        assert controls.answered_by_accident(scores, truth, k=k) == pytest.approx(np.mean(shuffles), abs=0.005)
    assert controls.answered_by_accident(scores, truth, k=1) > 0.2 > 1 / 6
    dealt = [rng.permutation(truth) for _ in range(4000)]
    macro = [np.mean([np.mean(best[t == c, 0] == c) for c in np.unique(t)]) for t in dealt]
    assert controls.answered_by_accident(scores, truth, k=1, macro=True) == pytest.approx(np.mean(macro), abs=0.005)


def test_a_control_that_is_not_at_chance_is_told():
    def told(value, low, high, n=100):
        result = Result("x", n, {}, {"accuracy": Score(value, low, high, 0.1), "median_rank": Score(9, 8, 10, 1)})
        return controls.control_json(result)["at_chance"]

    assert told(0.1, 0.08, 0.12) and told(0.21, 0.2, 0.22)  # four standard errors of 100 clips: 0.12
    assert not told(0.23, 0.22, 0.24) and not told(0.9, 0.85, 0.95)
    assert told(0.0, 0.0, 0.0, n=20) and not told(0.15, 0.14, 0.16, n=10_000)


def test_nearest_sound_against_a_slow_search(rng):
    audio, labels, _ = a_task(rng, ties=True)
    groups = [n // 4 for n in range(60)]
    unit = cosines(audio, audio, rows="a", columns="b")
    hits, chances = [], []
    for n in range(60):
        others = [o for o in range(60) if groups[o] != groups[n]]
        top = max(unit[n, o] for o in others)
        best = [o for o in others if unit[n, o] == top]
        hits.append(np.mean([labels[o] == labels[n] for o in best]))
        chances.append(np.mean([labels[o] == labels[n] for o in others]))
    result, found = nearest_sound(audio, labels, groups, samples=40)
    assert found == pytest.approx(np.array(hits))
    score = result.metrics["accuracy"]
    expected = Score.measure(mean_of(np.array(hits)), n=60, groups=groups, samples=40)
    assert (score.value, score.low, score.high) == pytest.approx((expected.value, expected.low, expected.high))
    assert score.chance == pytest.approx(np.mean(chances))
    alone, found = nearest_sound(audio[:3], labels[:3], [0, 0, 0], samples=5)
    assert np.isnan(found).all()
    assert alone.n == 0 and alone.metrics["accuracy"].chance is None


def test_probe_metrics_from_what_is_kept(rng):
    pytest.importorskip("sklearn")
    audio, labels, _ = a_task(rng, n=120)
    groups, folds = [n // 2 for n in range(120)], [f"fold{n % 3}" for n in range(120)]
    held = [fold == "fold2" for fold in folds]
    how = {"groups": groups, "samples": 40}
    made = {
        outcomes.NEIGHBOURS: probe(audio, labels, folds, classifier=Neighbours(3), **how),
        outcomes.FEW_SHOT: few_shot(audio, labels, held, shots=3, draws=4, **how),
    }
    kept = {"groups": outcomes.numbered(groups), "relevant": label_matrix(labels, NAMES)}
    kept |= outcomes.probe_outcomes(made, folds)
    measures = outcomes.measures_of(kept)
    assert set(measures) == {(name, metric) for name, result in made.items() for metric in result.metrics}
    for (name, metric), measure in measures.items():
        found, told = interval(measure), made[name].metrics[metric]
        assert found.value == pytest.approx(told.value), (name, metric)
        # A probe lists its rows fold by fold, so recordings are drawn in another order: other draws, nearly the ends.
        assert (found.low, found.high) == pytest.approx((told.low, told.high), abs=0.04), (name, metric)
        assert measure.values is not None
    assert outcomes.probe_outcomes({}, folds) == {}
