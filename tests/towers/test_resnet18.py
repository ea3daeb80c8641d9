"""The ResNet-18 tower against a plain walk through its layers, and its padding."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from clapkit.audio.features import Features
from clapkit.errors import SpecError
from clapkit.towers.resnet18 import ResNet18, small, tiny, wav2clip


def normalise(x, state, key):
    """Batch normalisation with running statistics, written out; channels are axis 1."""
    mean, var, weight, bias = (
        state[f"{key}.{k}"].view(1, -1, 1, 1) for k in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def largest_3x3(x):
    """The largest value around every second frame and bin, by slicing."""
    x = F.pad(x, (1, 1, 1, 1), value=-torch.inf)
    rows = [x[:, :, i : i + 3].amax(2) for i in range(0, x.shape[2] - 2, 2)]
    x = torch.stack(rows, 2)
    return torch.stack([x[..., j : j + 3].amax(3) for j in range(0, x.shape[3] - 2, 2)], 3)


def reference(state, values_BTF, depths):
    """The eval-mode network for unpadded clips: frames and summary."""
    x = F.conv2d(values_BTF[:, None], state["stem.weight"], stride=2, padding=state["stem.weight"].shape[-1] // 2)
    x = largest_3x3(normalise(x, state, "stem_norm").clamp(min=0))
    for stage, depth in enumerate(depths):
        for block in range(depth):
            key, stride = f"stages.{stage}.{block}", 2 if stage > 0 and block == 0 else 1
            y = F.conv2d(x, state[f"{key}.conv1.weight"], stride=stride, padding=1)
            y = normalise(y, state, f"{key}.norm1").clamp(min=0)
            y = normalise(F.conv2d(y, state[f"{key}.conv2.weight"], padding=1), state, f"{key}.norm2")
            if f"{key}.shortcut.0.weight" in state:
                x = normalise(F.conv2d(x, state[f"{key}.shortcut.0.weight"], stride=stride), state, f"{key}.shortcut.1")
            x = (x + y).clamp(min=0)
    frames = x.mean(3).transpose(1, 2)
    return frames, frames.mean(1)


def shaken(**arguments) -> ResNet18:
    torch.manual_seed(0)
    tower = ResNet18(**arguments).eval()
    with torch.no_grad():
        for value in tower.state_dict().values():
            if value.is_floating_point():
                value += 0.1 * torch.rand_like(value)
    return tower


def whole(values: torch.Tensor) -> Features:
    return Features(values, torch.ones(values.shape[:2], dtype=torch.bool))


@pytest.mark.parametrize("depths", [(2, 2, 2, 2), (1, 1, 1, 1), (1, 2)])
@pytest.mark.parametrize(("frames", "bins"), [(59, 257), (1, 64), (32, 33), (97, 20)])
def test_against_a_plain_walk(depths, frames, bins):
    tower = shaken(bins=bins, width=8, depths=depths)
    values = torch.randn(2, frames, bins)
    with torch.no_grad():
        output = tower(whole(values))
        wanted_frames, wanted_summary = reference(tower.state_dict(), values, depths)
    torch.testing.assert_close(output.frames_BTD, wanted_frames)
    torch.testing.assert_close(output.summary_BD, wanted_summary)


def test_the_input_norm_levels_every_bin():
    """With statistics of noise at -40 dB, noise at -40 dB is what standardised noise is to the tower without it."""
    with_norm, without = shaken(bins=64, width=4, input_norm=True), shaken(bins=64, width=4)
    state = with_norm.state_dict()
    for key, value in (("running_mean", -40.0), ("running_var", 400.0 - 1e-5), ("weight", 1.0), ("bias", 0.0)):
        state[f"input_norm.norm.{key}"].fill_(value)
    without.load_state_dict({k: v for k, v in state.items() if not k.startswith("input_norm")})
    values = torch.randn(1, 50, 64)
    with torch.no_grad():
        found, wanted = with_norm(whole(20 * values - 40)), without(whole(values))
    torch.testing.assert_close(found.summary_BD, wanted.summary_BD)


@pytest.mark.parametrize("padding", [0.0, 7.0, float("nan")])
@pytest.mark.parametrize("length", [1, 31, 32, 33, 58, 90])
def test_without_an_input_norm_padding_is_not_seen_either(length, padding):
    tower = shaken(bins=40, width=4)
    values = torch.randn(1, 100, 40)
    mask = torch.arange(100)[None] < length
    padded = Features(values.masked_fill(~mask[..., None], padding), mask)
    with torch.no_grad():
        found, wanted = tower(padded), tower(whole(values[:, :length]))
    assert int(found.mask_BT.sum()) == wanted.frames_BTD.shape[1]
    torch.testing.assert_close(found.summary_BD, wanted.summary_BD)


def test_presets():
    assert ResNet18().width == 512
    assert wav2clip.build(bins=257, frame_rate_hz_in=16000 / 353).frame_rate_hz == pytest.approx(16000 / 353 / 32)
    assert tiny.build(bins=64).width == 32 and small.build(bins=64).width == 192
    counted = sum(p.numel() for p in ResNet18().parameters())
    assert counted == 11_176_512 - 2 * 64 * 49, "ResNet-18 with one input channel in place of three, without classes"


def test_shapes_that_cannot_be_are_refused():
    with pytest.raises(SpecError, match=r"depths=\(2, 0\)"):
        ResNet18(depths=(2, 0))
    with pytest.raises(SpecError, match="stem_kernel=4"):
        ResNet18(stem_kernel=4)
