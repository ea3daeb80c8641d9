"""The second door: a library of sounds on disk that can be searched by words and by sounds.

Opening and searching by vectors needs no torch.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from clapkit.api import Clap, load
from clapkit.errors import AudioFailure, MissingExtraError, SearchIndexError
from clapkit.search.exact import ExactIndex, Hit


class Index:
    """A search index on disk, with the model that made it; open it with `Index.open`."""

    def __init__(self, exact: ExactIndex, model: Clap | None) -> None:
        if model is not None:
            exact.check_space(model.space_id)
        self.exact = exact
        self.model = model
        self.note = exact.pipeline_note(model.pipeline_id) if model is not None else None

    @classmethod
    def open(cls, path: str | os.PathLike, model: Clap | str | os.PathLike | None = None) -> Index:
        """Open the index in the folder `path`.

        model   a loaded Clap or the path of one; default: the model that the index remembers, if it is still there.
                Without a model the index can be searched by vectors only. SpaceMismatchError for another space.
        """
        exact = ExactIndex.open(path)
        if model is None and (remembered := _remembered_model(Path(path))):
            with suppress(MissingExtraError):  # without torch there is still the search by vectors
                model = load(remembered)
        if isinstance(model, (str, os.PathLike)):
            model = load(model)
        return cls(exact, model)

    @classmethod
    def build(
        cls,
        path: str | os.PathLike,
        model: Clap,
        sources: Sequence[str | os.PathLike],
        *,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        progress: bool = False,
        on_note: Callable[[str, str], None] | None = None,
    ) -> tuple[Index, list[AudioFailure]]:
        """Embed files and write a new index of them; the files that failed come back with their reasons.

        `on_note(path, note)` is called for files that are indexed although something about them was odd. An index that
        is interrupted leaves nothing behind.
        """
        twice = [name for name, count in Counter(os.fspath(s) for s in sources).items() if count > 1]
        if twice:
            raise SearchIndexError(f"{len(twice)} files are named more than once, {twice[0]!r} first: name each once")
        ids = {"space_id": model.space_id, "pipeline_id": model.pipeline_id}
        exact = ExactIndex.create(path, **ids, dimension=model.dimension)
        try:
            failures = cls._fill(exact, model, sources, metadata=metadata, progress=progress, on_note=on_note)
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)  # `create` has made sure that nothing else was in it
            raise
        _remember_model(Path(path), model.folder)
        return cls(exact, model), failures

    @staticmethod
    def _fill(
        exact: ExactIndex,
        model: Clap,
        sources: Sequence[str | os.PathLike],
        *,
        metadata: Sequence[Mapping[str, Any]] | None,
        progress: bool,
        on_note: Callable[[str, str], None] | None,
    ) -> list[AudioFailure]:
        failures: list[AudioFailure] = []
        rows: dict[int, tuple[np.ndarray, dict[str, Any]]] = {}
        for result in model.embed_each(list(sources), progress=progress):
            if hasattr(result, "error"):
                failures.append(AudioFailure(result.index, result.error.source, result.error.reason))
                continue
            for note in dict.fromkeys(result.notes):
                if on_note:
                    on_note(os.fspath(sources[result.index]), note)
            more = {} if metadata is None else metadata[result.index]
            place = {"path": os.fspath(sources[result.index]), "start_s": 0.0, "duration_s": result.duration_s}
            rows[result.index] = (result.vector_D, {**more, **place})
        order = sorted(rows)
        if order:
            exact.add(
                [rows[i][1]["path"] for i in order], np.stack([rows[i][0] for i in order]), [rows[i][1] for i in order]
            )
        exact.save()
        return sorted(failures, key=lambda f: f.index)

    def __len__(self) -> int:
        return len(self.exact)

    def search(self, text: str | None = None, audio: Any = None, k: int = 10) -> list[Hit]:
        """The `k` nearest sounds to a text, to a sound, or to both (the mean of the two directions)."""
        if text is None and audio is None:
            raise SearchIndexError("search needs a text, a sound, or both")
        if self.model is None:
            raise SearchIndexError("the index was opened without a model: give one to Index.open, or search_vector")
        parts = []
        if text is not None:
            parts.append(self.model.embed_text([text])[0])
        if audio is not None:
            parts.append(self.model.embed_audio([audio])[0])
        return self.search_vector(np.sum(parts, axis=0), k=k)

    def search_vector(self, query_D: np.ndarray, k: int = 10) -> list[Hit]:
        """The `k` nearest sounds to a vector of the index's space; needs no model and no torch."""
        norm = float(np.linalg.norm(query_D))
        if not norm > 0:
            raise SearchIndexError("the query vector is zero or not a number: it has no direction to search in")
        return self.exact.hits(np.asarray(query_D, np.float32) / np.float32(norm), k)


def _remember_model(index: Path, model: Path) -> None:
    """Note where the model is, relative to the index where that is possible, so that both can move together."""
    try:
        place = os.path.relpath(model.resolve(), index.resolve())
    except ValueError:  # another drive
        place = str(model.resolve())
    (index / "model.txt").write_text(Path(place).as_posix() + "\n", encoding="utf-8")


def _remembered_model(index: Path) -> Path | None:
    note = index / "model.txt"
    if not note.is_file():
        return None
    place = (index / note.read_text(encoding="utf-8").strip()).resolve()
    return place if place.exists() else None
