"""The batches of several processes (ranks) as one: what contrast needs beyond an average of gradients.

Clips are put together in the order of ranks. A text that stands on several ranks is one text of the joined batch, with
the row of the first rank that has it, and each clip's target goes to that column. So two ranks see the Embeddings that
one process would make of their clips, with one exception: that a text which another rank has drawn also describes a
clip of this one, only its target could say.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.functional import pad

from clapkit.errors import ClapkitError, RecipeError
from clapkit.objectives.base import Embeddings, Objective
from clapkit.training.gradient_cache import AXES, ROWS, has_rows_apart, row_losses

# Axes whose length may differ from rank to rank, and the mask that says what is there.
_MASKS = {
    "text_private_BKD": "private_BK",
    "audio_private_UKD": "audio_private_UK",
    "frames_BTD": "frame_mask_BT",
    "events_BUT": "frame_mask_BT",
    "rebuilt_BNP": "hidden_BN",
    "hidden_BNP": "hidden_BN",
}
_UNEQUAL = "BUKTN"


@dataclass(frozen=True)
class Ranks:
    """The default process group of torch.distributed, all of whose processes take the same step together.

    local_loss  each rank computes the rows of its own clips and texts alone, B / ranks x U logits in place of B x U, at
                the price of one more exchange on the way back. For InfoNCE without smoothing, whose rows do not depend
                on each other

    Gradients follow one convention: averaged over the ranks (`average_gradients`), they are those of the joined batch.
    """

    local_loss: bool = False

    def losses(self, objective: Objective, z: Embeddings, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Losses whose average over the ranks is the objective of the joined batch; `texts` are those of `z`.

        Raises RecipeError for a `local_loss` that the objective does not allow, and as `gathered` does.
        """
        if not self.local_loss:
            return dict(objective(gathered(z, texts)))
        if not has_rows_apart(objective):
            raise RecipeError(f"local_loss is for InfoNCE without smoothing, not for {objective!r}: set it to False")
        whole, clips, owned = _gathered(z, texts, local=True)
        ranks = dist.get_world_size()
        return {name: value * ranks for name, value in row_losses(objective, whole, clips, owned).items()}

    def averaged(self, losses: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The mean over ranks of scalars that all of them have, without graph."""
        stacked = torch.stack([value.detach() for value in losses.values()])
        dist.all_reduce(stacked)
        return dict(zip(losses, stacked / dist.get_world_size(), strict=True))

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every `.grad` by its mean over the ranks; None counts as 0, and stays None if no rank has any."""
        by_kind: dict[torch.dtype, list[torch.nn.Parameter]] = {}
        for parameter in parameters:
            by_kind.setdefault(parameter.dtype, []).append(parameter)
        for kind in by_kind.values():
            has = torch.tensor([p.grad is not None for p in kind], dtype=torch.uint8, device=kind[0].device)
            dist.all_reduce(has, op=dist.ReduceOp.MAX)
            learnt = [p for p, there in zip(kind, has.tolist(), strict=True) if there]
            if not learnt:
                continue
            flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in learnt])
            dist.all_reduce(flat)
            flat /= dist.get_world_size()
            for p, mean in zip(learnt, flat.split([p.numel() for p in learnt]), strict=True):
                p.grad = mean.view_as(p).clone()


def gathered(z: Embeddings, texts: Sequence[str]) -> Embeddings:
    """The joined batch of all ranks; `texts` are the U texts of `z`, all different.

    Numbers of clips, texts, private negatives, frames and hidden patches may differ from rank to rank. Fields that are
    not split (scale, shared negatives) are the same on all ranks, and stay what they are on this one. In a column that
    a rank does not have, its clips have target 0, are counted (include), and hear nothing where their events are known.
    The gradient of a row is that of the joined loss times the number of ranks.
    Raises ClapkitError without a process group, for equal texts, and where ranks have different fields or widths.
    """
    return _gathered(z, texts, local=False)[0]


def _gathered(z: Embeddings, texts: Sequence[str], *, local: bool) -> tuple[Embeddings, torch.Tensor, torch.Tensor]:
    """Also the positions of this rank's clips, and of the texts that it is the first rank to have."""
    if not dist.is_initialized():
        raise ClapkitError("there is no process group: start the processes with torchrun, or train with ranks=None")
    if len(set(texts)) != len(texts) or len(texts) != len(z.text_UD):
        raise ClapkitError(f"{len(z.text_UD)} rows of text and {len(set(texts))} different texts: one row a text")
    z = replace(z, soft_target_BU=z.target_BU())
    headers = _headers(z, texts)
    z, shapes = _with_masks(z, [shapes for _, shapes in headers])
    columns: dict[str, int] = {}
    for theirs, _ in headers:
        for text in theirs:
            columns.setdefault(text, len(columns))
    device = z.audio_BD.device
    places = [torch.tensor([columns[text] for text in theirs], device=device) for theirs, _ in headers]
    behind = torch.cat(places).tolist()  # the column of every row of text, one rank behind the other
    first = torch.tensor([behind.index(column) for column in range(len(columns))], device=device)
    made: dict[str, Any] = {}
    for name, every in _exchanged(z, shapes, local=local).items():
        if ROWS[name] == "texts":
            made[name] = torch.cat(every)[first]
        elif "U" in AXES[name]:
            pairs = zip(every, places, strict=True)
            made[name] = torch.cat([_spread(name, part, place, len(columns)) for part, place in pairs])
        else:
            made[name] = torch.cat(every)
    counts = [shape["audio_BD"][0] for shape in shapes]
    rank = dist.get_rank()
    clips = torch.arange(counts[rank], device=device) + sum(counts[:rank])
    before = sum(len(place) for place in places[:rank])
    owned = ((first >= before) & (first < before + len(places[rank]))).nonzero()[:, 0]
    return replace(z, **made), clips, owned


def _headers(z: Embeddings, texts: Sequence[str]) -> list[tuple[tuple[str, ...], dict[str, tuple[int, ...]]]]:
    """Texts and shapes of every rank; ClapkitError where they cannot be joined."""
    mine = {name: value for name in ROWS if (value := getattr(z, name)) is not None}
    shapes = {name: tuple(value.shape) for name, value in mine.items()}
    headers: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(headers, (tuple(texts), shapes, {name: str(value.dtype) for name, value in mine.items()}))
    _, first, kinds = headers[0]
    for rank, (_, theirs, their_kinds) in enumerate(headers):
        if theirs.keys() != first.keys():
            unlike = sorted(theirs.keys() ^ first.keys())
            raise ClapkitError(f"ranks 0 and {rank} have different fields: {unlike} are on one of them alone")
        for name, shape in theirs.items():
            fixed = [i for i, letter in enumerate(AXES[name]) if letter not in _UNEQUAL]
            if their_kinds[name] != kinds[name] or any(shape[i] != first[name][i] for i in fixed):
                raise ClapkitError(
                    f"{name} is {kinds[name]} of shape {first[name]} on rank 0 and {their_kinds[name]} of shape "
                    f"{shape} on rank {rank}"
                )
    return [(theirs, shapes) for theirs, shapes, _ in headers]


def _with_masks(
    z: Embeddings, shapes: list[dict[str, tuple[int, ...]]]
) -> tuple[Embeddings, list[dict[str, tuple[int, ...]]]]:
    """With masks, where ranks have rows of different length and no mask to tell what was filled up."""
    for name, mask in _MASKS.items():
        if name not in shapes[0] or mask in shapes[0]:
            continue
        axes = [AXES[name].index(letter) for letter in AXES[mask]]
        if len({shape[name][axes[1]] for shape in shapes}) > 1:
            shapes = [{**shape, mask: tuple(shape[name][axis] for axis in axes)} for shape in shapes]
            there = torch.ones([z[name].shape[axis] for axis in axes], dtype=torch.bool, device=z.audio_BD.device)
            z = replace(z, **{mask: there})
    return z, shapes


def _exchanged(
    z: Embeddings, shapes: Sequence[Mapping[str, tuple[int, ...]]], *, local: bool
) -> dict[str, list[torch.Tensor]]:
    """Every field that is split, as each rank has it; rows are as long as the longest of all ranks.

    Fields of one kind travel as one vector: a step waits for a few exchanges, however much it reads.
    """
    by_kind: dict[torch.dtype, list[str]] = {}
    for name, rows in ROWS.items():
        value = getattr(z, name)
        if rows != "all" and value is not None:
            by_kind.setdefault(value.dtype, []).append(name)
    made: dict[str, list[torch.Tensor]] = {}
    for kind, names in by_kind.items():
        sizes = [[math.prod(shape[name]) for name in names] for shape in shapes]
        flat = torch.cat([z[name].flatten() for name in names])
        flat = pad(flat, (0, max(map(sum, sizes)) - len(flat)))
        every = _AllGather.apply(flat.to(torch.uint8) if kind == torch.bool else flat, local).to(kind)
        for vector, size, shape in zip(every, sizes, shapes, strict=True):
            for name, part in zip(names, vector[: sum(size)].split(size), strict=True):
                made.setdefault(name, []).append(part.view(shape[name]))
    return {name: _evened(name, parts) for name, parts in made.items()}


def _evened(name: str, parts: list[torch.Tensor]) -> list[torch.Tensor]:
    """The same with rows of equal length; their number and that of columns stay those of each rank."""
    fill = torch.nan if name == "events_BUT" else 0
    for axis, letter in enumerate(AXES[name]):
        if letter in "KTN":
            longest = max(part.shape[axis] for part in parts)
            after = [0, 0] * (parts[0].ndim - axis - 1)
            parts = [pad(part, (*after, 0, longest - part.shape[axis]), value=fill) for part in parts]
    return parts


def _spread(name: str, part: torch.Tensor, place: torch.Tensor, columns: int) -> torch.Tensor:
    """A rank's columns at their places among all."""
    shape = (part.shape[0], columns, *part.shape[2:])
    if name == "include_BU":
        wide = part.new_ones(shape)
    elif name == "events_BUT":
        known_B1T = (~part.isnan()).any(1, keepdim=True)
        wide = part.new_full(shape, torch.nan).masked_fill(known_B1T, 0.0)
    else:
        wide = part.new_zeros(shape)
    return wide.index_copy(1, place, part)


class _AllGather(torch.autograd.Function):
    """[...] of each rank -> [ranks, ...], with gradient.

    Where every rank computes the same loss of everything, the gradient of its own part is there already; where each
    computes a part of the loss (`local`), the parts of the gradient are added up.
    """

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, local: bool) -> torch.Tensor:
        ctx.local = local
        every = [torch.empty_like(value) for _ in range(dist.get_world_size())]
        dist.all_gather(every, value.contiguous())
        return torch.stack(every)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        gradient, rank = gradients[0], dist.get_rank()
        if not ctx.local:
            return gradient[rank] * dist.get_world_size(), None
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[rank], None
