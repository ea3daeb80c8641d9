"""Losses that are sums over pairs, with the texts of one process after the other.

Every process keeps its own clips. The texts go round: each process compares its clips with the texts that it has just
now, hands them on to the process before it and gets the next ones from the process behind it, until all have been with
all (the exchange of SigLIP, Zhai et al., ICCV 2023; card 034).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.functional import pad

from clapkit.objectives.base import Embeddings, Objective
from clapkit.objectives.combine import Matryoshka, Weighted
from clapkit.objectives.contrast import wide
from clapkit.objectives.sigmoid import PairwiseSigmoid
from clapkit.training.parallel.gather import Ranks, rows_of_ranks

# What a pair of blocks has beside its clips and texts. Wrong sounds and wrong texts are each compared once, at home.
_OF_PAIRS = ("soft_target_BU", "include_BU")
_EVERYWHERE = ("audio_BD", "text_UD", "scale", "bias", *_OF_PAIRS)


def has_pairs_apart(objective: Objective) -> bool:
    """Whether `ring_losses` serves it: a sum over pairs of which each is judged alone, divided by the number of clips.

    That is PairwiseSigmoid, and what is made of nothing else. An objective that makes targets of the whole batch first
    (ClassTargets) has the pairs, but not the targets of a part.
    """
    if isinstance(objective, Weighted):
        return all(has_pairs_apart(part) for part, _ in objective.parts)
    if isinstance(objective, Matryoshka):
        return has_pairs_apart(objective.objective)
    return isinstance(objective, PairwiseSigmoid)


def ring_losses(objective: Objective, z: Embeddings, ranks: Ranks, *, clips: int) -> dict[str, torch.Tensor]:
    """Losses whose average over the ranks is the `objective` of the whole batch of `clips`; those of `Ranks.losses`.

    z   of this rank's clips and texts, but for soft_target_BU (which has to be there) and include_BU: these are of its
        clips and of all texts, those of rank 0 first

    A block of clips / ranks x texts / ranks logits is in memory, no more: each is differentiated before the next is
    made, and the gradient of the texts goes round with them. So the gradient of the sum of the losses belongs to
    whichever is named first; the others are numbers.

    Raises ClapkitError where ranks have texts of different widths or kinds.
    """
    headers: list[Any] = [None] * ranks.count
    dist.all_gather_object(headers, {"text_UD": (tuple(z.text_UD.shape), wide(z.text_UD).dtype)})
    _, _, counts = rows_of_ranks("text_UD", headers)
    ring = _Ring(objective, z, ranks, counts, share=ranks.count * len(z.audio_BD) / clips)
    found = ring.go_round()
    first, *others = found
    learnt = [getattr(z, name) for name in ring.leaves]
    total = _Carried.apply(found[first], list(ring.gradients().values()), *learnt)
    return {first: total, **{name: found[name] for name in others}}


@dataclass
class _Ring:
    """This rank's clips, and the texts that are with it. `share` is what a loss of its clips counts."""

    objective: Objective
    z: Embeddings
    ranks: Ranks
    counts: list[int]
    share: float

    def __post_init__(self) -> None:
        given = {f.name: v for f in fields(self.z) if (v := getattr(self.z, f.name)) is not None}
        self.leaves = {name: v.detach().requires_grad_() for name, v in given.items() if v.requires_grad}
        self.z = replace(self.z, **{name: v.detach() for name, v in given.items()} | self.leaves)
        self.text_gradient: torch.Tensor | None = None

    def go_round(self) -> dict[str, torch.Tensor]:
        """The losses of this rank's clips with the texts of all, differentiated."""
        width, found = self.z.text_UD.shape[1], dict[str, torch.Tensor]()
        text_UD = wide(self.z.text_UD).detach()
        gradient_UD = torch.zeros_like(text_UD)
        for passed in range(self.ranks.count):
            holder = (self.ranks.rank + passed) % self.ranks.count
            text_UD.requires_grad_()
            for name, value in self._block(text_UD, holder).items():
                found[name] = found.get(name, 0.0) + value
            if text_UD.grad is not None:
                gradient_UD = gradient_UD + text_UD.grad
            both = torch.cat([text_UD.detach(), gradient_UD], dim=1)
            text_UD, gradient_UD = self._handed_on(both, self.counts[(holder + 1) % self.ranks.count]).split(width, 1)
        self.text_gradient = gradient_UD.to(self.z.text_UD.dtype)
        return found

    def gradients(self) -> dict[str, torch.Tensor | None]:
        """Of the sum of the losses, for each of `leaves`."""
        return {name: self.text_gradient if name == "text_UD" else leaf.grad for name, leaf in self.leaves.items()}

    def _block(self, text_UD: torch.Tensor, holder: int) -> dict[str, torch.Tensor]:
        """The losses with the texts of the rank `holder`, differentiated."""
        first = sum(self.counts[:holder])
        columns = slice(first, first + self.counts[holder])
        whole = {name: getattr(self.z, name) for name in _OF_PAIRS}
        changes: dict[str, Any] = {k: None if value is None else value[:, columns] for k, value in whole.items()}
        changes["text_UD"] = text_UD
        if holder != self.ranks.rank:
            changes |= {f.name: None for f in fields(self.z) if f.name not in _EVERYWHERE}
        losses = self.objective(replace(self.z, **changes))
        losses = {name: value * self.share for name, value in losses.items()}
        torch.autograd.backward(sum(losses.values()))  # type: ignore[arg-type]
        return {name: value.detach() for name, value in losses.items()}

    def _handed_on(self, rows: torch.Tensor, coming: int) -> torch.Tensor:
        """The `coming` rows of the rank behind, for `rows`, which go to the rank before. All messages are of one size:
        a rank may have no text."""
        rank, count = self.ranks.rank, self.ranks.count
        sent = pad(rows, (0, 0, 0, max(self.counts) - len(rows))).contiguous()
        found = torch.empty_like(sent)
        ends = [(dist.isend, sent, (rank - 1) % count), (dist.irecv, found, (rank + 1) % count)]
        for waiting in dist.batch_isend_irecv([dist.P2POp(*end) for end in ends]):
            waiting.wait()
        return found[:coming]


class _Carried(torch.autograd.Function):
    """A number whose gradients are known already."""

    @staticmethod
    def forward(
        ctx: Any, value: torch.Tensor, gradients: list[torch.Tensor | None], *tensors: torch.Tensor
    ) -> torch.Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (None, None, *(None if g is None else g * outer[0] for g in ctx.gradients))
