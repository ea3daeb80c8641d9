"""Weighed temporal negatives against loops written out, and against the losses they turn into."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch.nn import functional

from clapkit.errors import ClapkitError, SpecError
from clapkit.objectives.base import Embeddings
from clapkit.objectives.contrast import InfoNCE
from clapkit.objectives.margin import HardNegativeSoftplus
from clapkit.objectives.order import TemporalNCE


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return functional.normalize(made, dim=-1)


def batch(clips: int = 4, texts: int = 3, kinds: int = 2, *, scale: float = 5.0, **more) -> Embeddings:
    given = {
        "soft_target_BU": torch.eye(texts, dtype=torch.float64)[torch.arange(clips) % texts],
        "text_negative_ED": unit(2, 6, seed=3),
        "audio_negative_FD": unit(3, 6, seed=6),
        "text_private_BKD": unit(clips, kinds, 6, seed=4),
        "audio_private_UKD": unit(texts, kinds, 6, seed=5),
        "private_BK": torch.arange(clips * kinds).reshape(clips, kinds) % 3 != 1,
        "audio_private_UK": torch.arange(texts * kinds).reshape(texts, kinds) % 4 != 2,
        **more,
    }
    return Embeddings(unit(clips, 6, seed=1), unit(texts, 6, seed=2), torch.tensor(scale, dtype=torch.float64), **given)


def total(objective, z: Embeddings) -> torch.Tensor:
    return sum(objective(z).values())


def by_loops(z: Embeddings, weights, *, both_sides: bool) -> tuple[float, float]:
    """Both directions, one logarithm at a time."""

    def power(sound, text) -> float:
        return math.exp(float(z.scale * sound @ text))

    clips, texts = len(z.audio_BD), len(z.text_UD)
    to_text = to_audio = 0.0
    for b in range(clips):
        for u in range(texts):
            sound, text, share = z.audio_BD[b], z.text_UD[u], float(z.soft_target_BU[b, u])
            row = sum(power(sound, other) for other in [*z.text_UD, *z.text_negative_ED])
            column = sum(power(other, text) for other in [*z.audio_BD, *z.audio_negative_FD])
            for k, weight in enumerate(weights):
                if z.private_BK[b, k]:
                    row += weight * power(sound, z.text_private_BKD[b, k])
                if both_sides and z.audio_private_UK[u, k]:
                    column += weight * power(z.audio_private_UKD[u, k], text)
            to_text -= share * math.log(power(sound, text) / row)
            to_audio -= share * math.log(power(sound, text) / column)
    return to_text / clips, to_audio / clips


@pytest.mark.parametrize("both_sides", [True, False])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.0, 1.0), (2.5, 0.3), (0.0, 0.0)], ids=str)
def test_equals_the_loops(weights, both_sides):
    z = batch()
    parts = TemporalNCE(weights=weights, both_sides=both_sides, balance=0.25)(z)
    to_text, to_audio = by_loops(z, weights, both_sides=both_sides)
    assert parts["audio_to_text"].item() == pytest.approx(0.75 * to_text, rel=1e-12)
    assert parts["text_to_audio"].item() == pytest.approx(0.25 * to_audio, rel=1e-12)


def test_weights_of_0_and_of_1_are_infonce_without_and_with_private_negatives():
    z = batch()
    torch.testing.assert_close(total(TemporalNCE((0.0, 0.0)), z), total(InfoNCE(private=False), z))
    torch.testing.assert_close(total(TemporalNCE((1.0, 1.0)), z), total(InfoNCE(), z))


def test_a_weight_of_2_is_the_negative_standing_there_twice():
    z = batch(kinds=1)
    twice = {name: getattr(z, name).repeat_interleave(2, dim=1) for name in ("text_private_BKD", "private_BK")}
    twice |= {name: getattr(z, name).repeat_interleave(2, dim=1) for name in ("audio_private_UKD", "audio_private_UK")}
    torch.testing.assert_close(total(TemporalNCE((2.0,)), z), total(InfoNCE(), dataclasses.replace(z, **twice)))


def test_one_clip_alone_chooses_between_right_and_reversed_as_in_t_clap():
    z = batch(1, 1, 1, text_negative_ED=None, private_BK=None)
    here = TemporalNCE(balance=0.0)(z)["audio_to_text"]
    torch.testing.assert_close(here, total(HardNegativeSoftplus(), z))
    same = dataclasses.replace(z, text_private_BKD=z.text_UD[:, None])
    assert TemporalNCE(balance=0.0)(same)["audio_to_text"].item() == pytest.approx(math.log(2))


def test_a_mix_and_its_reverse_can_change_places():
    """Three mixes u and what reversing makes of them; every (u, v) becomes (u_rev, v_rev) and the other way round."""
    sound, reverse, text, swapped = (unit(3, 6, seed=s) for s in (11, 12, 13, 14))
    scale = torch.tensor(5.0, dtype=torch.float64)

    def loss(u, u_rev, v, v_rev):
        both = torch.cat([u, u_rev]), torch.cat([v, v_rev])
        private = {
            "text_private_BKD": torch.cat([v_rev, v])[:, None],
            "audio_private_UKD": torch.cat([u_rev, u])[:, None],
        }
        return total(TemporalNCE((0.7,)), Embeddings(*both, scale, **private))

    torch.testing.assert_close(loss(sound, reverse, text, swapped), loss(reverse, sound, swapped, text))


def test_wrong_texts_are_felt_by_their_own_clip_only_and_not_at_weight_0():
    z = batch(private_BK=None)
    z.text_private_BKD.requires_grad_()
    for b in range(4):
        alone = torch.zeros(4, dtype=torch.float64)
        alone[b] = 1.0
        one = dataclasses.replace(z, soft_target_BU=z.soft_target_BU * alone[:, None])
        (grad,) = torch.autograd.grad(TemporalNCE((1.0, 0.0))(one)["audio_to_text"], z.text_private_BKD)
        felt = grad.abs().sum(2) > 0
        expected = torch.zeros(4, 2, dtype=torch.bool)
        expected[b, 0] = True
        assert torch.equal(felt, expected)


def test_the_more_a_reversed_caption_weighs_the_harder_it_is_pushed_away():
    pushes = []
    for weight in (0.5, 1.0, 4.0):
        z = batch(kinds=1, private_BK=None)
        z.text_private_BKD.requires_grad_()
        TemporalNCE((weight,))(z)["audio_to_text"].backward()
        pushes.append((z.text_private_BKD.grad[:, 0] * z.audio_BD).sum(1))
    assert (pushes[0] > 0).all() and (pushes[1] > pushes[0]).all() and (pushes[2] > pushes[1]).all()


@pytest.mark.parametrize("weights", [(1.0, 0.4), (0.0, 1.0)], ids=str)
def test_the_gradient_is_that_of_the_formula(weights):
    z = batch(3, 3)
    names = ("audio_BD", "text_UD", "scale", "text_private_BKD", "audio_private_UKD")
    inputs = [getattr(z, name).requires_grad_() for name in names]

    def loss(*given):
        return total(TemporalNCE(weights), dataclasses.replace(z, **dict(zip(names, given, strict=True))))

    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("weights", [(), (-1.0,), (1.0, float("inf")), (float("nan"),)], ids=str)
def test_weights_that_mean_nothing_are_refused(weights):
    with pytest.raises(SpecError, match=r"weights are numbers of 0 or more.* not \("):
        TemporalNCE(weights)
    with pytest.raises(SpecError, match=r"balance is a share .* not 1.5"):
        TemporalNCE(balance=1.5)


def test_a_batch_without_wrong_captions_or_with_other_kinds_is_refused():
    with pytest.raises(ClapkitError, match="no text_private_BKD"):
        TemporalNCE((1.0, 1.0))(batch(text_private_BKD=None))
    with pytest.raises(ClapkitError, match="no audio_private_UKD"):
        TemporalNCE((1.0, 1.0))(batch(audio_private_UKD=None))
    assert total(TemporalNCE((1.0, 1.0), both_sides=False), batch(audio_private_UKD=None)) > 0
    with pytest.raises(ClapkitError, match=r"text_private_BKD holds 2 kinds of wrong text.* weights for \(1.0,\)"):
        TemporalNCE()(batch())
    with pytest.raises(ClapkitError, match=r"audio_private_UKD holds 3 kinds of wrong audio"):
        TemporalNCE((1.0, 1.0))(batch(audio_private_UKD=unit(3, 3, 6), audio_private_UK=None))


def test_what_is_needed_follows_the_sides():
    assert TemporalNCE().needs == ("audio", "text", "text_private", "audio_private")
    assert TemporalNCE(both_sides=False).needs == ("audio", "text", "text_private")
