"""A store brought into step with what it is made from, in one call that may be killed at any moment and given again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from clapkit.errors import SearchIndexError, nearest_name
from clapkit.search.curating.tagging import TAGGED, with_tagged
from clapkit.search.indexing.sources import About, Listing, list_sources
from clapkit.search.store import Store
from clapkit.search.sync import FileVectors, Found, SyncPlan, SyncReport, Unusable, apply_sync, plan_sync
from clapkit.search.view import View
from clapkit.search.writer import Writer

FAILURES = "failures.json"
_FILES_AT_ONCE = 500

Embed = Callable[[Sequence[str]], Iterator[FileVectors | Unusable]]


@dataclass(frozen=True)
class Changes:
    """What one call did, in files.

    embedded   new and changed ones that have vectors now
    described  whose tags or metadata were brought into step with a manifest
    kept       that were not found, but stay because what they belong to cannot be seen now
    failures   (path, reason), those of this call and of the listing; they stand in `failures.json` of the store
    """

    embedded: int
    moved: int
    deleted: int
    touched: int
    described: int
    same: int
    kept: int
    failures: tuple[tuple[str, str], ...]

    @property
    def any(self) -> bool:
        """Whether the library is another one than before."""
        return bool(self.embedded or self.moved or self.deleted or self.touched or self.described)


@dataclass
class Tried:
    """Files that could not be used, each with the state that was tried: not to be tried again as they are."""

    states: dict[str, tuple[Found, str]] = field(default_factory=dict)

    def leave_out(self, plan: SyncPlan) -> list[tuple[str, str]]:
        """Take the files that are as they were out of a plan, and return them with their reasons."""
        known = {found.file: reason for found, reason in self.states.values()}
        again = [found for found in (*plan.new, *plan.changed) if self.states.get(found.file, (None,))[0] == found]
        plan.new = [found for found in plan.new if found not in again]
        plan.changed = [found for found in plan.changed if found not in again]
        return [(found.file, known[found.file]) for found in again]

    def note(self, asked: Mapping[str, Found], failures: Sequence[tuple[str, str]]) -> None:
        """Remember failures; `asked` are the states that were tried."""
        for file, reason in failures:
            if file in asked:
                self.states[file] = (asked[file], reason)


def update(
    store: Store,
    listing: Listing,
    embed: Embed,
    *,
    pipeline_id: str,
    tried: Tried | None = None,
    on_plan: Callable[[SyncPlan], None] | None = None,
    on_chunk: Callable[[SyncReport], None] | None = None,
    chunk_rows: int = 2048,
    chunk_s: float = 30.0,
) -> Changes:
    """Embed what is new or changed, follow what was moved, forget what is gone, and take over what manifests say.

    tried      where given, files that failed before are not tried again until they change
    on_plan    is called with what is to be done, before it is begun; on_chunk after each write
    The arguments `chunk_rows`, `chunk_s` and `embed` are those of `apply_sync`. What was killed goes on with the next
    call. SearchIndexError where another process writes.
    """
    writer = store.writer()
    known = store.view.files()
    there = {found.file for found in listing.found}
    kept = {file for file in known.keys() - there if listing.keeps(file)}
    plan = plan_sync(listing.found, {file: state for file, state in known.items() if file not in kept})
    left = [] if tried is None else tried.leave_out(plan)
    if on_plan:
        on_plan(plan)
    asked = {found.file: found for found in (*plan.new, *plan.changed)}
    report = apply_sync(
        writer,
        plan,
        _with_about(embed, listing.about),
        pipeline_id=pipeline_id,
        chunk_rows=chunk_rows,
        chunk_s=chunk_s,
        on_chunk=on_chunk,
    )
    if tried is not None:
        tried.note(asked, report.failures)
    described = _describe(writer, store.refresh(), listing.about)
    failures = (*listing.skipped, *left, *report.failures)
    write_failures(store, failures)
    counts = {"touched": len(plan.touched), "described": described, "same": plan.same, "kept": len(kept)}
    return Changes(report.embedded, report.moved, report.deleted, **counts, failures=failures)


def write_failures(store: Store, failures: Sequence[tuple[str, str]]) -> None:
    """What could not be used, as a JSON list of {path, reason} in the store; written even if it is empty."""
    rows = [{"path": os.fsencode(path).decode("utf-8", "replace"), "reason": reason} for path, reason in failures]
    store.place.put(FAILURES, json.dumps(rows, indent=2).encode() + b"\n")


def remember_sources(store: Store, sources: Sequence[str], columns: Mapping[str, str]) -> None:
    """Let these be the sources of the store, and the columns of its manifests, for calls that name none."""
    store.place.claim()
    head = store.place.read()
    if (head.sources, head.columns) != (tuple(sources), columns):
        store.place.write(replace(head, sources=tuple(sources), columns=dict(columns)))


def forget_source(store: Store, source: str) -> int:
    """Let the store no longer be made from a source, and remove the files that no other source holds; how many.

    SearchIndexError for what is no source of it, and where another process writes.
    """
    store.place.claim()
    head = store.place.read()
    if source not in head.sources:
        raise SearchIndexError(f"{store.place.name} is not made from {source}: {nearest_name(source, head.sources)}")
    left = tuple(one for one in head.sources if one != source)
    listing = list_sources(left, columns=head.columns)
    there = {found.file for found in listing.found}
    writer = store.writer()
    files = [file for file in store.view.files() if file not in there and not listing.keeps(file)]
    remember_sources(store, left, head.columns)
    for start in range(0, len(files), _FILES_AT_ONCE):
        writer.forget(files[start : start + _FILES_AT_ONCE])
    return len(files)


def _with_about(embed: Embed, about: Mapping[str, About]) -> Embed:
    def described(files: Sequence[str]) -> Iterator[FileVectors | Unusable]:
        for result in embed(files):
            said = about.get(result.file)
            if said is not None and isinstance(result, FileVectors):
                result = replace(result, tags=said.tags, metadata=said.metadata)
            yield result

    return described


def _describe(writer: Writer, view: View, about: Mapping[str, About]) -> int:
    """Take over what manifests say of files that were there already; how many it was new for."""
    if not about:
        return 0
    present = view.about()
    wanted = {}
    for file, said in about.items():
        if file in present:
            tagged = present[file][1].get(TAGGED, {})  # what `clapkit tag` found stays
            described = with_tagged(said.tags, said.metadata, tagged)
            if described != present[file]:
                wanted[file] = described
    names = list(wanted)
    for start in range(0, len(names), _FILES_AT_ONCE):
        writer.describe({file: wanted[file] for file in names[start : start + _FILES_AT_ONCE]})
    return len(wanted)
