"""Masked reconstruction and masked-latent prediction, against loops and known values."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from crowded import check_narrow_numbers
from torch.nn import functional

from clapkit.errors import ClapkitError
from clapkit.objectives.base import Embeddings
from clapkit.objectives.masked import MaskedLatent, MaskedReconstruction

CLIPS, PATCHES, NUMBERS = 3, 4, 6
OBJECTIVES = [
    MaskedReconstruction(),
    MaskedReconstruction(normalise=False),
    MaskedLatent(),
    MaskedLatent(standardise=False),
]

every_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 1


def batch(**changes) -> Embeddings:
    """The first clip has 1 hidden patch, the second 4, the third 2: counts that differ."""
    given = {
        "rebuilt_BNP": drawn(CLIPS, PATCHES, NUMBERS, seed=1),
        "hidden_BNP": drawn(CLIPS, PATCHES, NUMBERS, seed=2),
        "hidden_BN": torch.tensor([[0, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 1]]).bool(),
    } | changes
    clips = torch.eye(CLIPS, 5, dtype=torch.float64)
    return Embeddings(clips, clips, torch.tensor(7.0, dtype=torch.float64), **given)


def standardised(patch: list[float]) -> list[float]:
    mean = sum(patch) / len(patch)
    variance = sum((x - mean) ** 2 for x in patch) / len(patch)
    return [(x - mean) / math.sqrt(variance + 1e-6) for x in patch]


def square_error(made: list[float], true: list[float]) -> float:
    return sum((x - y) ** 2 for x, y in zip(made, true, strict=True)) / len(made)


def turned_away(made: list[float], true: list[float]) -> float:
    lengths = [math.sqrt(sum(x * x for x in patch)) for patch in (made, true)]
    return sum((x / lengths[0] - y / lengths[1]) ** 2 for x, y in zip(made, true, strict=True))


@every_objective
@pytest.mark.parametrize("masked", [True, False])
def test_equals_the_loops(objective, masked):
    z = batch() if masked else batch(hidden_BN=None)
    error = square_error if isinstance(objective, MaskedReconstruction) else turned_away
    changed = objective in (MaskedReconstruction(), MaskedLatent())
    expected = 0.0
    for b in range(CLIPS):
        errors = []
        for n in range(PATCHES):
            if masked and not z.hidden_BN[b, n]:
                continue
            true = z.hidden_BNP[b, n].tolist()
            errors.append(error(z.rebuilt_BNP[b, n].tolist(), standardised(true) if changed else true))
        expected += sum(errors) / len(errors) / CLIPS
    (part,) = objective(z).values()
    assert part.item() == pytest.approx(expected, rel=1e-12)


@every_objective
def test_perfect_prediction_costs_nothing(objective):
    true = batch().hidden_BNP
    if objective in (MaskedReconstruction(), MaskedLatent()):
        target = torch.tensor([[standardised(patch) for patch in clip] for clip in true.tolist()], dtype=torch.float64)
    else:
        target = true
    (part,) = objective(batch(rebuilt_BNP=target)).values()
    assert part.item() == pytest.approx(0.0, abs=1e-12)


def test_saying_nothing_costs_one_and_loudness_does_not_weigh():
    z = batch(rebuilt_BNP=torch.zeros(CLIPS, PATCHES, NUMBERS, dtype=torch.float64))
    louder = replace(z, hidden_BNP=z.hidden_BNP * 50 - 80)
    for given in (z, louder):
        assert MaskedReconstruction()(given)["rebuilt"].item() == pytest.approx(1.0, abs=1e-5)


def test_right_angles_cost_two_and_opposites_four():
    x, y = torch.zeros(2, CLIPS, PATCHES, 4, dtype=torch.float64)
    x[..., 0], x[..., 1], y[..., 2], y[..., 3] = 3.0, -3.0, 0.5, -0.5
    for made, cost in ((x, 0.0), (y, 2.0), (-x, 4.0)):
        found = MaskedLatent()(batch(rebuilt_BNP=made, hidden_BNP=x))["foretold"].item()
        assert found == pytest.approx(cost, abs=1e-12)


def test_the_latent_loss_is_the_cosine_to_the_centred_token():
    """The length is divided out, so of standardisation only the removed mean is felt."""
    z = batch(hidden_BN=None)
    centred = z.hidden_BNP - z.hidden_BNP.mean(-1, keepdim=True)
    cosine = functional.cosine_similarity(z.rebuilt_BNP, centred, dim=-1).mean()
    torch.testing.assert_close(MaskedLatent()(z)["foretold"], 2 - 2 * cosine)
    assert MaskedLatent()(z)["foretold"] != MaskedLatent(standardise=False)(z)["foretold"]


@every_objective
def test_what_is_in_other_patches_is_not_read(objective):
    z = batch()
    spoilt = {}
    for name in ("rebuilt_BNP", "hidden_BNP"):
        spoilt[name] = getattr(z, name).masked_fill(~z.hidden_BN[..., None], float("nan"))
    spoilt["rebuilt_BNP"].requires_grad_()
    (part,), (with_nan,) = objective(z).values(), objective(replace(z, **spoilt)).values()
    assert torch.equal(part, with_nan)
    with_nan.backward()
    gradient_BNP = spoilt["rebuilt_BNP"].grad
    assert torch.isfinite(gradient_BNP).all() and not gradient_BNP[~z.hidden_BN].any()
    assert gradient_BNP[z.hidden_BN].abs().sum(-1).all()


@every_objective
def test_a_clip_with_nothing_hidden_adds_nothing(objective):
    z = batch()
    hidden_BN = z.hidden_BN.clone()
    hidden_BN[1] = False
    others = torch.tensor([0, 2])
    (part,) = objective(replace(z, hidden_BN=hidden_BN)).values()
    few = {name: getattr(z, name)[others] for name in ("audio_BD", "text_UD", "rebuilt_BNP", "hidden_BNP", "hidden_BN")}
    (rest,) = objective(replace(z, **few)).values()
    torch.testing.assert_close(part, rest * 2 / 3)
    (none,) = objective(replace(z, hidden_BN=torch.zeros_like(hidden_BN))).values()
    assert none.item() == 0.0


@every_objective
def test_silent_and_constant_patches_stay_finite(objective):
    still = torch.zeros(CLIPS, PATCHES, NUMBERS, dtype=torch.float64)
    made = still.clone().requires_grad_()
    for hidden in (still, still - 4.0):
        (part,) = objective(batch(rebuilt_BNP=made, hidden_BNP=hidden)).values()
        (gradient,) = torch.autograd.grad(part, made)
        assert torch.isfinite(part) and torch.isfinite(gradient).all()
    assert MaskedLatent()(batch(hidden_BNP=still - 4.0))["foretold"].item() == pytest.approx(2.0)


@every_objective
def test_the_gradient_is_that_of_the_formula_and_never_reaches_what_was_hidden(objective):
    z = batch()
    z.rebuilt_BNP.requires_grad_()
    z.hidden_BNP.requires_grad_()
    assert torch.autograd.gradcheck(lambda made: sum(objective(replace(z, rebuilt_BNP=made)).values()), z.rebuilt_BNP)
    sum(objective(z).values()).backward()
    assert z.hidden_BNP.grad is None and z.rebuilt_BNP.grad.abs().sum() > 0


@every_objective
def test_missing_fields_and_wrong_shapes_are_told(objective):
    for name in ("rebuilt_BNP", "hidden_BNP"):
        with pytest.raises(ClapkitError, match=f"no {name}"):
            objective(batch(**{name: None}))
    with pytest.raises(ClapkitError, match=r"rebuilt_BNP has shape \(3, 4, 5\), hidden_BNP \(3, 4, 6\)"):
        objective(batch(rebuilt_BNP=torch.zeros(3, 4, 5)))
    with pytest.raises(ClapkitError, match=r"hidden_BN has shape \(3, 5\), expected \(3, 4\)"):
        objective(batch(hidden_BN=torch.ones(3, 5)))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_narrow_numbers_are_computed_in_float32(objective):
    check_narrow_numbers(objective, batch())
