"""Softmax contrast with other targets, rows and vectors: CWCL, kappa weights, transforms."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from crowded import batch, counted, crowded, denominators, target, unit
from torch.nn import functional

from clapkit.errors import ClapkitError, SpecError
from clapkit.objectives.base import Embeddings
from clapkit.objectives.contrast import CWCL, InfoNCE, KappaNCE, TransformNCE


def cwcl_by_loops(z: Embeddings, *, teacher: str, sharpness: float) -> tuple[float, float]:
    clips, texts = len(z.audio_BD), len(z.text_UD)
    of_clip, of_text = denominators(z)
    share = z.target_BU()
    vectors = z.text_teacher_UD if teacher == "text" else z.audio_teacher_BD
    near = [[((1 + float(p @ q)) / 2) ** sharpness for q in vectors] for p in vectors]
    weight = [[0.0] * texts for _ in range(clips)]
    for b in range(clips):
        for u in range(texts):
            if not counted(z, b, u):
                continue
            if teacher == "text":
                weight[b][u] = sum(float(share[b, v]) * near[v][u] for v in range(texts))
            else:
                weight[b][u] = sum(float(share[c, u]) * near[c][b] for c in range(clips))
    to_text = to_audio = 0.0
    for b in range(clips):
        for u in range(texts):
            score = float(z.scale * z.audio_BD[b] @ z.text_UD[u])
            row = column = float(share[b, u])
            if teacher == "text":
                row = weight[b][u] / sum(weight[b])
            elif share[:, u].sum() > 0:
                column = float(share[:, u].sum()) * weight[b][u] / sum(weight[c][u] for c in range(clips))
            to_text -= row * (score - math.log(of_clip[b]))
            to_audio -= column * (score - math.log(of_text[u]))
    return to_text / clips, to_audio / clips


@pytest.mark.parametrize("teacher", ["text", "audio"])
@pytest.mark.parametrize("sharpness", [1.0, 5.0])
def test_cwcl_equals_the_loops(teacher, sharpness):
    parts = CWCL(teacher, sharpness, balance=0.25)(crowded())
    to_text, to_audio = cwcl_by_loops(crowded(), teacher=teacher, sharpness=sharpness)
    assert parts["audio_to_text"].item() == pytest.approx(0.75 * to_text, rel=1e-12)
    assert parts["text_to_audio"].item() == pytest.approx(0.25 * to_audio, rel=1e-12)


@pytest.mark.parametrize("teacher", ["text", "audio"])
def test_cwcl_is_infonce_where_the_teacher_sees_no_relation(teacher):
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    z = batch(2, 2, soft_target_BU=None, text_teacher_UD=opposite, audio_teacher_BD=opposite)
    assert sum(CWCL(teacher)(z).values()).item() == pytest.approx(sum(InfoNCE()(z).values()).item(), rel=1e-12)
    sharp, plain = CWCL(teacher, sharpness=1e6)(crowded()), InfoNCE()(crowded())
    for name in plain:
        torch.testing.assert_close(sharp[name], plain[name])


def test_cwcl_cannot_fall_below_the_entropy_of_its_targets_and_gets_there():
    """Logits that are the logarithm of the target rows: embeddings with as many numbers as texts can have them."""
    teacher = unit(4, 3, seed=5)
    weight = (1 + teacher @ teacher.T) / 2
    rows = weight / weight.sum(1, keepdim=True)
    z = Embeddings(rows.log(), torch.eye(4, dtype=torch.float64), torch.tensor(1.0), text_teacher_UD=teacher)
    entropy = -(rows * rows.log()).sum(1).mean()
    torch.testing.assert_close(CWCL(balance=0.0)(z)["audio_to_text"], entropy)
    assert CWCL(balance=0.0)(batch(4, 4, soft_target_BU=None, text_teacher_UD=teacher))["audio_to_text"] > entropy


def test_cwcl_gives_no_gradient_to_the_teacher_and_the_right_one_to_the_rest():
    teacher = unit(4, 3, seed=5).requires_grad_()
    inputs = [unit(3, seed=1).requires_grad_(), unit(4, seed=2).requires_grad_()]
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)

    def loss(audio, text, scale):
        return sum(CWCL()(Embeddings(audio, text, scale, target(3, 4), text_teacher_UD=teacher)).values())

    assert torch.autograd.gradcheck(loss, [*inputs, scale])
    loss(*inputs, scale).backward()
    assert teacher.grad is None


def test_cwcl_without_its_teacher_and_with_wrong_settings_is_refused():
    with pytest.raises(ClapkitError, match="this batch has no audio_teacher_BD"):
        CWCL("audio")(batch())
    with pytest.raises(SpecError, match="teacher='txt'; did you mean 'text'"):
        CWCL("txt")
    with pytest.raises(SpecError, match="sharpness is a finite power >= 0, not -1"):
        CWCL(sharpness=-1)
    with pytest.raises(SpecError, match="balance is a share between 0 and 1, not 2"):
        CWCL(balance=2)


# --- kappa --------------------------------------------------------------------------------------------------------


def test_kappa_equals_weighted_cross_entropy():
    """One text a clip: what cross_entropy computes with a weight a class, which here is a weight a row."""
    z = batch(5, 5, soft_target_BU=None)
    logits, diagonal = z.scale * z.audio_BD @ z.text_UD.T, torch.arange(5)
    parts = KappaNCE(kappa=0.3)(z)
    for name, vectors, rows in (("audio_to_text", z.audio_BD, logits), ("text_to_audio", z.text_UD, logits.T)):
        weight = (sum(vectors @ v for v in vectors) / 5 / 0.3).exp()
        expected = functional.cross_entropy(rows, diagonal, weight=weight)
        torch.testing.assert_close(2 * parts[name], expected)


def test_kappa_counts_a_text_of_two_clips_twice():
    """The same as the batch in which that text stands twice, its clips masked from each other's copy."""
    scale = torch.tensor(4.0, dtype=torch.float64)
    audio_BD, text_UD = unit(3, seed=1), unit(2, seed=2)
    shared = Embeddings(audio_BD, text_UD, scale, torch.tensor([[1.0, 0], [1, 0], [0, 1]], dtype=torch.float64))
    include = torch.tensor([[1, 0, 1], [0, 1, 1], [1, 1, 1]]).bool()
    twice = Embeddings(audio_BD, text_UD[[0, 0, 1]], scale, include_BU=include)
    here, there = KappaNCE(kappa=0.5, balance=0.0)(shared), KappaNCE(kappa=0.5, balance=0.0)(twice)
    # Clip 2 sees the repeated text twice in its denominator there, once here; the rows of clips 0 and 1 are equal.
    crowd = (audio_BD @ audio_BD.mean(0) / 0.5).exp()
    logits = scale * audio_BD[2] @ text_UD.T
    once, double = torch.logsumexp(logits, 0), torch.logsumexp(logits[[0, 0, 1]], 0)
    torch.testing.assert_close(there["audio_to_text"] - here["audio_to_text"], crowd[2] / crowd.sum() * (double - once))
    both = KappaNCE(kappa=0.5, balance=1.0)
    weight = torch.tensor([2.0, 1.0], dtype=torch.float64) @ text_UD / 3 @ text_UD.T / 0.5
    columns = InfoNCE(balance=1.0)
    rows = [
        columns(Embeddings(audio_BD, text_UD, scale, shared.soft_target_BU * keep))["text_to_audio"] * 3
        for keep in torch.eye(2, dtype=torch.float64)
    ]
    expected = (weight.exp() * torch.stack(rows)).sum() / (weight.exp() @ torch.tensor([2.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(both(shared)["text_to_audio"], expected)


def test_kappa_without_bound_is_infonce_and_near_zero_stays_finite():
    far, plain = KappaNCE(kappa=1e12)(crowded()), InfoNCE()(crowded())
    for name in plain:
        torch.testing.assert_close(far[name], plain[name])
    z = batch(4, 5)
    low = replace(z, audio_BD=z.audio_BD.float(), text_UD=z.text_UD.float())
    assert all(torch.isfinite(part) for part in KappaNCE(kappa=1e-4)(low).values())


def test_kappa_has_the_gradient_of_fixed_weights():
    """Weights are constants: numerical gradients of the whole would see them move, so the weights are frozen here."""
    z = batch(4, 4, soft_target_BU=None)
    audio = z.audio_BD.clone().requires_grad_()
    KappaNCE(kappa=0.3, balance=0.0)(replace(z, audio_BD=audio))["audio_to_text"].backward()
    other = z.audio_BD.clone().requires_grad_()
    weight = (z.audio_BD @ z.audio_BD.mean(0) / 0.3).exp()
    functional.cross_entropy(z.scale * other @ z.text_UD.T, torch.arange(4), weight=weight).backward()
    torch.testing.assert_close(audio.grad, other.grad)


@pytest.mark.parametrize("kappa", [0.0, -1.0, float("nan")])
def test_kappa_is_positive(kappa):
    with pytest.raises(SpecError, match=f"kappa is a number > 0, not {kappa}"):
        KappaNCE(kappa=kappa)


# --- transforms ---------------------------------------------------------------------------------------------------


def test_transforms_are_four_cross_entropies():
    z = batch(5, 5, soft_target_BU=None, audio_other_BD=unit(5, seed=11), text_other_UD=unit(5, seed=12))
    diagonal = torch.arange(5)
    first, second = 7.0 * z.audio_BD @ z.text_other_UD.T, 7.0 * z.audio_other_BD @ z.text_UD.T
    textbook = sum(functional.cross_entropy(x, diagonal) for x in (first, first.T, second, second.T)) / 4
    torch.testing.assert_close(sum(TransformNCE()(z).values()), textbook)


def test_transforms_that_change_nothing_are_infonce_without_wrong_texts():
    z = crowded()
    z = replace(z, audio_other_BD=z.audio_BD, text_other_UD=z.text_UD)
    plain = InfoNCE(0.3, private=False)(replace(z, text_negative_ED=None, audio_negative_FD=None))
    torch.testing.assert_close(sum(TransformNCE(0.3)(z).values()), sum(plain.values()))


def test_transforms_have_the_gradient_of_the_formula_and_are_needed():
    inputs = [unit(3, seed=s).requires_grad_() for s in (1, 2, 3, 4)]
    scale = torch.tensor(3.0, dtype=torch.float64)

    def loss(a, t, a2, t2):
        return sum(TransformNCE()(Embeddings(a, t, scale, audio_other_BD=a2, text_other_UD=t2)).values())

    assert torch.autograd.gradcheck(loss, inputs)
    with pytest.raises(ClapkitError, match="this batch has no text_other_UD"):
        TransformNCE()(batch())
    with pytest.raises(SpecError, match="balance is a share between 0 and 1, not -1"):
        TransformNCE(balance=-1)
