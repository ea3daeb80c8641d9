"""Cached embeddings of a frozen text tower equal those computed anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clapkit.files import cache_folder
from clapkit.text.tokenizers import TextTokenizer
from clapkit.training.text_features import TextFeatures

TEXTS = ["a dog barks", "rain", "a very long sentence about the wind in the trees", "", "rain"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLAPKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model(tiny_recipe):
    return tiny_recipe.model.build()


@pytest.fixture
def tokenizer(tiny_text_folder):
    return TextTokenizer(tiny_text_folder)


def alone(model, tokenizer, text) -> torch.Tensor:
    ids, mask = tokenizer.encode([text])
    with torch.no_grad():
        return model.text_features(torch.from_numpy(ids), torch.from_numpy(mask))[0]


def counting(monkeypatch) -> list[str]:
    computed = []
    real = TextFeatures._compute

    def compute(self, texts, progress):
        computed.extend(texts)
        return real(self, texts, progress)

    monkeypatch.setattr(TextFeatures, "_compute", compute)
    return computed


def test_equal_each_text_encoded_alone(model, tokenizer):
    features = TextFeatures(model, tokenizer)
    features.prepare(TEXTS)
    order = ["rain", "", "a dog barks", "rain"]
    expected = torch.stack([alone(model, tokenizer, text) for text in order])
    torch.testing.assert_close(features(order), expected, atol=1e-5, rtol=0)


def test_are_read_from_disk_the_second_time(model, tokenizer, monkeypatch):
    first = TextFeatures(model, tokenizer)
    first.prepare(TEXTS)
    computed = counting(monkeypatch)
    second = TextFeatures(model, tokenizer)
    second.prepare(TEXTS)
    assert computed == [] and torch.equal(first(TEXTS), second(TEXTS))


def test_another_tower_has_features_of_its_own(model, tokenizer, monkeypatch):
    TextFeatures(model, tokenizer).prepare(TEXTS)
    computed = counting(monkeypatch)
    with torch.no_grad():
        next(model.text.parameters()).add_(0.1)
    TextFeatures(model, tokenizer).prepare(TEXTS)
    assert computed == list(dict.fromkeys(TEXTS))


@pytest.mark.parametrize("damage", [b"", b"no numbers", None], ids=["empty", "text", "another shape"])
def test_a_damaged_file_is_computed_again(model, tokenizer, damage):
    first = TextFeatures(model, tokenizer)
    first.prepare(TEXTS)
    (path,) = (cache_folder() / "text").iterdir()
    if damage is None:
        np.save(path, np.zeros((2, 2), np.float32))
    else:
        path.write_bytes(damage)
    again = TextFeatures(model, tokenizer)
    again.prepare(TEXTS)
    assert torch.equal(again(TEXTS), first(TEXTS))
    assert np.load(path).shape == (4, 32)


def test_late_texts_are_the_same_bits_in_any_company(model, tokenizer):
    together, apart = TextFeatures(model, tokenizer), TextFeatures(model, tokenizer)
    many = together(TEXTS)
    for text, expected in zip(reversed(TEXTS), reversed(many), strict=True):
        assert torch.equal(apart([text])[0], expected)


def test_progress_counts_the_texts(model, tokenizer):
    told = []
    TextFeatures(model, tokenizer).prepare([str(i) for i in range(70)], progress=lambda *at: told.append(at))
    assert told == [(64, 70), (70, 70)]


def test_the_same_weights_read_in_another_way_have_a_file_of_their_own(model, tokenizer):
    """Pooling and tokenizer are no weights, and yet they make the features."""
    TextFeatures(model, tokenizer).prepare(TEXTS)
    model.text.pooling = "cls"
    cls = TextFeatures(model, tokenizer)
    cls.prepare(TEXTS)
    ids, mask = tokenizer.encode(TEXTS[:1])
    expected = model.text.encoder(torch.from_numpy(ids), torch.from_numpy(mask).long()).last_hidden_state[0, 0]
    assert torch.allclose(cls(TEXTS)[0], expected, atol=1e-5)
    tokenizer.max_tokens = 4
    tokenizer._tokenizer.enable_truncation(max_length=4)
    TextFeatures(model, tokenizer).prepare(TEXTS)
    assert len(list((cache_folder() / "text").iterdir())) == 3
