"""What a run may change of a model that it was given, how fast, and how much of the change is kept."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from clapkit.errors import RecipeError
from clapkit.model import DualEncoder
from clapkit.train_settings import TuneSettings
from clapkit.training.lora import Adapters

# The parts that learn; the temperature learns with all of them unless the model fixes it.
_LEARNING = {
    "full": ("audio", "audio_head", "text", "text_head"),
    "audio": ("audio", "audio_head"),
    "heads": ("audio_head", "text_head"),
    "audio_head": ("audio_head",),
}
# With adapters: the towers that get them. A head is small enough to learn itself, and stays.
_ADAPTED = {"full": ("audio", "text"), "heads": ("audio", "text"), "audio": ("audio",), "audio_head": ("audio",)}
_NUMBERED = re.compile(r"^(.*?)(\d+)(?:\.|$)")


def learning_parts(settings: TuneSettings) -> tuple[str, ...]:
    """The parts of a model in which something learns."""
    return (_LEARNING if settings.lora_rank is None else _ADAPTED)[settings.learns]


def adapted(model: DualEncoder, settings: TuneSettings, *, seed: int, start: str) -> Adapters | None:
    """Put adapters into the model where `settings` has a rank for them; nothing but them learns then.

    Raises RecipeError for a tower without layers for them, MissingExtraError without peft.
    """
    if settings.lora_rank is None:
        return None
    rank, alpha = settings.lora_rank, settings.lora_alpha or 2.0 * settings.lora_rank
    return Adapters(model, towers=learning_parts(settings), rank=rank, alpha=alpha, seed=seed, start=start)


def choose_what_learns(model: DualEncoder, settings: TuneSettings) -> None:
    """Let the parts of `settings.learns` take a gradient, and nothing else.

    Raises RecipeError where these parts have no weights.
    """
    parts = learning_parts(settings)
    fixed = not model.logit_scale.requires_grad
    model.requires_grad_(False)
    for part in parts:
        getattr(model, part).requires_grad_(True)
    model.frozen_text = "text" not in parts
    if not any(True for _ in model.learnt()):
        raise RecipeError(
            f"tune.learns={settings.learns}: {' and '.join(parts)} of this model have no weights; "
            "say tune.learns=audio or tune.learns=full"
        )
    model.logit_scale.requires_grad_(not fixed)


def to_training_mode(model: DualEncoder, settings: TuneSettings | None) -> None:
    """Training mode, but for parts that do not learn and, where they are frozen, batch norms: these stay in eval mode.

    Dropout of a part that does not learn would move its vectors, and live batch statistics would replace, within a few
    small batches of one kind of sound, those that the weights behind them were trained with.
    """
    model.train()
    if settings is None:
        return
    for part in ("audio", "text", "text_head"):
        if part not in learning_parts(settings):
            getattr(model, part).eval()
    if settings.batch_norm == "frozen":
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def rate_shares(names: Iterable[str], *, decay: float, tower: float = 1.0) -> dict[str, float]:
    """For each parameter name the factor of its learning rate: 1 for heads and the temperature; in towers, `tower`
    times `decay` to the power of its depth.

    The depth is read from the names, in the order in which a module lists its parameters. The longest numbered list of
    a tower (`audio.blocks.0` to `.11`, `audio.layers.0` to `.3`, `audio.conv_block1` to `6`) are its blocks. The last
    block has depth 1, the first as much as there are blocks, what is listed before them (patch embedding, stem, word
    embeddings) one more; what is listed after them (last norm) has depth 0. A tower without a numbered list has depth 0
    throughout.
    """
    names = list(names)
    shares = dict.fromkeys(names, 1.0)
    for side in ("audio.", "text."):
        mine = [name for name in names if name.startswith(side)]
        shares.update(dict.fromkeys(mine, tower))
        lists: dict[str, dict[int, None]] = {}
        for name in mine:
            if found := _NUMBERED.match(name):
                lists.setdefault(found[1], {})[int(found[2])] = None
        longest = max(lists, key=lambda key: len(lists[key]), default=None)
        if longest is None or len(lists[longest]) < 2:
            continue
        depths = {number: depth for depth, number in enumerate(sorted(lists[longest], reverse=True), start=1)}
        depth = len(depths) + 1  # of what comes before the blocks
        for name in mine:
            found = _NUMBERED.match(name)
            if found and found[1] == longest:
                shares[name] = tower * decay ** depths[int(found[2])]
                depth = 0
            else:
                shares[name] = tower * decay**depth
    return shares


@torch.no_grad()
def blend(state: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor], *, share: float) -> None:
    """Move every tensor of `state` that is `given` in place to (1 - share) x what was given + share x what it is.

    What training did not change stays as it is, to the bit; whole numbers (counters) are left alone.
    """
    for name, before in given.items():
        tensor = state[name]
        if tensor.is_floating_point():
            start = before.to(tensor)
            tensor.copy_(torch.where(tensor == start, start, start + share * (tensor - start)))
