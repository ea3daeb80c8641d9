"""Pooling and projection heads against loops and formulas written out."""

from __future__ import annotations

import math

import pytest
import torch

from clapkit.errors import SpecError
from clapkit.heads.pooling import AttentionPool, MaxPool, MeanMaxPool, MeanPool
from clapkit.heads.projection import MLP, Keep, Linear, ResidualProjection

POOLS = [MeanPool, MaxPool, MeanMaxPool, AttentionPool]
PROJECTIONS = [Linear, MLP, ResidualProjection]
every_pool = pytest.mark.parametrize("pool_type", POOLS)
every_projection = pytest.mark.parametrize("projection_type", PROJECTIONS)


@pytest.fixture
def frames_and_mask():
    """Three rows of eight frames: all real, holes in between, none."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(3, 8, dtype=torch.bool)
    mask[1, [0, 3, 4, 7]] = False
    mask[2] = False
    return torch.randn(3, 8, 12, generator=generator), mask


def trained_attention(width: int = 12) -> AttentionPool:
    torch.manual_seed(0)
    pool = AttentionPool(width, heads=3)
    torch.nn.init.normal_(pool.score.weight)
    return pool


def test_mean_max_and_their_sum_equal_loops(frames_and_mask):
    frames, mask = frames_and_mask
    for row in range(2):
        real = [frames[row, t] for t in range(8) if mask[row, t]]
        mean, highest = sum(real) / len(real), torch.stack(real).amax(0)
        for pool, expected in [(MeanPool, mean), (MaxPool, highest), (MeanMaxPool, mean + highest)]:
            torch.testing.assert_close(pool(12)(frames, mask)[row], expected)


@torch.no_grad()
def test_attention_equals_loops(frames_and_mask):
    frames, mask = frames_and_mask
    pool = trained_attention()
    for row in range(2):
        for head in range(3):
            part = slice(4 * head, 4 * head + 4)
            weights = [math.exp(float(frames[row, t] @ pool.score.weight[head])) * bool(mask[row, t]) for t in range(8)]
            expected = sum(w / sum(weights) * frames[row, t, part] for t, w in enumerate(weights))
            torch.testing.assert_close(pool(frames, mask)[row, part], expected, rtol=1e-4, atol=1e-5)


def test_untrained_attention_is_the_mean(frames_and_mask):
    frames, mask = frames_and_mask
    torch.testing.assert_close(AttentionPool(12)(frames, mask), MeanPool(12)(frames, mask))


@every_pool
def test_pools_never_look_at_padding(pool_type, frames_and_mask):
    frames, mask = frames_and_mask
    pool = trained_attention() if pool_type is AttentionPool else pool_type(12)
    spoiled = torch.where(mask[..., None], frames, torch.nan)
    assert torch.equal(pool(spoiled, mask), pool(frames, mask))
    torch.testing.assert_close(pool(frames[1:2, mask[1]], mask[1:2, mask[1]])[0], pool(frames, mask)[1])


@every_pool
def test_pools_give_zeros_where_nothing_is_real(pool_type, frames_and_mask):
    frames, mask = frames_and_mask
    frames.requires_grad_()
    pooled = pool_type(12)(frames, mask)
    assert pooled.shape == (3, 12) and not pooled[2].any()
    pooled.sum().backward()
    assert frames.grad.isfinite().all() and not frames.grad[~mask].any()


@every_pool
def test_pools_say_their_width_and_differentiate(pool_type, frames_and_mask):
    frames, mask = frames_and_mask
    pool = (trained_attention() if pool_type is AttentionPool else pool_type(12)).double()
    assert pool.width == 12
    assert torch.autograd.gradcheck(lambda x: pool(x, mask), frames.double().requires_grad_())


def test_attention_refuses_heads_that_do_not_divide():
    with pytest.raises(SpecError, match="in_width=10 must be a multiple of heads=4"):
        AttentionPool(10)


@every_projection
def test_projections_map_the_last_axis(projection_type):
    project = projection_type(12, 5)
    assert project.width == 5
    frames = torch.randn(2, 7, 12)
    assert project(frames).shape == (2, 7, 5)
    torch.testing.assert_close(project(frames)[:, 3], project(frames[:, 3]))


@every_projection
def test_projections_keep_the_scale_when_fresh(projection_type):
    """Unit variance in, about unit variance out."""
    torch.manual_seed(0)
    found = projection_type(256, 256).eval()(torch.randn(400, 256))
    assert 0.4 < found.std() < 1.5


@torch.no_grad()
def test_mlp_is_two_layers_with_a_non_linearity():
    x = torch.randn(4, 6)
    for activation, function in [("relu", lambda y: y.clamp(min=0)), ("gelu", torch.nn.functional.gelu)]:
        mlp = MLP(6, 3, hidden_width=10, activation=activation)
        inner = function(x @ mlp.linear1.weight.T + mlp.linear1.bias)
        assert inner.shape == (4, 10)
        torch.testing.assert_close(mlp(x), inner @ mlp.linear2.weight.T + mlp.linear2.bias)
    assert MLP(6, 3).linear1.out_features == 3


def test_mlp_refuses_an_unknown_activation():
    with pytest.raises(SpecError, match="no activation 'glu'; did you mean 'gelu'"):
        MLP(6, 3, activation="glu")


@torch.no_grad()
def test_residual_projection_is_the_formula_and_has_no_biases():
    project = ResidualProjection(6, 4, dropout=0.5).eval()
    assert set(project.state_dict()) == {"linear1.weight", "linear2.weight", "norm.weight", "norm.bias"}
    x = torch.randn(3, 6)
    a = x @ project.linear1.weight.T
    y = a + (a * 0.5 * (1 + torch.erf(a / math.sqrt(2)))) @ project.linear2.weight.T
    expected = (y - y.mean(1, keepdim=True)) / (y.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(project(x), expected)
    assert not torch.equal(project.train()(x), project(x)), "dropout works while training"


def test_linear_without_bias_is_linear():
    project = Linear(6, 4, bias=False)
    x, y = torch.randn(2, 3, 6)
    torch.testing.assert_close(project(2 * x + y), 2 * project(x) + project(y))


def test_keep_hands_through_and_refuses_another_width():
    x = torch.randn(3, 6)
    assert Keep(6, 6)(x) is x and Keep(6, 6).width == 6
    with pytest.raises(SpecError, match="width 6 into 4"):
        Keep(6, 4)
