"""Softmax contrast against loops written out, and against what is known about it in closed form."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from crowded import batch, counted, crowded, denominators, target, unit
from torch.nn import functional

from clapkit.errors import ClapkitError, SpecError
from clapkit.objectives.base import Embeddings
from clapkit.objectives.contrast import InfoNCE, spread


def by_loops(z: Embeddings, *, smoothing: float = 0.0) -> tuple[float, float]:
    """Both directions, one logarithm at a time."""
    clips, texts = len(z.audio_BD), len(z.text_UD)
    of_clip, of_text = denominators(z)
    to_text = to_audio = 0.0
    for b in range(clips):
        room = sum(counted(z, b, u) for u in range(texts))
        for u in range(texts):
            score = float(z.scale * z.audio_BD[b] @ z.text_UD[u])
            share = float(z.target_BU()[b, u])
            even = counted(z, b, u) / room
            to_text -= ((1 - smoothing) * share + smoothing * even) * math.log(math.exp(score) / of_clip[b])
            to_audio -= share * math.log(math.exp(score) / of_text[u])
    return to_text / clips, to_audio / clips


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("negatives", [None, 0, 3])
def test_equals_the_loops(negatives, smoothing):
    z = batch(text_negative_ED=None if negatives is None else unit(negatives, seed=3))
    parts = InfoNCE(balance=0.25, smoothing=smoothing)(z)
    to_text, to_audio = by_loops(z, smoothing=smoothing)
    assert parts["audio_to_text"].item() == pytest.approx(0.75 * to_text, rel=1e-12)
    assert parts["text_to_audio"].item() == pytest.approx(0.25 * to_audio, rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_masks_and_private_negatives_equal_the_loops(smoothing):
    parts = InfoNCE(balance=0.25, smoothing=smoothing)(crowded())
    to_text, to_audio = by_loops(crowded(), smoothing=smoothing)
    assert parts["audio_to_text"].item() == pytest.approx(0.75 * to_text, rel=1e-12)
    assert parts["text_to_audio"].item() == pytest.approx(0.25 * to_audio, rel=1e-12)


def test_private_negatives_can_be_left_to_another_objective():
    z = crowded()
    without = replace(z, text_private_BKD=None, audio_private_UKD=None)
    assert InfoNCE(private=False)(z) == InfoNCE()(without)
    assert InfoNCE(private=False)(z) != InfoNCE()(z)


@pytest.mark.parametrize("none", ["no column", "nothing there"])
def test_without_private_negatives_it_is_infonce(none):
    z = crowded()
    plain = replace(z, text_private_BKD=None, audio_private_UKD=None)
    if none == "no column":
        z = replace(z, text_private_BKD=z.text_private_BKD[:, :0], private_BK=z.private_BK[:, :0])
        z = replace(z, audio_private_UKD=z.audio_private_UKD[:, :0], audio_private_UK=z.audio_private_UK[:, :0])
    else:
        z = replace(z, private_BK=torch.zeros(4, 3), audio_private_UK=torch.zeros(5, 2))
    assert InfoNCE()(z) == InfoNCE()(plain)


def test_other_sounds_are_rows_of_a_batch_that_no_text_describes():
    """A batch with three more clips, whose rows have no target, has the same denominators of texts."""
    z = batch(audio_negative_FD=unit(3, seed=9), text_negative_ED=unit(2, seed=3))
    joined = Embeddings(
        torch.cat([z.audio_BD, z.audio_negative_FD]),
        torch.cat([z.text_UD, z.text_negative_ED]),
        z.scale,
        functional.pad(z.soft_target_BU, (0, 2, 0, 3)),
    )
    found, expected = InfoNCE()(z), InfoNCE()(joined)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value * 7 / 4)  # a mean over 4 clips, not 7
    for empty in (None, z.audio_BD[:0]):
        assert InfoNCE()(replace(z, audio_negative_FD=empty))["text_to_audio"] < found["text_to_audio"]


def test_private_negatives_are_felt_by_their_own_clip_alone():
    """Only the first clip has wrong texts; the gradient on the sounds of the others is as without."""
    z = batch(
        text_private_BKD=unit(12, seed=4).view(4, 3, 6), private_BK=torch.tensor([[1], [0], [0], [0]]) * torch.ones(3)
    )
    grads = []
    for given in (z, replace(z, text_private_BKD=None)):
        audio_BD = z.audio_BD.clone().requires_grad_()
        InfoNCE()(replace(given, audio_BD=audio_BD))["audio_to_text"].backward()
        grads.append(audio_BD.grad)
    assert torch.equal(grads[0][1:], grads[1][1:]) and not torch.equal(grads[0][0], grads[1][0])


def test_a_duplicate_that_is_masked_is_no_negative():
    """Clips 0 and 1 have the same caption in other words: for clip 0 it is as if text 1 were not there."""
    include = torch.ones(3, 3, dtype=torch.bool)
    include[0, 1] = include[1, 0] = False
    z = Embeddings(unit(3, seed=1), unit(3, seed=2), torch.tensor(5.0, dtype=torch.float64), include_BU=include)
    logits = 5.0 * z.audio_BD @ z.text_UD.T
    rows = [logits[0, [0, 2]], logits[1, [1, 2]], logits[2]]
    costs = [torch.logsumexp(row, 0) - logits[b, b] for b, row in enumerate(rows)]
    torch.testing.assert_close(2 * InfoNCE()(z)["audio_to_text"], sum(costs) / 3)


def test_a_pair_with_target_stands_in_the_denominator_whatever_the_mask_says():
    nothing, all_pairs = (torch.full((4, 5), value) for value in (False, True))
    mixed = batch(include_BU=nothing)
    assert InfoNCE()(mixed) == InfoNCE()(replace(mixed, include_BU=all_pairs)), "every pair has a target here"
    single = batch(4, 4, soft_target_BU=None, include_BU=torch.full((4, 4), False))
    assert sum(InfoNCE()(single).values()).item() == pytest.approx(0.0, abs=1e-12)


def test_a_text_without_a_clip_costs_nothing_and_is_a_negative():
    z = batch(3, 4, soft_target_BU=torch.eye(4, dtype=torch.float64)[:3], include_BU=torch.full((3, 4), False))
    z.text_UD.requires_grad_()
    loss = sum(InfoNCE()(replace(z, include_BU=None)).values())
    loss.backward()
    assert torch.isfinite(z.text_UD.grad).all() and z.text_UD.grad[3].any()
    assert torch.isfinite(sum(InfoNCE()(z).values()))


def test_half_precision_is_judged_in_float32():
    z = batch(64, 64, soft_target_BU=None, scale=100.0)
    low = replace(z, audio_BD=z.audio_BD.bfloat16(), text_UD=z.text_UD.bfloat16(), scale=z.scale.float())
    exact = replace(low, audio_BD=low.audio_BD.double(), text_UD=low.text_UD.double(), scale=z.scale)
    for name, part in InfoNCE()(low).items():
        assert part.dtype == torch.float32
        assert part.item() == pytest.approx(InfoNCE()(exact)[name].item(), rel=1e-5)


def test_one_text_for_each_clip_is_the_symmetric_cross_entropy():
    z = Embeddings(unit(6, seed=1), unit(6, seed=2), torch.tensor(9.0, dtype=torch.float64))
    logits = 9.0 * z.audio_BD @ z.text_UD.T
    diagonal = torch.arange(6)
    textbook = (functional.cross_entropy(logits, diagonal) + functional.cross_entropy(logits.T, diagonal)) / 2
    torch.testing.assert_close(sum(InfoNCE()(z).values()), textbook)


@pytest.mark.parametrize(("equal", "scale"), [(True, 10.0), (False, 0.0)], ids=["all equal", "scale 0"])
def test_what_says_nothing_costs_the_logarithm_of_the_choices(equal, scale):
    z = batch(4, 5, scale=scale)
    if equal:
        one = unit(1)
        z = Embeddings(one.expand(4, -1), one.expand(5, -1), z.scale, z.soft_target_BU)
    parts = InfoNCE()(z)
    assert 2 * parts["audio_to_text"].item() == pytest.approx(math.log(5))
    assert 2 * parts["text_to_audio"].item() == pytest.approx(math.log(4))


def test_sound_and_language_can_change_places():
    """With a target whose rows and columns both sum to 1; otherwise the two means weigh differently."""
    doubly = 0.6 * torch.eye(4, dtype=torch.float64) + 0.4 * torch.eye(4, dtype=torch.float64).roll(1, 1)
    z = batch(4, 4, soft_target_BU=doubly)
    swapped = Embeddings(z.text_UD, z.audio_BD, z.scale, doubly.T)
    here, there = InfoNCE(balance=0.3)(z), InfoNCE(balance=0.7)(swapped)
    torch.testing.assert_close(here["audio_to_text"], there["text_to_audio"])
    torch.testing.assert_close(here["text_to_audio"], there["audio_to_text"])


def test_a_caption_that_stands_twice_pulls_both_its_clips():
    """Clips 0 and 1 share a text. The plain loss rewards telling their copies apart, this one cannot."""
    text_UD = unit(3, seed=2)
    shared = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    scale = torch.tensor(50.0, dtype=torch.float64)
    perfect = Embeddings(text_UD[[0, 0, 1, 2]], text_UD, scale, shared)
    assert 2 * InfoNCE()(perfect)["audio_to_text"].item() == pytest.approx(0.0, abs=1e-6)
    # From the text's side two clips are equally right: the best it can do is to halve.
    assert 2 * InfoNCE()(perfect)["text_to_audio"].item() == pytest.approx(math.log(2) / 2, abs=1e-6)


def test_negatives_are_felt_by_the_clips_only():
    plain, crowded = InfoNCE()(batch()), InfoNCE()(batch(text_negative_ED=unit(4, seed=9)))
    assert crowded["audio_to_text"] > plain["audio_to_text"]
    assert crowded["text_to_audio"] == plain["text_to_audio"]


def test_the_gradient_is_that_of_the_formula():
    audio, text, scale = unit(3, seed=1), unit(4, seed=2), torch.tensor(3.0, dtype=torch.float64)
    negatives = unit(2, seed=3)
    inputs = [x.requires_grad_() for x in (audio, text, scale, negatives)]

    def loss(audio, text, scale, negatives):
        return sum(InfoNCE(smoothing=0.1)(Embeddings(audio, text, scale, target(3, 4), None, negatives)).values())

    assert torch.autograd.gradcheck(loss, inputs)


def test_wrong_shapes_are_told_with_their_numbers():
    with pytest.raises(ClapkitError, match="4 clips and 5 texts need a soft_target_BU"):
        InfoNCE()(batch(4, 5, soft_target_BU=None))
    with pytest.raises(ClapkitError, match=r"has shape \(5, 4\), expected \(4, 5\)"):
        InfoNCE()(batch(4, 5, soft_target_BU=target(5, 4)))


@pytest.mark.parametrize("wrong", [{"balance": 1.5}, {"balance": -0.1}, {"smoothing": 1.0}, {"smoothing": -0.2}])
def test_shares_outside_their_range_are_refused(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(SpecError, match=f"{name} is a share .* not {value}"):
        InfoNCE(**wrong)


def test_spread_is_the_product():
    near = unit(5, seed=8) @ unit(5, seed=9).T
    torch.testing.assert_close(spread(target(4, 5), near), target(4, 5) @ near)
    assert not spread(torch.zeros(4, 5), near).any()
