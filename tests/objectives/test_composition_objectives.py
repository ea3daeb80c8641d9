"""The modular contrast against loops written out, and against the plainer losses it turns into."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch.nn import functional

from clapkit.errors import ClapkitError, SpecError
from clapkit.objectives.base import Embeddings
from clapkit.objectives.composition import ModularContrast
from clapkit.objectives.contrast import InfoNCE

# Scene 0: the whole, two parts. Scene 1: the whole, one part that is a part of scene 0 too. Scene 2: one caption.
# Texts in the order whole 0, part, shared part, whole 1, whole 2, and one that describes no clip.
SHARES = torch.tensor(
    [[0.5, 0.25, 0.25, 0, 0, 0], [0, 0, 0.4, 0.6, 0, 0], [0, 0, 0, 0, 1, 0]],
    dtype=torch.float64,
)
WHOLE = {0, 3, 4, 5}


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return functional.normalize(made, dim=-1)


def batch(target=SHARES, *, kinds: int = 2, scale: float = 5.0, **more) -> Embeddings:
    clips, texts = target.shape
    given = {
        "soft_target_BU": target,
        "text_private_BKD": unit(clips, kinds, 6, seed=4),
        "private_BK": torch.arange(clips * kinds).reshape(clips, kinds) % 3 != 1,
        **more,
    }
    return Embeddings(unit(clips, 6, seed=1), unit(texts, 6, seed=2), torch.tensor(scale, dtype=torch.float64), **given)


def total(objective, z: Embeddings) -> torch.Tensor:
    return sum(objective(z).values())


def by_loops(z: Embeddings, whole: set[int]) -> tuple[float, float]:
    """Both directions, one logarithm at a time."""
    clips, texts = z.soft_target_BU.shape

    def power(sound, text) -> float:
        return math.exp(float(z.scale * sound @ text))

    to_text = to_audio = 0.0
    for b in range(clips):
        own = {u for u in range(texts) if z.soft_target_BU[b, u] > 0}
        allowed = {u for u in whole if z.include_BU is None or z.include_BU[b, u]}
        below = sum(power(z.audio_BD[b], z.text_UD[u]) for u in own | allowed)
        below += sum(
            power(z.audio_BD[b], wrong)
            for wrong, there in zip(z.text_private_BKD[b], z.private_BK[b], strict=True)
            if there
        )
        for u in own:
            rivals = [c for c in range(clips) if c == b or z.include_BU is None or z.include_BU[c, u]]
            rivals += [c for c in range(clips) if c not in rivals and z.soft_target_BU[c, u] > 0]
            column = sum(power(z.audio_BD[c], z.text_UD[u]) for c in rivals)
            right = power(z.audio_BD[b], z.text_UD[u])
            to_text -= math.log(right / below) / len(own)
            to_audio -= math.log(right / column) / len(own)
    return to_text / clips, to_audio / clips


@pytest.mark.parametrize("include", [None, torch.arange(18).reshape(3, 6) % 4 != 3], ids=["all", "some left out"])
def test_equals_the_loops(include):
    z = batch(include_BU=include)
    parts = ModularContrast(balance=0.25)(z)
    to_text, to_audio = by_loops(z, WHOLE)
    assert parts["audio_to_text"].item() == pytest.approx(0.75 * to_text, rel=1e-12)
    assert parts["text_to_audio"].item() == pytest.approx(0.25 * to_audio, rel=1e-12)


def test_one_caption_a_clip_is_infonce_with_and_without_wrong_captions():
    """Stages 2 and 1 of the method."""
    z = batch(torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(total(ModularContrast(0.3), z), total(InfoNCE(0.3), z))
    none = dataclasses.replace(z, private_BK=torch.zeros_like(z.private_BK))
    torch.testing.assert_close(total(ModularContrast(0.3), none), total(InfoNCE(0.3, private=False), z))


def test_equal_shares_are_infonce_with_several_positives():
    z = batch((SHARES > 0) / (SHARES > 0).sum(1, keepdim=True).double())
    torch.testing.assert_close(total(ModularContrast(), z), total(InfoNCE(), z))


def test_the_shares_say_which_caption_is_whole_and_nothing_else():
    other = torch.where(SHARES == 0.25, 0.1, SHARES) + 0.3 * (SHARES == 0.5)
    torch.testing.assert_close(total(ModularContrast(), batch()), total(ModularContrast(), batch(other)))


def felt_by_clips(z: Embeddings, **moved) -> list[bool]:
    """Of which clips the gradient changes when a text is moved: those in whose denominator it stands."""
    grads = []
    for given in (z, dataclasses.replace(z, **moved)):
        sound = given.audio_BD.detach().requires_grad_()
        loss = ModularContrast(balance=0.0)(dataclasses.replace(given, audio_BD=sound))["audio_to_text"]
        grads.append(torch.autograd.grad(loss, sound)[0])
    return [not torch.equal(one, two) for one, two in zip(*grads, strict=True)]


@pytest.mark.parametrize(
    ("text", "clips"),
    [(0, {0, 1, 2}), (1, {0}), (2, {0, 1}), (3, {0, 1, 2}), (4, {0, 1, 2}), (5, {0, 1, 2})],
)
def test_wholes_are_held_against_all_clips_and_parts_against_none_but_their_own(text, clips):
    z = batch()
    moved = z.text_UD.clone()
    moved[text] = unit(6, seed=77)
    assert felt_by_clips(z, text_UD=moved) == [b in clips for b in range(3)]


def test_wrong_captions_are_felt_by_their_own_clip_only_and_not_where_they_are_fewer():
    z = batch()
    assert z.private_BK.tolist() == [[True, False], [True, True], [False, True]]
    for b, k in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)):
        moved = z.text_private_BKD.clone()
        moved[b, k] = unit(6, seed=77)
        felt = felt_by_clips(z, text_private_BKD=moved)
        assert felt == [c == b and bool(z.private_BK[b, k]) for c in range(3)]


def test_a_scene_whose_captions_all_fit_equally_is_best_when_its_wrong_captions_are_far():
    """Every positive at the clip itself: the least loss there is, the logarithm of how many share the denominator."""
    sound = torch.eye(2, 6, dtype=torch.float64)
    text = sound[[0, 0, 1]]
    shares = torch.tensor([[0.6, 0.4, 0], [0, 0, 1]], dtype=torch.float64)
    z = Embeddings(
        sound, text, torch.tensor(60.0, dtype=torch.float64), shares, text_private_BKD=-sound[:, None].repeat(1, 2, 1)
    )
    parts = ModularContrast()(z)
    assert 2 * parts["audio_to_text"].item() == pytest.approx(math.log(2) / 2, abs=1e-9)
    assert 2 * parts["text_to_audio"].item() == pytest.approx(0.0, abs=1e-9)


def test_the_gradient_is_that_of_the_formula():
    z = batch()
    names = ("audio_BD", "text_UD", "scale", "text_private_BKD")
    inputs = [getattr(z, name).requires_grad_() for name in names]

    def loss(*given):
        return total(ModularContrast(), dataclasses.replace(z, **dict(zip(names, given, strict=True))))

    assert torch.autograd.gradcheck(loss, inputs)


def test_bad_settings_and_missing_fields_are_refused():
    with pytest.raises(SpecError, match=r"balance is a share .* not -0.5"):
        ModularContrast(balance=-0.5)
    with pytest.raises(ClapkitError, match="no text_private_BKD"):
        ModularContrast()(batch(text_private_BKD=None))
