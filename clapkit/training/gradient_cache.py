"""The exact gradient of a large batch in the memory of a small one (Gao, Zhang, Han, Callan: GradCache, 2021).

A contrastive loss needs the vectors of the whole batch together, but not what the towers computed on the way to them.
So the batch is encoded twice, a micro-batch at a time: first without graph, for the vectors; the loss of all of them
gives each vector its gradient; then again with graph, to carry that gradient on into the weights. Both passes draw the
same random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from clapkit.errors import RecipeError
from clapkit.objectives.base import Embeddings

Fields = Mapping[str, torch.Tensor]
_ROWS = {f.name: f.metadata["rows"] for f in fields(Embeddings)}


def cached_gradients(
    makers: Sequence[Callable[[], Fields]],
    losses: Callable[[Fields], Mapping[str, torch.Tensor]],
    *,
    device: torch.device,
    second_pass: AbstractContextManager[object] | None = None,
) -> dict[str, torch.Tensor]:
    """The losses, without graph; their gradient is added to `.grad` of everything that they depend on.

    makers       each makes the fields of `Embeddings` for some clips and some texts, the same whenever it is called
                 with the same random state; joined in this order they are the batch. Fields that are not split
                 (`rows` "all") are those of the first maker that has them
    losses       named scalars of the joined fields; their sum is what is differentiated. It runs once
    second_pass  entered while the makers run again
    """
    found, states = [], []
    for make in makers:
        states.append(_random_state(device))
        with torch.no_grad():
            found.append(dict(make()))
    whole = {name: value.requires_grad_(value.is_floating_point()) for name, value in joined(found).items()}
    named = losses(whole)
    torch.autograd.backward(sum(named.values()))  # type: ignore[arg-type]
    sizes = [{name: len(value) for name, value in made.items() if _ROWS[name] != "all"} for made in found]
    found.clear()
    with second_pass or nullcontext(), torch.random.fork_rng(devices=_accelerators(device)):
        _carry_on(makers, states, whole, sizes, device)
    return {name: part.detach() for name, part in named.items()}


@torch.no_grad()
def joined(parts: Sequence[Fields]) -> dict[str, torch.Tensor]:
    """Fields of consecutive clips and texts, one behind the other; a part may lack those of texts."""
    made: dict[str, torch.Tensor] = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        rows = [part[name] for part in parts if name in part]
        made[name] = rows[0].clone() if _ROWS[name] == "all" else torch.cat(rows)
    return made


def _carry_on(
    makers: Sequence[Callable[[], Fields]],
    states: Sequence[tuple[torch.Tensor, ...]],
    whole: Fields,
    sizes: Sequence[Mapping[str, int]],
    device: torch.device,
) -> None:
    """Encode again with graph, and go on from the gradients of the joined fields."""
    at = dict.fromkeys(whole, 0)
    for make, state, size in zip(makers, states, sizes, strict=True):
        _set_random_state(state, device)
        tensors, gradients = [], []
        for name, value in make().items():
            gradient = whole[name].grad
            if _ROWS[name] == "all":
                is_first = not at[name]
                at[name] = 1
            else:
                first, at[name] = at[name], at[name] + size[name]
                is_first, gradient = True, None if gradient is None else gradient[first : at[name]]
            if value.requires_grad and gradient is not None and is_first:
                tensors.append(value)
                gradients.append(gradient)
        if tensors:
            torch.autograd.backward(tensors, gradients)


def check_norms(model: nn.Module) -> None:
    """RecipeError for a batch norm that would take its statistics from a part of the batch."""
    live = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm) and module.training]
    if live:
        raise RecipeError(
            f"{len(live)} batch norms ({live[0]}...) take their statistics from the clips that are encoded together, "
            "which are not the whole batch here. Three ways out: batch_norm='frozen' (the running statistics, for a "
            "model that was trained before), batch_norm='microbatch' (those of each part: no longer the gradient of "
            "one batch), or a tower without batch norm (a patch transformer)"
        )


@contextmanager
def norms_at_rest(model: nn.Module, *, wanted: bool) -> Iterator[None]:
    """If `wanted`, batch norms use their running statistics and leave them alone."""
    live = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training] if wanted else []
    for module in live:
        module.eval()
    try:
        yield
    finally:
        for module in live:
            module.train()


@contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """What is encoded inside leaves no trace in running statistics: it has been counted once."""
    kept = [
        (buffer, buffer.clone())
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.training
        for buffer in module.buffers(recurse=False)
    ]
    try:
        yield
    finally:
        for buffer, before in kept:
            buffer.copy_(before)


def _accelerators(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def _random_state(device: torch.device) -> tuple[torch.Tensor, ...]:
    """The states of the generators that layers on `device` draw from."""
    return (torch.get_rng_state(), *(torch.cuda.get_rng_state(d) for d in _accelerators(device)))


def _set_random_state(state: tuple[torch.Tensor, ...], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    for accelerator, kept in zip(_accelerators(device), state[1:], strict=True):
        torch.cuda.set_rng_state(kept, accelerator)
