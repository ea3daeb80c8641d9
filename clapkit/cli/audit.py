"""clapkit eval audit, calibrate, leakage: what scores do not say about a model or a test set."""

from __future__ import annotations

import json as json_format
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from clapkit.cli.inputs import read_columns, read_splits
from clapkit.cli.options import Column, Data, Device, Precision, Split, Trust
from clapkit.cli.terminal import progress_wanted, results, say, show_skipped, table
from clapkit.errors import DataError, SpecError, nearest_name

if TYPE_CHECKING:
    from clapkit.api import Clap
    from clapkit.cli.scoring import Gallery
    from clapkit.data.clip import Clip
    from clapkit.evaluation.report import Score

_Run = Annotated[str, typer.Argument(metavar="RUN", help="Run, model folder, checkpoint, short name or hf:// name.")]
_LabelsFile = Annotated[Path | None, typer.Option("--labels-file", help="Prompts, one a line; else the labels.")]
_Template = Annotated[str, typer.Option("--template", help="Sentence around each prompt.")]
_PerClip = Annotated[float, typer.Option("--per-clip", help="How many prompts apply to a clip on average, roughly.")]
_Out = Annotated[Path, typer.Option("--out", help="Where the calibration goes (JSON).")]
_By = Annotated[list[str] | None, typer.Option("--by", help="Column whose values are groups. Repeatable.")]
_Json = Annotated[Path | None, typer.Option("--json", help="Write everything that was found to this file.")]
_Neighbours = Annotated[int, typer.Option("-k", min=1, help="Places that count as found, for hubness.")]
_Train = Annotated[list[Path], typer.Option("--train", help="Training manifest or folder. Repeatable.")]
_Test = Annotated[list[Path], typer.Option("--test", help="Test manifest or folder. Repeatable.")]
_TrainSplit = Annotated[list[str] | None, typer.Option("--train-split", metavar="COLUMN=a,b")]
_TestSplit = Annotated[list[str] | None, typer.Option("--test-split", metavar="COLUMN=a,b")]
_Threshold = Annotated[float | None, typer.Option(help="Agreement from which two sounds are the same.")]
_Workers = Annotated[int, typer.Option(min=0, help="Decoder processes.")]
_LISTED = 20


def add_to(verbs: typer.Typer) -> None:
    example = "Example:  clapkit eval"
    verbs.command("audit", epilog=f"{example} audit run --data clips.jsonl --split split=test --by source")(audit)
    verbs.command("calibrate", epilog=f"{example} calibrate run --data sounds/ --labels-file names.txt --per-clip 2")(
        calibrate
    )
    verbs.command("leakage", epilog=f"{example} leakage --train train.jsonl --test test.jsonl --json leakage.json")(
        leakage
    )


def audit(
    run: _Run,
    data: Data,
    split: Split = None,
    column: Column = None,
    by: _By = None,
    template: _Template = "this is the sound of {}",
    k: _Neighbours = 10,
    json: _Json = None,
    precision: Precision = "fp32",
    device: Device = "auto",
    trust: Trust = None,
) -> None:
    """Look for what a score hides: the gap between sound and language, hubs, and groups that are served worse.

    The text of a clip is its first caption, or its label in --template. Groups are those of the --by columns; a clip
    counts as served when its own text is among the first k of all texts.
    """
    from clapkit.cli.scoring import groups_of
    from clapkit.evaluation.audits.gap import geometry
    from clapkit.evaluation.audits.hubness import hubness
    from clapkit.evaluation.zero_shot import cosines

    clips = _clips(data, split, column)
    _known_columns(clips, by or ())
    clap, gallery = _embedded(run, clips, precision, device, trust)
    gallery, texts = _with_texts(gallery, template)
    different = list(dict.fromkeys(texts))
    text_MD = clap.embed_text(different)
    own_N = np.array([different.index(text) for text in texts])
    groups = groups_of(gallery.clips, column=None)
    recordings = groups and groups[1]
    scores_NM = cosines(gallery.audio_ND, text_MD, rows="clips", columns="texts")
    found: dict[str, Any] = {"pipeline_id": clap.pipeline_id, "n": len(texts), "texts": len(different)}
    lies = geometry(gallery.audio_ND, text_MD[own_N], groups=recordings)
    shown = [("gap: distance", lies.distance), ("alignment", lies.alignment)]
    shown += [("uniformity of sound", lies.audio_uniformity), ("uniformity of texts", lies.text_uniformity)]
    found["geometry"] = lies.to_json()
    if len(different) >= 2 and k < len(gallery.clips):
        hubs = hubness(scores_NM.T, k=k)
        named = {"skewness": hubs.skewness, "robin_hood": hubs.robin_hood, "hub_share": hubs.hub_share}
        named["orphans"] = hubs.orphans
        found["hubness"] = {"k": k, **{name: vars(score) for name, score in named.items()}}
        shown += [(f"hubness: {name.replace('_', ' ')}", score) for name, score in named.items()]
    results().print(_scores("audit", shown, len(texts)))
    if by:
        found["subgroups"] = _subgroups(gallery, scores_NM, own_N, by, recordings, k)
    _write(json, found)


def calibrate(
    run: _Run,
    data: Data,
    per_clip: _PerClip,
    out: _Out,
    split: Split = None,
    column: Column = None,
    labels_file: _LabelsFile = None,
    template: _Template = "this is the sound of {}",
    precision: Precision = "fp32",
    device: Device = "auto",
    trust: Trust = None,
) -> None:
    """Fit a temperature and a bias for each prompt on clips without labels, so that one threshold works for all.

    Labels are read only to name the prompts where --labels-file does not, and to say afterwards how well it went.
    """
    from clapkit.cli.scoring import Classes
    from clapkit.evaluation.audits.calibration import fit_calibration
    from clapkit.evaluation.zero_shot import class_vectors, cosines

    clips = _clips(data, split, column)
    labels = [frozenset(clip.tags) or (frozenset([clip.label]) if clip.label else frozenset()) for clip in clips]
    if labels_file is not None:
        classes = Classes.read(labels_file)
    else:
        names = tuple(sorted({name for label in labels for name in label}))
        if not names:
            raise SpecError("no clip has a label that could name the prompts: give them with --labels-file")
        classes = Classes(names, names)
    clap, gallery = _embedded(run, clips, precision, device, trust)
    scores_NC = cosines(
        gallery.audio_ND, class_vectors(clap.embed_text, classes.words, [template]), rows="clips", columns="prompts"
    )
    calibration = fit_calibration(scores_NC, classes.names, per_clip=per_clip)
    calibration.write(out)
    say(f"{len(classes.names)} prompts, fitted on {len(scores_NC)} clips; threshold {calibration.threshold:.3f}: {out}")
    _show_checked(calibration, scores_NC, gallery, classes.names)


def leakage(
    train: _Train,
    test: _Test,
    train_split: _TrainSplit = None,
    test_split: _TestSplit = None,
    column: Column = None,
    threshold: _Threshold = None,
    workers: _Workers = 2,
    json: _Json = None,
) -> None:
    """Find what a test set shares with a training set: the same sound, encoded again or cut, and equal captions."""
    from clapkit.building.leakage import find_leakage
    from clapkit.progress import ProgressBar
    from clapkit.search.fingerprint import THRESHOLD

    sides = [_clips(train, train_split, column), _clips(test, test_split, column)]
    with ProgressBar("listening", sum(map(len, sides)), shown=progress_wanted()) as bar:
        found = find_leakage(
            *sides, threshold=THRESHOLD if threshold is None else threshold, workers=workers, progress=bar.update
        )
    show_skipped([(failure.source, failure.reason) for failure in found.failures])
    columns = ("test clip", "training clip", "agreement", "begins at (s)")
    for title, shared in (("the same sound", found.sounds), ("a part of the sound", found.overlaps)):
        rows = [(s.test, s.train, f"{s.agreement:.2f}", f"{s.offset_s:.1f}") for s in shared[:_LISTED]]
        if rows:
            results().print(table(title, columns, rows, numbers=columns[2:]))
    spoken = [(t.text, ", ".join(t.test[:3]), ", ".join(t.train[:3])) for t in found.texts[:_LISTED]]
    if spoken:
        results().print(table("the same caption", ("caption", "test clips", "training clips"), spoken))
    said = {name for shared in found.texts for name in shared.test}
    results().print(
        f"{len(found.heard)} of {found.test_clips} test clips are among the {found.train_clips} training clips by "
        f"their sound, {len(found.heard_in_part)} more share a part with one, {len(said)} share a caption; "
        f"{len(found.unjudged)} clips on either side are too quiet or short to judge"
    )
    _write(json, found.to_json())


def _clips(data: Sequence[Path], split: Sequence[str] | None, column: Sequence[str] | None) -> tuple[Clip, ...]:
    from clapkit.data.manifest import read_all

    splits = read_splits(split or ())
    return read_all(data, columns=read_columns(column or ()), splits=splits, need_text=False).clips


def _embedded(
    run: str, clips: Sequence[Clip], precision: str, device: str, trust: Sequence[str] | None
) -> tuple[Clap, Gallery]:
    from clapkit.cli.scoring import Gallery, load_both_sides

    clap = load_both_sides(run, device, precision, trust)
    gallery = Gallery.of(clap, clips)
    show_skipped(gallery.skipped)
    return clap, gallery


def _with_texts(gallery: Gallery, template: str) -> tuple[Gallery, list[str]]:
    """The clips that have a caption or a label, and the text of each."""
    from clapkit.text.prompts import fill

    kept = {clip.id for clip in gallery.clips if clip.captions or clip.label}
    if not kept:
        raise DataError(f"none of {len(gallery.clips)} clips has a caption or a label to be compared with")
    if len(kept) < len(gallery.clips):
        say(f"note: {len(gallery.clips) - len(kept)} clips have neither caption nor label and are left out")
    gallery = gallery.only(kept)
    return gallery, [c.captions[0] if c.captions else fill(template, str(c.label)) for c in gallery.clips]


def _known_columns(clips: Sequence[Clip], by: Sequence[str]) -> None:
    known = sorted({name for clip in clips for name in clip.meta} | {"label", "split"})
    odd = [f"'{name}': {nearest_name(name, known)}" for name in by if name not in known]
    if odd:
        raise DataError(f"{len(odd)} column(s) of --by do not exist:", odd)


def _subgroups(
    gallery: Gallery,
    scores_NM: np.ndarray,
    own_N: np.ndarray,
    by: Sequence[str],
    recordings: Sequence[Any] | None,
    k: int,
) -> dict[str, Any]:
    import dataclasses

    from clapkit.evaluation.audits.subgroups import subgroups
    from clapkit.evaluation.metrics import top_k_hits

    k = min(k, scores_NM.shape[1])
    columns = {name: [clip.meta.get(name, getattr(clip, name, None)) for clip in gallery.clips] for name in by}
    found = subgroups(top_k_hits(scores_NM, own_N, k=k), columns, recordings=recordings)
    rows = [
        (
            g.name,
            g.n,
            f"{g.value.value:.1%}",
            f"{g.gap.value:+.1%} ({g.gap.low:+.1%} to {g.gap.high:+.1%})",
            _p(g.p_holm),
        )
        for g in found.groups[:_LISTED]
    ]
    head = ("group", "clips", f"own text among {k}", "gap", "p, corrected")
    results().print(table(f"groups, worst gap first, of {found.compared} compared", head, rows, numbers=head[1:]))
    return dataclasses.asdict(found)


def _show_checked(calibration: Any, scores_NC: np.ndarray, gallery: Gallery, names: Sequence[str]) -> None:
    """What labels say of the calibration, where clips have them."""
    from clapkit.evaluation.audits.calibration import best_thresholds, micro_f1, reliability

    truth_NC = np.array(
        [[name in clip.tags or name == clip.label for name in names] for clip in gallery.clips], dtype=bool
    )
    rows_N = truth_NC.any(axis=1)
    if not rows_N.any():
        return
    scores_NC, truth_NC = scores_NC[rows_N], truth_NC[rows_N]
    told = reliability(calibration(scores_NC), truth_NC)
    best_NC = scores_NC >= best_thresholds(scores_NC, truth_NC)
    shown = [
        ("micro-F1, one threshold", micro_f1(calibration.applies(scores_NC), truth_NC)),
        ("micro-F1, best of each prompt (needs labels)", micro_f1(best_NC, truth_NC)),
        ("calibration error", told.error),
        ("Brier score", told.brier),
    ]
    results().print(_scores("by the labels, which the fit did not read", shown, len(scores_NC)))


def _scores(title: str, shown: Sequence[tuple[str, Score]], n: int) -> Any:
    rows = [
        (name, f"{s.value:.3f}", f"{s.low:.3f} to {s.high:.3f}", "-" if s.chance is None else f"{s.chance:.3f}")
        for name, s in shown
    ]
    head = ("figure", "value", "95% interval", "chance")
    return table(f"{title}, n = {n} clips", head, rows, numbers=head[1:])


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _write(path: Path | None, found: dict[str, Any]) -> None:
    if path is None:
        return
    from clapkit.files import atomic_file

    with atomic_file(path) as file:
        file.write((json_format.dumps(found, indent=2, ensure_ascii=False) + "\n").encode())
    say(f"everything: {path}")
