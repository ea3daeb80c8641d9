"""Prediction without negatives, against loops, its known values, and the promise that teachers learn nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from crowded import check_narrow_numbers
from torch.nn import functional

from clapkit.errors import ClapkitError, SpecError
from clapkit.objectives.base import Embeddings
from clapkit.objectives.contrast import InfoNCE
from clapkit.objectives.siamese import Siamese

VECTORS = ("audio_prediction_BD", "text_prediction_UD", "audio_teacher_BD", "text_teacher_UD")


def unit(rows: int, width: int = 6, *, seed: int = 0) -> torch.Tensor:
    made = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return functional.normalize(made, dim=-1)


def batch(clips: int = 4, texts: int = 3, **changes) -> Embeddings:
    target = torch.rand(clips, texts, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    rows = {"audio_prediction_BD": clips, "text_prediction_UD": texts, "audio_teacher_BD": clips}
    given = {name: unit(rows.get(name, texts), seed=seed) for seed, name in enumerate(VECTORS, start=3)}
    given["soft_target_BU"] = target / target.sum(1, keepdim=True)
    given.update(changes)
    return Embeddings(unit(clips, seed=1), unit(texts, seed=2), torch.tensor(7.0, dtype=torch.float64), **given)


def everywhere(vector_D: torch.Tensor, *, teacher: torch.Tensor) -> Embeddings:
    """Every prediction is `vector_D`, every teacher's vector `teacher`."""
    given = {name: (teacher if "teacher" in name else vector_D).expand(4, -1) for name in VECTORS}
    return Embeddings(unit(4, seed=1), unit(4, seed=2), torch.tensor(7.0), **given)


def total(objective, z: Embeddings) -> torch.Tensor:
    return sum(objective(z).values())


def cost(prediction: torch.Tensor, teacher: torch.Tensor) -> float:
    return 2 - 2 * functional.cosine_similarity(prediction, teacher, dim=0).item()


@pytest.mark.parametrize("inter", [0.0, 0.3, 1.0])
def test_equals_the_loops(inter):
    z = batch()
    expected = dict.fromkeys(("text_from_audio", "audio_from_text", "audio_from_audio", "text_from_text"), 0.0)
    for b in range(4):
        expected["audio_from_audio"] += (1 - inter) / 4 * cost(z.audio_prediction_BD[b], z.audio_teacher_BD[b])
        for u in range(3):
            share = float(z.soft_target_BU[b, u]) / 4
            expected["text_from_audio"] += inter * share * cost(z.audio_prediction_BD[b], z.text_teacher_UD[u])
            expected["audio_from_text"] += inter * share * cost(z.text_prediction_UD[u], z.audio_teacher_BD[b])
            expected["text_from_text"] += (1 - inter) * share * cost(z.text_prediction_UD[u], z.text_teacher_UD[u])
    found = {name: part.item() for name, part in Siamese(inter=inter)(z).items()}
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("inter", [0.0, 0.5, 1.0])
def test_perfect_right_angled_and_opposite_predictions_cost_0_4_and_8(inter):
    x, y = torch.eye(6, dtype=torch.float64)[:2]
    for prediction, expected in ((x, 0.0), (y, 4.0), (-x, 8.0)):
        assert total(Siamese(inter=inter), everywhere(prediction, teacher=x)).item() == pytest.approx(expected)


def test_a_caption_that_stands_twice_costs_what_two_equal_texts_cost():
    shared = torch.tensor([[1.0, 0], [1, 0], [0, 1]], dtype=torch.float64)
    once = batch(3, 2, soft_target_BU=shared)
    again = torch.tensor([0, 0, 1])
    twice = replace(
        once,
        text_UD=once.text_UD[again],
        soft_target_BU=None,
        text_prediction_UD=once.text_prediction_UD[again],
        text_teacher_UD=once.text_teacher_UD[again],
    )
    here, there = Siamese()(once), Siamese()(twice)
    for name, part in here.items():
        torch.testing.assert_close(part, there[name])


def test_micro_batches_add_up_to_the_batch():
    """It reduces over samples: the mean of the halves is the whole, in gradients too."""
    z = batch(4, 3)
    prediction = z.audio_prediction_BD.clone().requires_grad_()
    whole = total(Siamese(inter=0.3), replace(z, audio_prediction_BD=prediction))
    halves = []
    for rows in (slice(0, 2), slice(2, 4)):
        clips = ("audio_BD", "audio_teacher_BD", "soft_target_BU")
        part = replace(z, **{name: getattr(z, name)[rows] for name in clips}, audio_prediction_BD=prediction[rows])
        halves.append(total(Siamese(inter=0.3), part))
    mean = sum(halves) / 2
    torch.testing.assert_close(whole, mean)
    (one,), (other,) = (torch.autograd.grad(x, prediction) for x in (whole, mean))
    torch.testing.assert_close(one, other)


def test_the_cross_part_is_the_pull_of_infonce():
    """A clip's gradient under InfoNCE is scale (sum_u softmax_u t_u - t_own); the second term is what stays here."""
    z = batch(4, 4, soft_target_BU=None)
    audio_BD = z.audio_BD.clone().requires_grad_()
    (pull,) = torch.autograd.grad(
        Siamese(inter=1.0)(replace(z, audio_prediction_BD=audio_BD, text_teacher_UD=z.text_UD))["text_from_audio"],
        audio_BD,
    )
    (both,) = torch.autograd.grad(InfoNCE(balance=0.0)(replace(z, audio_BD=audio_BD))["audio_to_text"], audio_BD)
    push = z.scale / 4 * torch.softmax(z.scale * z.audio_BD @ z.text_UD.T, dim=1) @ z.text_UD
    torch.testing.assert_close(z.scale / 2 * pull, both - push)


def test_the_gradient_is_that_of_the_formula_and_never_reaches_a_teacher():
    z = batch()
    predictions = [x.requires_grad_() for x in (z.audio_prediction_BD, z.text_prediction_UD)]

    def loss(audio, text):
        return total(Siamese(inter=0.3), replace(z, audio_prediction_BD=audio, text_prediction_UD=text))

    assert torch.autograd.gradcheck(loss, predictions)
    teachers = [x.requires_grad_() for x in (z.audio_teacher_BD, z.text_teacher_UD)]
    total(Siamese(), z).backward()
    assert all(x.grad is None for x in teachers) and all(x.grad.abs().sum() > 0 for x in predictions)


@pytest.mark.parametrize("name", VECTORS)
def test_a_missing_field_is_named(name):
    with pytest.raises(ClapkitError, match=f"no {name}"):
        Siamese()(batch(**{name: None}))


def test_shapes_that_do_not_fit_are_told_with_their_numbers():
    with pytest.raises(ClapkitError, match="audio_prediction_BD has width 6 and text_teacher_UD 5"):
        Siamese()(batch(text_teacher_UD=unit(3, 5)))
    with pytest.raises(ClapkitError, match=r"audio_teacher_BD has shape \(1, 6\), expected \(4, width\)"):
        Siamese()(batch(audio_teacher_BD=unit(1)))


@pytest.mark.parametrize("inter", [-0.1, 1.5, float("nan")])
def test_a_share_outside_its_range_is_refused(inter):
    with pytest.raises(SpecError, match=f"inter is a share between 0 and 1, not {inter}"):
        Siamese(inter=inter)


@pytest.mark.parametrize("objective", [Siamese()], ids=repr)
def test_narrow_numbers_are_computed_in_float32(objective):
    check_narrow_numbers(objective, batch())
