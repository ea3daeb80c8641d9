"""A sentence encoder made into a table of token vectors, in closed form.

The vector of a sentence shall be the mean of the vectors of its tokens. Over many sentences that is linear least
squares: X E = P, X [K, V] the shares of the tokens in each sentence, P [K, D] what the encoder says, turned into its D
strongest directions. It is solved by conjugate gradients, so that there is no seed, no rate and no schedule. (Model2Vec
starts from the encoder's vectors of single tokens; those are among the sentences here.)
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clapkit.errors import DataError
from clapkit.files import atomic_file
from clapkit.native import tensors_digest
from clapkit.text.tokenizers import TOKENIZER_FILE, TextTokenizer
from clapkit.towers.hf import TransformersText
from clapkit.towers.static import StaticText
from clapkit.training.optim import resolve_precision

_BATCH, _AT_ONCE = 128, 4096
# Weight of the sum of squares of the table, in sentences: a token that was met in one of them keeps nearly all of it.
_RIDGE = 0.003


@dataclass(frozen=True)
class Distilled:
    """A table and how well it does.

    tower      the table as a text tower, rounded to 8 bits
    turn_WD    from the encoder's W numbers to the D of the table, orthonormal columns
    kept       mean share of a sentence's squared length that the D directions keep
    cosine     mean cosine of the rounded table with the encoder, over the sentences
    """

    tower: StaticText
    turn_WD: Tensor
    kept: float
    cosine: float


def teach(
    texts: Sequence[str],
    teacher: TransformersText,
    tokenizer: TextTokenizer,
    *,
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Unit-norm vectors [K, W] of the encoder, kept in a file of `folder` as they are made: a stopped call goes on.

    The file is named by the texts and the encoder. It holds one number more a text, which is 1 once the text is done.
    Texts of like length go together.
    """
    named = hashlib.sha256("\0".join((tensors_digest(teacher.state_dict()), *texts)).encode()).hexdigest()[:16]
    path, width = folder / f"teacher-{named}.npy", teacher.width + 1
    if path.exists():
        table = np.load(path, mmap_mode="r+")
    else:
        table = np.lib.format.open_memmap(path, "w+", np.float16, (len(texts), width))
    precision = resolve_precision("auto", torch.device("cpu"))
    order = sorted((int(i) for i in np.flatnonzero(table[:, -1] == 0)), key=lambda i: len(texts[i]))
    for first in range(0, len(order), _BATCH):
        part = order[first : first + _BATCH]
        ids, mask = (torch.from_numpy(a) for a in tokenizer.encode([texts[i] for i in part]))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            vectors = teacher(ids, mask).summary_BD.float()
        table[part, :-1] = F.normalize(vectors, dim=1).numpy()
        table[part, -1] = 1
        if progress:
            progress(len(texts) - len(order) + first + len(part), len(texts))
    return torch.from_numpy(np.array(table[:, :-1], np.float32))


def distil(
    texts: Sequence[str], teacher_KW: Tensor, tokenizer: TextTokenizer, *, width: int = 256, steps: int = 60
) -> Distilled:
    """The table of `width` numbers a token that comes nearest to the encoder's vectors of these texts.

    steps   of conjugate gradients; the error falls by less than a thousandth after the first forty
    """
    if not 0 < width <= teacher_KW.shape[1]:
        raise DataError(f"width={width}: the encoder has {teacher_KW.shape[1]} numbers to choose directions from")
    turn, kept = _strongest(teacher_KW, width)
    wanted = F.normalize(teacher_KW @ turn, dim=1)
    shares, shares_T = _shares(texts, tokenizer)
    table = _conjugate_gradients(lambda E: torch.sparse.mm(shares_T, torch.sparse.mm(shares, E)) + _RIDGE * E,
                                 torch.sparse.mm(shares_T, wanted), steps)  # fmt: skip
    tower = StaticText(vocabulary=len(table), width=width, max_tokens=tokenizer.max_tokens)
    tower.place(table)
    rounded = torch.sparse.mm(shares, tower.table_VD.float() * tower.step_V[:, None])
    cosine = float((F.normalize(rounded, dim=1) * wanted).sum(1).mean())
    return Distilled(tower, turn, kept, cosine)


def _strongest(vectors_KW: Tensor, width: int) -> tuple[Tensor, float]:
    """The `width` directions [W, D] that hold most of these vectors, and the share of their squared length in them."""
    values, vectors = torch.linalg.eigh((vectors_KW.T @ vectors_KW).double() / len(vectors_KW))
    return vectors[:, -width:].float(), float(values[-width:].sum() / values.sum())


def _shares(texts: Sequence[str], tokenizer: TextTokenizer) -> tuple[Tensor, Tensor]:
    """X [K, V] and its transpose: what part of each text every token is."""
    rows, columns, shares = [], [], []
    for first in range(0, len(texts), _AT_ONCE):
        ids, mask = tokenizer.encode(texts[first : first + _AT_ONCE])
        row, place = np.nonzero(mask)
        rows.append(row + first)
        columns.append(ids[row, place])
        shares.append(1.0 / mask.sum(1)[row])
    place = np.stack([np.concatenate(rows), np.concatenate(columns)])
    numbers = torch.from_numpy(np.concatenate(shares).astype(np.float32))
    size = (len(texts), tokenizer.vocabulary_size)
    made = torch.sparse_coo_tensor(torch.from_numpy(place), numbers, size, check_invariants=True).coalesce()
    return made, made.T.coalesce()


def _conjugate_gradients(apply: Callable[[Tensor], Tensor], right: Tensor, steps: int) -> Tensor:
    """The solution E of apply(E) = right, every column by itself; `apply` is symmetric and positive."""
    found, residual = torch.zeros_like(right), right.clone()
    direction, size = residual.clone(), residual.square().sum(0)
    for _ in range(steps):
        image = apply(direction)
        length = size / (direction * image).sum(0).clamp_min(1e-20)
        found += length * direction
        residual -= length * image
        before, size = size, residual.square().sum(0)
        direction = residual + size / before.clamp_min(1e-20) * direction
    return found


def write(distilled: Distilled, folder: Path, *, tokenizer: TextTokenizer) -> None:
    """The folder that `towers.static.static_text` reads: table and tokenizer; and turn.npy, `Distilled.turn_WD`."""
    distilled.tower.save(folder)
    np.save(folder / "turn.npy", distilled.turn_WD.numpy())
    with atomic_file(folder / TOKENIZER_FILE) as file, (tokenizer.folder / TOKENIZER_FILE).open("rb") as original:
        shutil.copyfileobj(original, file)
