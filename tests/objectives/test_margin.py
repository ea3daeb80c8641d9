"""Ranking losses against loops and hand computations."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from crowded import batch, counted, crowded, own, target, unit

from clapkit.errors import ClapkitError, SpecError
from clapkit.objectives.base import Embeddings
from clapkit.objectives.contrast import InfoNCE
from clapkit.objectives.margin import HardNegativeSoftplus, MaxMargin


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def rank(positive: float, negatives: list[float], *, margin: float, hardest: bool) -> float:
    hinges = [max(0.0, margin + negative - positive) for negative in negatives]
    return max(hinges, default=0.0) if hardest else sum(hinges)


def by_loops(z: Embeddings, *, margin: float, hardest: bool) -> tuple[float, float]:
    clips, texts = len(z.audio_BD), len(z.text_UD)
    cosine = (z.audio_BD @ z.text_UD.T).tolist()
    share = z.target_BU().tolist()
    to_text = to_audio = 0.0
    for b, a in enumerate(z.audio_BD):
        shared = [] if z.text_negative_ED is None else list(z.text_negative_ED)
        wrong = [float(a @ t) for t in shared + own(z.text_private_BKD, z.private_BK, b)]
        for u, t in enumerate(z.text_UD):
            others = [cosine[b][v] for v in range(texts) if share[b][v] == 0 and counted(z, b, v)]
            to_text += share[b][u] * rank(cosine[b][u], others + wrong, margin=margin, hardest=hardest)
            others = [cosine[c][u] for c in range(clips) if share[c][u] == 0 and counted(z, c, u)]
            sounds = [] if z.audio_negative_FD is None else list(z.audio_negative_FD)
            others += [float(t @ x) for x in sounds + own(z.audio_private_UKD, z.audio_private_UK, u)]
            to_audio += share[b][u] * rank(cosine[b][u], others, margin=margin, hardest=hardest)
    return to_text / clips, to_audio / clips


@pytest.mark.parametrize("make", [crowded, lambda: batch(5, 5, soft_target_BU=None)])
@pytest.mark.parametrize("negatives", ["sum", "hardest"])
@pytest.mark.parametrize("margin", [0.0, 0.2, 1.0])
def test_margin_equals_the_loops(make, negatives, margin):
    z = make()
    to_text, to_audio = by_loops(z, margin=margin, hardest=negatives == "hardest")
    parts = MaxMargin(margin, negatives, balance=0.3)(z)
    assert parts["audio_to_text"].item() == pytest.approx(2 * 0.7 * to_text, rel=1e-12)
    assert parts["text_to_audio"].item() == pytest.approx(2 * 0.3 * to_audio, rel=1e-12)


def test_margin_equals_the_published_form():
    """1/B sum_i sum_{j != i} [m + s_ij - s_ii]_+ + [m + s_ji - s_ii]_+, computed by hand for two clips."""
    audio = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    text = torch.tensor([[0.8, 0.6], [0.6, 0.8]], dtype=torch.float64)
    z = Embeddings(audio, text, number(7.0))
    assert sum(MaxMargin(0.5)(z).values()).item() == pytest.approx(4 * 0.3 / 2)
    assert sum(MaxMargin(0.2)(z).values()).item() == pytest.approx(0.0, abs=1e-12)


def test_what_is_alike_costs_the_margin_for_each_negative_and_the_scale_plays_no_part():
    one = unit(1)
    z = Embeddings(one.expand(5, -1), one.expand(5, -1), number(3.0))
    assert sum(MaxMargin(0.2)(z).values()).item() == pytest.approx(2 * 4 * 0.2)
    assert sum(MaxMargin(0.2, "hardest")(z).values()).item() == pytest.approx(2 * 0.2)
    assert MaxMargin()(batch(scale=1.0)) == MaxMargin()(batch(scale=50.0))
    assert sum(MaxMargin()(batch(1, 1, soft_target_BU=None)).values()).item() == 0.0


def test_margins_that_are_met_give_no_gradient():
    audio = torch.eye(4, dtype=torch.float64).requires_grad_()
    sum(MaxMargin(0.9)(Embeddings(audio, torch.eye(4, dtype=torch.float64), number(1.0))).values()).backward()
    assert not audio.grad.any()


def test_infonce_over_its_scale_tends_to_the_hardest_hinge_without_margin():
    z = batch(6, 6, soft_target_BU=None, scale=1e5)
    hinge = MaxMargin(0.0, "hardest")(z)
    for name, part in InfoNCE()(z).items():
        assert part.item() / 1e5 == pytest.approx(hinge[name].item() / 2, abs=1e-4)


@pytest.mark.parametrize("negatives", ["sum", "hardest"])
def test_margin_has_the_gradient_of_the_formula(negatives):
    inputs = [unit(4, seed=1), unit(4, seed=2), unit(2, seed=3)]

    def loss(audio, text, wrong):
        return sum(MaxMargin(0.3, negatives)(Embeddings(audio, text, number(1.0), text_negative_ED=wrong)).values())

    assert torch.autograd.gradcheck(loss, [x.requires_grad_() for x in inputs])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaxMargin(-0.1), "margin is a distance of cosines, 0 or more, not -0.1"),
        (lambda: MaxMargin(math.nan), "margin is a distance of cosines, 0 or more, not nan"),
        (lambda: MaxMargin(negatives="hard"), "negatives='hard'; did you mean 'hardest'"),
        (lambda: MaxMargin(balance=1.5), "balance is a share between 0 and 1, not 1.5"),
        (lambda: HardNegativeSoftplus("sound"), "side='sound'; known: audio, text"),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(SpecError, match=message):
        make()


# --- a clip against its own wrong texts ---------------------------------------------------------------------------


def softplus_by_loops(z: Embeddings, *, side: str) -> float:
    share = z.target_BU()
    if side == "text":
        subject, right, wrong, there = z.audio_BD, z.text_UD, z.text_private_BKD, z.private_BK
    else:
        subject, right, wrong, there = z.text_UD, z.audio_BD, z.audio_private_UKD, z.audio_private_UK
        share = share.T
    total, asked = 0.0, 0
    for row, x in enumerate(subject):
        against = own(wrong, there, row)
        if not against or not share[row].any():
            continue
        asked += 1
        for column, y in enumerate(right):
            part = float(share[row, column] / share[row].sum())
            for n in against:
                gap = math.exp(float(z.scale * x @ y)), math.exp(float(z.scale * x @ n))
                total -= part / len(against) * math.log(gap[0] / sum(gap))
    return total / asked


@pytest.mark.parametrize("side", ["text", "audio"])
@pytest.mark.parametrize("masked", [True, False])
def test_softplus_equals_the_loops(side, masked):
    z = crowded()
    z = replace(z, private_BK=z.private_BK if masked else None, audio_private_UK=z.audio_private_UK if masked else None)
    parts = HardNegativeSoftplus(side)(z)
    assert parts[f"hard_negative_{side}"].item() == pytest.approx(softplus_by_loops(z, side=side), rel=1e-12)


def test_the_mean_is_over_the_clips_that_have_wrong_texts():
    wrong = unit(4, seed=4).view(4, 1, 6)
    z = batch(4, 4, soft_target_BU=None, text_private_BKD=wrong, private_BK=torch.tensor([[1], [0], [0], [1]]))
    two = Embeddings(z.audio_BD[[0, 3]], z.text_UD[[0, 3]], z.scale, text_private_BKD=wrong[[0, 3]])
    torch.testing.assert_close(HardNegativeSoftplus()(z), HardNegativeSoftplus()(two))


def test_right_and_wrong_alike_cost_log_two_and_no_wrong_text_costs_nothing():
    z = batch(3, 3, soft_target_BU=None)
    alike = replace(z, text_private_BKD=z.text_UD[:, None].expand(-1, 2, -1))
    assert HardNegativeSoftplus()(alike)["hard_negative_text"].item() == pytest.approx(math.log(2))
    audio = z.audio_BD.clone().requires_grad_()
    for none in (alike.text_private_BKD[:, :0], alike.text_private_BKD):
        empty = replace(alike, audio_BD=audio, text_private_BKD=none, private_BK=torch.zeros(3, none.shape[1]))
        loss = HardNegativeSoftplus()(empty)["hard_negative_text"]
        loss.backward()
        assert loss.item() == 0.0 and not audio.grad.any()


def test_one_wrong_text_is_infonce_of_two_choices():
    """Each clip alone, with its wrong text in its own denominator."""
    z = batch(4, 4, soft_target_BU=None, text_private_BKD=unit(4, seed=4).view(4, 1, 6))
    alone = [
        InfoNCE(balance=0.0)(
            Embeddings(z.audio_BD[[b]], z.text_UD[[b]], z.scale, text_private_BKD=z.text_private_BKD[[b]])
        )["audio_to_text"]
        for b in range(4)
    ]
    torch.testing.assert_close(HardNegativeSoftplus()(z)["hard_negative_text"], sum(alone) / 4)


@pytest.mark.parametrize("side", ["text", "audio"])
def test_softplus_has_the_gradient_of_the_formula_and_none_for_what_is_not_there(side):
    inputs = [
        unit(3, seed=1),
        unit(4, seed=2),
        number(3.0),
        unit(12, seed=3).view(*((3, 4) if side == "text" else (4, 3)), 6),
    ]
    there = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]])

    def loss(audio, text, scale, wrong):
        more = {"text_private_BKD": wrong, "private_BK": there}
        if side == "audio":
            more = {"audio_private_UKD": wrong, "audio_private_UK": there.T}
        return sum(HardNegativeSoftplus(side)(Embeddings(audio, text, scale, target(3, 4), **more)).values())

    inputs = [x.requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(loss, inputs)
    loss(*inputs).backward()
    assert not inputs[3].grad[(there if side == "text" else there.T) == 0].any()


@pytest.mark.parametrize(("side", "field"), [("text", "text_private_BKD"), ("audio", "audio_private_UKD")])
def test_softplus_says_what_it_misses(side, field):
    with pytest.raises(ClapkitError, match=f"this batch has no {field}"):
        HardNegativeSoftplus(side)(batch())
