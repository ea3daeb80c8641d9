from __future__ import annotations

import importlib.util
from itertools import pairwise

import numpy as np
import pandas
import pytest
from sklearn.metrics import roc_auc_score

from clapkit.data.clip import Clip, Event
from clapkit.errors import DataError, MissingExtraError, SpecError
from clapkit.evaluation.sed.frames import PSDS1, PSDS2, Frames, PsdsSettings, frame_auroc, psds
from clapkit.evaluation.sed.psds import Detections, package

NAMES = ("dog", "onset", "a\\b")  # two that the package would stumble over


def some_frames(rng, *, clips=8, frames=14, frame_s=0.5, help_=0.5, grid=8):
    """Clips with up to three events, and scores that know something about them; on a grid, so that there are ties."""
    found = []
    for n in range(clips):
        events, length_s = [], frames * frame_s
        for label in NAMES if n < 2 else rng.choice(NAMES, rng.integers(0, 3)):
            onset = rng.uniform(0, length_s - 1)
            events.append(Event(str(label), onset, min(length_s, onset + rng.uniform(0.3, 4))))
        clip = Clip(f"clip{n}", "x", duration_s=length_s, events=tuple(events))
        bare = Frames.evenly(clip, np.zeros((frames, 3)), frame_s=frame_s)
        scores = np.round(grid * (rng.random((frames, 3)) + help_ * bare.inside(NAMES))) / grid
        found.append(Frames.evenly(clip, scores, frame_s=frame_s))
    return found


def overlap(a, b):
    return max(0.0, min(a[1], b[1]) - max(a[0], b[0]))


def united(events, label):
    """Spans of one class, those that overlap joined."""
    spans = []
    for onset, offset in sorted((e.onset_s, e.offset_s) for e in events if e.label == label):
        if spans and onset <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], offset))
        else:
            spans.append((onset, offset))
    return spans


def slow_point(frames, c, threshold, names, s):
    """True positive rate and effective false alarms an hour of one class at one threshold."""
    hits = events = false = 0
    crossed, other_s = dict.fromkeys(names, 0), dict.fromkeys(names, 0.0)
    for f in frames:
        spans = {name: united(f.clip.events, name) for name in names}
        on = [*(f.scores_TC[:, NAMES.index(names[c])] >= threshold), False]
        edges = [t for t in range(len(on)) if on[t] != (on[t - 1] if t else False)]
        detected = [(f.edges_s[a], f.edges_s[b]) for a, b in zip(edges[::2], edges[1::2], strict=True)]
        own = spans[names[c]]
        good = [d for d in detected if sum(overlap(d, e) for e in own) >= s.dtc * (d[1] - d[0]) - 1e-9]
        hits += sum(sum(overlap(d, e) for d in good) >= s.gtc * (e[1] - e[0]) - 1e-9 for e in own)
        events += len(own)
        for d in set(detected) - set(good):
            false += 1
            for name in names:
                inside = sum(overlap(d, e) for e in spans[name])
                crossed[name] += s.cttc is not None and inside >= s.cttc * (d[1] - d[0]) - 1e-9
        for name in names:
            other_s[name] += sum(e[1] - e[0] for e in spans[name])
    rates = [crossed[name] / other_s[name] for name in names if name != names[c]]
    total_s = sum(f.clip.duration_s for f in frames)
    return hits / events, 3600 * (false / total_s + (s.alpha_ct * np.mean(rates) if rates else 0))


def slow_psds(frames, names, s):
    """All thresholds of all classes, one at a time."""
    points = []
    for c, name in enumerate(names):
        thresholds = np.unique(np.concatenate([f.scores_TC[:, NAMES.index(name)] for f in frames]))
        points.append([(0.0, 0.0), *(slow_point(frames, c, t, names, s) for t in thresholds)])
    places = sorted({efpr for found in points for _, efpr in found if efpr <= s.max_efpr})
    area = 0.0
    for here, then in zip(places, [*places[1:], s.max_efpr], strict=True):
        rates = [max(tpr for tpr, efpr in found if efpr <= here) for found in points]
        area += (then - here) * max(0.0, np.mean(rates) - s.alpha_st * np.std(rates))
    return area / s.max_efpr


@pytest.mark.parametrize("name", ["psds1", "psds2", "other"])
def test_psds_equals_a_loop_over_all_thresholds(rng, name):
    setting = {"psds1": PSDS1, "psds2": PSDS2, "other": PsdsSettings(0.3, 0.5, max_efpr=3000.0)}[name]
    values = []
    for _ in range(12):
        frames = some_frames(rng)
        result = psds(frames, NAMES, settings={name: setting}, samples=1)
        values.append(result.metrics[name].value)
        assert values[-1] == pytest.approx(slow_psds(frames, NAMES, setting), abs=1e-9)
        alone = PsdsSettings(setting.dtc, setting.gtc, max_efpr=setting.max_efpr)
        of_classes = psds(frames, NAMES, settings={name: alone}, samples=1).per_class
        for label in NAMES:
            assert of_classes[label][name] == pytest.approx(slow_psds(frames, [label], alone), abs=1e-9)
    if name != "psds1":
        assert max(values) > 0.1


def test_psds_equals_the_package_called_directly(rng):
    """Names, merged events, settings and durations arrive as they were meant."""

    class Writable(pandas.DataFrame):
        _constructor = property(lambda self: Writable)

        def to_numpy(self, *args, **more):
            return np.array(super().to_numpy(*args, **more))

    frames = some_frames(rng, clips=20)
    labels = ["k0", "k1", "k2"]
    table = {
        f.clip.id: Writable(np.c_[f.edges_s[:-1], f.edges_s[1:], f.scores_TC], columns=["onset", "offset", *labels])
        for f in frames
    }
    truth = {
        f.clip.id: [(a, b, labels[c]) for c in range(3) for a, b in united(f.clip.events, NAMES[c])] for f in frames
    }
    durations = {f.clip.id: f.clip.duration_s for f in frames}
    wide = {"max_efpr": 2000.0, "alpha_st": 0.5}
    expected, of_classes, *_ = package().psds(
        table, truth, durations, dtc_threshold=0.2, gtc_threshold=0.3, cttc_threshold=0.4, alpha_ct=0.7, **wide
    )
    setting = PsdsSettings(0.2, 0.3, cttc=0.4, alpha_ct=0.7, **wide)
    result = psds(frames, NAMES, settings={"mine": setting}, samples=20)
    score = result.metrics["mine"]
    assert score.value == pytest.approx(expected)
    assert [result.per_class[name]["mine"] for name in NAMES] == pytest.approx(list(of_classes.values()))
    assert score.low < score.value < score.high
    assert result.protocol["settings"]["mine"] == {
        "dtc": 0.2,
        "gtc": 0.3,
        "cttc": 0.4,
        "alpha_ct": 0.7,
        "alpha_st": 0.5,
        "max_efpr": 2000.0,
        "unit_of_time": "hour",
    }
    assert result.protocol["hours"] == pytest.approx(20 * 7 / 3600)


def test_clips_counted_twice_are_clips_given_twice(rng):
    frames = some_frames(rng, clips=6, help_=2.0)
    counts = np.array([2, 1, 0, 3, 1, 0])
    again = [frames[n] for n, count in enumerate(counts) for _ in range(count)]

    def detections(given):
        spans = [[(a, b, name) for name in NAMES for a, b in united(f.clip.events, name)] for f in given]
        return Detections(
            [f.scores_TC for f in given], [f.edges_s for f in given], spans, [f.duration_s for f in given], NAMES, PSDS2
        )

    assert detections(frames)(counts[None])[0] == pytest.approx(detections(again)(np.ones((1, 7), int))[0])
    assert np.isnan(detections(frames)(np.zeros((1, 6), int))[0])


def test_perfect_scores_are_perfect_and_equal_scores_are_chance():
    clip = Clip("a", "x", duration_s=10.0, events=(Event("dog", 1.0, 3.0), Event("cat", 4.0, 8.0)))
    exact = Frames.evenly(clip, np.zeros((100, 3)), frame_s=0.1)
    perfect = Frames.evenly(clip, exact.inside(("dog", "cat", "owl")).astype(float), frame_s=0.1)
    names = ("dog", "cat", "owl")
    result = psds([perfect], names, samples=3)
    assert [result.metrics[m].value for m in ("psds1", "psds2")] == pytest.approx([1, 1])
    assert result.protocol["classes_left_out"] == ["owl"]
    assert result.per_class["owl"] == {"n": 0, "psds1": None, "psds2": None}
    same = psds([exact], names, samples=3)
    assert [(s.value, s.chance) for s in same.metrics.values()] == [(s.chance, s.chance) for s in same.metrics.values()]
    ranked = frame_auroc([perfect], names, samples=3)
    assert [s.value for s in ranked.metrics.values()] == [1, 1]
    assert frame_auroc([exact], names, samples=3).metrics["macro_auroc"].value == 0.5


def test_events_of_one_class_that_touch_are_one():
    events = (Event("dog", 4.0, 5.0), Event("dog", 1.0, 3.0), Event("dog", 2.0, 4.0), Event("dog", 7.0, 8.0))
    frames = Frames.evenly(Clip("a", "x", events=events), np.zeros((20, 1)), frame_s=0.5)
    result = psds([frames], ["dog"], samples=1)
    assert (result.protocol["events"], result.protocol["merged_events"]) == (2, 2)
    assert result.protocol["hours"] == pytest.approx(10 / 3600)


def test_auroc_equals_scikit_learn(rng):
    for _ in range(20):
        frames = some_frames(rng, frame_s=0.4)
        inside = np.concatenate([f.inside(NAMES) for f in frames])
        scores = np.concatenate([f.scores_TC for f in frames])
        result = frame_auroc(frames, NAMES, samples=2)
        for c, name in enumerate(NAMES):
            assert result.per_class[name]["auroc"] == pytest.approx(roc_auc_score(inside[:, c], scores[:, c]))
            assert result.per_class[name]["frames"] == inside[:, c].sum()
        assert result.metrics["macro_auroc"].value == pytest.approx(roc_auc_score(inside, scores, average="macro"))
        assert result.metrics["micro_auroc"].value == pytest.approx(roc_auc_score(inside, scores, average="micro"))


def test_a_frame_is_inside_by_its_middle(rng):
    clip = some_frames(rng)[0].clip
    edges = np.cumsum([0, *rng.uniform(0.1, 1.5, 9)])
    frames = Frames(clip, np.zeros((9, 3)), edges)
    slow = [
        [any(e.label == name and e.onset_s <= (a + b) / 2 < e.offset_s for e in clip.events) for name in NAMES]
        for a, b in pairwise(edges)
    ]
    np.testing.assert_array_equal(frames.inside(NAMES), slow)


def test_clips_are_resampled_with_all_their_frames(rng):
    """Frames of one clip tell the same again and again: an interval over frames would be far too narrow."""
    frames = some_frames(rng, clips=30)
    score = frame_auroc(frames, NAMES, samples=300).metrics["micro_auroc"]
    fine = [Frames(f.clip, np.repeat(f.scores_TC, 5, axis=0), np.linspace(0, 7, 71)) for f in frames]
    finer = frame_auroc(fine, NAMES, samples=300).metrics["micro_auroc"]
    assert finer.high - finer.low == pytest.approx(score.high - score.low, rel=0.25)
    by_two = frame_auroc(frames, NAMES, groups=[n // 15 for n in range(30)], samples=50)
    assert by_two.protocol["interval"]["resampled"] == "recordings"


def test_what_does_not_fit_is_named(rng, monkeypatch):
    clip = Clip("a", "x", duration_s=4.0, events=(Event("dog", 1.0, 3.0),))
    with pytest.raises(DataError, match=r"a: scores \(4, 1\), edges \(4,\)"):
        Frames(clip, np.zeros((4, 1)), np.arange(4))
    with pytest.raises(DataError, match="1 frames have no length"):
        Frames(clip, np.zeros((2, 1)), np.array([0.0, 1.0, 1.0]))
    with pytest.raises(DataError, match="2 scores are not finite"):
        Frames.evenly(clip, np.array([[np.nan, np.inf]]), frame_s=1.0)
    frames = Frames.evenly(clip, np.zeros((4, 1)), frame_s=1.0)
    for ask in (frame_auroc, psds):
        with pytest.raises(DataError, match=r"a: 'dog' is no class; did you mean 'dogs'"):
            ask([frames], ["dogs"])
        with pytest.raises(DataError, match=r"than 2:(.|\n)*a: 1"):
            ask([frames], ["dog", "cat"])
        with pytest.raises(DataError, match="0 clips"):
            ask([], ["dog"])
        with pytest.raises(DataError, match="2 class names; expected some, each name once"):
            ask([frames], ["dog", "dog"])
        with pytest.raises(DataError, match="2 groups for 1 clips"):
            ask([frames], ["dog"], groups=[1, 2])
        silent = Frames.evenly(Clip("b", "x"), np.zeros((4, 1)), frame_s=1.0)
        with pytest.raises(DataError, match="nothing can be"):
            ask([silent], ["dog"])
        backwards = Frames.evenly(clip.with_(events=(Event("dog", 3.0, 1.0),)), np.zeros((4, 1)), frame_s=1.0)
        with pytest.raises(DataError, match=r"ends at 1\.0 s and starts at 3\.0 s"):
            ask([backwards], ["dog"])
    for wrong in ({"dtc": 0.0}, {"gtc": 1.5}, {"alpha_st": -1.0}, {"max_efpr": 0.0}):
        with pytest.raises(SpecError, match="expected shares above 0"):
            PsdsSettings(**{"dtc": 0.5, "gtc": 0.5, **wrong})
    for wrong in ({"cttc": 0.3}, {"alpha_ct": 0.5}):
        with pytest.raises(SpecError, match="give both or neither"):
            PsdsSettings(0.5, 0.5, **wrong)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'pip install "clapkit\[sed\]"'):
        psds([frames], ["dog"])
