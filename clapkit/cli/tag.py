"""clapkit tag: the labels that apply to each sound of a library."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clapkit.cli.inputs import open_store
from clapkit.cli.options import Device, Threads, Trust
from clapkit.cli.terminal import print_json, progress_wanted, results, say, show_skipped, table
from clapkit.errors import DataError, SpecError

if TYPE_CHECKING:
    from clapkit.search.curating.calibration import Calibration
    from clapkit.search.curating.files import FileTable
    from clapkit.search.curating.labels import Label
    from clapkit.search.curating.tagging import Tagged
    from clapkit.search.store import Store

_Folder = Annotated[str, typer.Argument(metavar="LIBRARY", help="Folder or URL written by `clapkit index`.")]
_Labels = Annotated[
    Path,
    typer.Option(
        "--labels", help="Text file, a label a line. Behind tabs: texts to ask with. 'animal > dog': dog within animal."
    ),
]
_Threshold = Annotated[
    str,
    typer.Option(
        help="auto: as many tags as --per-file says. Or a probability, such as 0.3, from which a label is a tag."
    ),
]
_PerFile = Annotated[float, typer.Option("--per-file", help="How many of the labels apply to a sound, roughly.")]
_Template = Annotated[str, typer.Option(help="Sentence around labels that bring no texts of their own.")]
_Out = Annotated[Path | None, typer.Option("--out", help="Write the tags to this .csv or .json file.")]
_Sidecars = Annotated[bool, typer.Option("--write-sidecars", help="Write SOUND.tags.json beside each sound.")]
_SidecarFolder = Annotated[
    Path | None, typer.Option("--sidecar-folder", help="Put these files below this folder, not beside the sounds.")
]
_Into = Annotated[
    bool, typer.Option("--into-index", help="Write the tags into the library: `clapkit search --where tags=dog`.")
]
_Calibration = Annotated[
    Path | None,
    typer.Option("--calibration", help="Calibration to use, of `clapkit eval calibrate` or --save-calibration."),
]
_Save = Annotated[Path | None, typer.Option("--save-calibration", help="Write the calibration that was fitted.")]
_Model = Annotated[str | None, typer.Option("--model", help="Default: the model that made the library.")]
_Json = Annotated[bool, typer.Option("--json", help="Print all tags as JSON instead of a table.")]
_SHOWN = 20
_EXAMPLES = """
Examples:

clapkit tag lib --labels labels.txt --out tags.csv   (probabilities of all that applies)

clapkit tag lib --labels labels.txt --per-file 3 --into-index   (then: clapkit search lib "a street" --where tags=dog)

clapkit tag lib --labels labels.txt --threshold 0.5 --write-sidecars   (only what is likely)
"""


def add_to(app: typer.Typer) -> None:
    app.command("tag", epilog=_EXAMPLES)(tag)


def tag(
    folder: _Folder,
    labels: _Labels,
    threshold: _Threshold = "auto",
    per_file: _PerFile = 1.0,
    template: _Template = "this is the sound of {}",
    out: _Out = None,
    write_sidecars: _Sidecars = False,
    sidecar_folder: _SidecarFolder = None,
    into_index: _Into = False,
    calibration: _Calibration = None,
    save_calibration: _Save = None,
    model: _Model = None,
    as_json: _Json = False,
    device: Device = "auto",
    threads: Threads = None,
    trust: Trust = None,
) -> None:
    """Tag the sounds of a library with labels, from the vectors that it holds: no sound is heard again.

    The scores of each label are calibrated on the library itself, without any labelled sound: what counts is how far a
    sound stands out among all others. That takes 20 sounds or more, and labels that most of them do not have.
    """
    least = _least(threshold)
    if out is not None and out.suffix.lower() not in (".csv", ".json"):
        raise SpecError(f"--out {out}: expected a name that ends in .csv or .json")
    from clapkit.search.curating.files import file_table
    from clapkit.search.curating.labels import label_vectors, read_labels_file
    from clapkit.search.curating.tagging import tag_files

    wanted = read_labels_file(labels)
    index = open_store(folder, model, device=device, threads=threads, trust=trust or ())
    assert index.store is not None and index.model is not None
    with index.store as store:
        if into_index:
            store.place.claim()  # told before the work, not after it
        sounds = file_table(store.view)
        if not len(sounds):
            raise DataError(f"{folder} holds no sound: fill it with `clapkit index`")
        text_CD = label_vectors(index.model.embed_text, wanted, template=template)
        fitted = _calibration(calibration, sounds, wanted, text_CD, per_file)
        if save_calibration is not None:
            fitted.write(save_calibration)
        found = list(tag_files(sounds, wanted, text_CD, fitted, threshold=least))
        _show(found, fitted, least, as_json=as_json)
        _write(found, out, sounds.space_id, sidecars=write_sidecars, sidecar_folder=sidecar_folder)
        if into_index:
            _into(store, found)


def _least(threshold: str) -> float | None:
    if threshold == "auto":
        return None
    try:
        least = float(threshold)
    except ValueError:
        least = -1.0
    if not 0 <= least <= 1:
        raise SpecError(f"--threshold is auto or a probability from 0 to 1, not {threshold!r}")
    return least


def _calibration(
    path: Path | None, sounds: FileTable, labels: Sequence[Label], text_CD: Any, per_file: float
) -> Calibration:
    from clapkit.search.curating.calibration import Calibration
    from clapkit.search.curating.tagging import calibrate_on

    if path is not None:
        return Calibration.read(path)
    return calibrate_on(sounds, labels, text_CD, per_file=per_file)


def _show(found: Sequence[Tagged], fitted: Calibration, least: float | None, *, as_json: bool) -> None:
    from clapkit.cli.sounds import printable

    if as_json:
        tags = [[{"tag": name, "probability": chance} for name, chance in one.tags] for one in found]
        print_json([{"path": printable(one.file), "tags": each} for one, each in zip(found, tags, strict=True)])
    else:
        rows = [
            (printable(one.file), "   ".join(f"{name} {chance:.0%}" for name, chance in one.tags) or "-")
            for one in found[:_SHOWN]
        ]
        results().print(table(f"tags of {len(found)} sounds", ("file", "tags"), rows))
        if len(found) > _SHOWN:
            say(f"... and {len(found) - _SHOWN} more: --out tags.csv has them all")
        counts = Counter(name for one in found for name, _ in one.tags)
        often = ", ".join(f"{name} {count}" for name, count in counts.most_common(8))
        say(f"most frequent: {often or 'nothing was tagged'}")
    some = sum(bool(one.tags) for one in found)
    used = fitted.threshold if least is None else least
    say(f"{some} of {len(found)} sounds have a tag; a label is one from probability {used:.3f} on")


def _write(
    found: Sequence[Tagged], out: Path | None, space_id: str, *, sidecars: bool, sidecar_folder: Path | None
) -> None:
    from clapkit.search.curating.sidecars import write_csv, write_json, write_sidecars

    if out is not None:
        (write_csv if out.suffix.lower() == ".csv" else write_json)(out, found)
        say(f"all tags: {out}")
    if sidecars or sidecar_folder is not None:
        written, refused = write_sidecars(found, space_id=space_id, into=sidecar_folder)
        show_skipped(refused)
        say(f"{written} sidecar files written, {len(refused)} not")


def _into(store: Store, found: Sequence[Tagged]) -> None:
    from clapkit.progress import ProgressBar
    from clapkit.search.curating.tagging import write_tags

    writer = store.writer()
    with ProgressBar("writing tags", len(found), shown=progress_wanted()) as bar:
        changed = write_tags(writer, store.view, found, on_chunk=bar.update)
    writer.settle()
    say(f"tags of {changed} sounds changed in the library")
