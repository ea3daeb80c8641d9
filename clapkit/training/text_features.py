"""Embeddings of a frozen text tower, computed once for each text and kept on disk between runs."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from clapkit.files import atomic_file, cache_folder
from clapkit.model import DualEncoder
from clapkit.native import tensors_digest
from clapkit.text.tokenizers import TextTokenizer

_BATCH = 64


class TextFeatures:
    """`features(texts)` -> [U, W] of the frozen tower, from memory, from disk, or computed."""

    def __init__(self, model: DualEncoder, tokenizer: TextTokenizer) -> None:
        assert model.frozen_text and model.text is not None, (
            "features of a tower that learns would be stale after one step"
        )
        self._model = model
        self._tower = model.text
        self._tokenizer = tokenizer
        self._place: dict[str, int] = {}
        self._table = torch.zeros(0, self._tower.width)

    def prepare(self, texts: Sequence[str], *, progress: Callable[[int, int], None] | None = None) -> None:
        """Have the features of `texts` ready: read from the cache folder, or computed and written there."""
        texts = list(dict.fromkeys(texts))
        named = json.dumps([tensors_digest(self._tower.state_dict()), *self._reading(texts)], ensure_ascii=False)
        path = cache_folder() / "text" / f"{hashlib.sha256(named.encode()).hexdigest()[:32]}.npy"
        found = _read(path, (len(texts), self._tower.width))
        if found is not None:
            self._append(texts, found)
            return
        table = self._compute(texts, progress)
        buffer = io.BytesIO()
        np.save(buffer, table.numpy())
        with atomic_file(path) as file:
            file.write(buffer.getvalue())
        self._append(texts, table)

    def _reading(self, texts: Sequence[str]) -> tuple[str, str]:
        """What the weights leave open: how the tower pools, and the ids that the tokenizer makes of the texts."""
        digest = hashlib.sha256()
        for first in range(0, len(texts), _BATCH):
            ids, mask = self._tokenizer.encode(texts[first : first + _BATCH])
            digest.update(ids.tobytes() + mask.tobytes())
        told = repr(self._tower.spec()) if hasattr(self._tower, "spec") else type(self._tower).__name__
        return told, digest.hexdigest()

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        new = [t for t in dict.fromkeys(texts) if t not in self._place]
        for text in new:
            # One by one: in the last bits a vector depends on what it is computed with, and a run that was resumed
            # meets a text in other company than the run that was not.
            self._append([text], self._compute([text], None))
        return self._table[[self._place[t] for t in texts]]

    def _append(self, texts: Sequence[str], table: torch.Tensor) -> None:
        first = len(self._place)
        self._place.update({t: first + i for i, t in enumerate(texts)})
        self._table = torch.cat([self._table, table])

    @torch.no_grad()
    def _compute(self, texts: Sequence[str], progress: Callable[[int, int], None] | None) -> torch.Tensor:
        # Sorted by length, so that little of a batch is padding; put back in order afterwards.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        out = torch.empty(len(texts), self._tower.width)
        for first in range(0, len(order), _BATCH):
            part = order[first : first + _BATCH]
            ids, mask = self._tokenizer.encode([texts[i] for i in part])
            device = self._model.device
            features = self._model.text_features(torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device))
            out[part] = features.float().cpu()
            if progress:
                progress(first + len(part), len(texts))
        return out


def _read(path: Path, shape: tuple[int, int]) -> torch.Tensor | None:
    """The table that was written there; None where there is none, or not this one."""
    try:
        table = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return torch.from_numpy(table) if table.shape == shape else None
