"""The text tower that learns to read: its tokens are a pretrained encoder's, its order is its own."""

from __future__ import annotations

import pytest
import torch

from clapkit.errors import TextTowerError
from clapkit.spec import from_json, to_json
from clapkit.towers import pretrained
from clapkit.towers.hf import TransformersText
from clapkit.towers.pretrained import RecurrentText, pretrained_words


def lively() -> RecurrentText:
    torch.manual_seed(0)
    return pretrained.tiny.build().eval()


@torch.no_grad()
def test_summary_is_the_mean_of_the_tokens_and_their_course():
    tower, ids = lively(), torch.tensor([[5, 9, 2, 7]])
    out = tower(ids, torch.ones(1, 4))
    frames = tower.norm(tower.embedding.weight[ids[0]])
    torch.testing.assert_close(out.frames_BTD[0], frames)
    course = tower.course(frames[None], torch.ones(1, 4, dtype=torch.bool))[0]
    torch.testing.assert_close(out.summary_BD[0], torch.cat([frames.mean(0), course]))
    assert tower.width == out.summary_BD.shape[1] == 32 + 2 * 16


@torch.no_grad()
def test_padding_changes_nothing_and_order_changes_the_course_alone():
    tower = lively()
    alone = tower(torch.tensor([[5, 9, 2]]), torch.ones(1, 3)).summary_BD
    padded = tower(torch.tensor([[5, 9, 2, 0, 0]]), torch.tensor([[1, 1, 1, 0, 0]])).summary_BD
    torch.testing.assert_close(padded, alone, rtol=0, atol=1e-6)
    turned = tower(torch.tensor([[2, 9, 5]]), torch.ones(1, 3)).summary_BD
    torch.testing.assert_close(turned[:, :32], alone[:, :32], rtol=0, atol=1e-6)
    assert (turned - alone).abs().max() > 1e-2


def test_vectors_of_tokens_are_those_of_the_encoder_and_do_not_learn(tiny_text_folder, monkeypatch):
    monkeypatch.setattr(pretrained, "find_text_model", lambda name: tiny_text_folder)
    tower = pretrained_words("any", hidden=8, max_tokens=20)
    table = TransformersText.from_folder(tiny_text_folder).encoder.get_input_embeddings().weight
    assert torch.equal(tower.embedding.weight, table)
    assert tower.folder == tiny_text_folder
    tower(torch.tensor([[5, 9]]), torch.ones(1, 2)).summary_BD.sum().backward()
    assert {name.partition(".")[0] for name, p in tower.named_parameters() if p.grad is not None} == {"norm", "course"}


def test_its_spec_builds_what_its_weights_fit(tiny_text_folder, monkeypatch):
    monkeypatch.setattr(pretrained, "find_text_model", lambda name: tiny_text_folder)
    tower = pretrained_words("any", hidden=8, max_tokens=20)
    again = from_json(to_json(tower.spec())).build()
    again.load_state_dict(tower.state_dict())
    ids = torch.tensor([[5, 9, 2]])
    assert torch.equal(again(ids, torch.ones(1, 3)).summary_BD, tower(ids, torch.ones(1, 3)).summary_BD)
    assert again.max_tokens == 20


def test_a_text_that_is_too_long_is_refused():
    with pytest.raises(TextTowerError, match="129 tokens long, at most 128"):
        lively()(torch.zeros(1, 129, dtype=torch.int64), torch.ones(1, 129))
