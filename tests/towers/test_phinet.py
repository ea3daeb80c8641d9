"""PhiNet against a plain chain of operations on one clip, its sizes by the formula of the paper, its first window."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from clapkit.audio.features import Features
from clapkit.errors import SpecError
from clapkit.towers.phinet import PhiNet, PhiNetBlock, phinet, phinet_0_75, small, tiny


def lively(part) -> PhiNet:
    torch.manual_seed(3)
    tower = part.build().eval()
    with torch.no_grad():
        for name, value in tower.state_dict().items():
            if name.endswith(("running_mean", "bias")):
                value.uniform_(-0.5, 0.5)
            elif name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
    return tower


def clip(length: int) -> Features:
    torch.manual_seed(0)
    return Features(torch.randn(1, length, 64), torch.ones(1, length, dtype=torch.bool))


def norm(x, layer, eps=1e-3):
    scale = (layer.weight / (layer.running_var + eps).sqrt())[:, None, None]
    return (x - layer.running_mean[:, None, None]) * scale + layer.bias[:, None, None]


def narrow_bend(x):
    return x.clamp(0, 6)


def mix(x_CTF, conv):
    return torch.einsum("oi,itf->otf", conv.weight[:, :, 0, 0], x_CTF)


def filter_each(x_CTF, kernels, *, stride: int, before: int):
    """A depthwise 3 x 3 convolution by loops; `before` zeros in front of both axes, one behind."""
    channels, frames, bins = x_CTF.shape
    wide = torch.zeros(channels, before + frames + 1, before + bins + 1)
    wide[:, before : before + frames, before : before + bins] = x_CTF
    rows = []
    for t in range(0, wide.shape[1] - 2, stride):
        windows = [wide[:, t : t + 3, f : f + 3] for f in range(0, wide.shape[2] - 2, stride)]
        rows.append(torch.stack([(w * kernels[:, 0]).sum((1, 2)) for w in windows], 1))
    return torch.stack(rows, 1)


def through_block(block: PhiNetBlock, x_CTF):
    inner = x_CTF if block.widen is None else narrow_bend(norm(mix(x_CTF, block.widen), block.widen_norm))
    inner = narrow_bend(norm(filter_each(inner, block.filter.weight, stride=block.stride, before=1), block.filter_norm))
    out = norm(mix(inner, block.narrow), block.narrow_norm)
    return x_CTF + out if block.stride == 1 and out.shape[0] == x_CTF.shape[0] else out


@torch.no_grad()
@pytest.mark.parametrize(("out_channels", "stride", "widen"), [(4, 1, True), (6, 1, True), (4, 2, True), (3, 1, False)])
def test_block_equals_loops(out_channels, stride, widen):
    torch.manual_seed(0)
    block = PhiNetBlock(4, out_channels, inner=9 if widen else 4, stride=stride, widen=widen).eval()
    block.filter_norm.bias.data.fill_(0.4)
    x = torch.randn(4, 7, 6)
    torch.testing.assert_close(block(x[None], None)[0], through_block(block, x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("length", [2, 3, 18, 33])
def test_equals_the_plain_chain(length):
    tower, features = lively(tiny), clip(length)
    bins = tower.input_norm.norm
    x = F.batch_norm(features.values[0], bins.running_mean, bins.running_var, bins.weight, bins.bias)[None]
    x = filter_each(x, tower.stem_filter.weight, stride=2, before=0)
    x = narrow_bend(norm(mix(x, tower.stem), tower.stem_norm))
    for block in tower.blocks:
        x = through_block(block, x)
    x = mix(x[:, ::2, ::2], tower.last) + tower.last.bias[:, None, None]
    out = tower(features)
    torch.testing.assert_close(out.summary_BD[0], x.mean((1, 2)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.frames_BTD[0], x.mean(2).T, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_last_odd_frame_is_seen_but_starts_no_window():
    tower = lively(tiny)
    assert tower(clip(64)).frames_BTD.shape == tower(clip(65)).frames_BTD.shape
    assert tower(clip(66)).frames_BTD.shape[1] == tower(clip(64)).frames_BTD.shape[1] + 1
    longer = clip(17)
    shorter = Features(longer.values[:, :16], longer.mask_BT[:, :16])
    assert not torch.equal(tower(longer).summary_BD, tower(shorter).summary_BD)


def test_sizes_follow_the_formula():
    """Widening 4 * (1 - k / N) + 3 * k / N; the width of block 4 is 119 and not 120, since the product is cut."""
    assert phinet_0_75.arguments["inner"] == (36, 69, 66, 63, 119, 114, 216)
    assert phinet_0_75.arguments["channels"] == (18, 18, 18, 36, 36, 72, 72)
    assert small.arguments["channels"] == (36, 36, 36, 72, 72, 144, 144, 288)
    constant = phinet(alpha=1.0, beta=1.0, t_zero=2, blocks=4)
    assert constant.arguments["inner"] == (48, 48, 48, 48, 96)
    with torch.device("meta"):
        assert small.build().frame_rate_hz == 64.0 / 64 and phinet_0_75.build().frame_rate_hz == 64.0 / 32


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"stem": 4, "channels": (4, 4), "inner": (4,)}, "describe 2 and 1 blocks"),
        ({"stem": 4, "channels": (), "inner": ()}, "describe 0 and 0 blocks"),
        ({"stem": 4, "channels": (4, 4), "inner": (8, 8)}, r"inner\[0\]=8.*stem=4"),
    ],
)
def test_sizes_that_cannot_be_are_refused(arguments, named):
    with pytest.raises(SpecError, match=named):
        PhiNet(**arguments)


@pytest.mark.parametrize("real", [64, 40])
def test_maps_are_channels_last(real):
    tower, seen = tiny.build().eval(), []
    for block in tower.blocks:
        block.register_forward_hook(lambda _module, _inputs, image: seen.append(image))
    tower(Features(torch.randn(2, 64, 64), (torch.arange(64) < real).expand(2, 64)))
    assert len(seen) == 6 and all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)
