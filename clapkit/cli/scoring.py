"""The evaluations behind `clapkit eval`, `clapkit train --val` and the demo."""

from __future__ import annotations

import json
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clapkit.cli.sounds import embed_clips
from clapkit.cli.terminal import show_skipped
from clapkit.data.clip import Clip
from clapkit.errors import DataError, nearest_name
from clapkit.text.prompts import DEFAULT, clean_label

if TYPE_CHECKING:
    from clapkit.api import Clap
    from clapkit.evaluation.report import Result

# Columns that name the recording a clip was cut from, in the order in which they are looked for.
_RECORDING_COLUMNS = ("recording", "recording_id", "freesound_id")


def load_both_sides(name: str, device: str, precision: str, trust: Sequence[str] | None) -> Clap:
    """The model, if it has a language side: one without is refused (TextTowerError) before anything is heard."""
    from clapkit.api import load

    clap = load(name, device, precision, trust=trust or ())
    clap.embed_text([])
    return clap


@dataclass(frozen=True)
class Gallery:
    """Clips that could be embedded, their vectors [N, D], and what could not."""

    clips: tuple[Clip, ...]
    audio_ND: np.ndarray
    skipped: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, clap: Clap, clips: Sequence[Clip]) -> Gallery:
        """Embed clips; DataError if none of them can be used."""
        done, failures = embed_clips(clap, clips)
        skipped = tuple((f.source, f.reason) for f in failures)
        if not done:
            listed = [f"{name}: {reason}" for name, reason in skipped]
            raise DataError(f"none of the {len(clips)} clips could be embedded:", listed)
        kept = sorted(done)
        return cls(tuple(clips[i] for i in kept), np.stack([done[i].vector_D for i in kept]), skipped)

    def only(self, ids: Collection[str]) -> Gallery:
        """The clips with these ids."""
        rows = [i for i, clip in enumerate(self.clips) if clip.id in ids]
        return Gallery(tuple(self.clips[i] for i in rows), self.audio_ND[rows], self.skipped)


@dataclass(frozen=True)
class Classes:
    """Class names, and the words by which the model is asked for each."""

    names: tuple[str, ...]
    words: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Classes:
        """A text file with one class a line; behind a tab may stand other words for it ("dog<TAB>hound")."""
        try:
            lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"the labels file {path} cannot be read as UTF-8 text: {error}") from error
        if not lines:
            raise DataError(f"the labels file {path} is empty: expected one class a line")
        pairs = [line.partition("\t") for line in lines]
        names = tuple(clean_label(name) for name, _, _ in pairs)
        return cls(names, tuple(clean_label(words) or name for name, (_, _, words) in zip(names, pairs, strict=True)))


def labels_of(clips: Sequence[Clip], *, column: str) -> list[Any]:
    """The label of each clip, or for `column` "tags" its set of tags; None for a clip without.

    DataError if no clip has any.
    """
    if column == "tags":
        labels: list[Any] = [frozenset(clip.tags) or None for clip in clips]
    else:
        labels = [clip.label for clip in clips]
    if not any(labels):
        several = any(clip.tags for clip in clips) and column != "tags"
        hint = "they have tags: --label-column tags" if several else "name the column with --label-column"
        raise DataError(f"none of the {len(clips)} clips has a label in the column '{column}': {hint}")
    return labels


def captions_of(clips: Sequence[Clip]) -> list[tuple[int, str]]:
    """(position of the clip, caption) of all captions; DataError where there is none."""
    found = [(i, text) for i, clip in enumerate(clips) for text in clip.captions]
    if not found:
        raise DataError(f"none of the {len(clips)} clips has a caption, which retrieval needs: --column caption=COLUMN")
    return found


def groups_of(clips: Sequence[Clip], *, column: str | None) -> tuple[str, list[Hashable]] | None:
    """The column that names recordings and its value for each clip; None where clips stand for themselves.

    Without a `column` the usual names are looked for. DataError for a column that does not exist.
    """
    known = sorted({name for clip in clips for name in clip.meta} | {"label", "split", "id"})
    if column is not None and column not in known:
        raise DataError(f"there is no column '{column}' to group by; {nearest_name(column, known)}")
    column = column or next((name for name in _RECORDING_COLUMNS if name in known), None)
    if column is None:
        return None
    values = [clip.meta.get(column, getattr(clip, column, None)) for clip in clips]
    # A clip whose recording is not known is one of its own.
    return column, [clip.id if value is None else str(value) for clip, value in zip(clips, values, strict=True)]


def zero_shot_result(
    clap: Clap,
    gallery: Gallery,
    *,
    task: str = "zero-shot",
    label_column: str = "label",
    classes: Classes | None = None,
    templates: Sequence[str] = (DEFAULT,),
    group_column: str | None = None,
    **about: Any,
) -> Result:
    """Zero-shot classification of a gallery, or with task="search" the search for each class name.

    `classes` defaults to the labels that occur; `about` goes into the protocol.
    """
    from clapkit.evaluation.retrieval import label_search
    from clapkit.evaluation.zero_shot import class_vectors, zero_shot

    labels = labels_of(gallery.clips, column=label_column)
    gallery = gallery.only({clip.id for clip, label in zip(gallery.clips, labels, strict=True) if label is not None})
    labels = [label for label in labels if label is not None]
    if classes is None:
        names = tuple(sorted({name for label in labels for name in ([label] if isinstance(label, str) else label)}))
        classes = Classes(names, names)
    groups = groups_of(gallery.clips, column=group_column)
    text_CD = class_vectors(clap.embed_text, classes.words, templates)
    recordings = groups and groups[1]
    if task == "search":
        result = label_search(gallery.audio_ND, labels, text_CD, classes.names, groups=recordings)
    else:
        result = zero_shot(gallery.audio_ND, labels, classes.names, text_CD, groups=recordings)
    return result.with_(
        pipeline_id=clap.pipeline_id,
        templates=list(templates),
        label_column=label_column,
        words_differ_from_names=classes.words != classes.names,
        group_column=groups and groups[0],
        skipped=len(gallery.skipped),
        **about,
    )


def retrieval_result(
    clap: Clap,
    gallery: Gallery,
    *,
    duplicates: str = "strict",
    group_column: str | None = None,
    **about: Any,
) -> Result:
    """Caption retrieval in both directions among the clips of a gallery."""
    from clapkit.evaluation.retrieval import retrieval

    owners, texts = zip(*captions_of(gallery.clips), strict=True)
    groups = groups_of(gallery.clips, column=group_column)
    result = retrieval(
        gallery.audio_ND,
        clap.embed_text(texts),
        owners,
        texts=texts,
        duplicates=duplicates,  # type: ignore[arg-type]
        groups=groups and groups[1],
    )
    return result.with_(
        pipeline_id=clap.pipeline_id, group_column=groups and groups[0], skipped=len(gallery.skipped), **about
    )


def score_run(clap: Clap, clips: Sequence[Clip], run: Path) -> list[Result]:
    """Score a finished run on held-out clips; write RUN/val.json and one line of RUN/log.jsonl."""
    from clapkit.files import atomic_file
    from clapkit.training.log import JsonLines

    gallery = Gallery.of(clap, clips)
    show_skipped(gallery.skipped)
    found: list[Result] = []
    if any(clip.label for clip in gallery.clips):
        found.append(zero_shot_result(clap, gallery))
    if any(clip.captions for clip in gallery.clips):
        found.append(retrieval_result(clap, gallery))
    if not found:
        raise DataError("no clip of --val has a label or a caption: there is nothing to score")
    with atomic_file(run / "val.json") as file:
        file.write(json.dumps({result.task: result.to_json() for result in found}, indent=2).encode())
    steps = json.loads((run / "data.json").read_bytes())["steps"]
    scores = {f"val {name}": score.value for result in found for name, score in result.metrics.items()}
    with JsonLines(run / "log.jsonl", first_step=steps) as log:  # so that scoring a run again replaces its line
        log.write({"step": steps, **scores})
    return found
