"""A model of ours as an embedding function of LanceDB: tables that embed sounds and texts by themselves.

    import clapkit.adapters.lancedb
    from lancedb.embeddings import get_registry
    from lancedb.pydantic import LanceModel, Vector

    clap = get_registry().get("clapkit").create(model="run")

    class Sound(LanceModel):
        path: str = clap.SourceField()
        vector: Vector(clap.ndims()) = clap.VectorField()

    table = lancedb.connect("db").create_table("sounds", schema=Sound)
    table.add([{"path": "dog.wav"}])
    table.search("a dog barking").limit(3).to_list()

A table remembers the name of the function and its settings, so whoever opens it has to import this module first.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from clapkit.errors import DataError, MissingExtraError, SpaceMismatchError, SpecError

try:
    from lancedb.embeddings import EmbeddingFunction, register
    from pydantic import ConfigDict
except ImportError:
    raise MissingExtraError("lancedb", "search", "The embedding function for LanceDB") from None

SOURCES = ("audio", "text")


@register("clapkit")
class ClapkitEmbeddings(EmbeddingFunction):
    """The embedding function `clapkit`.

    model     what `clapkit.load` takes: a run, a folder, a checkpoint, a name
    source    what the source column holds: "audio", paths of sounds or bytes of files; or "text"
    space_id  if given, that of the model has to be the same: a table is not searched with another model than it was
              filled with. `create` without it takes any; `clap.settled()` has the id of the model filled in
    device, precision   as for `clapkit.load`

    Queries are texts; a query that is bytes, or a `pathlib.Path`, is a sound. Files that cannot be used get no vector
    (None), and LanceDB says what it makes of that (`on_bad_vectors`). Vectors have unit length.
    """

    model: str
    source: str = "audio"
    space_id: str = ""
    device: str = "auto"
    precision: str = "fp32"

    # An embedding is a computation here: what fails once fails again, so there is nothing to wait for.
    max_retries: int = 0
    model_config = ConfigDict(ignored_types=(cached_property,), protected_namespaces=())

    @cached_property
    def clap(self) -> Any:
        """The model, loaded when it is first needed. SpaceMismatchError where it is not that of `space_id`."""
        from clapkit.api import load

        if self.source not in SOURCES:
            raise SpecError(f"source is {self.source!r}: expected one of {', '.join(SOURCES)}")
        clap = load(self.model, self.device, self.precision)
        if self.space_id and self.space_id != clap.space_id:
            raise SpaceMismatchError(self.space_id, clap.space_id)
        return clap

    def settled(self) -> ClapkitEmbeddings:
        """The same function, that from now on takes no other model than this one."""
        given = {**self.safe_model_dump(), "space_id": self.clap.space_id}
        return type(self).create(**given)

    def ndims(self) -> int:
        """The dimensions of the vectors."""
        return int(self.clap.dimension)

    def compute_query_embeddings(self, query: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """The vector of one text, or of one sound: bytes of a file, or a `pathlib.Path`. An error where it has none."""
        if isinstance(query, (bytes, os.PathLike)):
            return [self.clap.embed_audio([query])[0]]
        if not isinstance(query, str):
            raise DataError(f"a query is {type(query).__name__}: expected a text, bytes of a sound file, or a Path")
        return [self.clap.embed_text([query])[0]]

    def compute_source_embeddings(self, source: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """The vectors of a column; None for what is missing and for sounds that cannot be used."""
        values: list[Any] = [source] if isinstance(source, (str, bytes)) else list(self.sanitize_input(source))
        present = [n for n, value in enumerate(values) if value is not None]
        found: list[Any] = [None] * len(values)
        vectors = self._embedded([values[n] for n in present]) if present else np.zeros((0, 0))
        for n, vector_D in zip(present, vectors, strict=True):
            found[n] = vector_D if np.isfinite(vector_D).all() else None
        return found

    def _embedded(self, values: Sequence[Any]) -> np.ndarray:
        clap = self.clap
        return clap.embed_text(values) if self.source == "text" else clap.embed_audio(values, on_error="nan")
