"""What `clapkit index` does to a library, with what it says meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from clapkit.cli.sounds import printable
from clapkit.cli.terminal import progress_wanted, say, show_notes, show_skipped
from clapkit.errors import ClapkitError, DataError, SearchIndexError

if TYPE_CHECKING:
    from clapkit.api import Clap
    from clapkit.progress import ProgressBar
    from clapkit.runtime.job import Embedder
    from clapkit.search.indexing.update import Changes, Tried
    from clapkit.search.place import Head
    from clapkit.search.store import Store
    from clapkit.search.sync import FileVectors, SyncPlan, SyncReport, Unusable

_SHOWN = 20


@dataclass(frozen=True)
class Settings:
    """How to embed; `options` are those of `clapkit.load`, `columns` those of manifests, besides what is remembered."""

    options: dict[str, Any]
    threads: int | None
    workers: int | None
    on_ray: bool
    address: str | None
    exact: bool
    columns: Mapping[str, str] = field(default_factory=dict)


class Library:
    """A store at `place`, its model and its sources; use it in a `with` block."""

    def __init__(self, place: str, settings: Settings) -> None:
        self._place, self._settings = place, settings
        self._store: Store | None = None
        self._clap: Clap | None = None
        self._model = ""
        self._sources: tuple[str, ...] = ()
        self._columns: dict[str, str] = {}

    def __enter__(self) -> Library:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._store is not None:
            self._store.close()

    @property
    def store(self) -> Store:
        assert self._store is not None, "claim() or open() comes first"
        return self._store

    def claim(self) -> Head:
        """Open the store that is there, for writing: whoever else writes is told of before any work."""
        from clapkit.search.store import Store

        self._store = Store.open(self._place)
        self._store.place.claim()
        return self._store.place.read()

    def open(self, model: str | None, added: Sequence[str]) -> None:
        """The store, made if it is not there, its model loaded, and `added` joined to its sources.

        DataError for a source that is not there or holds no sound, SearchIndexError where no model is known, and where
        the model is another one than that of the store.
        """
        from clapkit.search.indexing.sources import hint_of_manifest, list_sources, source_of
        from clapkit.search.indexing.update import remember_sources
        from clapkit.search.place import holds_store
        from clapkit.search.rows import lance

        lance()
        new = list(dict.fromkeys(map(source_of, added)))
        if away := list_sources(new, columns=self._settings.columns).away:
            raise DataError(f"{len(away)} of the named sources hold no sound:", [f"{s}: {why}" for s, why in away])
        if holds_store(self._place):
            head = self.claim()
            self._clap = self._load(model or self._remembered())
            self._check_space(head, model)
        else:
            self._make(model)
            head = self.store.place.read()
        self._sources = tuple(dict.fromkeys([*head.sources, *new]))
        if not self._sources:
            raise DataError(f"{self._place} does not know what it is made from: name folders, with --out {self._place}")
        for source in new:
            if (manifest := hint_of_manifest(source)) and manifest not in self._sources:
                say(f"note: {manifest} says more about these sounds: name it as well, and its tags are indexed")
        self._columns = {**head.columns, **self._settings.columns}
        remember_sources(self.store, self._sources, self._columns)

    def update(self, *, strict: bool) -> int:
        """Bring the store up to date once; the exit status."""
        changes = self._update()
        self._tune()
        return int(not len(self.store) or (strict and bool(changes.failures)))

    def follow(self, *, strict: bool) -> int:
        """Bring the store up to date after each change of its sources, until it is interrupted; the exit status."""
        from clapkit.search.indexing.update import Tried
        from clapkit.search.indexing.watching import changes

        tried, failed = Tried(), 0
        try:
            for count, _ in enumerate(changes(self._sources, but=self.store.place.local)):
                try:
                    failed = len(self._update(tried, quiet=count > 0).failures)
                    self._tune()
                except ClapkitError as error:  # a manifest that is being written, a disk that is full for now
                    if count == 0:
                        raise
                    say(f"error: {error} (tried again after the next change)", by_each=True)
                if count == 0:
                    say("watching for changes (stop with Ctrl+C)")
        except KeyboardInterrupt:
            say("stopped: what was indexed is kept")
        return int(strict and failed > 0)

    def forget(self, source: str) -> None:
        """Take a source out of the library, with its files."""
        from clapkit.search.indexing.sources import source_of
        from clapkit.search.indexing.update import forget_source

        count = forget_source(self.store, source_of(source))
        say(f"{source} is forgotten, {count} files with it: {self._place}")

    def switch(self, model: str, *, strict: bool) -> int:
        """Embed all of the library with another model, then search with that; the exit status."""
        from clapkit.search.indexing.switching import NewSpace, switch_model

        head = self.store.place.read()
        clap = self._clap = self._load(model)
        if clap.space_id == head.active:
            say(f"{self._place} is searched with this model already (space {clap.space_id}): nothing to do")
            return 0
        space = NewSpace(clap.space_id, clap.pipeline_id, clap.dimension, model)
        with _Work(self._embedder(), "re-embedding") as work:
            done = switch_model(self.store, space, work.embed, on_plan=work.on_plan, on_chunk=work.on_chunk)
        work.show(done.failures, self._place)
        earlier = f" and {done.before} before" if done.before else ""
        say(f"{done.embedded} embedded{earlier}, {len(done.failures)} skipped: {self._place} is searched with {model}")
        say(f"the vectors of space {head.active} are kept: `clapkit index {self._place} --drop-old` removes them")
        self._tune()
        return int(strict and bool(done.failures))

    def drop_old(self) -> None:
        """Remove every space but the one that is searched."""
        head = self.store.place.read()
        for space_id in [name for name in head.spaces if name != head.active]:
            self.store.drop_space(space_id)
            say(f"space {space_id} is removed from {self._place}")

    def _make(self, model: str | None) -> None:
        from clapkit.search.store import Store

        if model is None:
            raise SearchIndexError(
                f"{self._place} does not exist yet: name the model that is to make it, --model MODEL"
            )
        clap = self._clap = self._load(model)
        self._store = Store.create(
            self._place,
            space_id=clap.space_id,
            pipeline_id=clap.pipeline_id,
            dimension=clap.dimension,
            model=model,
        )

    def _load(self, model: str) -> Clap:
        from clapkit.api import load

        self._model = model
        return load(model, threads=self._settings.threads, **self._settings.options)

    def _remembered(self) -> str:
        from clapkit.library import remembered_model

        found = remembered_model(self._place)
        if found is None:
            raise SearchIndexError(f"the model that made {self._place} is not where it was: name it with --model MODEL")
        return found

    def _check_space(self, head: Head, named: str | None) -> None:
        """Refuse another model; remember where this one was found."""
        clap, active = self._clap, head.spaces[head.active]
        assert clap is not None
        if clap.space_id != active.space_id:
            raise SearchIndexError(
                f"{self._place} holds vectors of space {active.space_id}, the model {self._model} makes vectors of "
                f"space {clap.space_id}: they cannot be compared. Go on without --model, or embed all of it anew with "
                f"`clapkit index {self._place} --switch-model {self._model}`"
            )
        if clap.pipeline_id != active.pipeline_id:
            say(f"note: {self._place} was made through {active.pipeline_id}, now it is {clap.pipeline_id}")
        if len(head.spaces) > 1:
            others = ", ".join(name for name in head.spaces if name != active.space_id)
            say(
                f"note: beside the space that is searched there is {others}: --switch-model goes on with one that was "
                "begun, --drop-old removes it"
            )
        if named is not None and (model := self.store.place.note_of(named)) != active.model:
            self.store.place.write(head.with_space(replace(active, model=model)))
            self.store.refresh()

    def _update(self, tried: Tried | None = None, *, quiet: bool = False) -> Changes:
        """One round. `quiet`: nothing is said where nothing has changed."""
        from clapkit.search.indexing.sources import list_sources
        from clapkit.search.indexing.update import update

        listing = list_sources(self._sources, columns=self._columns)
        assert self._clap is not None
        with _Work(self._embedder(), "indexing") as work:
            changes = update(
                self.store,
                listing,
                work.embed,
                pipeline_id=self._clap.pipeline_id,
                tried=tried,
                on_plan=work.on_plan,
                on_chunk=work.on_chunk,
            )
        if quiet and not changes.any and not work.came:
            return changes
        for note in listing.notes:
            say(f"note: {note}")
        for source, reason in listing.away:
            say(f"warning: {source}: {reason}; what was indexed of it is kept (--forget {source} takes it out)")
        work.show(changes.failures, self._place)
        files = len(self.store.view.files())
        say(f"{_summary(changes)}: {self._place} has {len(self.store)} windows of {files} sounds")
        return changes

    def _tune(self) -> None:
        """Build the vector index of a large library, unless it is not wanted."""
        from clapkit.search.indexing.texts import tune_if_large

        if self._settings.exact or self._clap is None:
            return
        try:
            tuning = tune_if_large(self.store, self._clap.embed_text)
        except SearchIndexError as error:
            say(f"note: no vector index: {error}")
            return
        if tuning is not None:
            say(f"vector index built: it finds {100 * tuning.recall:.1f} % of the nearest 10 (--exact does without)")

    def _embedder(self) -> Embedder:
        clap, settings = self._clap, self._settings
        assert clap is not None
        if settings.on_ray:
            from clapkit.cli.embed import ray_workers

            return ray_workers(
                self._model,
                settings.options,
                clap,
                address=settings.address,
                workers=settings.workers,
                threads=settings.threads,
            )
        from clapkit.runtime.job import embed_here

        return embed_here(clap, workers=settings.workers)


class _Work:
    """Embedding with a bar for whoever watches; where nobody does, a line for each piece that was written."""

    def __init__(self, embedder: Embedder, what: str) -> None:
        from clapkit.library import window_vectors

        self._inner = window_vectors(embedder, lambda path, note: self._notes.append((path, note)))
        self._what = what
        self._stack = ExitStack()
        self._bar: ProgressBar | None = None
        self._notes: list[tuple[str, str]] = []
        self._total, self.came, self._began = 0, 0, time.monotonic()

    def __enter__(self) -> _Work:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stack.close()
        if kind is KeyboardInterrupt and self._total:
            say("interrupted: what was written is kept, and the same command goes on")

    def on_plan(self, plan: SyncPlan) -> None:
        from clapkit.progress import ProgressBar

        self._total = len(plan.new) + len(plan.changed)
        if self._total:
            bar = ProgressBar(self._what, self._total, shown=progress_wanted())
            self._bar = self._stack.enter_context(bar)

    def embed(self, files: Sequence[str]) -> Iterator[FileVectors | Unusable]:
        self._began = time.monotonic()
        for result in self._inner(files):
            self.came += 1
            if self._bar is not None:
                self._bar.update(self.came, note=f"{self._rate():.1f} files/s")
            yield result

    def on_chunk(self, report: SyncReport) -> None:
        if not progress_wanted() and self.came < self._total:
            left = timedelta(seconds=round((self._total - self.came) / max(self._rate(), 1e-9)))
            say(f"{self.came} of {self._total} files, {self._rate():.1f} files/s, {left} left")

    def show(self, failures: Sequence[tuple[str, str]], place: str) -> None:
        """What was used with a note, and what was not used; of many, some."""
        from clapkit.search.indexing.update import FAILURES

        show_notes(self._notes[:_SHOWN])
        if len(self._notes) > _SHOWN:
            say(f"{len(self._notes) - _SHOWN} more notes")
        show_skipped([(printable(path), reason) for path, reason in failures[:_SHOWN]])
        if len(failures) > _SHOWN:
            say(f"all {len(failures)} skipped files stand in {place}/{FAILURES}")

    def _rate(self) -> float:
        return self.came / max(time.monotonic() - self._began, 1e-9)


def _summary(changes: Changes) -> str:
    counts = {
        "moved": changes.moved,
        "deleted": changes.deleted,
        "described anew": changes.described,
        "unchanged": changes.same + changes.touched,
        "kept": changes.kept,
    }
    more = "".join(f", {count} {what}" for what, count in counts.items() if count)
    return f"{changes.embedded} embedded, {len(changes.failures)} skipped{more}"
