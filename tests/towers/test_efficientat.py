"""The EfficientAT tower against a block-by-block reference, and what is particular to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from clapkit.audio.features import Features
from clapkit.errors import SpecError
from clapkit.spec import derive
from clapkit.towers import efficientat
from clapkit.towers.efficientat import EfficientAT, WideBlock, eighths, widened


def mel(*lengths: int, bins: int = 64) -> Features:
    values = 20 * torch.randn(len(lengths), max(lengths), bins, generator=torch.Generator().manual_seed(0)) - 40
    return Features(values, torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None])


def lively(**more) -> EfficientAT:
    torch.manual_seed(1)
    tower = derive(efficientat.tiny, **more).build().eval()
    with torch.no_grad():
        for value in tower.state_dict().values():
            if value.is_floating_point():
                value += 0.1 * torch.rand_like(value)
    return tower


def slow_norm(norm: torch.nn.BatchNorm2d, image_CTF: np.ndarray) -> np.ndarray:
    mean, variance, weight, bias = (
        getattr(norm, name).numpy()[:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
    )
    return (image_CTF - mean) / np.sqrt(variance + 0.001) * weight + bias


def slow_filter(kernel_COKK: np.ndarray, image_CTF: np.ndarray, stride: int, *, deep: bool) -> np.ndarray:
    """Output by output. `deep`: each channel has its own kernel; else every kernel reads all channels."""
    size = kernel_COKK.shape[-1]
    padded = np.pad(image_CTF, ((0, 0), (size // 2, size // 2), (size // 2, size // 2)))
    frames, bins = (-(-n // stride) for n in image_CTF.shape[1:])
    out = np.zeros((len(kernel_COKK), frames, bins))
    for c, kernel in enumerate(kernel_COKK):
        for t in range(frames):
            for f in range(bins):
                patch = padded[:, t * stride : t * stride + size, f * stride : f * stride + size]
                out[c, t, f] = (patch[c] * kernel[0]).sum() if deep else (patch * kernel).sum()
    return out


def hardswish(x: np.ndarray) -> np.ndarray:
    return x * np.clip(x + 3, 0, 6) / 6


def slow_block(block: WideBlock, image: np.ndarray, *, soft: bool) -> np.ndarray:
    active = hardswish if soft else lambda x: np.maximum(x, 0)
    inner = image
    if block.widen is not None:
        inner = active(slow_norm(block.norm1, slow_filter(block.widen.weight.numpy(), inner, 1, deep=False)))
    inner = active(slow_norm(block.norm2, slow_filter(block.filter.weight.numpy(), inner, block.stride, deep=True)))
    if block.squeeze is not None:
        hidden = np.maximum(0, block.squeeze.weight.numpy() @ inner.mean((1, 2)) + block.squeeze.bias.numpy())
        share = 1 / (1 + np.exp(-(block.excite.weight.numpy() @ hidden + block.excite.bias.numpy())))
        inner = inner * share[:, None, None]
    narrow = slow_norm(block.norm3, slow_filter(block.narrow.weight.numpy(), inner, 1, deep=False))
    return image + narrow if image.shape == narrow.shape else narrow


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 19])
def test_equals_the_slow_reference(frames):
    tower = lively(channels=(8, 12, 12), strides=(1, 2, 1)).double()
    features = mel(frames, bins=20)
    values = features.values.double()
    image = hardswish(
        slow_norm(tower.stem_norm, slow_filter(tower.stem.weight.numpy(), (values.numpy() + 30) / 25, 2, deep=False))
    )
    for block, soft in zip(tower.blocks, (False, False, True), strict=True):
        image = slow_block(block, image, soft=soft)
    image = hardswish(slow_norm(tower.last_norm, slow_filter(tower.last.weight.numpy(), image, 1, deep=False)))
    tower.bins = 20
    output = tower(features.with_values(values))
    np.testing.assert_allclose(output.frames_BTD[0].numpy(), image.mean(2).T, atol=1e-9)
    np.testing.assert_allclose(output.summary_BD[0].numpy(), image.mean((1, 2)), atol=1e-9)


@torch.no_grad()
def test_the_tagging_layers_read_the_summary():
    tower, features = lively(classes=(10, 7)), mel(64, 20)
    one, two = tower.tagger.linear1, tower.tagger.linear2
    expected = two(F.hardswish(one(tower(features).summary_BD)))
    torch.testing.assert_close(tower.logits(features), expected)
    assert tower.logits(features).shape == (2, 7)
    with pytest.raises(SpecError, match="no tagging layers: build it with classes"):
        lively().logits(features)


def test_widths_are_rounded_to_eighths():
    assert [eighths(size) for size in (1, 6.4, 12, 16, 20.1, 36, 59, 60)] == [8, 8, 16, 16, 24, 40, 56, 64]


def test_published_sizes():
    with torch.device("meta"):
        mn04, mn10 = efficientat.mn04.build(), efficientat.mn10.build()
        whole = derive(efficientat.mn10, classes=(1280, 527)).build()
    assert (mn04.width, mn10.width) == (384, 960)
    assert mn10.frame_rate_hz == 64.0 / 32
    assert round(sum(p.numel() for p in whole.parameters()) / 1e6, 2) == 4.88
    assert widened(1.0) == efficientat.mn10
    for name, default in EfficientAT().state_dict().items():
        assert default.shape == mn10.state_dict()[name].shape


def test_blocks_that_do_not_fit_are_refused():
    with pytest.raises(SpecError, match=r"describe \[3, 3, 2, 3, 3, 3\] blocks"):
        lively(channels=(8, 12))
    with pytest.raises(SpecError, match="4 is even"):
        lively(kernels=(3, 4, 5))
