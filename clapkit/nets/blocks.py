"""The blocks of a transformer, found in any tower, the memory that they keep for the backward pass, and towers that
torch compiles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from clapkit.errors import RecipeError
from clapkit.nets.products import quick_again

# A block with one of them is no transformer's; run twice, a batch norm would count its batch twice.
_NOT_INSIDE = (_BatchNorm, nn.Conv2d)


def transformer_blocks(tower: nn.Module) -> dict[str, nn.Module]:
    """The blocks by their names inside `tower`, in its order; empty for a tower of convolutions.

    A block is an entry of a numbered list that has linear layers inside, no 2-d convolution, no batch norm, and no
    further block. What stands before, between and behind the blocks (patch embedding, merging, last norm) is none.
    """
    found: dict[str, nn.Module] = {}
    for name, module in tower.named_modules():
        if isinstance(module, (nn.ModuleList, nn.Sequential)):
            for number, entry in module.named_children():
                if _is_block(entry):
                    found[f"{name}.{number}".strip(".")] = entry
    return {name: block for name, block in found.items() if not any(n.startswith(f"{name}.") for n in found)}


def _is_block(module: nn.Module) -> bool:
    inside = list(module.modules())[1:]
    return any(isinstance(m, nn.Linear) for m in inside) and not any(isinstance(m, _NOT_INSIDE) for m in inside)


@contextmanager
def recomputed(*towers: nn.Module | None, wanted: bool = True) -> Iterator[None]:
    """If `wanted`, blocks that are called inside keep their input alone, and compute the rest again when their gradient
    is asked for, inside or later (Chen, Xu, Zhang, Guestrin: sublinear memory, 2016).

    Gradients are the same, since dropout draws the same numbers again; a step takes about a third longer.
    """
    blocks = [block for tower in towers if wanted and tower for block in transformer_blocks(tower).values()]
    for block in blocks:
        # On the instance, where no name of a weight changes; taken away again, or copies would call the original.
        again = {"use_reentrant": False, "context_fn": lambda: (nullcontext(), quick_again())}
        block.forward = partial(checkpoint, block.forward, **again)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


class Compiled:
    """Towers with a forward pass that torch compiles at its first call: inside `with self():` it takes the place of
    their own.

    No weight gets another name, and whoever calls them outside hears the towers as they are. Sizes that stay the same
    are compiled in; once one changes, a second form takes any.
    """

    def __init__(self, *towers: nn.Module | None) -> None:
        self._passes = [(tower, torch.compile(tower.forward)) for tower in towers if tower is not None]

    @contextmanager
    def __call__(self) -> Iterator[None]:
        for tower, compiled in self._passes:
            tower.forward = compiled  # type: ignore[method-assign]
        try:
            yield
        finally:
            for tower, _ in self._passes:
                del tower.forward


def check_compiler(device: torch.device) -> None:
    """RecipeError where torch cannot compile for `device`, which is tried on one sum."""
    try:
        torch.compile(lambda x: x + 1, dynamic=False)(torch.zeros(2, device=device))
    except Exception as error:  # of many kinds: no C++ compiler, no Triton, a Python that is too new
        told = str(error).strip().partition("\n")[0]
        raise RecipeError(
            f"train.compile: torch cannot compile for '{device.type}' here ({told}). Install a C++ compiler (g++ on "
            "Linux, Xcode's command line tools on macOS, MSVC on Windows), or leave it at false"
        ) from error
