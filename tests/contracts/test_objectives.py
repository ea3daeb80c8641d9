"""The contract of every objective."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields

import pytest
import torch
from torch.nn import functional

from clapkit.objectives.base import NEEDS, Embeddings, Objective
from clapkit.objectives.contrast import InfoNCE
from clapkit.spec import from_json, to_json

OBJECTIVES = [InfoNCE(), InfoNCE(balance=0.3, smoothing=0.1)]

every_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)


def embeddings(clips: int = 5, *, seed: int = 0) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)
    audio, text, negative = (
        functional.normalize(torch.randn(n, 8, generator=generator, dtype=torch.float64), dim=-1).requires_grad_()
        for n in (clips, clips, 2)
    )
    scale = torch.tensor(10.0, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-5.0, dtype=torch.float64)
    return Embeddings(audio, text, scale, torch.eye(clips, dtype=torch.float64), bias, negative)


@every_objective
def test_declares_what_it_needs_and_how_it_reduces(objective):
    assert isinstance(objective, Objective)
    assert isinstance(objective.needs, tuple) and set(objective.needs) <= set(NEEDS)
    assert objective.reduces in ("samples", "pairs", "rows")
    assert not {"needs", "reduces"} & {f.name for f in fields(objective)}, "they belong to the class"


@every_objective
def test_gives_named_finite_scalars_and_is_repeatable(objective):
    parts, again = objective(embeddings()), objective(embeddings())
    assert parts and all(isinstance(name, str) for name in parts)
    for name, part in parts.items():
        assert part.shape == () and torch.isfinite(part)
        assert torch.equal(part, again[name])


@every_objective
def test_the_gradient_reaches_both_sides_and_the_scale(objective):
    z = embeddings()
    sum(objective(z).values()).backward()
    for given in (z.audio_BD, z.text_UD, z.scale):
        assert given.grad is not None and torch.isfinite(given.grad).all() and given.grad.abs().sum() > 0


@every_objective
def test_what_is_given_stays_as_it_is(objective):
    z = embeddings()
    given = [value for f in fields(z) if (value := getattr(z, f.name)) is not None]
    before = [value.detach().clone() for value in given]
    objective(z)
    assert all(torch.equal(x, y) for x, y in zip(before, given, strict=True))


@every_objective
def test_the_order_of_the_batch_does_not_matter(objective):
    z, turn = embeddings(), torch.tensor([3, 0, 4, 1, 2])
    turned = Embeddings(z.audio_BD[turn], z.text_UD[turn], z.scale, z.soft_target_BU, z.bias, z.text_negative_ED)
    torch.testing.assert_close(sum(objective(z).values()), sum(objective(turned).values()))


@every_objective
def test_one_clip_is_a_batch(objective):
    assert torch.isfinite(sum(objective(embeddings(1)).values()))


@every_objective
def test_agreement_costs_less_than_disagreement(objective):
    z = embeddings()
    right = Embeddings(z.text_UD, z.text_UD, z.scale, z.soft_target_BU, z.bias)
    wrong = Embeddings(z.text_UD.roll(1, 0), z.text_UD, z.scale, z.soft_target_BU, z.bias)
    assert sum(objective(right).values()) < sum(objective(wrong).values())


@every_objective
def test_is_frozen_and_comes_back_from_json(objective):
    with pytest.raises(FrozenInstanceError):
        setattr(objective, fields(objective)[0].name, 0.5)
    assert from_json(json.loads(json.dumps(to_json(objective)))) == objective
