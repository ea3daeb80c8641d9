"""clapkit embed: vectors of sound files, as one parquet or npz file, or as a folder of parts for big jobs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from clapkit.cli.inputs import Sounds, find_sounds, model_options
from clapkit.cli.options import Calibration, Compile, Device, Model, Precision, Provider, Strict, Threads, Trust
from clapkit.cli.sounds import printable, write_failures
from clapkit.cli.terminal import progress_wanted, say, show_notes, show_skipped
from clapkit.errors import DataError, MissingExtraError, SpecError
from clapkit.runtime.storage import as_local, is_url

if TYPE_CHECKING:
    from clapkit.api import Clap
    from clapkit.progress import ProgressBar
    from clapkit.runtime.job import Embedder, JobProgress
    from clapkit.runtime.parts import FileRows

_Paths = Annotated[
    list[str], typer.Argument(help="Sound files, folders that are searched for them, URLs (s3://, gs://, ...) of both.")
]
_Out = Annotated[
    str,
    typer.Option("--out", help="FILE.parquet or FILE.npz, replaced if it exists; or a folder or URL, which resumes."),
]
_Windows = Annotated[bool, typer.Option("--windows", help="One row a window of a long file, not one row a file.")]
_PartRows = Annotated[int, typer.Option("--part-rows", help="Rows of a part, where --out is a folder.")]
_Engine = Annotated[str, typer.Option("--engine", help="local, or ray: workers of a Ray cluster (--out is a folder).")]
_Address = Annotated[str | None, typer.Option("--address", help="With --engine ray: the cluster; none: this machine.")]
_Workers = Annotated[
    int | None, typer.Option("--workers", help="With --engine ray: models at work; as many as fit if not given.")
]


@dataclass(frozen=True)
class _Ray:
    address: str | None
    workers: int | None
    threads: int | None


def add_to(app: typer.Typer) -> None:
    app.command("embed", epilog="Example:  clapkit embed recordings/ --model run --out vectors.parquet")(embed)


def embed(
    paths: _Paths,
    model: Model,
    out: _Out,
    windows: _Windows = False,
    strict: Strict = False,
    precision: Precision = "fp32",
    device: Device = "auto",
    provider: Provider = None,
    threads: Threads = None,
    trust: Trust = None,
    compile: Compile = False,
    calibration: Calibration = None,
    part_rows: _PartRows = 4096,
    engine: _Engine = "local",
    address: _Address = None,
    workers: _Workers = None,
) -> None:
    """Turn sound files into vectors of the model's space.

    Writes the columns path, start_s, duration_s, vector and pipeline_id. What could not be used is listed with its
    reason, here and in FILE.failures.json. With a folder as --out, parts are written as the work goes on, and the same
    command again goes on after an interruption; failures stand in FOLDER/_failures.jsonl.
    """
    ray = _ray_options(engine, address, workers, threads)
    out = as_local(out)
    into_folder = _is_folder(out)
    if ray and not into_folder:
        raise DataError(f"--out {out}: with --engine ray, name a folder")
    sounds = _find(paths)
    from clapkit.api import load

    given = {"device": device, "precision": precision, "provider": provider}
    options = model_options(**given, trust=trust, compile=compile, calibration=calibration)
    clap = load(model, threads=threads, **options)
    if into_folder:
        embedder = _on_ray(model, options, ray, clap) if ray else None
        raise typer.Exit(
            _job(clap, sounds, paths, out, windows=windows, strict=strict, part_rows=part_rows, embedder=embedder)
        )
    raise typer.Exit(_file(clap, sounds, Path(out), windows=windows, strict=strict))


def _ray_options(engine: str, address: str | None, workers: int | None, threads: int | None) -> _Ray | None:
    if engine == "ray":
        return _Ray(address, workers, threads)
    if engine != "local":
        raise SpecError(f"--engine is local or ray, not {engine!r}")
    if address is not None or workers is not None:
        raise SpecError("--address and --workers belong to --engine ray")
    return None


def _is_folder(out: str) -> bool:
    """Whether --out is for a big job. DataError for what can be neither."""
    if is_url(out):
        return True
    place = Path(out)
    if place.is_dir() or place.suffix == "" or out.endswith(("/", os.sep)):
        if place.is_file():
            raise DataError(f"--out {out} is a file without an ending: name a folder, or FILE.parquet or FILE.npz")
        return True
    if place.suffix not in (".parquet", ".npz"):
        raise DataError(f"--out {out}: a file ends in .parquet or .npz, and a folder has no ending")
    if place.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise MissingExtraError("pyarrow", "search", "Writing parquet")
    return False


def _find(paths: Sequence[str]) -> Sounds:
    """The sounds behind paths and URLs, in the order they were named."""
    from clapkit.data.folders import SOUND_SUFFIXES
    from clapkit.runtime.storage import find_remote

    files: dict[str, None] = {}
    skipped: dict[str, str] = {}
    for remote, group in groupby(map(as_local, paths), is_url):
        if remote:
            files.update((sound, None) for place in group for sound in find_remote(place, SOUND_SUFFIXES))
        else:
            found = find_sounds([Path(place) for place in group])
            files.update(dict.fromkeys(found.files))
            skipped.update(found.skipped)
    return Sounds(tuple(files), tuple(skipped.items()))


def _on_ray(model: str, options: dict[str, Any], ray: _Ray, clap: Clap) -> Embedder:
    return ray_workers(model, options, clap, address=ray.address, workers=ray.workers, threads=ray.threads)


def ray_workers(
    model: str, options: dict[str, Any], clap: Clap, *, address: str | None, workers: int | None, threads: int | None
) -> Embedder:
    """The workers of a Ray cluster, each with the model that `clap` is here; `options` are those of `load`."""
    from functools import partial

    from clapkit.api import load
    from clapkit.runtime.cluster import RayWorkers

    place = str(Path(model).resolve()) if Path(model).exists() else model  # workers have another current folder
    threads = threads or 1
    return RayWorkers(
        partial(load, place, threads=threads, **options),
        pipeline_id=clap.pipeline_id,
        address=address,
        workers=workers,
        threads=threads,
        device=options["device"],
    )


def _job(
    clap: Clap,
    sounds: Sounds,
    asked: Sequence[str],
    out: str,
    *,
    windows: bool,
    strict: bool,
    part_rows: int,
    embedder: Embedder | None,
) -> int:
    """Embed into a folder; the exit status."""
    from clapkit.runtime.job import embed_job

    with _Progress() as progress:
        report = embed_job(
            clap,
            sounds.files,
            out,
            windows=windows,
            skipped=sounds.skipped,
            asked=asked,
            embedder=embedder,
            part_rows=part_rows,
            on_progress=progress,
        )
    show_notes(report.notes)
    if more := report.noted - len({path for path, _ in report.notes}):
        say(f"{more} more files were used with a note")
    show_skipped(report.failures)
    if report.failed > len(report.failures):
        say(f"all {report.failed} skipped files stand in {out}/_failures.jsonl")
    earlier = f" ({report.before} of these files in earlier runs)" if report.before else ""
    say(f"{report.embedded} embedded, {report.failed} skipped{earlier}: {out}")
    return int(not report.embedded or (strict and bool(report.failed)))


class _Progress:
    """A bar for whoever watches; where nobody does, a line for each part that was written."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._bar: ProgressBar | None = None

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def __call__(self, at: JobProgress) -> None:
        from clapkit.progress import ProgressBar

        if self._bar is None:  # now it is known where an earlier run stopped, or the speed would be that of a jump
            bar = ProgressBar("embedding", at.total, first=at.done, shown=progress_wanted())
            self._bar = self._stack.enter_context(bar)
        rate = f"{at.rate_per_s:.1f} files/s"
        self._bar.update(at.done, at.total, note=rate if at.rate_per_s else "")
        if at.wrote and not progress_wanted():
            left = timedelta(seconds=round(at.left_s))
            say(f"{at.done} of {at.total} files, {at.failed} skipped, {rate}, {left} left")


def _file(clap: Clap, sounds: Sounds, out: Path, *, windows: bool, strict: bool) -> int:
    """Embed into one file, its rows in the order of the sounds; the exit status."""
    from clapkit.progress import ProgressBar
    from clapkit.runtime.job import embed_here
    from clapkit.runtime.parts import BadFile

    rows: dict[str, FileRows] = {}
    reasons: dict[str, str] = {}
    with ProgressBar("embedding", len(sounds.files), shown=progress_wanted()) as bar:
        for result in embed_here(clap)(sounds.files, windows=windows):
            if isinstance(result, BadFile):
                reasons[result.path] = result.reason
            else:
                rows[result.path] = result
            bar.update(len(rows) + len(reasons))
    done = [replace(rows[path], path=printable(path)) for path in sounds.files if path in rows]
    if done:
        _write(out, done, clap.pipeline_id)
    skipped = [*sounds.skipped, *((path, reasons[path]) for path in sounds.files if path in reasons)]
    write_failures(out.with_name(out.name + ".failures.json"), skipped)
    show_notes([(row.path, note) for row in done for note in row.notes])
    show_skipped(skipped)
    say(f"{len(done)} embedded, {len(skipped)} skipped: {out if done else 'nothing to write'}")
    return int(not done or (strict and bool(skipped)))


def _write(out: Path, rows: Sequence[FileRows], pipeline_id: str) -> None:
    from clapkit.files import atomic_file
    from clapkit.runtime.parts import as_table, columns_of

    with atomic_file(out) as file:
        if out.suffix == ".npz":
            columns = columns_of(rows, pipeline_id)
            arrays: dict[str, Any] = {name: np.asarray(values) for name, values in columns.items()}
            np.savez(file, **arrays)
        else:
            import pyarrow.parquet

            pyarrow.parquet.write_table(as_table(rows, pipeline_id), file)
