"""The sounds of a store embedded with another model, beside the space that is searched meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from clapkit.errors import SearchIndexError
from clapkit.search.indexing.update import Embed, write_failures
from clapkit.search.store import Store
from clapkit.search.sync import FileVectors, SyncPlan, SyncReport, Unusable, apply_sync, list_files, plan_sync


@dataclass(frozen=True)
class NewSpace:
    """What the vectors of the other model are; the fields are those of `Store.begin_space`."""

    space_id: str
    pipeline_id: str
    dimension: int
    model: str | None = None
    dtype: str = "float16"


@dataclass(frozen=True)
class Switched:
    """What became of it, in files: embedded by this call, by earlier ones; (path, reason) of those without vectors."""

    embedded: int
    before: int
    failures: tuple[tuple[str, str], ...]


def switch_model(
    store: Store,
    space: NewSpace,
    embed: Embed,
    *,
    on_plan: Callable[[SyncPlan], None] | None = None,
    on_chunk: Callable[[SyncReport], None] | None = None,
    chunk_rows: int = 2048,
    chunk_s: float = 30.0,
) -> Switched:
    """Embed every file of the store with another model, then let the new space be the one that is searched.

    Tags and metadata go along. Until the last file is done the old space is searched, and it stays after that
    (`Store.drop_space`). Killed, the next call goes on. The other arguments are those of `update.update`.
    SearchIndexError, and nothing is switched, where a folder that the store is made from is not there now, and where
    no file at all could be embedded.
    """
    away = [source for source in store.place.read().sources if not os.path.exists(source)]
    if away:
        raise SearchIndexError(
            f"{away[0]}, which {store.place.name} is made from, is not there: its sounds cannot be embedded anew. "
            "Bring it back (mount it), or forget it first"
        )
    old = store.refresh()
    about = old.about()
    writer = store.begin_space(
        space.space_id, pipeline_id=space.pipeline_id, dimension=space.dimension, dtype=space.dtype, model=space.model
    )
    known = Store.open(store.place.name, space_id=space.space_id).view.files()
    found, gone = list_files(sorted(old.files()))
    plan = plan_sync(found, known)
    if on_plan:
        on_plan(plan)

    def described(files: Sequence[str]) -> Iterator[FileVectors | Unusable]:
        for result in embed(files):
            if isinstance(result, FileVectors):
                tags, metadata = about.get(result.file, ((), {}))
                result = replace(result, tags=tags, metadata=metadata)
            yield result

    report = apply_sync(
        writer,
        plan,
        described,
        pipeline_id=space.pipeline_id,
        chunk_rows=chunk_rows,
        chunk_s=chunk_s,
        on_chunk=on_chunk,
    )
    failures = (*gone, *report.failures)
    write_failures(store, failures)
    if not plan.same and not report.embedded and len(old):
        raise SearchIndexError(f"no sound of {store.place.name} could be embedded with the new model: not switched")
    store.switch(space.space_id)
    return Switched(report.embedded, plan.same, failures)
