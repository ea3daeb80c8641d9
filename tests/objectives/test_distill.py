"""Distillation against loops, its bounds and limits, and the promise that teachers learn nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from crowded import check_narrow_numbers
from torch.nn import functional

from clapkit.errors import ClapkitError, SpecError
from clapkit.objectives.base import Embeddings
from clapkit.objectives.contrast import InfoNCE
from clapkit.objectives.distill import AffinityDistillation, CosineDistillation, CrossPrediction

COSINE = CosineDistillation(), CosineDistillation(side="text")


def unit(rows: int, width: int = 6, *, seed: int = 0) -> torch.Tensor:
    made = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return functional.normalize(made, dim=-1)


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def batch(clips: int = 4, texts: int = 3, *, width: int = 6, **changes) -> Embeddings:
    """`width` is the teacher's; the student has 6."""
    target = torch.rand(clips, texts, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    given = {
        "soft_target_BU": target / target.sum(1, keepdim=True),
        "audio_teacher_BD": unit(clips, width, seed=3),
        "text_teacher_UD": unit(texts, width, seed=4),
        "teacher_scale": number(5.0),
        "audio_prediction_BD": unit(clips, seed=5),
        "text_prediction_UD": unit(texts, seed=6),
    } | changes
    return Embeddings(unit(clips, seed=1), unit(texts, seed=2), number(7.0), **given)


def total(objective, z: Embeddings) -> torch.Tensor:
    return sum(objective(z).values())


def test_cosine_distillation_equals_the_loops():
    z = batch()
    audio = sum(float(z.audio_BD[b] @ z.audio_teacher_BD[b]) for b in range(4)) / 4
    text = sum(
        float(z.soft_target_BU[b, u] * (z.text_UD[u] @ z.text_teacher_UD[u])) for b in range(4) for u in range(3)
    )
    assert COSINE[0](z)["cosine_audio"].item() == pytest.approx(-audio, rel=1e-12)
    assert COSINE[1](z)["cosine_text"].item() == pytest.approx(-text / 4, rel=1e-12)


@pytest.mark.parametrize("objective", COSINE, ids=repr)
def test_a_student_that_is_its_teacher_costs_minus_one(objective):
    z = batch()
    for sign in (1, -1):
        equal = replace(z, audio_teacher_BD=sign * z.audio_BD, text_teacher_UD=sign * z.text_UD)
        assert total(objective, equal).item() == pytest.approx(-sign)


def test_the_cosine_bounds_the_change_of_every_score():
    audio, teacher, text = unit(200, seed=1), unit(200, seed=2), unit(50, seed=3)
    near = functional.normalize(teacher + 0.1 * audio, dim=-1)
    for student in (audio, near):
        moved = ((student - teacher) @ text.T).abs().amax(1)
        assert (moved <= (2 - 2 * (student * teacher).sum(1)).sqrt() + 1e-12).all()


def divergence(teacher: list[float], student: list[float]) -> float:
    weights = [[math.exp(s) for s in scores] for scores in (teacher, student)]
    p, q = ([w / sum(row) for w in row] for row in weights)
    return sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))


@pytest.mark.parametrize("width", [6, 9])
def test_affinity_distillation_equals_the_loops(width):
    z = batch(width=width)
    student = [[7.0 * float(a @ t) for t in z.text_UD] for a in z.audio_BD]
    teacher = [[5.0 * float(a @ t) for t in z.text_teacher_UD] for a in z.audio_teacher_BD]
    rows = sum(divergence(t, s) for t, s in zip(teacher, student, strict=True)) / 4
    columns = sum(divergence(t, s) for t, s in zip(zip(*teacher, strict=True), zip(*student, strict=True), strict=True))
    parts = AffinityDistillation(balance=0.3)(z)
    assert parts["affinity_to_text"].item() == pytest.approx(0.7 * rows, rel=1e-12)
    assert parts["affinity_to_audio"].item() == pytest.approx(0.3 * columns / 3, rel=1e-12)


def test_equal_scores_cost_nothing_wherever_the_teacher_lives():
    """The teacher is the student turned inside a wider space."""
    z = batch()
    turn = torch.linalg.qr(unit(9, 9))[0][:6]
    same = replace(z, audio_teacher_BD=z.audio_BD @ turn, text_teacher_UD=z.text_UD @ turn, teacher_scale=z.scale)
    assert total(AffinityDistillation(), same).item() == pytest.approx(0.0, abs=1e-12)
    assert total(AffinityDistillation(), replace(same, teacher_scale=2 * z.scale)).item() > 1e-3


def test_a_teacher_that_is_certain_of_the_pairs_is_infonce():
    axes = torch.eye(4, dtype=torch.float64)
    z = batch(4, 4, soft_target_BU=None, audio_teacher_BD=axes, text_teacher_UD=axes, teacher_scale=number(1e3))
    torch.testing.assert_close(total(AffinityDistillation(balance=0.3), z), total(InfoNCE(balance=0.3), z))


def test_a_student_that_says_nothing_costs_what_the_teacher_knows():
    z = replace(batch(), scale=number(0.0))
    teacher_BU = 5.0 * z.audio_teacher_BD @ z.text_teacher_UD.T
    for name, dim, choices in (("affinity_to_text", 1, 3), ("affinity_to_audio", 0, 4)):
        p = torch.softmax(teacher_BU, dim=dim)
        known = math.log(choices) + (p * p.log()).sum(dim).mean()
        torch.testing.assert_close(2 * AffinityDistillation()(z)[name], known)


def test_one_clip_has_no_affinities_of_texts():
    parts = AffinityDistillation()(batch(1))
    assert parts["affinity_to_audio"].item() == 0.0 and parts["affinity_to_text"].item() > 0


def test_cross_prediction_is_the_mean_of_two_contrasts():
    z = batch()
    by_audio = replace(z, text_UD=z.text_prediction_UD)
    by_text = replace(z, audio_BD=z.audio_prediction_BD)
    expected = (total(InfoNCE(balance=0.3), by_audio) + total(InfoNCE(balance=0.3), by_text)) / 2
    torch.testing.assert_close(total(CrossPrediction(balance=0.3), z), expected)


def test_cross_prediction_of_four_clips_by_cross_entropies():
    """The published form, written out: two score matrices, each read along its rows and its columns."""
    z = batch(4, 4, soft_target_BU=None)
    right = torch.arange(4)
    scores = (7.0 * z.audio_BD @ z.text_prediction_UD.T, 7.0 * z.audio_prediction_BD @ z.text_UD.T)
    expected = sum(functional.cross_entropy(s, right) + functional.cross_entropy(s.T, right) for s in scores) / 4
    torch.testing.assert_close(total(CrossPrediction(), z), expected)


def test_without_mlps_cross_prediction_is_infonce():
    z = batch()
    plain = replace(z, audio_prediction_BD=z.audio_BD, text_prediction_UD=z.text_UD)
    torch.testing.assert_close(total(CrossPrediction(), plain), total(InfoNCE(), z))


def test_other_texts_stand_beside_texts_and_other_sounds_beside_sounds():
    plain, crowded = CrossPrediction()(batch()), CrossPrediction()(batch(text_negative_ED=unit(5, seed=8)))
    changed = {name for name in plain if plain[name] != crowded[name]}
    assert changed == {"audio_to_text_by_text"} and crowded["audio_to_text_by_text"] > plain["audio_to_text_by_text"]
    crowded = CrossPrediction()(batch(audio_negative_FD=unit(5, seed=8)))
    changed = {name for name in plain if plain[name] != crowded[name]}
    assert changed == {"text_to_audio_by_audio"} and crowded["text_to_audio_by_audio"] > plain["text_to_audio_by_audio"]


@pytest.mark.parametrize("objective", [*COSINE, AffinityDistillation(balance=0.3)], ids=repr)
def test_the_gradient_is_that_of_the_formula_and_never_reaches_the_teacher(objective):
    z = batch()
    student = [x.requires_grad_() for x in (z.audio_BD, z.text_UD, z.scale)]
    teacher = [x.requires_grad_() for x in (z.audio_teacher_BD, z.text_teacher_UD, z.teacher_scale)]

    def loss(audio, text, scale):
        return total(objective, replace(z, audio_BD=audio, text_UD=text, scale=scale))

    assert torch.autograd.gradcheck(loss, student)
    loss(*student).backward()
    assert all(x.grad is None for x in teacher) and any(x.grad is not None for x in student)


def test_the_gradient_of_cross_prediction_is_that_of_the_formula():
    z = batch()
    names = ("audio_BD", "text_UD", "audio_prediction_BD", "text_prediction_UD", "scale")
    given = [getattr(z, name).requires_grad_() for name in names]

    def loss(*given):
        return total(CrossPrediction(balance=0.3), replace(z, **dict(zip(names, given, strict=True))))

    assert torch.autograd.gradcheck(loss, given)


@pytest.mark.parametrize("objective", [*COSINE, AffinityDistillation(), CrossPrediction()], ids=repr)
def test_a_missing_field_is_named(objective):
    optional = {"audio_teacher": "BD", "text_teacher": "UD", "audio_prediction": "BD", "text_prediction": "UD"}
    names = [f"{need}_{optional[need]}" for need in objective.needs if need in optional]
    for name in [*names, *(["teacher_scale"] if "teacher_scale" in objective.needs else [])]:
        with pytest.raises(ClapkitError, match=f"no {name}"):
            objective(batch(**{name: None}))


def test_widths_and_rows_that_do_not_fit_are_told_with_their_numbers():
    with pytest.raises(ClapkitError, match="audio_BD has width 6 and audio_teacher_BD 9"):
        CosineDistillation()(batch(width=9))
    with pytest.raises(ClapkitError, match="audio_teacher_BD has width 6 and text_teacher_UD 9"):
        AffinityDistillation()(batch(text_teacher_UD=unit(3, 9)))
    with pytest.raises(ClapkitError, match=r"text_prediction_UD has shape \(2, 6\), expected \(3, width\)"):
        CrossPrediction()(batch(text_prediction_UD=unit(2)))


@pytest.mark.parametrize("balance", [-0.1, 1.5])
def test_settings_outside_their_range_are_refused(balance):
    for kind in (AffinityDistillation, CrossPrediction):
        with pytest.raises(SpecError, match=f"balance is a share between 0 and 1, not {balance}"):
            kind(balance=balance)
    with pytest.raises(SpecError, match="side is audio or text, not 'audios'; did you mean 'audio'"):
        CosineDistillation(side="audios")


@pytest.mark.parametrize("objective", [*COSINE, AffinityDistillation(), CrossPrediction()], ids=repr)
def test_narrow_numbers_are_computed_in_float32(objective):
    check_narrow_numbers(objective, batch())
