"""FSDP2: of the weights of the towers, their gradients and the optimizer's state, each process holds a share.

A block is put together when it computes and taken apart again. Heads, temperature and what stands beside the model are
small and whole everywhere. A tower that learns nothing is whole too: its texts are encoded once, before the first step.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from clapkit.errors import RecipeError
from clapkit.model import DualEncoder
from clapkit.recipe import Recipe

# Objectives that read these have another number of sounds or texts to encode on each process, and the processes put
# their blocks together at the same moments or wait for each other for ever. Hidden patches bypass blocks.
_UNEVEN = ("text_private", "audio_private", "rebuilt")


def check(recipe: Recipe) -> None:
    """RecipeError for what cannot be done with shares of weights."""
    if recipe.tune is not None and recipe.tune.lora_rank is not None:
        raise RecipeError(
            f"train.parallel='fsdp' cannot train adapters (tune.lora_rank={recipe.tune.lora_rank}), which are small: "
            "use 'ddp'"
        )
    if recipe.train.compile:
        raise RecipeError("train.parallel='fsdp' cannot train compiled towers: use 'ddp', or train.compile=false")
    if any(stage.frozen for stage in recipe.stages):
        raise RecipeError("train.parallel='fsdp' cannot freeze parts for a stage: use 'ddp'")
    needs = [need for objective in recipe.objectives for need in objective.needs]
    for name in _UNEVEN:
        if name in needs:
            raise RecipeError(f"train.parallel='fsdp' cannot train an objective that needs '{name}': use 'ddp'")


def shard(model: DualEncoder, *, ranks: int, learning: Sequence[bool] | None = None) -> DualEncoder:
    """Share out the towers of `model` that learn; what comes back is the model without weights, for `whole_model`.

    `learning` says in place of its parameters which of them learn: a copy that takes no gradient is shared out like its
    original.
    """
    empty = {id(p): _empty(p) for p in model.parameters()}
    frame = copy.deepcopy(model, {**empty, **{id(b): b for b in model.buffers()}})
    mesh = init_device_mesh(model.device.type, (ranks,))
    learnt = {id(p) for p, learns in zip(model.parameters(), learning or _learning(model), strict=True) if learns}
    for tower in (model.audio, model.text):
        if tower is None or not any(id(p) in learnt for p in tower.parameters()):
            continue
        for parameter in tower.parameters():
            parameter.data = parameter.data.contiguous()  # shares are cut from rows, whatever layout came first
        for block in _blocks(tower):
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
        fully_shard(tower, mesh=mesh, reshard_after_forward=True)
    return frame


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor of which this process may hold a share; every process has to ask at the same time."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def fill(live: torch.Tensor, tensor: torch.Tensor) -> None:
    """Copy the whole `tensor` into `live`, or this process's share of it."""
    live.copy_(cut(live, tensor))


def cut(live: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` as `live` is laid out among the processes."""
    if not isinstance(live, DTensor) or tensor.ndim != live.ndim:
        return tensor
    there = tensor.to(live.device)
    return distribute_tensor(there, live.device_mesh, live.placements, src_data_rank=None)


def whole_model(model: DualEncoder, frame: DualEncoder) -> DualEncoder:
    """`frame` with all weights of the shared-out `model`, on every process."""
    frame.load_state_dict({name: whole(tensor) for name, tensor in model.state_dict().items()}, assign=True)
    return frame


def clip_gradients(parameters: Sequence[nn.Parameter], limit: float) -> float:
    """The length of the joined gradient, which is cut down to `limit`; parameters whole, in shares, or some of each."""
    if not any(isinstance(p, DTensor) for p in parameters):
        return float(nn.utils.clip_grad_norm_(parameters, limit))
    gradients = [p.grad for p in parameters if p.grad is not None]
    shares = [g.to_local() for g in gradients if isinstance(g, DTensor)]
    squares = _squares(shares)
    dist.all_reduce(squares)
    norm = math.sqrt(float(squares) + float(_squares(g for g in gradients if not isinstance(g, DTensor))))
    for gradient in gradients:
        gradient.mul_(min(1.0, limit / (norm + 1e-6)))  # as torch.nn.utils.clip_grad_norm_ does
    return norm


def _squares(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    found = [t.float().square().sum() for t in tensors]
    return torch.stack(found).sum() if found else torch.zeros(())


def _learning(model: nn.Module) -> list[bool]:
    return [p.requires_grad for p in model.parameters()]


def _empty(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad)


def _blocks(tower: nn.Module) -> list[nn.Module]:
    """The modules that a tower goes through one after the other: those of its lists, inner lists first."""
    lists = [module for module in tower.modules() if isinstance(module, nn.ModuleList)]
    found = (block for blocks in reversed(lists) for block in blocks)
    return [block for block in found if not isinstance(block, nn.ModuleList) and any(True for _ in block.parameters())]
