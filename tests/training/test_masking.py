"""Hidden patches: which are hidden, what is foretold of them, from what, and what it teaches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import stepping
import torch
from stepping import small_model
from torch.nn.functional import layer_norm

from clapkit.audio.features import Features
from clapkit.data.batches import part_of
from clapkit.errors import RecipeError, SpecError
from clapkit.objectives.masked import MaskedLatent, MaskedReconstruction
from clapkit.spec import spec
from clapkit.towers.resnet import ResNetTower
from clapkit.training.beside.masking import Decoder, HiddenPatches, Hiding
from clapkit.training.step import How, batch_features, take_step

SETTINGS = HiddenPatches(share=0.6, width=12, depth=1, heads=2)


def hiding(model, *, target: str = "patches", teacher=None, share: float = 0.6) -> Hiding:
    settings = replace(SETTINGS, target=target, share=share)
    return Hiding(settings, settings.build(model.audio, seed=5).double(), teacher, seed=7)


def made_by(part: Hiding, model, given):
    return part(model, given, batch_features(model, given, ()), model.encode_texts)


def real_tokens(model, given) -> torch.Tensor:
    """[B, L], from lengths alone: a token is real if a frame of its time step is."""
    features = batch_features(model, given, ())
    length, bands = model.audio.patch[0], model.audio.bands
    tokens = model.audio.token_count(features.values.shape[1])
    counts = features.mask_BT.sum(1).tolist()
    return torch.tensor([[token // bands * length < count for token in range(tokens)] for count in counts])


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.98])
def test_every_token_is_hidden_or_visible_and_only_real_ones_are_asked_for(share):
    model, given = small_model(), stepping.batch()
    given = replace(given, lengths_B=np.array([4000, 2000, 900, 130, 1, 4000, 3999]))
    real_BL = real_tokens(model, given)
    visible_BK, place_BN, hidden_BN = hiding(model, share=share)._drawn(given, real_BL)
    for b, real_L in enumerate(real_BL):
        assert sorted([*visible_BK[b].tolist(), *place_BN[b].tolist()]) == list(range(real_BL.shape[1]))
        asked = place_BN[b][hidden_BN[b]]
        count = int(real_L.sum())
        assert real_L[asked].all() and not real_L[place_BN[b][~hidden_BN[b]]].any()
        most = real_BL.shape[1] - visible_BK.shape[1]
        least = count - visible_BK.shape[1]
        assert len(asked) == min(max(round(share * count), least), most, max(0, count - 1))


def test_what_is_hidden_depends_on_clip_and_step_alone():
    model, given = small_model(), stepping.batch()
    whole = made_by(hiding(model), model, given)
    one = made_by(hiding(model), model, part_of(given, slice(3, 4), slice(0, 1)))
    for name, value in whole.items():
        torch.testing.assert_close(one[name], value[3:4])
    other = made_by(hiding(model), model, replace(given, step=1))
    assert not torch.equal(other["hidden_BNP"], whole["hidden_BNP"])


def test_the_patches_are_those_of_the_levelled_mel_and_are_foretold_without_being_seen():
    """The target, cut by hand; and another sound in the hidden patches alone changes no prediction."""
    model, given = small_model(), stepping.batch(3)
    part, features = hiding(model), batch_features(model, stepping.batch(3), ())
    made = part(model, given, features, model.encode_texts)
    _, place_BN, hidden_BN = part._drawn(given, real_tokens(model, given))
    (length, height), bands = model.audio.patch, model.audio.bands
    changed = features.values.clone()
    for b in range(3):
        for n, token in enumerate(place_BN[b].tolist()):
            step, band = divmod(token, bands)
            there = np.s_[b, step * length : (step + 1) * length, band * height : (band + 1) * height]
            level = ((features.values[there] + 30.0) / 25.0).masked_fill(~features.mask_BT[there[:2]][:, None], 0.0)
            missing = length * height - level.numel()
            expected = torch.cat([level.flatten(), level.new_zeros(missing)])
            torch.testing.assert_close(made["hidden_BNP"][b, n], expected)
            changed[there] += 5.0
    again = part(model, given, features.with_values(changed), model.encode_texts)
    torch.testing.assert_close(again["rebuilt_BNP"], made["rebuilt_BNP"])
    assert not torch.allclose(again["hidden_BNP"], made["hidden_BNP"]) and hidden_BN.any()


def test_a_teacher_sees_the_hidden_patches_and_no_other():
    model, teacher, given = small_model(), small_model(), stepping.batch(3)
    with torch.no_grad():
        teacher.audio.embed.weight.mul_(-1.0)
    part = hiding(model, target="teacher", teacher=teacher)
    made = made_by(part, model, given)
    _, place_BN, hidden_BN = part._drawn(given, real_tokens(model, given))
    features = batch_features(model, given, ())
    for b in range(3):
        alone = Features(features.values[b : b + 1], features.mask_BT[b : b + 1])
        asked = place_BN[b : b + 1, hidden_BN[b]]
        expected = teacher.audio(alone, keep=asked).frames_BTD[0]
        torch.testing.assert_close(made["hidden_BNP"][b, hidden_BN[b]], expected)
    assert not made["hidden_BNP"].requires_grad and made["rebuilt_BNP"].shape == made["hidden_BNP"].shape


def test_the_decoder_of_one_block_is_attention_over_visible_and_asked_tokens():
    """By hand, for one clip without padding."""
    torch.manual_seed(2)
    decoder = Decoder(6, 5, bands=2, settings=replace(SETTINGS, width=4, heads=1)).double()
    visible_KD, visible, places = torch.randn(3, 6).double(), torch.tensor([[0, 3, 4]]), torch.tensor([[5, 1]])
    found = decoder(visible_KD[None], visible, places, real_BL=torch.ones(1, 6, dtype=torch.bool))[0]

    def position(token: int) -> torch.Tensor:
        step, band = divmod(token, 2)
        angles = torch.tensor([step * 1.0, step * 0.01])
        return torch.cat([angles.sin(), angles.cos()]).double() + decoder.band_position[band]

    rows = [decoder.enter(visible_KD[k]) + position(token) for k, token in enumerate((0, 3, 4))]
    x_LD = torch.stack([*rows, decoder.asked + position(5), decoder.asked + position(1)])
    block = decoder.blocks[0]
    q, k, v = block.query_key_value(layer_norm(x_LD, (4,), block.norm1.weight, block.norm1.bias, 1e-6)).chunk(3, dim=1)
    x_LD = x_LD + block.out((q @ k.T / 2.0).softmax(1) @ v)
    x_LD = x_LD + block.fall(torch.nn.functional.gelu(block.rise(block.norm2(x_LD))))
    torch.testing.assert_close(found, decoder.leave(decoder.norm(x_LD[3:])))


@pytest.mark.parametrize("objective", [MaskedReconstruction(), MaskedLatent()], ids=repr)
def test_micro_batches_give_the_gradients_of_the_batch(objective):
    model, given = small_model(), stepping.batch()
    latent = isinstance(objective, MaskedLatent)
    part = hiding(model, target="teacher" if latent else "patches", teacher=small_model() if latent else None)
    losses = take_step(model, objective, given, How(model.encode_texts, extras=(part,)))
    expected = {**stepping.gradients(model), **stepping.gradients(part.decoder)}
    found = take_step(model, objective, given, How(model.encode_texts, extras=(part,), micro_batch=2))
    torch.testing.assert_close(found, losses)
    torch.testing.assert_close({**stepping.gradients(model), **stepping.gradients(part.decoder)}, expected)
    assert {"audio.embed.weight", "asked", "leave.weight"} <= expected.keys()
    assert part.teacher is None or all(p.grad is None for p in part.teacher.parameters())


def test_patches_can_be_learnt_by_heart():
    """A few clips again and again: the error falls far below that of foretelling the mean, which is 1."""
    model, given = small_model(), stepping.batch(4, 4)
    part = hiding(model, share=0.4)
    optimizer = torch.optim.Adam([*model.audio.parameters(), *part.decoder.parameters()], lr=0.01)
    how = How(model.encode_texts, extras=(part,))
    seen = []
    for _ in range(150):
        optimizer.zero_grad()
        seen.append(sum(take_step(model, MaskedReconstruction(), given, how).values()).item())
        optimizer.step()
    assert seen[0] > 0.9 and seen[-1] < 0.5


def test_weights_are_decided_by_the_seed_alone():
    tower = small_model().audio
    state = torch.random.get_rng_state()
    one, same, other = (SETTINGS.build(tower, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one["asked"], same["asked"]) and not torch.equal(one["asked"], other["asked"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": 0.0}, "share is a share between 0 and 1, both left out, not 0.0"),
        ({"share": 1.0}, "not 1.0"),
        ({"target": "patch"}, "target='patch'; did you mean 'patches'"),
        ({"width": 13}, "width=13, depth=2, heads=4"),
        ({"depth": 0}, "depth=0"),
        ({"width": 10, "heads": 4}, "heads=4: all at least 1"),
    ],
)
def test_settings_that_cannot_be_are_named(settings, message):
    with pytest.raises(SpecError, match=message):
        HiddenPatches(**settings)


def test_towers_without_patches_and_clips_of_one_patch_are_refused():
    model = small_model(audio=spec(ResNetTower, width=4, depths=(1, 1)))
    with pytest.raises(RecipeError, match="ResNetTower cannot leave any out"):
        SETTINGS.build(model.audio, seed=0)
    model = small_model()
    with pytest.raises(RecipeError, match="of clips of 1 patch none can be hidden"):
        hiding(model)._drawn(stepping.batch(), torch.ones(7, 1, dtype=torch.bool))
