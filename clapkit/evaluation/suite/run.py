"""Running a suite: open, embed, score and write down one task after the other, so that any end of it can be resumed."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from clapkit.data.clip import Clip
from clapkit.errors import AudioError, DataError
from clapkit.evaluation.report import PROTOCOL_VERSION, TIES, Result
from clapkit.evaluation.suite import scoring
from clapkit.evaluation.suite.book import Book, write_arrays
from clapkit.evaluation.suite.outcomes import probe_outcomes
from clapkit.evaluation.suite.vectors import (
    EmbedAudio,
    EmbedText,
    Progress,
    clip_key,
    embed_clips,
    embed_texts,
    store_of,
)
from clapkit.evaluation.task import Opened, Task, digest_of, in_order
from clapkit.nearest import unit_rows
from clapkit.provenance import file_digest

SUITE_VERSION = "clapkit-suite-3"
TEXTS = "texts"
_NAMED = 5

OnTask = Callable[[str, Mapping[str, Any] | None, str | None], None]  # name, entry, or why there is none


@dataclass(frozen=True)
class Model:
    """What is asked, and what is said about it.

    pipeline_id  of its vectors: what decides which are taken from the cache
    trained_on   digests of the sounds that it was trained on (`provenance.read_heard`); None: nobody wrote them down
    about        what else the file says of it: {"parameters": ...}
    """

    name: str
    space_id: str
    pipeline_id: str
    trained_on: Collection[str] | None = None
    about: Mapping[str, Any] | None = None


def run_suite(
    embed_audio: EmbedAudio,
    embed_text: EmbedText,
    *,
    tasks: Sequence[Task],
    root: Path,
    out: Path,
    model: Model,
    samples: int = 1000,
    seed: int = 0,
    probes: bool = False,
    versions: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    on_task: OnTask | None = None,
) -> dict[str, Any]:
    """Score a model on tasks with the data under `root`, and write `out/suite.json` and what belongs to it.

    embed_audio  list of sources (path, bytes, (samples, rate)) -> vectors [n, D]; AudioErrors for those it cannot use
    embed_text   list of sentences -> vectors [n, D]
    probes       also train classifiers on the sounds of tasks with folds (`suite.probes`)
    versions     of the packages that took part, for the "run" block
    on_task      is called after each task: (name, entry, None), or (name, None, why it could not be scored)

    A task that cannot be opened, or none of whose sounds can be used, goes into "unopened"; single broken sounds become
    a difference from the published task, and are tried again by the next run. What was done before, in this folder and
    with the same data, is not done again. Returns the object of the file (format: the docstring of this package).
    Raises DataError without tasks, for vectors that are zero or not finite (with the names of the clips), and for a
    folder that holds another model's scores.
    """
    root, out = Path(root), Path(out)
    if not tasks:
        raise DataError(
            f"there is no task to run on {root}: name one, or give a folder with data sets of known layouts"
        )
    began = time.monotonic()
    protocol = {"version": PROTOCOL_VERSION, "suite": SUITE_VERSION, "ties": TIES, "samples": samples, "seed": seed}
    told = {"name": model.name, "space_id": model.space_id, "pipeline_id": model.pipeline_id, **(model.about or {})}
    book, words = Book.open(out, model=told, protocol=protocol), store_of(out, model.pipeline_id, TEXTS)
    how: dict[str, Any] = {"samples": samples, "seed": seed, "probes": probes, "progress": progress}
    run = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "data_root": os.fspath(root.resolve()),
        "versions": {"python": platform.python_version(), "numpy": np.__version__, **(versions or {})},
    }

    def texts(sentences: list[str]) -> np.ndarray:
        return embed_texts(embed_text, sentences, words, progress=progress)

    for task in tasks:
        entry, why = None, None
        try:
            entry = _entry(task, root, book, model, embed_audio, texts, **how)
        except _Unscored as error:
            why = str(error)
            book.leave(task.name, why)
        book.write({**run, "seconds": round(time.monotonic() - began, 1)})
        if on_task is not None:
            on_task(task.name, entry, why)
    return book.whole


class _Unscored(Exception):
    """A task that is left out, with the reason."""


def _entry(
    task: Task,
    root: Path,
    book: Book,
    model: Model,
    embed_audio: EmbedAudio,
    texts: EmbedText,
    *,
    samples: int,
    seed: int,
    probes: bool,
    progress: Progress | None,
) -> Mapping[str, Any]:
    try:
        opened = task.open(root)
    except (DataError, AudioError, OSError) as error:
        raise _Unscored(str(error)) from error
    # The same order for everybody, so that two models can be compared row by row.
    opened = replace(opened, clips=in_order(opened.clips, task.kind))
    fingerprint = _fingerprint(opened, model)
    done = book.done(task.name, fingerprint)
    probes = probes and task.kind == "classes" and task.folds
    if done is not None and (not probes or "probes_left_out" in done):
        return done
    # By folder, not by task: ESC-10 is heard with ESC-50.
    store = store_of(book.out, model.pipeline_id, f"sounds-{opened.folder.resolve().name}")
    audio_ND, kept, lost = embed_clips(
        embed_audio, opened.clips, store, folder=opened.folder, what=f"{task.name}: sounds", progress=progress
    )
    if not kept:
        listed = [f"{name}: {why}" for name, why in list(lost.items())[:_NAMED]]
        raise _Unscored(f"none of its {len(lost)} sounds can be used: {'; '.join(listed)}")
    clips = tuple(opened.clips[i] for i in kept)
    heard = scoring.Heard(task, clips, unit_rows(audio_ND, what=f"the sounds of {task.name}"), opened.classes)
    if progress is not None:
        progress(f"{task.name}: scores", 0, 1)
    scored = scoring.score(heard, texts, samples=samples, seed=seed)
    trained, left_out = _probed(heard, samples=samples, seed=seed) if probes else ({}, {})
    told = {**scored.kept, **probe_outcomes(trained, [str(clip.split) for clip in clips])}
    outcomes = write_arrays(book.out / "outcomes" / f"{task.name}.npz", told)
    names = np.array([_relative(clip, root) for clip in clips], str)
    text_MD = unit_rows(scored.arrays["text_MD"], what="texts").astype(np.float16)
    pictures = {**scored.arrays, "audio_ND": heard.audio_ND.astype(np.float16), "text_MD": text_MD, "names": names}
    write_arrays(book.out / "arrays" / f"{task.name}.npz", pictures)
    results = {**scored.results, **trained}
    entry = {
        **_about(opened, heard, lost),
        **_seen(clips, model.trained_on),
        "results": {n: r.with_(pipeline_id=model.pipeline_id).to_json() for n, r in results.items()},
        **({"probes_left_out": left_out} if probes else {}),
        "controls": scored.controls,
        **({"folds": scored.folds} if scored.folds else {}),
        "outcomes": {"file": f"outcomes/{task.name}.npz", "sha256": outcomes},
    }
    # Scored again next time where sounds are missing: they may be there then.
    book.add(task.name, entry, fingerprint if not lost else None)
    return entry


def _probed(heard: scoring.Heard, *, samples: int, seed: int) -> tuple[dict[str, Result], dict[str, str]]:
    from clapkit.evaluation.suite.probes import probes

    return probes(heard, samples=samples, seed=seed)


def _about(opened: Opened, heard: scoring.Heard, lost: Mapping[str, str]) -> dict[str, Any]:
    """What was scored, and how it differs from what was published."""
    task, clips = opened.task, heard.clips
    differences = list(opened.differences)
    if lost:
        listed = ", ".join(f"{name} ({why})" for name, why in list(lost.items())[:_NAMED])
        more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
        differences.append(f"{len(lost)} sounds cannot be used: {listed}{more}")
    return {
        "version": task.version,
        "kind": task.kind,
        "domain": task.domain,
        "headline": task.headline,
        "data": task.layout.name,
        "licence": task.layout.licence,
        "documented": task.layout.documented,
        "standard": not differences,
        "differences": differences,
        "clips": len(clips),
        "splits": dict(sorted(Counter(str(clip.split) for clip in clips).items())),
        "recordings": len(set(heard.groups)) if heard.grouped else None,
        "classes": list(heard.classes),
        "digest": digest_of(clips, task.kind),
    }


def _seen(clips: Sequence[Clip], trained_on: Collection[str] | None) -> dict[str, Any]:
    """Whether the model was trained on these very files; a copy in another encoding is not noticed here."""
    if trained_on is None:
        return {"seen_in_training": "unknown", "seen_clips": None}
    digests = [file_digest(clip) for clip in clips]
    seen = sum(digest in trained_on for digest in digests if digest is not None)
    if not seen and None in digests:
        return {"seen_in_training": "unknown", "seen_clips": None}
    return {"seen_in_training": bool(seen), "seen_clips": seen}


def _fingerprint(opened: Opened, model: Model) -> str:
    """Everything that an entry follows from, besides the protocol and the model's pipeline."""
    task = opened.task
    how = (task.version, task.kind, task.headline, task.domain, task.templates, task.recordings, task.folds)
    told = (task.layout.licence, task.layout.documented, opened.classes, opened.differences)
    digest = hashlib.sha256(repr((*how, *told, [task.phrase(name) for name in opened.classes])).encode())
    digest.update(repr(None if model.trained_on is None else sorted(model.trained_on)).encode())
    for clip in opened.clips:
        recording = clip.meta.get(task.recordings) if task.recordings else None
        about = (clip.id, clip_key(clip, opened.folder), clip.split, clip.label, sorted(clip.tags), clip.captions)
        digest.update(repr((*about, recording)).encode())
    return digest.hexdigest()


def _relative(clip: Clip, root: Path) -> str:
    if not isinstance(clip.audio, str):
        return clip.id
    return Path(clip.audio).relative_to(root).as_posix() if Path(clip.audio).is_relative_to(root) else clip.audio
