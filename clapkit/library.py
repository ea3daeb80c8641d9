"""The second door: a library of sounds on disk that can be searched by words and by sounds.

Opening and searching by vectors needs no torch.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clapkit.api import Clap, load
from clapkit.errors import AudioFailure, MissingExtraError, SearchIndexError, SpaceMismatchError
from clapkit.search.exact import ExactIndex, Hit

if TYPE_CHECKING:
    from clapkit.runtime.job import Embedder
    from clapkit.search.store import Store
    from clapkit.search.sync import FileVectors, Unusable

RENEW = "index the sounds again with `clapkit index FOLDER --model MODEL --out NEW_LIBRARY`"


class Index:
    """A library on disk, with the model that made it; open it with `Index.open`.

    store   what `clapkit index` writes: a row a window, kept in step with files (docs/search.md)
    exact   what `Index.build` writes: a row a file, written once, by numpy alone. One of the two is None.
    model   None where it is gone: then the library can be searched by vectors only
    note    what differs between the model and the one that made the library, if it does not matter much
    """

    def __init__(self, rows: ExactIndex | Store, model: Clap | None) -> None:
        self.exact = rows if isinstance(rows, ExactIndex) else None
        self.store = None if isinstance(rows, ExactIndex) else rows
        self.model = model
        self.note: str | None = None
        if model is None:
            return
        if isinstance(rows, ExactIndex):
            rows.check_space(model.space_id)
            self.note = rows.pipeline_note(model.pipeline_id)
        else:
            space = rows.view.space
            if space.space_id != model.space_id:
                raise SpaceMismatchError(space.space_id, model.space_id)
            if space.pipeline_id != model.pipeline_id:
                self.note = (
                    f"the library was made through {space.pipeline_id}, the model now runs as {model.pipeline_id}"
                )

    @classmethod
    def open(cls, path: str | os.PathLike, model: Clap | str | os.PathLike | None = None, **how: Any) -> Index:
        """Open the library in the folder or at the URL `path`, of either kind.

        model   a loaded Clap or the path of one; default: the model that the library remembers, if it is still there.
                Without a model the library can be searched by vectors only. SpaceMismatchError for another space.
        how     arguments of `clapkit.load`, for a model that is loaded here
        SearchIndexError for a place that is missing, holds no library, is damaged or of another format.
        """
        exact = is_exact(path)
        if model is None:
            with suppress(MissingExtraError):  # without torch there is still the search by vectors
                if remembered := remembered_model(path):
                    model = load(remembered, **how)
        elif isinstance(model, (str, os.PathLike)):
            model = load(model, **how)
        if exact:
            return cls(ExactIndex.open(path), model)
        from clapkit.search.store import Store

        return cls(Store.open(path, space_id=None if model is None else _space_in(path, model)), model)

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
        """Embed files and write a new index, one row a file, by numpy alone; what failed comes back with its reasons.

        For a library that follows its files, with windows, tags and filters, see `clapkit index` and docs/search.md.

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
        return len(self.store) if self.exact is None and self.store is not None else len(self._exact)

    def search(self, text: str | None = None, audio: Any = None, k: int = 10) -> list[Hit]:
        """The `k` nearest rows to a text, to a sound, or to both (the mean of the two directions)."""
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
        """The `k` nearest rows to a vector of the index's space; needs no model and no torch."""
        norm = float(np.linalg.norm(query_D))
        if not norm > 0:
            raise SearchIndexError("the query vector is zero or not a number: it has no direction to search in")
        unit_D = np.asarray(query_D, np.float32) / np.float32(norm)
        if self.store is None:
            return self._exact.hits(unit_D, k)
        view = self.store.view
        (ids,), (scores,) = view.search(unit_D[None], k)
        return [
            Hit(
                row.id,
                float(score),
                row.file,
                row.start_s,
                {**row.metadata, "tags": list(row.tags), "duration_s": row.duration_s},
            )
            for row, score in zip(view.rows(ids), scores, strict=True)
        ]

    @property
    def _exact(self) -> ExactIndex:
        assert self.exact is not None, "an index is of one kind or of the other"
        return self.exact


def is_exact(path: str | os.PathLike) -> bool:
    """Whether the folder holds an index of the kind that `Index.build` writes, and no store."""
    return (Path(path) / "index.json").is_file() and not (Path(path) / "store.json").is_file()


def remembered_model(path: str | os.PathLike) -> str | None:
    """What to load for a library (its path, or its name); None where it does not know, or the model is gone.

    SearchIndexError for a place that holds no library.
    """
    if is_exact(path):
        place = _remembered_model(Path(path))
        return None if place is None else str(place)
    from clapkit.search.place import Place

    place_of = Place(path)
    head = place_of.read()
    return place_of.model_of(head.spaces[head.active])


def window_vectors(
    embedder: Embedder, on_note: Callable[[str, str], None] | None = None
) -> Callable[[Sequence[str]], Iterator[FileVectors | Unusable]]:
    """An embedder of big jobs (`clapkit.runtime.job.embed_here`, `RayWorkers`) as what fills a store.

    `on_note(path, note)` is called for files that are used although something about them was odd.
    """
    from clapkit.runtime.parts import BadFile
    from clapkit.search.sync import FileVectors, Unusable

    def embed(files: Sequence[str]) -> Iterator[FileVectors | Unusable]:
        for result in embedder(files, windows=True):
            if isinstance(result, BadFile):
                yield Unusable(result.path, result.reason)
                continue
            if on_note:
                for note in result.notes:
                    on_note(result.path, note)
            yield FileVectors(result.path, result.vectors_ND, result.starts_s, result.durations_s)

    return embed


def _space_in(path: str | os.PathLike, model: Clap) -> str | None:
    """The space of a model, where the store has it; else None: the one that is searched, which is then refused."""
    from clapkit.search.place import Place

    return model.space_id if model.space_id in Place(path).read().spaces else None


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
