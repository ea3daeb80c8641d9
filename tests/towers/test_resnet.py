"""The residual tower against a plain walk through its layers, and its padding."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from clapkit.audio.features import Features
from clapkit.errors import SpecError
from clapkit.towers.resnet import ResNetTower, small, tiny


def normalise(x, state, key):
    """Batch normalisation with running statistics, written out; channels are axis 1."""
    shape = (1, -1) + (1,) * (x.ndim - 2)
    mean, var, weight, bias = (
        state[f"{key}.{k}"].view(shape) for k in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def average_2x2(x):
    """Means over 2 x 2 windows by slicing; what is left over at an odd edge is averaged alone."""
    rows = [x[:, :, i : i + 2].mean(2) for i in range(0, x.shape[2], 2)]
    x = torch.stack(rows, 2)
    return torch.stack([x[..., j : j + 2].mean(3) for j in range(0, x.shape[3], 2)], 3)


def reference(state, mel_BTF, strides):
    """The eval-mode network for unpadded clips: frames and summary."""
    x = normalise(mel_BTF.transpose(1, 2), state, "input_norm.norm").transpose(1, 2)[:, None]
    x = F.conv2d(x, state["stem.weight"], stride=2, padding=2)
    x = normalise(x, state, "stem_norm").clamp(min=0)
    for i, stride in enumerate(strides):
        key = f"blocks.{i}"
        y = F.conv2d(x, state[f"{key}.conv1.weight"], stride=stride, padding=1)
        y = normalise(y, state, f"{key}.norm1").clamp(min=0)
        y = normalise(F.conv2d(y, state[f"{key}.conv2.weight"], padding=1), state, f"{key}.norm2")
        if f"{key}.shortcut.0.weight" in state:
            x = average_2x2(x) if stride == 2 else x
            x = normalise(F.conv2d(x, state[f"{key}.shortcut.0.weight"]), state, f"{key}.shortcut.1")
        x = (x + y).clamp(min=0)
    frames = x.mean(3).transpose(1, 2)
    both = torch.cat([frames.mean(1), frames.amax(1)], 1)
    weight, bias = state["summary.norm.weight"], state["summary.norm.bias"]
    summary = (both - both.mean(1, keepdim=True)) / (both.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    return frames, summary * weight + bias


def shaken(**arguments) -> ResNetTower:
    torch.manual_seed(0)
    tower = ResNetTower(**arguments).eval()
    with torch.no_grad():
        for value in tower.state_dict().values():
            if value.is_floating_point():
                value += 0.2 * torch.rand_like(value)
    return tower


def whole(mel_BTF: torch.Tensor) -> Features:
    return Features(mel_BTF, torch.ones(mel_BTF.shape[:2], dtype=torch.bool))


@pytest.mark.parametrize("frames", [1, 7, 32, 37])
def test_equals_a_plain_walk_through_the_layers(frames):
    tower = shaken(bins=20, width=3, depths=(2, 1, 2))
    mel = torch.randn(2, frames, 20)
    output = tower(whole(mel))
    _, summary = reference(tower.state_dict(), mel, strides=(1, 1, 2, 2, 1))
    torch.testing.assert_close(output.summary_BD, summary, rtol=1e-4, atol=1e-5)


def test_a_frame_is_the_summary_of_a_clip_of_this_frame_alone():
    tower = shaken(width=3)
    image = torch.rand(2, 24, 5, 4)
    mask = torch.ones(2, 5, dtype=torch.bool)
    frames, _ = tower.summary(image, mask)
    for t in range(5):
        _, summary = tower.summary(image[:, :, t : t + 1], mask[:, :1])
        torch.testing.assert_close(frames[:, t], summary)


def test_padding_that_is_not_marked_does_change_the_result():
    """What the mask is for: the same zeros, called sound, give another embedding."""
    tower = shaken(width=4)
    mel = torch.cat([torch.randn(1, 40, 64), torch.full((1, 60, 64), -80.0)], dim=1)
    marked = Features(mel, torch.arange(100)[None] < 40)
    assert (tower(marked).summary_BD - tower(whole(mel)).summary_BD).abs().max() > 0.05


def test_the_statistics_of_the_input_leave_padding_out():
    tower = tiny.build().train()
    mel = torch.randn(4, 50, 64)
    mel[:, 30:] = -1e6
    tower(Features(mel, (torch.arange(50) < 30).expand(4, 50)))
    expected = 0.1 * mel[:, :30].mean((0, 1))  # momentum 0.1 from a running mean of zero
    torch.testing.assert_close(tower.input_norm.norm.running_mean, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("real", [64, 40])
def test_maps_are_channels_last(real):
    tower = tiny.build().eval()
    seen = []
    for block in tower.blocks:
        block.register_forward_hook(lambda _module, _inputs, image: seen.append(image))
    tower(Features(torch.randn(2, 64, 64), (torch.arange(64) < real).expand(2, 64)))
    assert len(seen) == 4 and all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)


def test_the_constructor_shapes_the_network():
    assert small.build().width == 2 * 8 * 32
    fine = ResNetTower(width=4, depths=(1, 2), stem_kernel=3, stem_stride=1)
    assert (fine.width, fine.frame_rate_hz, len(fine.blocks)) == (16, 32.0, 3)
    assert fine(whole(torch.randn(1, 9, 64))).frames_BTD.shape == (1, 5, 16)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"depths": ()}, r"depths=\(\)"), ({"depths": (1, 0)}, r"depths=\(1, 0\)"), ({"stem_kernel": 4}, "stem_kernel=4")],
)
def test_impossible_shapes_are_refused(arguments, named):
    with pytest.raises(SpecError, match=named):
        ResNetTower(**arguments)
