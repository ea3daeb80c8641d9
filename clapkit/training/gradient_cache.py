"""The exact gradient of a large batch in the memory of a small one (Gao, Zhang, Han, Callan: GradCache, 2021).

A contrastive loss needs the vectors of the whole batch together, but not what the towers computed on the way to them.
So the batch is encoded twice, a micro-batch at a time: first without graph, for the vectors; the loss of all of them
gives each vector its gradient; then again with graph, to carry that gradient on into the weights. Both passes draw the
same random numbers.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields, replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from clapkit.errors import RecipeError
from clapkit.objectives.base import Embeddings, Objective
from clapkit.objectives.contrast import InfoNCE

Fields = Mapping[str, torch.Tensor]
ROWS = {f.name: f.metadata["rows"] for f in fields(Embeddings)}  # what the first axis of a field counts
AXES = {name: found[1] if (found := re.search("_([A-Z]+)$", name)) else "" for name in ROWS}


def cached_gradients(
    makers: Sequence[Callable[[], Fields]],
    losses: Callable[[Fields], Iterable[Fields]],
    *,
    device: torch.device,
    learnt: Sequence[nn.Parameter] = (),
    second_pass: AbstractContextManager[object] | None = None,
) -> dict[str, torch.Tensor]:
    """The losses, without graph; their gradient is added to `.grad` of everything that they depend on.

    makers       each makes the fields of `Embeddings` for some clips and some texts, the same whenever it is called
                 with the same random state; joined in this order they are the batch. Fields that are not split
                 (`rows` "all") are those of the first maker that has them
    losses       parts of the loss of the joined fields, each as named scalars. A part is differentiated before the next
                 is made, so that none holds another's memory; equal names are added up
    learnt       what gets gradients; its gradients are moved to where they do not cut up the memory of the towers
    second_pass  entered while the makers run again
    """
    parts, states, sizes = Parts(len(makers)), [], []
    for make in makers:
        states.append(_random_state(device))
        with torch.no_grad():
            sizes.append(parts.add(make()))
    whole = {name: value.requires_grad_(value.is_floating_point()) for name, value in parts.joined().items()}
    del parts
    named = _differentiated(losses(whole))
    gradients = {name: value.grad for name, value in whole.items()}
    del whole  # the second pass needs its memory
    _hand_back_memory()
    with second_pass or nullcontext(), torch.random.fork_rng(devices=_accelerators(device)):
        _carry_on(makers, states, {name: g for name, g in gradients.items() if g is not None}, sizes, learnt, device)
    return named


def _hand_back_memory() -> None:
    """Free memory that glibc keeps for later goes back to the system: what the losses took lies in pieces that the
    towers have no use for, and their own would come on top of it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _differentiated(parts: Iterable[Fields]) -> dict[str, torch.Tensor]:
    """The sums of all parts, without graph, each part differentiated as it comes."""
    named: dict[str, torch.Tensor] = {}
    for part in parts:
        torch.autograd.backward(sum(part.values()))  # type: ignore[arg-type]
        named = {name: value.detach() + named.get(name, 0.0) for name, value in part.items()}
    return named


class Parts:
    """Fields of consecutive clips and texts, written one behind the other as they are made.

    parts  how many there will be; a part may lack fields of texts
    """

    def __init__(self, parts: int) -> None:
        self._parts = parts
        self._tables: dict[str, torch.Tensor] = {}
        self._used: dict[str, int] = {}

    @torch.no_grad()
    def add(self, made: Fields) -> dict[str, int]:
        """Write a part; how many rows it has of each field that is split."""
        for name, value in made.items():
            if ROWS[name] == "all":
                self._tables.setdefault(name, value.clone())
                continue
            end = self._used.get(name, 0) + len(value)
            table = self._tables.get(name)
            if table is None or end > len(table):
                self._tables[name] = self._wider(table, value, end)
            self._tables[name][end - len(value) : end] = value
            self._used[name] = end
        return {name: len(value) for name, value in made.items() if ROWS[name] != "all"}

    def joined(self) -> dict[str, torch.Tensor]:
        """Every field whole."""
        return {name: table[: self._used.get(name)] if table.ndim else table for name, table in self._tables.items()}

    def _wider(self, table: torch.Tensor | None, value: torch.Tensor, end: int) -> torch.Tensor:
        """Room for as many more parts of this size as there may be; memory is taken when it is written."""
        made = _apart((end + (self._parts - 1) * len(value), *value.shape[1:]), like=value)
        if table is not None:
            made[: end - len(value)] = table[: end - len(value)]
        return made


def _apart(shape: Sequence[int], *, like: torch.Tensor) -> torch.Tensor:
    """A tensor in pages of its own. It outlives many micro-batches: in the midst of what the towers take and free it
    would cut their memory into pieces too small for them, so that they take more."""
    count = math.prod(shape)
    if like.device.type != "cpu" or not count:
        return torch.empty(shape, dtype=like.dtype, device=like.device)
    pages = mmap.mmap(-1, count * like.element_size())
    return torch.frombuffer(pages, dtype=like.dtype, count=count).view(shape)


def _carry_on(
    makers: Sequence[Callable[[], Fields]],
    states: Sequence[tuple[torch.Tensor, ...]],
    gradients: dict[str, torch.Tensor],
    sizes: Sequence[Mapping[str, int]],
    learnt: Sequence[nn.Parameter],
    device: torch.device,
) -> None:
    """Encode again with graph, and go on from the gradients of the joined fields (which are used up)."""
    at = dict.fromkeys(gradients, 0)
    for number, (make, state, size) in enumerate(zip(makers, states, sizes, strict=True)):
        _set_random_state(state, device)
        _go_on(make, gradients, at, size)
        if not number:
            _set_apart(learnt)


def _go_on(
    make: Callable[[], Fields], gradients: dict[str, torch.Tensor], at: dict[str, int], size: Mapping[str, int]
) -> None:
    """Encode a part, and go on from its rows of the gradients; nothing of it is alive when the next is made."""
    tensors, theirs = [], []
    made = make()
    _hand_back_memory()  # what forward passes have freed would stay beside what the backward pass takes, which is more
    for name, value in made.items():
        if name == "text_UD" and not value.requires_grad:
            gradients.pop(name, None)  # the language side does not learn, here and in all other parts
        if name not in gradients:
            continue
        first = at[name]
        is_split = ROWS[name] != "all"
        at[name] += size[name] if is_split else 1
        if value.requires_grad and (is_split or not first):
            tensors.append(value)
            theirs.append(gradients[name][first : at[name]] if is_split else gradients[name])
    del made
    if tensors:
        torch.autograd.backward(tensors, theirs)


def _set_apart(learnt: Sequence[nn.Parameter]) -> None:
    """Gradients of weights, made between activations that are free now, move out of their way."""
    for weight in learnt:
        if weight.grad is not None and type(weight.grad.data) is torch.Tensor and weight.grad.device.type == "cpu":
            weight.grad = _apart(weight.shape, like=weight.grad).copy_(weight.grad)


def has_rows_apart(objective: Objective) -> bool:
    """Whether `row_losses` serves it: InfoNCE, whose rows do not depend on each other unless they are smoothed."""
    return isinstance(objective, InfoNCE) and not objective.smoothing


def row_losses(
    objective: Objective, z: Embeddings, clips: torch.Tensor, texts: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The share of some clips and some texts (positions) in the losses; only their rows of logits are computed.

    Over parts that together have every clip and every text once, the shares add up to the losses of `z`.
    """
    share = len(clips) / len(z.audio_BD)
    return {
        "audio_to_text": objective(_chosen(z, "B", clips))["audio_to_text"] * share,
        # A sum over texts that is divided by the number of all clips.
        "text_to_audio": objective(_chosen(z, "U", texts))["text_to_audio"],
    }


def _chosen(z: Embeddings, letter: str, index: torch.Tensor) -> Embeddings:
    """Some clips ("B") with all texts, or some texts ("U") with all clips."""
    changes = {}
    for name, axes in AXES.items():
        value = getattr(z, name)
        if letter in axes and value is not None:
            is_leaf = value.requires_grad and value.is_leaf and axes.startswith(letter)
            changes[name] = _Rows.apply(value, index) if is_leaf else value.index_select(axes.index(letter), index)
    return replace(z, **changes)


class _Rows(torch.autograd.Function):
    """Some rows of a leaf. Their gradient goes straight into its `.grad`: that of an index would be a table of zeros as
    large as the leaf, for every part of the losses."""

    @staticmethod
    def forward(ctx: Any, leaf: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(leaf, index)
        return leaf.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, None]:
        leaf, index = ctx.saved_tensors
        if leaf.grad is None:
            leaf.grad = _apart(leaf.shape, like=leaf).zero_()
        leaf.grad.index_add_(0, index, gradients[0])
        return None, None


def check_norms(model: nn.Module) -> None:
    """RecipeError for a batch norm that would take its statistics from a part of the batch."""
    live = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm) and module.training]
    if live:
        raise RecipeError(
            f"{len(live)} batch norms ({live[0]}...) take their statistics from the clips that are encoded together, "
            "which are not the whole batch here. Ways out: batch_norm='frozen' (the running statistics, for a model "
            "that was trained before), batch_norm='microbatch' (those of each part: no longer the gradient of one "
            "batch), batch_norm='sync' (those of all processes, without micro-batches), or a tower without batch norm "
            "(a patch transformer)"
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
