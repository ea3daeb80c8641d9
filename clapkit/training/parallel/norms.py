"""Batch norms whose statistics are those of the whole batch, though each process has a part of it.

The same sums on every device: what torch has for this (SyncBatchNorm) is for accelerators alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm

from clapkit.errors import RecipeError
from clapkit.objectives.base import Objective
from clapkit.objectives.contrast import wide


def check_joined(objective: Objective) -> None:
    """RecipeError for an objective with which processes call the norms of a tower a different number of times."""
    if "audio_private" in objective.needs:
        raise RecipeError(
            f"train.batch_norm='sync' cannot train {type(objective).__name__}, which needs 'audio_private': a process "
            "without wrong sounds would not take part in their statistics. Say 'microbatch' or 'frozen'"
        )


@contextmanager
def norms_joined(model: nn.Module) -> Iterator[None]:
    """Batch norms that follow the batch take their statistics over the clips of all processes.

    Outputs, gradients and running statistics are those of one process with the joined batch. Every process has to call
    the norms equally often; each waits for the others twice, forward and backward.
    """
    live = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training]
    for norm in live:
        norm.forward = partial(_normalised, norm)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in live:
            del norm.forward


def _normalised(norm: _BatchNorm, x: torch.Tensor) -> torch.Tensor:
    """What `norm` makes of [N, C, ...] (or [N, C]) in training mode, with the other processes."""
    with torch.no_grad():
        count, mean_C, variance_C = _moments(wide(x))
        _follow(norm, count, mean_C, variance_C)
    found: torch.Tensor = _Normalised.apply(x, norm.weight, norm.bias, mean_C, variance_C, norm.eps, count)
    return found


def _moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """How many values a channel has in all processes, their mean, and the mean of their squared distances from it."""
    variance_C, mean_C = torch.var_mean(x, _but_channels(x), correction=0)
    count = mean_C.new_full((1,), x.numel() / x.shape[1])
    mine = torch.cat([count, mean_C, variance_C])
    every = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(every, mine)
    count_R1, mean_RC, variance_RC = torch.stack(every).split([1, len(mean_C), len(mean_C)], dim=1)
    total = count_R1.sum()
    mean_C = (count_R1 * mean_RC).sum(0) / total
    # Within each process, and of each from the mean of all: no difference of large squares.
    variance_C = (count_R1 * (variance_RC + (mean_RC - mean_C).square())).sum(0) / total
    return total, mean_C, variance_C


def _follow(norm: _BatchNorm, count: torch.Tensor, mean_C: torch.Tensor, variance_C: torch.Tensor) -> None:
    """Move the running statistics of `norm`, if it keeps any, as torch does."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked += 1
    share = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean_C.to(norm.running_mean), share)
    norm.running_var.lerp_((variance_C * (count / (count - 1))).to(norm.running_var), share)


def _but_channels(x: torch.Tensor) -> list[int]:
    return [0, *range(2, x.ndim)]


class _Normalised(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, where mean and variance are functions of x in all processes.

    With y = (x - mean) / sqrt(variance + eps), n values a channel and g the gradient of y, that of x is
    (g - sum g / n - y sum(g y) / n) / sqrt(variance + eps), with sums over all processes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight_C: torch.Tensor | None,
        bias_C: torch.Tensor | None,
        mean_C: torch.Tensor,
        variance_C: torch.Tensor,
        eps: float,
        count: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight_C, mean_C, torch.rsqrt(variance_C + eps), count)
        return batch_norm(x, mean_C, variance_C, weight_C, bias_C, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight_C, mean_C, scale_C, count = ctx.saved_tensors
        shape, axes = [1, -1, *[1] * (x.ndim - 2)], _but_channels(x)
        y, g = (wide(x) - mean_C.view(shape)) * scale_C.view(shape), wide(outer[0])
        sums = torch.stack([(g * y).sum(axes), g.sum(axes)])
        of_weights = (None, None) if weight_C is None else tuple(sums.to(weight_C.dtype, copy=True))
        of_x = None
        if ctx.needs_input_grad[0]:
            dist.all_reduce(sums)
            mean_gy, mean_g = (sums / count).view(2, *shape)
            factor_C = scale_C if weight_C is None else scale_C * weight_C
            of_x = ((g - mean_g - y * mean_gy) * factor_C.view(shape)).to(x.dtype)
        return (of_x, *of_weights, None, None, None, None)
