"""InfoNCE against loops written out, and against what is known about it in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from clapkit.errors import ClapkitError, SpecError
from clapkit.objectives.base import Embeddings
from clapkit.objectives.contrast import InfoNCE


def unit(rows: int, width: int = 6, *, seed: int = 0) -> torch.Tensor:
    made = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return functional.normalize(made, dim=-1)


def target(clips: int, texts: int, *, seed: int = 7) -> torch.Tensor:
    made = torch.rand(clips, texts, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return made / made.sum(1, keepdim=True)


def batch(clips: int = 4, texts: int = 5, *, scale: float = 7.0, **more) -> Embeddings:
    given = {"soft_target_BU": target(clips, texts), **more}
    return Embeddings(unit(clips, seed=1), unit(texts, seed=2), torch.tensor(scale, dtype=torch.float64), **given)


def by_loops(z: Embeddings, *, smoothing: float = 0.0) -> tuple[float, float]:
    """Both directions, one logarithm at a time."""
    clips, texts = len(z.audio_BD), len(z.text_UD)
    score = [[float(z.scale * a @ t) for t in z.text_UD] for a in z.audio_BD]
    extra = z.text_negative_ED if z.text_negative_ED is not None else []
    to_text = to_audio = 0.0
    for b in range(clips):
        row = sum(math.exp(s) for s in score[b]) + sum(math.exp(float(z.scale * z.audio_BD[b] @ t)) for t in extra)
        for u in range(texts):
            column = sum(math.exp(score[c][u]) for c in range(clips))
            share = float(z.target_BU()[b, u])
            to_text -= ((1 - smoothing) * share + smoothing / texts) * math.log(math.exp(score[b][u]) / row)
            to_audio -= share * math.log(math.exp(score[b][u]) / column)
    return to_text / clips, to_audio / clips


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("negatives", [None, 0, 3])
def test_equals_the_loops(negatives, smoothing):
    z = batch(text_negative_ED=None if negatives is None else unit(negatives, seed=3))
    parts = InfoNCE(balance=0.25, smoothing=smoothing)(z)
    to_text, to_audio = by_loops(z, smoothing=smoothing)
    assert parts["audio_to_text"].item() == pytest.approx(0.75 * to_text, rel=1e-12)
    assert parts["text_to_audio"].item() == pytest.approx(0.25 * to_audio, rel=1e-12)


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
