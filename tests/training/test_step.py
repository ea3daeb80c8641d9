"""One step: the losses of a batch, and what is changed on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from clapkit.data.batches import Batch
from clapkit.objectives.base import Embeddings
from clapkit.objectives.contrast import InfoNCE
from clapkit.training.optim import autocast, build_optimizer, resolve_precision
from clapkit.training.step import batch_features, plain_step
from clapkit.views.spectrogram import SpecAugment

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Number:
    """Frames become the number that was drawn, so that it shows which were given to the view."""

    adds: ClassVar[tuple[str, ...]] = ()
    domain: ClassVar[str] = "mel"

    def apply(self, mel_TF, params, pool):
        return np.full_like(mel_TF, params["number"])


@pytest.fixture(scope="module")
def model(tiny_recipe):
    torch.manual_seed(1)
    return tiny_recipe.model.build().train()


def batch(lengths=(4000, 2000, 1000), *, mel_params=()) -> Batch:
    rng = np.random.default_rng(4)
    samples = np.zeros((len(lengths), 4000), np.float32)
    for row, length in zip(samples, lengths, strict=True):
        row[:length] = 0.1 * rng.standard_normal(length)
    ids, texts = tuple("abc"[: len(lengths)]), ("x", "y")
    target = np.array([[1, 0], [0, 1], [0.5, 0.5]], np.float32)
    return Batch(0, ids, samples, np.array(lengths), texts, target, mel_params)


def encode_texts(texts):
    made = torch.arange(16.0).expand(len(texts), 16) + torch.arange(len(texts))[:, None] ** 2
    return torch.nn.functional.normalize(made.sin(), dim=-1)


def test_features_are_those_of_the_front_end(model):
    given = batch()
    features = batch_features(model, given, ())
    alone = model.frontend(torch.from_numpy(given.samples_BN[1:2, :2000]), None)
    count = int(features.mask_BT[1].sum())
    torch.testing.assert_close(features.values[1, :count], alone.values[0, :count], atol=1e-4, rtol=0)
    assert not features.values.requires_grad


def test_mel_views_change_the_real_frames_of_each_clip_alone(model):
    plain = batch_features(model, batch(), ())
    params = (tuple({"number": 10.0 * b} for b in range(3)),)
    changed = batch_features(model, batch(mel_params=params), (Number(),))
    for b in range(3):
        count = int(plain.mask_BT[b].sum())
        assert (changed.values[b, :count] == 10.0 * b).all()
        assert torch.equal(changed.values[b, count:], plain.values[b, count:]), "padding is left alone"
    assert torch.equal(changed.mask_BT, plain.mask_BT)


def test_mel_views_follow_each_other(model):
    nothing = ({"time": [], "frequency": []},) * 3
    params = (tuple({"number": 1.0} for _ in range(3)), nothing)
    changed = batch_features(model, batch(mel_params=params), (Number(), SpecAugment()))
    assert (changed.values[0] == 1.0).all()


def test_losses_are_the_objective_of_the_embeddings(model):
    model.eval()
    given = batch()
    losses = plain_step(model, InfoNCE(), given, encode_texts=encode_texts)
    audio_BD = model.encode_features(batch_features(model, given, ()))
    z = Embeddings(audio_BD, encode_texts(given.texts), model.scale, torch.from_numpy(given.soft_target_BU))
    assert {k: v.item() for k, v in losses.items()} == {k: v.item() for k, v in InfoNCE()(z).items()}


def test_the_gradient_reaches_the_audio_side_and_the_scale_but_no_frozen_text(model):
    model.train()
    sum(plain_step(model, InfoNCE(), batch(), encode_texts=encode_texts).values()).backward()
    for name, parameter in model.named_parameters():
        if name.startswith(("audio", "logit_scale")):
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        if name.startswith("text."):
            assert parameter.grad is None and not parameter.requires_grad, name
    model.zero_grad()


def test_bf16_computes_the_towers_coarsely_and_the_loss_in_full(model):
    model.eval()
    full = plain_step(model, InfoNCE(), batch(), encode_texts=encode_texts)
    half = plain_step(model, InfoNCE(), batch(), encode_texts=encode_texts, precision="bf16")
    for name in full:
        assert half[name].dtype == torch.float32
        assert half[name].item() == pytest.approx(full[name].item(), rel=0.05)
    assert any(half[name] != full[name] for name in full)


def test_weight_decay_spares_norms_biases_and_the_temperature(model, tiny_recipe):
    settings = tiny_recipe.train
    decayed, spared = build_optimizer(model, settings).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (settings.weight_decay, 0.0)
    assert decayed["betas"] == (settings.beta1, settings.beta2)
    assert {p.ndim for p in spared["params"]} == {0, 1} and min(p.ndim for p in decayed["params"]) == 2
    learnt = {id(p) for _, p in model.learnt()}
    assert {id(p) for g in (decayed, spared) for p in g["params"]} == learnt
    assert id(model.logit_scale) in {id(p) for p in spared["params"]}


def test_precision_is_taken_at_its_word_or_chosen_for_the_device():
    assert resolve_precision("fp32", CPU) == "fp32" and resolve_precision("bf16", CPU) == "bf16"
    assert resolve_precision("auto", CPU) in ("fp32", "bf16")
    assert resolve_precision("auto", torch.device("meta")) == "fp32"
    for precision, expected in [("bf16", torch.bfloat16), ("fp32", torch.float32)]:
        with autocast(precision, CPU):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected
