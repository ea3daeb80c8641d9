"""Weighted negatives against loops written out, and the settings at which they are InfoNCE."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from crowded import batch, counted, crowded, own, target, unit
from torch.nn import functional

from clapkit.errors import ClapkitError, SpecError
from clapkit.objectives.base import Embeddings
from clapkit.objectives.contrast import InfoNCE
from clapkit.objectives.hardness import DCLR, HNNCE, DebiasedNCE, log_importance

Row = tuple[list[tuple[float, float]], list[float]]


def rows(z: Embeddings) -> tuple[list[Row], list[Row]]:
    """For every clip, and for every text: its positives as (share, logit), and the logits of its negatives."""
    of_clip: list[Row] = [([], []) for _ in z.audio_BD]
    of_text: list[Row] = [([], []) for _ in z.text_UD]
    for b, a in enumerate(z.audio_BD):
        for u, t in enumerate(z.text_UD):
            share, logit = z.target_BU()[b, u].item(), float(z.scale * a @ t)
            for positives, negatives in (of_clip[b], of_text[u]):
                if share > 0:
                    positives.append((share, logit))
                elif counted(z, b, u):
                    negatives.append(logit)
        shared = [] if z.text_negative_ED is None else list(z.text_negative_ED)
        of_clip[b][1].extend(float(z.scale * a @ t) for t in shared + own(z.text_private_BKD, z.private_BK, b))
    for u, t in enumerate(z.text_UD):
        shared = [] if z.audio_negative_FD is None else list(z.audio_negative_FD)
        wrong = shared + own(z.audio_private_UKD, z.audio_private_UK, u)
        of_text[u][1].extend(float(z.scale * a @ t) for a in wrong)
    return of_clip, of_text


def weighed(negatives: list[float], beta: float) -> float:
    importance = [math.exp(beta * s) for s in negatives]
    return sum(len(negatives) * w / sum(importance) * math.exp(s) for w, s in zip(importance, negatives, strict=True))


def hn_nce(row: Row, *, beta: float, alpha: float) -> float:
    positives, negatives = row
    above = sum(math.exp(s) for _, s in positives)
    below = (alpha if negatives else 1.0) * above + weighed(negatives, beta)
    return -sum(share * math.log(math.exp(s) / below) for share, s in positives)


def debiased(row: Row, *, tau_plus: float, beta: float, scale: float) -> float:
    positives, negatives = row
    if not positives:
        return 0.0
    mean = sum(share * math.exp(s) for share, s in positives) / sum(share for share, _ in positives)
    count = len(negatives)
    group = (weighed(negatives, beta) - count * tau_plus * mean) / (1 - tau_plus)
    group = max(group, count * math.exp(-scale))
    below = sum(math.exp(s) for _, s in positives) + group
    return -sum(share * math.log(math.exp(s) / below) for share, s in positives)


def assert_parts(parts, z: Embeddings, cost, *, balance: float) -> None:
    of_clip, of_text = rows(z)
    clips = len(of_clip)
    assert parts["audio_to_text"].item() == pytest.approx((1 - balance) * sum(map(cost, of_clip)) / clips, rel=1e-12)
    assert parts["text_to_audio"].item() == pytest.approx(balance * sum(map(cost, of_text)) / clips, rel=1e-12)


@pytest.mark.parametrize("make", [crowded, batch, lambda: batch(5, 5, soft_target_BU=None)])
@pytest.mark.parametrize(("beta", "alpha"), [(0.25, 1.0), (1.0, 0.7), (0.5, 0.0)])
def test_hn_nce_equals_the_loops(make, beta, alpha):
    z = make()
    parts = HNNCE(beta, alpha, balance=0.3)(z)
    assert_parts(parts, z, lambda row: hn_nce(row, beta=beta, alpha=alpha), balance=0.3)


@pytest.mark.parametrize("make", [crowded, batch, lambda: batch(5, 5, soft_target_BU=None, scale=1.0)])
@pytest.mark.parametrize(("tau_plus", "beta"), [(0.05, 0.0), (0.3, 0.0), (0.1, 1.0)])
def test_debiased_equals_the_loops(make, tau_plus, beta):
    z = make()
    parts = DebiasedNCE(tau_plus, beta, balance=0.3)(z)
    cost = lambda row: debiased(row, tau_plus=tau_plus, beta=beta, scale=z.scale.item())  # noqa: E731
    assert_parts(parts, z, cost, balance=0.3)


@pytest.mark.parametrize("neutral", [HNNCE(0.0), DebiasedNCE(0.0), DCLR(1.0), DCLR(1.0, "both")], ids=repr)
@pytest.mark.parametrize("make", [crowded, lambda: batch(text_teacher_UD=unit(5), audio_teacher_BD=unit(4))])
def test_the_neutral_setting_is_infonce_in_value_and_gradient(neutral, make):
    z, found = make(), []
    for objective in (neutral, InfoNCE()):
        given = {f: getattr(z, f).clone().requires_grad_() for f in ("audio_BD", "text_UD", "scale")}
        parts = objective(replace(z, **given))
        sum(parts.values()).backward()
        found.append([*parts.values(), *(v.grad for v in given.values())])
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(here, there)


def test_without_a_share_of_true_negatives_debiased_is_hn_nce():
    parts, expected = DebiasedNCE(tau_plus=0.0, beta=0.7)(crowded()), HNNCE(beta=0.7)(crowded())
    for name in expected:
        torch.testing.assert_close(parts[name], expected[name])


def test_weights_have_mean_one_and_sharpen_to_the_hardest():
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits[1, 2:5] = -torch.inf
    logits[2, 1:] = -torch.inf
    logits[3] = -torch.inf
    there = logits > -torch.inf
    for beta in (0.0, 0.3, 2.0):
        weight = log_importance(logits, beta).exp()
        for row in range(3):
            assert weight[row][there[row]].mean().item() == pytest.approx(1.0)
        assert (weight[~there] == 1).all()
    hardest = log_importance(logits[:1], 1e6).exp()
    assert hardest[0, logits[0].argmax()].item() == pytest.approx(7.0) and hardest.sum().item() == pytest.approx(7.0)


def test_alpha_zero_is_the_decoupled_loss_and_costs_a_lonely_clip_nothing():
    z = batch(5, 5, soft_target_BU=None)
    logits = z.scale * z.audio_BD @ z.text_UD.T
    others = torch.stack([torch.logsumexp(torch.cat([row[:i], row[i + 1 :]]), 0) for i, row in enumerate(logits)])
    parts = HNNCE(beta=0.0, alpha=0.0, balance=0.0)(z)
    torch.testing.assert_close(parts["audio_to_text"], (others - logits.diagonal()).mean())
    assert sum(HNNCE(alpha=0.0)(batch(1, 1, soft_target_BU=None)).values()).item() == pytest.approx(0.0, abs=1e-12)


def test_detached_weights_are_constants_and_others_are_part_of_the_formula():
    inputs = [unit(4, seed=1), unit(5, seed=2), torch.tensor(3.0, dtype=torch.float64), unit(2, seed=3)]

    def loss(audio, text, scale, negatives, detach=False):
        z = Embeddings(audio, text, scale, target(4, 5) * chosen, text_negative_ED=negatives)
        return sum(HNNCE(beta=0.8, alpha=0.5, detach=detach)(z).values())

    chosen = torch.rand(4, 5, generator=torch.Generator().manual_seed(3)) < 0.5
    inputs = [x.requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(loss, inputs)
    # With the weights of where it stands, written out as constants.
    z = batch(4, 4, soft_target_BU=None)
    logits = (z.scale * z.audio_BD @ z.text_UD.T).requires_grad_()
    off = ~torch.eye(4, dtype=torch.bool)
    weight = torch.where(off, log_importance(logits.detach().masked_fill(~off, -torch.inf), 0.8), 0.0)
    (torch.logsumexp(logits + weight, 1) - logits.diagonal()).mean().backward()
    audio = z.audio_BD.clone().requires_grad_()
    sum(HNNCE(beta=0.8, balance=0.0)(replace(z, audio_BD=audio)).values()).backward()
    torch.testing.assert_close(audio.grad, z.scale * logits.grad @ z.text_UD)


def test_debiased_has_the_gradient_of_the_formula_above_and_at_its_floor():
    for tau_plus, scale in ((0.05, 1.0), (0.9, 2.0)):
        inputs = [unit(4, seed=1), unit(4, seed=2), torch.tensor(scale, dtype=torch.float64)]

        def loss(audio, text, scale, tau_plus=tau_plus):
            return sum(DebiasedNCE(tau_plus)(Embeddings(audio, text, scale)).values())

        assert torch.autograd.gradcheck(loss, [x.requires_grad_() for x in inputs])
    # All negatives taken off: only the floor is left.
    z = batch(4, 4, soft_target_BU=None, scale=2.0)
    z = replace(z, text_UD=z.audio_BD)
    expected = math.log1p(3 * math.exp(-2.0) / math.exp(2.0))
    assert sum(DebiasedNCE(0.9)(z).values()).item() == pytest.approx(expected)


def test_dclr_leaves_out_what_a_reference_finds_near():
    """Against a mask made pair by pair, and InfoNCE with it."""
    z = crowded(clips=6, texts=7)
    text, audio = z.text_teacher_UD @ z.text_teacher_UD.T, z.audio_teacher_BD @ z.audio_teacher_BD.T
    owned = z.target_BU() > 0
    near = {"text": torch.zeros(6, 7).bool(), "audio": torch.zeros(6, 7).bool()}
    for b in range(6):
        for u in range(7):
            near["text"][b, u] = any(owned[b, v] and text[v, u] > 0.2 for v in range(7))
            near["audio"][b, u] = any(owned[c, u] and audio[c, b] > 0.2 for c in range(6))
    near["both"] = near["text"] & near["audio"]
    assert len({(mask & ~owned & z.include_BU).sum().item() for mask in near.values()} | {0}) == 4
    for reference, mask in near.items():
        expected = InfoNCE(0.3)(replace(z, include_BU=z.include_BU & ~mask))
        assert DCLR(0.2, reference, balance=0.3)(z) == expected


def test_dclr_finds_captions_that_say_the_same():
    """Two classes of three clips each: with class vectors for a teacher, clips of a class are no negatives."""
    teacher = torch.eye(2, dtype=torch.float64)[[0, 0, 0, 1, 1, 1]]
    z = batch(6, 6, soft_target_BU=None, text_teacher_UD=teacher)
    logits = z.scale * z.audio_BD @ z.text_UD.T
    others = teacher @ teacher.T == 0
    kept = logits.masked_fill(~(others | torch.eye(6).bool()), -torch.inf)
    expected = functional.cross_entropy(kept, torch.arange(6))
    torch.testing.assert_close(DCLR(0.9, balance=0.0)(z)["audio_to_text"], expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HNNCE(beta=-0.1), "beta is a finite number >= 0, not -0.1"),
        (lambda: HNNCE(beta=math.inf), "beta is a finite number >= 0, not inf"),
        (lambda: HNNCE(alpha=1.1), "alpha is a share between 0 and 1, not 1.1"),
        (lambda: HNNCE(balance=2), "balance is a share between 0 and 1, not 2"),
        (lambda: DebiasedNCE(tau_plus=1.0), r"tau_plus is a share in \[0, 1\), not 1.0"),
        (lambda: DebiasedNCE(beta=-1), "beta is a finite number >= 0, not -1"),
        (lambda: DebiasedNCE(balance=-1), "balance is a share between 0 and 1, not -1"),
        (lambda: DCLR(reference="txt"), "reference='txt'; did you mean 'text'"),
        (lambda: DCLR(threshold=-1.5), "threshold is a cosine, -1 or more, not -1.5"),
        (lambda: DCLR(balance=3), "balance is a share between 0 and 1, not 3"),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(SpecError, match=message):
        make()


def test_a_reference_that_is_missing_is_named():
    with pytest.raises(ClapkitError, match="this batch has no audio_teacher_BD"):
        DCLR(reference="both")(batch(text_teacher_UD=unit(5)))
