"""The separable tower: its block against loops, squeeze-excitation against its limits."""

from __future__ import annotations

import pytest
import torch

from clapkit.audio.features import Features
from clapkit.errors import SpecError
from clapkit.towers.mobilenet import InvertedResidual, MobileNetTower, SqueezeExcitation, base, small, tiny


def hardswish(x):
    return x * (x + 3).clamp(0, 6) / 6


def normalise(x, norm):
    mean, scale = norm.running_mean[:, None, None], (norm.running_var[:, None, None] + norm.eps).sqrt()
    return (x - mean) / scale * norm.weight[:, None, None] + norm.bias[:, None, None]


def filter_each_channel(x_CTF, kernels, stride):
    """A depthwise 3 x 3 convolution by loops over positions; beyond the edges there are zeros."""
    channels, frames, bins = x_CTF.shape
    wide = torch.zeros(channels, frames + 2, bins + 2)
    wide[:, 1:-1, 1:-1] = x_CTF
    rows = []
    for t in range(0, frames, stride):
        windows = [wide[:, t : t + 3, f : f + 3] for f in range(0, bins, stride)]
        rows.append(torch.stack([(w * kernels[:, 0]).sum((1, 2)) for w in windows], 1))
    return torch.stack(rows, 1)


@torch.no_grad()
@pytest.mark.parametrize(("out_channels", "stride"), [(4, 1), (6, 1), (4, 2)])
def test_block_equals_loops(out_channels, stride):
    torch.manual_seed(0)
    block = InvertedResidual(4, out_channels, stride=stride, expansion=3, squeeze_ratio=0).eval()
    for norm in (block.norm1, block.norm2, block.norm3):
        norm.running_mean.uniform_(-0.3, 0.3)
        norm.bias.uniform_(-0.3, 0.3)
    x = torch.randn(4, 5, 7)
    inner = hardswish(normalise(torch.einsum("oi,itf->otf", block.widen.weight[:, :, 0, 0], x), block.norm1))
    inner = hardswish(normalise(filter_each_channel(inner, block.filter.weight, stride), block.norm2))
    expected = normalise(torch.einsum("oi,itf->otf", block.narrow.weight[:, :, 0, 0], inner), block.norm3)
    if stride == 1 and out_channels == 4:
        expected = expected + x
    torch.testing.assert_close(block(x[None], None)[0], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_excitation_at_its_limits():
    """A factor of one changes nothing, a factor of zero silences."""
    image = torch.randn(2, 6, 5, 4)
    squeeze = SqueezeExcitation(6, squeezed=2)
    squeeze.excite.weight.zero_()
    squeeze.excite.bias.fill_(3.0)
    assert torch.equal(squeeze(image, None), image)
    squeeze.excite.bias.fill_(-3.0)
    assert not squeeze(image, None).any()


@torch.no_grad()
def test_excitation_means_leave_padding_out():
    image = torch.randn(1, 6, 8, 4)
    squeeze = SqueezeExcitation(6, squeezed=3)
    torch.nn.init.normal_(squeeze.squeeze.weight)
    torch.nn.init.normal_(squeeze.excite.weight)
    mask = torch.arange(8)[None] < 5
    torch.testing.assert_close(squeeze(image, mask)[:, :, :5], squeeze(image[:, :, :5], None))


def test_excitation_can_be_left_out():
    plain = MobileNetTower(squeeze_ratio=0)
    assert not any("excitation" in key for key in plain.state_dict())
    assert any("excitation" in key for key in small.build().state_dict())


def test_the_constructor_shapes_the_network():
    tower = MobileNetTower(channels=(4, 6), strides=(1, 4), depths=(1, 2), expansion=2, final_channels=10)
    assert (tower.width, tower.frame_rate_hz, len(tower.blocks)) == (20, 8.0, 3)
    features = Features(torch.randn(1, 33, 64), torch.ones(1, 33, dtype=torch.bool))
    assert tower(features).frames_BTD.shape == (1, 5, 20)
    assert base.build().width == 1280


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"channels": (8, 8)}, "describe 2, 6 and 6 stages"),
        ({"channels": (), "strides": (), "depths": ()}, "describe 0, 0 and 0 stages"),
        ({"depths": (1, 2, 2, 0, 1, 2)}, r"depths=\(1, 2, 2, 0, 1, 2\)"),
    ],
)
def test_stages_that_do_not_agree_are_refused(arguments, named):
    with pytest.raises(SpecError, match=named):
        MobileNetTower(**arguments)


@pytest.mark.parametrize("real", [64, 40])
def test_maps_are_channels_last(real):
    tower = tiny.build().eval()
    seen = []
    for block in tower.blocks:
        block.register_forward_hook(lambda _module, _inputs, image: seen.append(image))
    tower(Features(torch.randn(2, 64, 64), (torch.arange(64) < real).expand(2, 64)))
    assert len(seen) == 4 and all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)
