"""Sums and nests of objectives are what they are made of."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from crowded import batch, crowded, target, unit
from torch.nn.functional import normalize

from clapkit.errors import ClapkitError, SpecError
from clapkit.objectives.base import Embeddings
from clapkit.objectives.combine import Matryoshka, Weighted, weighted
from clapkit.objectives.contrast import CWCL, InfoNCE
from clapkit.objectives.margin import HardNegativeSoftplus, MaxMargin
from clapkit.objectives.sigmoid import PairwiseSigmoid


def with_bias() -> Embeddings:
    return replace(crowded(), bias=torch.tensor(-3.0, dtype=torch.float64))


def test_a_sum_is_the_sum_and_keeps_its_names():
    z = with_bias()
    both = weighted((InfoNCE(), 1.0), (PairwiseSigmoid(), 0.25))(z)
    plain, sigmoid = InfoNCE()(z), PairwiseSigmoid()(z)
    assert both == {**plain, "sigmoid": 0.25 * sigmoid["sigmoid"]}


def test_names_that_clash_get_their_part_in_front():
    z = with_bias()
    parts = weighted((InfoNCE(), 1.0), (InfoNCE(0.2), 2.0), (CWCL(), 0.5), (PairwiseSigmoid(), 1.0))(z)
    directions = ("audio_to_text", "text_to_audio")
    expected = [f"{part}.{name}" for part in ("InfoNCE_1", "InfoNCE_2", "CWCL") for name in directions]
    assert list(parts) == [*expected, "PairwiseSigmoid.sigmoid"]
    assert parts["InfoNCE_2.audio_to_text"] == 2 * InfoNCE(0.2)(z)["audio_to_text"]
    assert parts["CWCL.text_to_audio"] == 0.5 * CWCL()(z)["text_to_audio"]


def test_no_loss_is_lost_when_sums_are_nested():
    z = with_bias()
    inner = weighted((InfoNCE(), 1.0), (MaxMargin(), 1.0))
    outer = weighted((inner, 1.0), (InfoNCE(), 1.0), (MaxMargin(), 3.0), (inner, 0.5))(z)
    one, other = sum(InfoNCE()(z).values()), sum(MaxMargin()(z).values())
    assert len(outer) == 12
    torch.testing.assert_close(sum(outer.values()), 2.5 * one + 4.5 * other)


def test_weights_of_the_same_objective_add_up():
    z = crowded()
    twice = weighted((InfoNCE(), 0.3), (InfoNCE(), 0.7))(z)
    torch.testing.assert_close(sum(twice.values()), sum(InfoNCE()(z).values()))
    assert weighted((InfoNCE(), 1.0))(z) == InfoNCE()(z)


def test_it_needs_what_any_part_needs_and_is_as_strict_as_the_strictest():
    sigmoid, hard, soft = PairwiseSigmoid(), HardNegativeSoftplus(), CWCL()
    both = weighted((sigmoid, 1.0), (hard, 0.5), (soft, 0.0))
    assert both.needs == ("audio", "text", "text_private", "text_teacher")
    assert both.reduces == "rows"
    assert weighted((sigmoid, 1.0)).reduces == "pairs" and weighted((sigmoid, 1.0), (InfoNCE(), 1.0)).reduces == "rows"
    assert weighted((sigmoid, 1.0), (Samples(), 1.0)).reduces == "pairs"
    assert weighted((Samples(), 1.0)).reduces == "samples"


class Samples:
    """An objective of the third kind, made outside the package."""

    needs = ("audio",)
    reduces = "samples"

    def __call__(self, z):
        return {"norm": z.audio_BD.norm()}


def test_t_clap_without_its_weight_is_infonce():
    """lambda = 0 (card 006)."""
    z = replace(crowded(), soft_target_BU=target(4, 5))
    parts = weighted((InfoNCE(private=False), 1.0), (HardNegativeSoftplus(), 0.0))(z)
    plain = InfoNCE()(replace(z, text_private_BKD=None, audio_private_UKD=None))
    torch.testing.assert_close(sum(parts.values()), sum(plain.values()))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((), "Weighted has no parts"),
        (((InfoNCE(), -1.0),), r"InfoNCE\(.*the weight is a finite number >= 0, not -1.0"),
        (((InfoNCE(), math.nan),), "the weight is a finite number >= 0, not nan"),
        (((InfoNCE(), "1"),), "the weight is a finite number >= 0, not '1'"),
        (((InfoNCE(), True),), "the weight is a finite number >= 0, not True"),
        ((InfoNCE(),), r"a part of Weighted is \(objective, weight\), not InfoNCE"),
        (((InfoNCE, 1.0),), r"a part of Weighted is \(objective, weight\), not \(<class"),
        (((1.0, InfoNCE()),), r"a part of Weighted is \(objective, weight\), not \(1.0, InfoNCE"),
    ],
)
def test_parts_that_are_no_parts_are_refused(parts, message):
    with pytest.raises(SpecError, match=message):
        Weighted(parts)


# --- Matryoshka ---------------------------------------------------------------------------------------------------


def test_matryoshka_equals_the_objective_on_cut_vectors():
    """Every vector of the embedding's width is cut; the teachers have widths of their own (4 and 5) and are left."""
    z, teacher = crowded(), unit(5, 4, seed=6)
    parts = Matryoshka(CWCL(), (2, 5, 6), (0.5, 0.25, 1.0))(z)
    for width, weight in ((2, 0.5), (5, 0.25), (6, 1.0)):
        fields = ["audio_BD", "text_UD", "text_negative_ED", "audio_negative_FD", "text_private_BKD"]
        fields.append("audio_private_UKD")
        cut = {name: normalize(getattr(z, name)[..., :width], dim=-1) for name in fields}
        expected = CWCL()(replace(z, **cut))
        assert torch.equal(z.text_teacher_UD, teacher)
        for name, loss in expected.items():
            torch.testing.assert_close(parts[f"{name}_{width}"], weight * loss)
    assert len(parts) == 6


def test_a_teacher_of_the_same_width_is_cut_too():
    seen = []

    class Spy(Samples):
        def __call__(self, z):
            seen.append((z.audio_teacher_BD, z.frames_BTD, z.rebuilt_BNP))
            return super().__call__(z)

    frames = unit(8, seed=3).view(4, 2, 6).clone()
    frames[0, 1] = 0.0
    given = batch(audio_teacher_BD=unit(4, seed=2), frames_BTD=frames, rebuilt_BNP=unit(8, seed=4).view(4, 2, 6))
    Matryoshka(Spy(), (3,))(given)
    teacher, cut, rebuilt = seen[0]
    torch.testing.assert_close(teacher, normalize(given.audio_teacher_BD[:, :3], dim=-1))
    torch.testing.assert_close(cut, normalize(frames[..., :3], dim=-1))
    assert not cut[0, 1].any(), "padding stays nothing"
    assert rebuilt is given.rebuilt_BNP, "patches are no embeddings"


def test_the_whole_width_is_the_objective():
    z = crowded()
    parts = Matryoshka(InfoNCE(0.3), (6,))(z)
    assert parts == {f"{name}_6": loss for name, loss in InfoNCE(0.3)(z).items()}


def test_without_weights_every_width_counts_once():
    z = crowded()
    torch.testing.assert_close(
        sum(Matryoshka(InfoNCE(), (2, 6))(z).values()), sum(Matryoshka(InfoNCE(), (6, 2), (1.0, 1.0))(z).values())
    )


def test_the_gradient_goes_through_the_cut_and_reaches_the_cut_numbers_alone():
    inputs = [unit(3, seed=1).requires_grad_(), unit(4, seed=2).requires_grad_()]
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)

    def loss(audio, text, scale):
        return sum(Matryoshka(InfoNCE(), (2, 4))(Embeddings(audio, text, scale, target(3, 4))).values())

    assert torch.autograd.gradcheck(loss, [*inputs, scale])
    loss(*inputs, scale).backward()
    assert inputs[0].grad[:, :4].all() and not inputs[0].grad[:, 4:].any()


def test_it_is_what_its_objective_is():
    nested = Matryoshka(weighted((PairwiseSigmoid(), 1.0), (HardNegativeSoftplus(), 1.0)), (2,))
    assert nested.needs == ("audio", "text", "text_private") and nested.reduces == "rows"
    assert Matryoshka(PairwiseSigmoid(), [4, 2], [1, 2]) == Matryoshka(PairwiseSigmoid(), (4, 2), (1, 2))


def test_a_width_that_the_embedding_has_not_is_told_with_both_numbers():
    with pytest.raises(ClapkitError, match="Matryoshka has the width 512, but the embeddings have 6 numbers"):
        Matryoshka(InfoNCE(), (2, 512))(crowded())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Matryoshka(InfoNCE(), ()), r"at least one of them and all >= 1, not \(\)"),
        (lambda: Matryoshka(InfoNCE(), (2, 0)), r"all >= 1, not \(2, 0\)"),
        (lambda: Matryoshka(InfoNCE(), (2, 2.5)), r"whole numbers, .* not \(2, 2.5\)"),
        (lambda: Matryoshka(InfoNCE(), (2, 2)), r"different whole numbers, .* not \(2, 2\)"),
        (lambda: Matryoshka(InfoNCE(), (2, 4), (1.0,)), "2 widths and 1 weights: give one weight for each width"),
        (lambda: Matryoshka(InfoNCE(), (2,), (-1.0,)), "width 2: the weight is a finite number >= 0, not -1.0"),
        (lambda: Matryoshka(InfoNCE, (2,)), "Matryoshka needs an objective, not <class"),
        (lambda: Matryoshka("InfoNCE", (2,)), "Matryoshka needs an objective, not 'InfoNCE'"),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(SpecError, match=message):
        make()
