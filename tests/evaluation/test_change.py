"""Before and after: paired differences, and how far vectors have moved."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console

from clapkit.errors import DataError
from clapkit.evaluation.change import TEXTS, Change, Heard, compare, hits, mean_cosine
from clapkit.evaluation.metrics import bootstrap_interval
from clapkit.evaluation.zero_shot import zero_shot

NAMES = ("bell", "dog", "rain")


@pytest.fixture
def sides(rng):
    """Two models that hear 60 clips, the second better; (labels, before, after)."""
    text = np.eye(3, 8)
    truth = rng.integers(0, 3, 60)
    labels = [NAMES[t] for t in truth]
    groups = [f"recording {i // 2}" for i in range(60)]
    noise = rng.standard_normal((60, 8))

    def side(amount):
        audio = text[truth] + amount * noise
        found = zero_shot(audio, labels, NAMES, text, groups=groups)
        ids = tuple(f"clip{i}" for i in range(60))
        return Heard(ids, audio, {"zero-shot": found}, hits(audio, labels, NAMES, text), groups)

    return labels, side(1.0), side(0.4)


def test_gain_is_the_difference_of_the_accuracies_with_a_paired_interval(sides):
    _, before, after = sides
    compared = compare("new", before, after)
    accuracies = [side.results["zero-shot"].metrics["accuracy"].value for side in (before, after)]
    assert compared.gain.value == pytest.approx(accuracies[1] - accuracies[0]) and compared.gain.value > 0.1
    low, high = bootstrap_interval(after.hits_N - before.hits_N, groups=before.groups)
    assert (compared.gain.low, compared.gain.high) == (low, high)
    nothing = compare("new", before, before)
    assert (nothing.gain.value, nothing.gain.low, nothing.gain.high) == (0, 0, 0)
    assert nothing.cosine == pytest.approx(1.0)


def test_without_single_labels_there_is_no_gain_but_the_way_that_vectors_went(sides):
    _, before, after = sides
    bare = [Heard(side.ids, side.audio_ND) for side in (before, after)]
    compared = compare("old", *bare)
    assert compared.gain is None and compared.cosine == mean_cosine(before.audio_ND, after.audio_ND)


def test_mean_cosine_does_not_see_lengths(rng):
    a = rng.standard_normal((5, 4))
    assert mean_cosine(a, 3 * a) == pytest.approx(1.0)
    assert mean_cosine(a, -a) == pytest.approx(-1.0)
    b = rng.standard_normal((5, 4))
    slow = np.mean([x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b, strict=True)])
    assert mean_cosine(a, b) == pytest.approx(slow, abs=1e-6)


def test_other_clips_are_refused_by_name(sides):
    _, before, after = sides
    fewer = Heard(after.ids[1:], after.audio_ND[1:])
    with pytest.raises(DataError, match="60 clips before and 59 after") as caught:
        compare("new", before, fewer)
    assert list(caught.value.problems) == ["clip0"]


def test_json_and_table_show_what_was_measured(sides):
    _, before, after = sides
    change = Change((compare("new", before, after),), 0.98765, {"start": "space-a", "result": "space-b"})
    told = json.loads(json.dumps(change.to_json(), allow_nan=False))
    assert told["start"] == "space-a" and told["texts_cosine"] == 0.98765
    assert told["sets"]["new"]["n"] == 60 and told["sets"]["new"]["gain"]["low"] > 0
    assert set(told["sets"]["new"]["before"]["zero-shot"]["metrics"]) >= {"accuracy", "map"}
    console = Console(file=io.StringIO(), width=140)
    console.print(change.table())
    shown = console.file.getvalue()
    gain = change.sets[0].gain
    for words in ("new (60)", "accuracy", "0.988", f"{100 * gain.value:+.1f} ({100 * gain.low:+.1f} to"):
        assert words in shown
    assert "map" not in shown, "beside the accuracy it is in the file only"


def test_the_fixed_texts_are_different_ones():
    assert len(set(TEXTS)) == len(TEXTS) >= 30
