"""Window attention while its bias learns, against the same by hand, and against what it gives without a gradient."""

from __future__ import annotations

import pytest
import torch

from clapkit.nets.swin import PatchMerging, WindowAttention, apart_scores

CLIPS, SIDE, WINDOW, HEADS, WIDTH = 3, 8, 4, 2, 12


def attention() -> WindowAttention:
    torch.manual_seed(0)
    layer = WindowAttention(WIDTH, heads=HEADS, window=WINDOW).double()
    torch.nn.init.normal_(layer.bias_table)
    return layer


def by_hand(layer: WindowAttention, tokens_BLD: torch.Tensor, apart_WNN: torch.Tensor | None) -> torch.Tensor:
    """Window by window, head by head, query by query."""
    size, each = WINDOW**2, WIDTH // HEADS
    clips = []
    for tokens_LD in tokens_BLD:
        windows = []
        for w, tokens_ND in enumerate(tokens_LD.split(size)):
            query, key, value = layer.qkv(tokens_ND).split(WIDTH, dim=1)
            rows = []
            for i in range(size):
                heads = []
                for h in range(HEADS):
                    part = slice(h * each, (h + 1) * each)
                    bias_N = torch.stack([layer.bias_table[layer.bias_index[i * size + j], h] for j in range(size)])
                    score_N = key[:, part] @ query[i, part] / each**0.5 + bias_N
                    if apart_WNN is not None:
                        score_N = score_N + apart_WNN[w, i]
                    heads.append(score_N.softmax(0) @ value[:, part])
                rows.append(torch.cat(heads))
            windows.append(torch.stack(rows))
        clips.append(layer.out(torch.cat(windows)))
    return torch.stack(clips)


@pytest.mark.parametrize("shifted", [False, True])
def test_values_and_gradients_are_those_by_hand(shifted):
    apart_WNN = apart_scores(SIDE, window=WINDOW).double() if shifted else None
    given = torch.randn(CLIPS, SIDE**2, WIDTH, dtype=torch.float64)
    found = []
    for way in (lambda layer, x: layer(x, apart_WNN), lambda layer, x: by_hand(layer, x, apart_WNN)):
        layer, tokens_BLD = attention(), given.clone().requires_grad_()
        made = way(layer, tokens_BLD)
        (made * torch.linspace(-1, 1, WIDTH)).sum().backward()
        found.append([made.detach(), tokens_BLD.grad, *(p.grad for p in layer.parameters())])
    assert len(found[0]) == 2 + 5
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("short", [False, True])
def test_a_gradient_does_not_change_the_values(shifted, short):
    apart_WNN = apart_scores(SIDE, window=WINDOW) if shifted else None
    layer, tokens_BLD = attention().float(), torch.randn(CLIPS, SIDE**2, WIDTH)
    with torch.autocast("cpu", torch.bfloat16, enabled=short):
        learning = layer(tokens_BLD, apart_WNN)
        with torch.no_grad():
            alone = layer(tokens_BLD, apart_WNN)
    assert learning.dtype == alone.dtype
    tolerance = 2e-2 if short else 1e-5
    torch.testing.assert_close(learning.detach(), alone, rtol=tolerance, atol=tolerance)


def test_the_gradient_of_a_reordering_is_that_of_an_index():
    torch.manual_seed(0)
    merge = PatchMerging(WIDTH, side=SIDE, window=WINDOW, next_window=2).double()
    given = torch.randn(CLIPS, SIDE**2, WIDTH, dtype=torch.float64)
    found = []
    for ordered in (merge, lambda x: merge.reduce(merge.norm(x[:, merge.sources].unflatten(1, (-1, 4)).flatten(2)))):
        tokens_BLD = given.clone().requires_grad_()
        made = ordered(tokens_BLD)
        (made * torch.linspace(-1, 1, made.shape[-1])).sum().backward()
        found.append((made.detach(), tokens_BLD.grad))
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
