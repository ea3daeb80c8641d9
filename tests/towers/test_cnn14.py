"""The PANNs networks against a plain chain of operations on one clip, and frames that fill no window."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from clapkit.audio.features import Features
from clapkit.errors import SpecError
from clapkit.towers.cnn14 import CNN14, cnn6, cnn10, cnn14, small, tiny


def lively(**arguments) -> CNN14:
    torch.manual_seed(3)
    tower = CNN14(**arguments).eval()
    with torch.no_grad():
        for name, value in tower.state_dict().items():
            if name.endswith(("running_mean", "bias")):
                value.uniform_(-0.5, 0.5)
            elif name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
    return tower


def features(*lengths: int) -> Features:
    torch.manual_seed(0)
    mask_BT = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return Features(torch.randn(*mask_BT.shape, 64), mask_BT)


def norm(x, layer):
    return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=1e-5)


def by_hand(tower: CNN14, mel_TF: torch.Tensor) -> torch.Tensor:
    """[D] as the paper tells it, for one whole clip that fills a window of every pooling."""
    x = norm(mel_TF, tower.input_norm.norm)[None, None]
    for index, block in enumerate(tower.blocks):
        for conv, layer_norm in zip(block.convs, block.norms, strict=True):
            x = norm(F.conv2d(x, conv.weight, padding=conv.kernel_size[0] // 2), layer_norm).clamp(min=0)
        if index < tower.poolings:
            frames, bins = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
            x = (x[:, :, 0:frames:2] + x[:, :, 1:frames:2])[..., :bins] / 2
            x = (x[..., 0::2] + x[..., 1::2]) / 2
    time_CT = x[0].mean(2)
    pooled = torch.stack([row.max() + row.mean() for row in time_CT])
    return (tower.last.weight @ pooled + tower.last.bias).clamp(min=0)


@torch.no_grad()
@pytest.mark.parametrize("length", [16, 17, 31, 32, 47, 80])
@pytest.mark.parametrize(
    "arguments",
    [
        {"channels": (4, 6, 8, 8), "poolings": 4, "width": 12},
        {"channels": (4, 6, 8, 8), "poolings": 4, "width": 12, "layers": 1, "kernel": 5},
        {"channels": (4, 6, 8), "poolings": 2, "width": 10},
    ],
)
def test_equals_the_plain_chain(length, arguments):
    tower, clip = lively(**arguments), features(length)
    out = tower(clip)
    torch.testing.assert_close(out.summary_BD[0], by_hand(tower, clip.values[0]), rtol=1e-4, atol=1e-5)
    assert out.frames_BTD.shape[1] == length // 2**tower.poolings


@torch.no_grad()
def test_frames_that_fill_no_window_are_not_heard():
    """As published: with two poolings, what lies behind frame 8 of 11 reaches frame 7 through kernels alone."""
    tower = lively(channels=(4, 4), poolings=2, width=8, kernel=1)
    clip = features(11)
    other = clip.with_values(torch.cat([clip.values[:, :8], torch.randn(1, 3, 64)], dim=1))
    assert torch.equal(tower(clip).summary_BD, tower(other).summary_BD)
    assert not torch.equal(tower(clip).summary_BD, tower(features(7)).summary_BD)


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 2, 3, 5, 15])
def test_a_clip_shorter_than_a_window_is_one_frame(length):
    tower = lively(channels=(4, 6, 8, 8), poolings=4, width=12)
    alone = tower(features(length))
    assert alone.frames_BTD.shape == (1, 1, 12)
    torch.testing.assert_close(alone.frames_BTD[:, 0], alone.summary_BD)
    batch = features(length, 70)
    beside = tower(batch)
    again = tower(Features(batch.values[:1, :length], batch.mask_BT[:1, :length]))
    torch.testing.assert_close(beside.frames_BTD[0, :1], again.frames_BTD[0])
    assert beside.mask_BT.sum(1).tolist() == [1, 4]


@torch.no_grad()
def test_a_lone_frame_is_averaged_over_the_frames_there_are():
    """A constant clip of one frame gives what a constant clip of sixteen gives, where no kernel looks around."""
    tower = lively(channels=(4, 6, 8, 8), poolings=4, width=12, kernel=1)
    row_F = torch.randn(64)
    clips = [Features(row_F.expand(1, n, 64), torch.ones(1, n, dtype=torch.bool)) for n in (1, 3, 16)]
    one, three, sixteen = (tower(clip).summary_BD for clip in clips)
    torch.testing.assert_close(one, sixteen)
    torch.testing.assert_close(three, sixteen)


def test_presets_have_the_published_sizes():
    with torch.device("meta"):
        counts = {
            name: sum(p.numel() for p in part.build().parameters())
            for name, part in (("cnn6", cnn6), ("cnn10", cnn10), ("cnn14", cnn14))
        }
        assert [part.build().width for part in (cnn14, cnn10, cnn6, small, tiny)] == [2048, 512, 512, 256, 32]
    tagging = {"cnn6": 513 * 527, "cnn10": 513 * 527, "cnn14": 2049 * 527}
    published = {"cnn6": 4_837_455, "cnn10": 5_219_279, "cnn14": 80_753_615}
    assert {name: counts[name] + tagging[name] for name in counts} == published


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"poolings": 7}, "poolings=7: expected 0 to 6"),
        ({"channels": (), "poolings": 0}, "poolings=0: expected 0 to 0"),
        ({"bins": 31}, "bins=31: 5 poolings need at least 32"),
        ({"kernel": 4}, "kernel=4"),
    ],
)
def test_sizes_that_cannot_be_are_refused(arguments, named):
    with pytest.raises(SpecError, match=named):
        CNN14(**arguments)


@pytest.mark.parametrize("real", [64, 40])
def test_maps_are_channels_last(real):
    tower, seen = tiny.build().eval(), []
    for block in tower.blocks:
        block.register_forward_hook(lambda _module, _inputs, image: seen.append(image))
    tower(Features(torch.randn(2, 64, 64), (torch.arange(64) < real).expand(2, 64)))
    assert len(seen) == 4 and all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)
