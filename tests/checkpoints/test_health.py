"""A file that loads can still be broken; `health.problems` says how."""

from __future__ import annotations

import pytest
import torch

from clapkit.checkpoints.health import problems
from clapkit.checkpoints.load import read_model


@pytest.fixture
def loaded(small_clap):
    return read_model(small_clap)


def test_a_healthy_model_has_nothing_to_say(loaded):
    assert problems(loaded) == []


def test_texts_that_are_all_alike(loaded):
    """As in a public port: the last layer of the language side says the same whatever it is asked."""
    with torch.no_grad():
        loaded.model.text_head.linear2.weight.mul_(1e-4)
        loaded.model.text_head.linear2.bias.fill_(1.0)
    (said,) = problems(loaded)
    assert said.startswith("the text vectors are all alike") and "1.0000" in said


def test_sounds_that_are_all_alike(loaded):
    with torch.no_grad():
        loaded.model.audio_head.linear2.weight.zero_()
        loaded.model.audio_head.linear2.bias.fill_(1.0)
    assert [s.split(":")[0] for s in problems(loaded)] == ["the sound vectors are all alike"]


def test_weights_that_are_no_numbers(loaded):
    with torch.no_grad():
        loaded.model.audio_head.linear1.bias[3] = float("nan")
    assert problems(loaded) == ["audio_head.linear1.bias holds numbers that are not finite"]


def test_a_model_without_texts_is_judged_by_its_sound(loaded):
    loaded.model.text = loaded.model.text_head = None
    assert problems(loaded) == []


def test_a_small_vocabulary_is_not_left(loaded):
    """Without a tokenizer the texts are token ids, and none may lie behind the table of words."""
    words = loaded.model.text.encoder.get_input_embeddings()
    words.weight = torch.nn.Parameter(words.weight[:60].clone())
    words.num_embeddings = 60
    assert problems(loaded) == []
