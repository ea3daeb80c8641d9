"""Packed copies give the numbers of what they were made from, share its weights and leave it alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from clapkit import native
from clapkit.audio.features import Features
from clapkit.runtime import packing
from clapkit.runtime.torch_program import TorchProgram
from clapkit.spec import derive
from clapkit.towers import beats, htsat, m2d, resnet, vit
from clapkit.towers.hf import TransformersText

needs_packing = pytest.mark.skipif(not packing.can_pack(torch.float32), reason="this torch has no packed linear layers")
TOWERS = {
    "htsat": derive(htsat.tiny, width=64, heads=(2, 8)),  # the second stage has many heads
    "vit": derive(vit.tiny, width=64),
    "m2d": derive(m2d.tiny, width=64, hidden=256),
    "beats": beats.tiny,
    "resnet": resnet.tiny,
}


def mel(lengths, *, bins=64, seed=0):
    values = torch.randn(len(lengths), max(lengths), bins, generator=torch.Generator().manual_seed(seed))
    return Features(20 * values - 40, torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None])


def lively(part):
    torch.manual_seed(1)
    tower = part.build().eval()
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter += 0.1 * torch.rand_like(parameter)
    return tower


@needs_packing
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_packed_layer_is_the_layer(gelu, bias):
    torch.manual_seed(0)
    linear = torch.nn.Linear(70, 90, bias=bias).requires_grad_(False)
    for shape in ((1, 70), (3, 5, 70), (130, 70)):
        x = torch.randn(shape)
        expected = F.gelu(linear(x)) if gelu else linear(x)
        found = packing.PackedLinear(linear, dtype=torch.float32, gelu=gelu)(x)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        short = packing.PackedLinear(linear, dtype=torch.bfloat16, gelu=gelu)(x)
        assert short.dtype == torch.bfloat16
        torch.testing.assert_close(short.float(), expected, atol=0.05, rtol=0.02)


@needs_packing
@pytest.mark.parametrize("name", TOWERS)
@torch.inference_mode()
def test_a_packed_tower_gives_the_numbers_of_the_tower(name):
    tower = lively(TOWERS[name])
    kinds = [type(module) for module in tower.modules()]
    quick = packing.packed(tower, precision="fp32")
    for lengths in ([128, 128], [128, 60, 7], [300]):
        found, expected = quick(mel(lengths)), tower(mel(lengths))
        for part in ("frames_BTD", "summary_BD"):
            wanted = getattr(expected, part)
            limit = 1e-5 * float(wanted.abs().max())
            torch.testing.assert_close(getattr(found, part), wanted, atol=limit, rtol=0)
        assert torch.equal(found.mask_BT, expected.mask_BT)
    assert [type(module) for module in tower.modules()] == kinds, "the tower itself stays as it is"
    owned = {p.data_ptr() for p in tower.parameters()}
    assert all(p.data_ptr() in owned for p in quick.parameters()), "nothing is kept twice but what is packed"


@needs_packing
@torch.inference_mode()
@pytest.mark.parametrize("part", [64, 192, 256, 1024, 3000])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_blocks_that_work_in_parts_give_the_same(part, precision, monkeypatch):
    """Parts of a clip, whose shifted windows have biases of their own, and several clips at once."""
    tower, features = lively(TOWERS["htsat"]), mel([128] * 3)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        whole = packing.packed(tower, precision=precision)(features).summary_BD.float()
        monkeypatch.setattr(packing, "_PART_TOKENS", part)
        found = packing.packed(tower, precision=precision)(features).summary_BD.float()
    limit = (1e-5 if precision == "fp32" else 0.02) * float(whole.abs().max())
    torch.testing.assert_close(found, whole, atol=limit, rtol=0)
    torch.testing.assert_close(found, tower(features).summary_BD, atol=3 * limit, rtol=0)


@pytest.mark.parametrize(("length", "tokens"), [(64, 2048), (1024, 2048), (1536, 1536), (4096, 2048), (64 * 67, 64)])
def test_a_part_is_whole_clips_or_divides_one(length, tokens):
    assert packing.part_of(length, window=64) == tokens


@needs_packing
@torch.inference_mode()
def test_swin_blocks_are_prepared():
    quick = packing.packed(lively(TOWERS["htsat"]), precision="bf16")
    kinds = {type(module).__name__ for module in quick.modules()}
    assert {"PreparedBlock", "PreparedAttention", "PackedLinear"} <= kinds and "SwinBlock" not in kinds


@needs_packing
@torch.inference_mode()
def test_bf16_is_as_close_as_autocast():
    tower, features = lively(TOWERS["htsat"]), mel([128] * 4)
    expected = tower(features).summary_BD
    with torch.autocast("cpu", torch.bfloat16):
        plain = tower(features).summary_BD.float()
        quick = packing.packed(tower, precision="bf16")(features).summary_BD.float()
    errors = [float((found - expected).norm() / expected.norm()) for found in (plain, quick)]
    assert errors[1] < 1.5 * errors[0] < 0.05


@needs_packing
@torch.inference_mode()
def test_text_encoders_of_transformers(tiny_text_folder):
    text = TransformersText.from_folder(tiny_text_folder, pooling="mean").eval()
    quick = packing.packed(text, precision="fp32")
    ids = torch.randint(5, 90, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(12)[None] < torch.tensor([12, 7, 1])[:, None]
    torch.testing.assert_close(quick(ids, mask).summary_BD, text(ids, mask).summary_BD, atol=1e-5, rtol=1e-5)


def test_what_is_left_is_shared(tiny_run):
    model = native.load(tiny_run.path).model
    quick = packing.packed(model, precision="fp32", leave=model.text)
    assert quick.text is model.text and (quick is model or quick.audio is not model.audio)


def test_changed_weights_are_packed_again(tiny_run, rng):
    sound = [rng.standard_normal(6000).astype(np.float32)]
    model = native.load(tiny_run.path).model
    program = TorchProgram(model)
    before = program.encode_windows(sound)
    with torch.no_grad():
        for parameter in model.audio_head.parameters():
            parameter += torch.linspace(-1, 1, parameter.numel()).view_as(parameter)
    after = program.encode_windows(sound)
    assert not np.allclose(before, after, atol=1e-3)
    np.testing.assert_array_equal(after, TorchProgram(model).encode_windows(sound))


def test_without_the_operators_nothing_is_replaced(monkeypatch):
    tower = lively(TOWERS["htsat"])
    monkeypatch.setattr(packing, "can_pack", lambda dtype: False)
    assert packing.packed(tower, precision="fp32") is tower
    monkeypatch.undo()
    assert packing.packed(lively(TOWERS["htsat"]).double(), precision="fp32").step_start is not None
