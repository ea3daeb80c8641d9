"""Low-rank adapters in a model that was given (LoRA, Hu et al. 2021), by peft."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clapkit.errors import MissingExtraError, RecipeError
from clapkit.model import DualEncoder
from clapkit.nets.blocks import transformer_blocks


class Adapters:
    """Two thin matrices beside every linear layer of the blocks of a tower: W x becomes W x + alpha / rank B A x.

    Made on a model, they stand in it: A as `seed` draws it, B zero, so that nothing changes at first. They alone take a
    gradient from then on. `targets` are the names of their layers: every linear layer inside the transformer blocks
    (`nets.blocks`) of `towers`, which is attention and feed-forward, and not the patch embedding, not the heads.
    `start` is what the adapter's file says about the model that it belongs to.

    Raises RecipeError for a tower without such layers, MissingExtraError without peft.
    """

    def __init__(
        self, model: DualEncoder, *, towers: Sequence[str], rank: int, alpha: float, seed: int, start: str
    ) -> None:
        self.targets = tuple(name for tower in towers for name in _linear_layers(model, tower, rank=rank))
        peft = _peft()
        config = peft.LoraConfig(
            r=rank,
            lora_alpha=alpha,
            target_modules=list(self.targets),
            base_model_name_or_path=start,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._wrapped: Any = peft.PeftModel(model, config)

    def save(self, folder: Path) -> None:
        """Write the adapters as peft does: `PeftModel.from_pretrained(start_model, folder)` puts them in again."""
        shutil.rmtree(folder, ignore_errors=True)
        # "auto" would look for the embeddings of a language model, which this is not.
        self._wrapped.save_pretrained(str(folder), save_embedding_layers=False)

    @torch.no_grad()
    def shorten(self, share: float) -> None:
        """Make what the adapters add `share` times as long."""
        for name, parameter in self._wrapped.named_parameters():
            if ".lora_B." in name:
                parameter.mul_(share)

    def merge(self) -> None:
        """Add the adapters to the weights beside them and take them out: the model has the layers that it had."""
        self._wrapped.merge_and_unload(progressbar=False)


def _linear_layers(model: DualEncoder, tower: str, *, rank: int) -> list[str]:
    found = [
        f"{tower}.{block}.{layer}"
        for block, module in transformer_blocks(getattr(model, tower)).items()
        for layer, inner in module.named_modules()
        if isinstance(inner, nn.Linear)
    ]
    if not found:
        raise RecipeError(
            f"tune.lora_rank={rank}: {type(getattr(model, tower)).__name__} has no linear layer in a transformer block "
            "that an adapter could stand beside; train its weights instead (tune.lora_rank=none, tune.learns=audio)"
        )
    return found


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise MissingExtraError("peft", "train", "tune.lora_rank") from None
    return peft
