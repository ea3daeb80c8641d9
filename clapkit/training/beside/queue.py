"""What stood in earlier batches, as further negatives (MoCo: He et al., CVPR 2020; between languages: card 044)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from clapkit.data.batches import Batch
from clapkit.data.clip import Clip
from clapkit.errors import SpecError
from clapkit.objectives.base import Objective
from clapkit.objectives.combine import Matryoshka, Weighted
from clapkit.objectives.composition import ModularContrast
from clapkit.objectives.contrast import CWCL, InfoNCE, KappaNCE
from clapkit.objectives.distill import CrossPrediction
from clapkit.objectives.hardness import DCLR, HNNCE, DebiasedNCE
from clapkit.objectives.margin import MaxMargin
from clapkit.objectives.order import TemporalNCE
from clapkit.objectives.sigmoid import PairwiseSigmoid

# Of those that come with the package: whose negatives are not those of the batch alone. Outside, `needs` says it.
READERS = (
    *(InfoNCE, KappaNCE, CWCL, HNNCE, DebiasedNCE, DCLR, PairwiseSigmoid),
    *(MaxMargin, ModularContrast, TemporalNCE, CrossPrediction),
)
# Beside the texts of a clip: itself, what it was mixed with, and their texts.
_MORE_NAMES = 8
_NOBODY = -1


@dataclass(frozen=True)
class Queue:
    """What the slow teacher made of the last `size` sounds and of the last `size` texts, as further negatives.

    They stand in the denominators of all texts and of all clips of a step, beside those of its batch: a small batch has
    the negatives of a large one, at the price of the teacher. It takes `Teacher(source="ema")`: vectors of a model that
    moves fast are soon out of date. No gradient flows into them.

    The sounds and texts of a step go in behind it, the oldest go out. Texts without a clip in their batch, and sounds
    without a text, do not: nobody knows of what else they are true. An entry is left out of a step where it shares a
    name with the batch. Its names are those of the clip and of all texts that are known to be true of it, or the text
    and its clips; those of a batch are its clips, its texts, and whatever else is true of these clips.
    """

    size: int = 4096

    adds: ClassVar[tuple[str, ...]] = ("text_negative", "audio_negative")

    def __post_init__(self) -> None:
        if self.size < 1:
            raise SpecError(f"size is a number of sounds and of texts, at least 1, not {self.size}")

    def build(self, width: int, *, clips: Sequence[Clip] = ()) -> KeptNegatives:
        """The empty queue of vectors [width]; `clips` are those of the data with all their texts."""
        return KeptNegatives(self.size, width, clips=clips)


def reads_queue(objective: Objective) -> bool:
    """Whether negatives from outside the batch count for an objective, or for a part of what it is made of.

    ClassTargets is no reader: which of the earlier clips are of a class, a queue does not know.
    """
    if isinstance(objective, Weighted):
        return any(reads_queue(part) for part, _ in objective.parts)
    if isinstance(objective, Matryoshka):
        return reads_queue(objective.objective)
    return isinstance(objective, READERS) or bool(set(Queue.adds) & set(objective.needs))


class KeptNegatives(nn.Module):
    """The queue of a run; its buffers are all that a checkpoint needs.

    `(batch, made) -> fields` in a step: what is in the queue and no part of the batch. `made` has the teacher's vectors
    of the whole batch, which wait until `advance` says that the step is done: nothing is a negative of its own step.
    """

    def __init__(self, size: int, width: int, *, clips: Sequence[Clip] = ()) -> None:
        super().__init__()
        self._said = {c.id: (*c.captions, *c.prompts, *dict.fromkeys(e.label for e in c.events)) for c in clips}
        names = _MORE_NAMES + max(map(len, self._said.values()), default=0)
        self.audio, self.text = _Line(size, width, names=names), _Line(size, width, names=names)
        self._waiting: tuple[tuple[_Line, torch.Tensor, np.ndarray], ...] = ()

    @torch.no_grad()
    def forward(self, batch: Batch, made: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """text_negative_ED and audio_negative_FD of a step, empty at the first; `made` is kept for `advance`."""
        clips_of = [np.flatnonzero(column) for column in (batch.soft_target_BU > 0).T]
        texts_of = [np.flatnonzero(row) for row in batch.soft_target_BU > 0]
        ids, texts = [_key("clip", name) for name in batch.ids], [_key("text", text) for text in batch.texts]
        said = [[_key("text", text) for text in self._said.get(name, ())] for name in batch.ids]

        def of_text(u: int) -> Iterable[int]:
            yield texts[u]
            yield from (ids[b] for b in clips_of[u])

        def of_sound(b: int) -> Iterable[int]:
            yield from (ids[b], *(texts[u] for u in texts_of[b]), *said[b])
            yield from (ids[c] for u in texts_of[b] for c in clips_of[u])  # what it was mixed with shares a text

        self._waiting = (
            _chosen(self.audio, made["audio_teacher_BD"], {b: of_sound(b) for b, of in enumerate(texts_of) if len(of)}),
            _chosen(self.text, made["text_teacher_UD"], {u: of_text(u) for u, of in enumerate(clips_of) if len(of)}),
        )
        present = torch.tensor(sorted({*ids, *texts, *(key for keys in said for key in keys)}))
        return {"text_negative_ED": self.text.without(present), "audio_negative_FD": self.audio.without(present)}

    def advance(self) -> None:
        """The step is done: what stood in its batch goes in."""
        for line, vectors_MD, keys_MK in self._waiting:
            line.push(vectors_MD, keys_MK)
        self._waiting = ()


class _Line(nn.Module):
    """The last `size` vectors with the keys of their names, the next one's place, first in, first out."""

    vectors_ND: torch.Tensor
    keys_NK: torch.Tensor
    pushed: torch.Tensor

    def __init__(self, size: int, width: int, *, names: int) -> None:
        super().__init__()
        self.register_buffer("vectors_ND", torch.zeros(size, width))
        self.register_buffer("keys_NK", torch.full((size, names), _NOBODY, dtype=torch.int64))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, vectors_MD: torch.Tensor, keys_MK: np.ndarray) -> None:
        size, count = len(self.vectors_ND), len(vectors_MD)
        last = slice(max(0, count - size), count)
        places = (self.pushed + torch.arange(count, device=self.pushed.device)[last]) % size
        self.vectors_ND[places] = vectors_MD[last].to(self.vectors_ND.dtype)
        self.keys_NK[places] = torch.from_numpy(keys_MK[last]).to(self.keys_NK.device)
        self.pushed += count

    def without(self, present: torch.Tensor) -> torch.Tensor:
        """Vectors [E, D] of the entries that have no key of `present`."""
        shared_N = torch.isin(self.keys_NK, present.to(self.keys_NK.device)).any(1)
        return self.vectors_ND[(self.keys_NK[:, 0] != _NOBODY) & ~shared_N]


def _chosen(
    line: _Line, vectors: torch.Tensor, names: Mapping[int, Iterable[int]]
) -> tuple[_Line, torch.Tensor, np.ndarray]:
    """The rows of `vectors` that have names, with the keys of as many of these as there is room for."""
    keys_MK = np.full((len(names), line.keys_NK.shape[1]), _NOBODY, np.int64)
    for row, keys in zip(keys_MK, names.values(), strict=True):
        found: dict[int, None] = {}
        for key in keys:
            found[key] = None
            if len(found) == len(row):
                break
        row[: len(found)] = list(found)
    rows = torch.tensor(list(names), dtype=torch.int64, device=vectors.device)
    return line, vectors.detach()[rows], keys_MK


@lru_cache(maxsize=2**16)
def _key(kind: str, name: str) -> int:
    """63 bits of a name: that any two of a million names are equal by chance has a probability of 5e-8."""
    return int.from_bytes(blake2b(f"{kind} {name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()) >> 1
