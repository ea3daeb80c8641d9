from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    precision_score,
    recall_score,
    top_k_accuracy_score,
)

from clapkit.errors import DataError, SpecError
from clapkit.evaluation.zero_shot import class_vectors, cosines, label_matrix, zero_shot

NAMES = ["dog", "rain", "siren", "clapping", "clock tick", "crow", "frog"]


def a_task(rng, clips=90, noise=1.5):
    """Clips around their class vectors; the class "frog" has no clip."""
    text = rng.standard_normal((len(NAMES), 12))
    truth = rng.integers(0, len(NAMES) - 1, clips)
    return text[truth] + noise * rng.standard_normal((clips, 12)), truth, text


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_every_number_equals_scikit_learn(rng):
    audio, truth, text = a_task(rng)
    result = zero_shot(audio, [NAMES[t] for t in truth], NAMES, text, samples=20)
    scores = unit(audio) @ unit(text).T
    predicted, classes = scores.argmax(axis=1), range(len(NAMES))
    got = {name: score.value for name, score in result.metrics.items()}
    assert got["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert got["macro_accuracy"] == pytest.approx(recall_score(truth, predicted, average="macro", labels=range(6)))
    assert got["top5_accuracy"] == pytest.approx(top_k_accuracy_score(truth, scores, k=5, labels=classes))
    ap = [average_precision_score(truth == c, scores[:, c]) for c in range(6)]
    assert got["map"] == pytest.approx(np.mean(ap))
    for c in range(6):
        row = result.per_class[NAMES[c]]
        assert row["n"] == (truth == c).sum()
        assert row["ap"] == pytest.approx(ap[c])
        assert row["recall"] == pytest.approx(recall_score(truth == c, predicted == c))
        assert row["precision"] == pytest.approx(precision_score(truth == c, predicted == c))
        wrong = {NAMES[o]: ((truth == c) & (predicted == o)).sum() for o in classes if o != c}
        assert row["taken_for"] == {name: count for name, count in wrong.items() if count}
    assert result.confusion_CC.trace() / len(truth) == pytest.approx(got["accuracy"])


def test_a_class_without_clips_has_no_recall_and_spoils_no_mean(rng):
    audio, truth, text = a_task(rng)
    result = zero_shot(audio, [NAMES[t] for t in truth], NAMES, text, samples=20)
    assert result.per_class["frog"]["n"] == 0
    assert result.per_class["frog"]["recall"] is None
    assert result.per_class["frog"]["ap"] is None
    assert (result.protocol["classes"], result.protocol["classes_with_clips"]) == (7, 6)


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
def test_chance_is_what_a_model_without_knowledge_reaches(rng):
    truth = np.repeat(np.arange(6), 20)
    labels = [NAMES[t] for t in truth]
    constant = zero_shot(np.ones((120, 5)), labels, NAMES, np.ones((7, 5)), samples=20)
    for name, score in constant.metrics.items():
        assert score.value == pytest.approx(score.chance), name
    random = [zero_shot(rng.standard_normal((120, 9)), labels, NAMES, rng.standard_normal((7, 9)), samples=1)
              for _ in range(60)]  # fmt: skip
    for name, score in constant.metrics.items():
        assert np.mean([r.metrics[name].value for r in random]) == pytest.approx(score.chance, rel=0.1), name


def test_several_labels_a_clip_give_map_only(rng):
    audio, _, text = a_task(rng)
    relevant = rng.random((90, 7)) < 0.2
    relevant[0], relevant[:, 6] = False, False
    labels = [{NAMES[c] for c in np.flatnonzero(row)} for row in relevant]
    result = zero_shot(audio, labels, NAMES, text, samples=20)
    scores = unit(audio) @ unit(text).T
    ap = [average_precision_score(relevant[:, c], scores[:, c]) for c in range(6)]
    assert set(result.metrics) == {"map"}
    assert result.metrics["map"].value == pytest.approx(np.mean(ap))
    assert result.per_class["dog"] == {"n": relevant[:, 0].sum(), "ap": pytest.approx(ap[0])}
    assert result.confusion_CC is None


@pytest.mark.parametrize("clips", [1, 3])
def test_one_class_and_one_clip_are_no_special_case(clips):
    result = zero_shot(np.ones((clips, 2)), ["dog"] * clips, ["dog"], np.ones((1, 2)))
    assert {(s.value, s.low, s.high, s.chance) for s in result.metrics.values()} == {(1.0, 1.0, 1.0, 1.0)}


def test_recordings_widen_the_interval(rng):
    audio, truth, text = a_task(rng, clips=15)
    labels = [NAMES[t] for t in np.repeat(truth, 8)]
    by_clip = zero_shot(np.repeat(audio, 8, axis=0), labels, NAMES, text)
    by_recording = zero_shot(np.repeat(audio, 8, axis=0), labels, NAMES, text, groups=np.repeat(range(15), 8).tolist())
    narrow, wide = by_clip.metrics["accuracy"], by_recording.metrics["accuracy"]
    assert narrow.value == wide.value
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    assert by_clip.protocol["interval"]["resampled"] == "clips"
    assert (by_recording.protocol["interval"]["resampled"], by_recording.protocol["recordings"]) == ("recordings", 15)


def test_the_length_of_vectors_does_not_matter(rng):
    audio, truth, text = a_task(rng)
    labels = [NAMES[t] for t in truth]
    scaled = zero_shot(audio * rng.uniform(0.1, 9, (90, 1)), labels, NAMES, text * rng.uniform(0.1, 9, (7, 1)))
    assert scaled.to_json() == zero_shot(audio, labels, NAMES, text).to_json()
    json.dumps(scaled.to_json(), allow_nan=False)


def test_equal_vectors_score_exactly_the_same_wherever_they_stand(rng):
    audio, text = rng.standard_normal((301, 64)), rng.standard_normal((1, 64))
    scores = cosines(audio, np.repeat(text, 130, axis=0), rows="a", columns="t")
    assert (scores == scores[:, :1]).all()


def test_class_vectors_are_the_mean_of_unit_sentences(rng):
    memory, calls = {}, []

    def embed_text(sentences):
        calls.append(sentences)
        return np.stack([memory.setdefault(s, rng.standard_normal(6) * 10) for s in sentences])

    got = class_vectors(embed_text, ["dog", "rain"], ["the sound of {}", "{} outside"])
    assert calls == [["the sound of dog", "dog outside", "the sound of rain", "rain outside"]]
    slow = [sum(memory[s] / np.linalg.norm(memory[s]) for s in calls[0][i : i + 2]) for i in (0, 2)]
    np.testing.assert_allclose(got, unit(np.stack(slow)), atol=1e-6)
    one = class_vectors(embed_text, ["dog"], ["the sound of {}"])
    np.testing.assert_allclose(one, unit(memory["the sound of dog"][None]), atol=1e-6)


def test_class_vectors_refuse_what_they_cannot_use():
    def embed_text(sentences):
        return np.eye(4)[: len(sentences)]

    with pytest.raises(SpecError, match="'no place'"):
        class_vectors(embed_text, ["dog"], ["no place"])
    with pytest.raises(SpecError, match="0 class names"):
        class_vectors(embed_text, [], ["{}"])
    with pytest.raises(SpecError, match="expected a list of each"):
        class_vectors(embed_text, ["dog"], "{}")
    with pytest.raises(DataError, match="1 vectors for 2 sentences"):
        class_vectors(lambda _: np.ones((1, 4)), ["dog", "cat"], ["{}"])
    with pytest.raises(DataError, match="class vectors are zero"):
        class_vectors(lambda _: np.array([[1.0, 0], [-1.0, 0]]), ["dog"], ["{}", "a {}"])


def test_labels_that_are_no_class_are_told_all_at_once():
    with pytest.raises(DataError, match=r"(?s)2 label\(s\).*'dgo'.*did you mean 'dog'.*'sea'"):
        label_matrix(["dog", "dgo", "sea"], NAMES)
    with pytest.raises(DataError, match=r"(?s)found.*clip 1: 5"):
        label_matrix(["dog", 5], NAMES)
    with pytest.raises(DataError, match=r"(?s)each once.*dog"):
        label_matrix(["dog"], ["dog", "dog"])
    with pytest.raises(DataError, match="0 class names"):
        label_matrix(["dog"], [])
    with pytest.raises(DataError, match="no clips"):
        label_matrix([], NAMES)


def test_arrays_that_do_not_fit_are_named(rng):
    audio, text = rng.standard_normal((3, 5)), rng.standard_normal((7, 5))
    with pytest.raises(DataError, match="3 clips and 7 class vectors, but 2 labels and 7 class names"):
        zero_shot(audio, ["dog", "dog"], NAMES, text)
    with pytest.raises(DataError, match="audio_ND has 5 columns and class_text_CD has 4"):
        zero_shot(audio, ["dog"] * 3, NAMES, text[:, :4])
    with pytest.raises(DataError, match="2 groups for 3 items"):
        zero_shot(audio, ["dog"] * 3, NAMES, text, groups=["a", "b"])
    audio[1] = np.nan
    with pytest.raises(DataError, match=r"audio_ND are not finite: leave out.*rows 1"):
        zero_shot(audio, ["dog"] * 3, NAMES, text)


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
def test_macro_accuracy_is_balanced_accuracy(rng):
    audio, truth, text = a_task(rng, noise=3)
    result = zero_shot(audio, [NAMES[t] for t in truth], NAMES, text, samples=1)
    predicted = (unit(audio) @ unit(text).T).argmax(axis=1)
    assert result.metrics["macro_accuracy"].value == pytest.approx(balanced_accuracy_score(truth, predicted))
