"""The sigmoid loss against loops, logistic regression and itself in chunks."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch
from crowded import batch, counted, crowded, own, target, unit
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from clapkit.errors import ClapkitError, SpecError
from clapkit.objectives.base import Embeddings
from clapkit.objectives.sigmoid import PairwiseSigmoid


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def by_loops(z: Embeddings, *, labels: str) -> float:
    def cost(a, t, y: float) -> float:
        p = 1 / (1 + math.exp(-float(z.scale * a @ t + z.bias)))
        return -y * math.log(p) - (1 - y) * math.log(1 - p)

    total = 0.0
    for b, a in enumerate(z.audio_BD):
        for u, t in enumerate(z.text_UD):
            share = z.target_BU()[b, u].item()
            if counted(z, b, u):
                total += cost(a, t, share if labels == "soft" else float(share > 0))
        shared = [] if z.text_negative_ED is None else list(z.text_negative_ED)
        total += sum(cost(a, t, 0.0) for t in shared + own(z.text_private_BKD, z.private_BK, b))
    for u, t in enumerate(z.text_UD):
        shared = [] if z.audio_negative_FD is None else list(z.audio_negative_FD)
        total += sum(cost(a, t, 0.0) for a in shared + own(z.audio_private_UKD, z.audio_private_UK, u))
    return total / len(z.audio_BD)


@pytest.mark.parametrize("make", [crowded, batch, lambda **more: batch(5, 5, soft_target_BU=None, **more)])
@pytest.mark.parametrize("labels", ["multi", "soft"])
@pytest.mark.parametrize("chunk_rows", [None, 1, 3, 100])
def test_equals_the_loops(make, labels, chunk_rows):
    z = replace(make(), bias=number(-2.0))
    parts = PairwiseSigmoid(labels, chunk_rows)(z)
    assert parts["sigmoid"].item() == pytest.approx(by_loops(z, labels=labels), rel=1e-12)


@pytest.mark.parametrize("chunk_rows", [1, 2, 3])
def test_chunks_change_neither_loss_nor_gradient(chunk_rows):
    found = []
    for size in (None, chunk_rows):
        z = replace(crowded(), bias=number(-2.0))
        learned = {f.name: getattr(z, f.name) for f in fields(z) if f.name.endswith("D") or f.name in ("scale", "bias")}
        learned = {k: v.clone().requires_grad_() for k, v in learned.items() if v is not None and "teacher" not in k}
        loss = PairwiseSigmoid("soft", size)(replace(z, **learned))["sigmoid"]
        loss.backward()
        found.append([loss.detach(), *(v.grad for v in learned.values())])
    for whole, chunked in zip(*found, strict=True):
        torch.testing.assert_close(chunked, whole, rtol=1e-12, atol=1e-12)


class Largest(TorchDispatchMode):
    """Remembers the most numbers that any tensor made under it has."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for value in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(value, torch.Tensor):
                self.numbers = max(self.numbers, value.numel())
        return made


def test_in_chunks_the_logits_never_exist_whole():
    clips, width, chunk_rows = 64, 8, 4
    audio, text = unit(clips, width, seed=1).requires_grad_(), unit(clips, width, seed=2).requires_grad_()
    for size, most in ((None, clips * clips), (chunk_rows, max(chunk_rows * clips, clips * width))):
        with Largest() as largest:
            PairwiseSigmoid(chunk_rows=size)(Embeddings(audio, text, number(5.0), bias=number(-3.0)))[
                "sigmoid"
            ].backward()
        assert largest.numbers == most


def test_is_logistic_regression_on_pairs():
    z = batch(4, 4, soft_target_BU=None, bias=number(-1.5))
    logits = z.scale * z.audio_BD @ z.text_UD.T + z.bias
    textbook = functional.binary_cross_entropy_with_logits(logits, torch.eye(4, dtype=torch.float64), reduction="sum")
    torch.testing.assert_close(PairwiseSigmoid()(z)["sigmoid"], textbook / 4)


def test_scale_zero_leaves_the_bias():
    z = batch(6, 6, soft_target_BU=None, scale=0.0, bias=number(-10.0))
    expected = 5 * math.log1p(math.exp(-10)) + math.log1p(math.exp(10))
    assert PairwiseSigmoid()(z)["sigmoid"].item() == pytest.approx(expected, rel=1e-12)


def test_is_a_sum_over_blocks_of_texts():
    z = batch(4, 6, bias=number(-2.0))
    halves = [
        replace(z, text_UD=z.text_UD[block], soft_target_BU=z.soft_target_BU[:, block])
        for block in (slice(0, 2), slice(2, 6))
    ]
    objective = PairwiseSigmoid("soft")
    torch.testing.assert_close(objective(z)["sigmoid"], sum(objective(half)["sigmoid"] for half in halves))


def test_one_negative_with_equal_scores_costs_twice_the_logarithm_of_two():
    """Binary NCE with one negative at score 0 (card 032)."""
    z = Embeddings(unit(1), unit(1), number(0.0), bias=number(0.0), text_negative_ED=unit(1, seed=2))
    assert PairwiseSigmoid()(z)["sigmoid"].item() == pytest.approx(2 * math.log(2))


def test_each_of_two_true_texts_is_asked_for_in_full():
    """Shared out in halves, both answers are 1 for "multi"; for "soft" a probability of one half is best."""
    half = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    z = Embeddings(unit(1), unit(1).expand(2, -1), number(20.0), half, number(0.0))
    assert PairwiseSigmoid()(z)["sigmoid"].item() == pytest.approx(0.0, abs=1e-8)
    undecided = PairwiseSigmoid("soft")(replace(z, scale=number(0.0)))["sigmoid"].item()
    assert undecided == pytest.approx(2 * math.log(2))
    assert PairwiseSigmoid("soft")(z)["sigmoid"].item() > undecided


@pytest.mark.parametrize("chunk_rows", [None, 2])
def test_the_gradient_is_that_of_the_formula(chunk_rows):
    inputs = [unit(3, seed=1), unit(4, seed=2), number(3.0), number(-1.0), unit(2, seed=3)]

    def loss(audio, text, scale, bias, negatives):
        z = Embeddings(audio, text, scale, target(3, 4), bias, negatives)
        return PairwiseSigmoid("soft", chunk_rows)(z)["sigmoid"]

    assert torch.autograd.gradcheck(loss, [x.requires_grad_() for x in inputs])


def test_a_batch_that_does_not_fit_and_wrong_settings_are_refused():
    with pytest.raises(ClapkitError, match="PairwiseSigmoid needs a bias, and this batch has none"):
        PairwiseSigmoid()(batch())
    with pytest.raises(ClapkitError, match="4 clips and 5 texts need a soft_target_BU"):
        PairwiseSigmoid(chunk_rows=2)(batch(4, 5, soft_target_BU=None, bias=number(0.0)))
    with pytest.raises(ClapkitError, match=r"has shape \(5, 4\), expected \(4, 5\)"):
        PairwiseSigmoid()(batch(4, 5, soft_target_BU=target(5, 4), bias=number(0.0)))
    with pytest.raises(SpecError, match="labels='sof'; did you mean 'soft'"):
        PairwiseSigmoid("sof")
    with pytest.raises(SpecError, match="chunk_rows is a number of clips, 1 or more, or None for all; not 0"):
        PairwiseSigmoid(chunk_rows=0)
