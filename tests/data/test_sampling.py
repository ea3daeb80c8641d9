"""The order of clips: every clip once an epoch, known without history."""

from __future__ import annotations

import numpy as np
import pytest

from clapkit.data.clip import Clip
from clapkit.data.sampling import ORDER, TEXTS, Shuffled, grouped, stream
from clapkit.errors import DataError


@pytest.mark.parametrize(("count", "batch"), [(10, 4), (7, 7), (5, 8), (1, 3), (64, 16)])
def test_every_epoch_is_a_permutation_whatever_the_batch(count, batch):
    """Batches run on across the ends of epochs, so the joined batches are cut into epochs again."""
    steps = -(-3 * count // batch)
    rows = np.concatenate([Shuffled().rows(count, batch, step, 1) for step in range(steps)])
    for epoch in range(3):
        assert sorted(rows[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_epochs_and_seeds_differ():
    epochs = [tuple(Shuffled().rows(20, 20, step, 0)) for step in range(5)]
    seeds = [tuple(Shuffled().rows(20, 20, 0, seed)) for seed in range(1, 5)]
    assert len({*epochs, *seeds}) == 9


def test_a_batch_needs_no_history():
    forwards = [Shuffled().rows(10, 3, step, 5).tolist() for step in range(8)]
    assert [Shuffled().rows(10, 3, step, 5).tolist() for step in reversed(range(8))] == forwards[::-1]


def test_no_clips_are_an_error():
    with pytest.raises(DataError, match="no clip to draw from"):
        Shuffled().rows(0, 4, 0, 0)


def test_streams_are_independent_and_repeatable():
    draws = {stream(*at).random() for at in [(0, ORDER, 1), (0, TEXTS, 1), (1, ORDER, 1), (0, ORDER, 2), (0, ORDER)]}
    assert len(draws) == 5
    assert stream(3, TEXTS, 4, 5).random() == stream(3, TEXTS, 4, 5).random()


def test_clips_are_grouped_by_label_split_column_or_manifest():
    clips = [
        Clip("a", "x", label="dog", split="train", meta={"place": "b", "source": "tape"}, provenance=("one",)),
        Clip("b", "x", label="cat", split="test", meta={"place": 3, "source": None}, provenance=("two",)),
        Clip("c", "x", label="dog", split="test", meta={"place": "b"}, provenance=("two",)),
    ]
    named = {
        column: {k: v.tolist() for k, v in grouped(clips, column).items()} for column in ("label", "split", "place")
    }
    assert named == {
        "label": {"cat": [1], "dog": [0, 2]},
        "split": {"test": [1, 2], "train": [0]},
        "place": {"3": [1], "b": [0, 2]},
    }
    assert list(grouped(clips, "source")) == ["tape", "two"], "a column goes before the name of the manifest"


def test_clips_without_a_value_are_named():
    clips = [Clip("a", "x", meta={"place": "hall"}), Clip("b", "x", meta={"place": " "}), Clip("c", "x")]
    with pytest.raises(DataError, match="2 of 3 clips have no 'place'") as caught:
        grouped(clips, "place")
    assert caught.value.problems == ("b", "c")
