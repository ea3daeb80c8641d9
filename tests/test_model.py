"""The dual encoder: unit vectors, real samples only, frozen text, one temperature."""

from __future__ import annotations

import math

import pytest
import torch

from clapkit import native
from clapkit.errors import SpecError
from clapkit.model import Windowing
from clapkit.spec import derive


@pytest.fixture(scope="module")
def model(tiny_recipe):
    torch.manual_seed(2)
    return tiny_recipe.model.build().eval()


def sounds(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    samples = torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(1)) * 0.1
    return samples, torch.tensor(lengths)


def test_vectors_have_unit_norm_and_the_dimension(model):
    with torch.no_grad():
        audio = model.encode_audio(*sounds(4000, 3000))
        text = model.encode_text(torch.tensor([[1, 50, 60, 2]]), torch.ones(1, 4, dtype=torch.bool))
    assert audio.shape == (2, 16) and text.shape == (1, 16) and model.dimension == 16
    torch.testing.assert_close(audio.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(text.norm(dim=1), torch.ones(1))
    torch.testing.assert_close(model.similarity(audio, text), audio @ text.T)


def test_what_lies_behind_the_end_of_a_clip_changes_nothing(model):
    samples, lengths = sounds(4000, 2500)
    with torch.no_grad():
        noisy = model.encode_audio(samples, lengths)
        samples[1, 2500:] = 0
        silent = model.encode_audio(samples, lengths)
        alone = model.encode_audio(samples[1:, :2500])
    torch.testing.assert_close(noisy, silent, atol=1e-6, rtol=0)
    torch.testing.assert_close(alone[0], silent[1], atol=1e-5, rtol=0)


def test_the_temperature_starts_where_it_is_told_and_ends_at_a_hundredth(tiny_recipe):
    model = tiny_recipe.with_set("model.temperature", 0.2).model.build()
    assert model.scale.item() == pytest.approx(5.0)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(5000.0))
    assert model.scale.item() == pytest.approx(100.0)


def test_a_fixed_temperature_is_not_learnt(tiny_recipe):
    fixed = tiny_recipe.with_set("model.fixed_temperature", True).model.build()
    assert "logit_scale" not in dict(fixed.learnt())
    assert "logit_scale" in dict(tiny_recipe.model.build().learnt())


def test_a_bias_learns_and_moves_no_vector(tiny_recipe):
    torch.manual_seed(0)
    plain = tiny_recipe.model.build()
    torch.manual_seed(0)
    with_bias = derive(tiny_recipe.model, pair_bias=-4.0)
    model = with_bias.build()
    assert plain.bias is None and model.bias.item() == -4.0
    assert "bias" in dict(model.learnt())
    before = native.space_id(model, with_bias)
    with torch.no_grad():
        model.bias += 1.0
    assert native.space_id(model, with_bias) == before == native.space_id(plain, tiny_recipe.model)


def test_frozen_text_stays_in_eval_mode_and_takes_no_gradient(tiny_recipe):
    frozen = tiny_recipe.model.build().train()
    assert frozen.audio.training and not any(m.training for m in frozen.text.modules())
    assert not any(name.startswith("text.") for name, _ in frozen.learnt())
    assert any(name.startswith("text_head.") for name, _ in frozen.learnt())
    ids, mask = torch.tensor([[1, 50, 2]]), torch.ones(1, 3, dtype=torch.bool)
    assert not frozen.text_features(ids, mask).requires_grad and frozen.encode_text(ids, mask).requires_grad
    learning = tiny_recipe.with_set("model.frozen_text", False).model.build().train()
    assert learning.text.training and learning.text_features(ids, mask).requires_grad


def test_settings_that_make_no_sense_are_refused(tiny_recipe):
    with pytest.raises(SpecError, match="temperature has to be above 0, not -1"):
        tiny_recipe.with_set("model.temperature", -1.0).model.build()
    with pytest.raises(SpecError, match=r"hop_s=3\.0 has to be above 0 and at most window_s=2\.0"):
        Windowing(window_s=2.0, hop_s=3.0)
