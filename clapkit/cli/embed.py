"""clapkit embed: vectors of sound files, as parquet or npz."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from clapkit.cli.inputs import find_sounds
from clapkit.cli.options import Device, Model, Paths, Precision, Strict, Trust
from clapkit.cli.sounds import Outcome, embed_sounds, printable, write_failures
from clapkit.cli.terminal import say
from clapkit.errors import DataError, MissingExtraError

_Out = Annotated[Path, typer.Option("--out", help="FILE.parquet or FILE.npz; replaced if it exists.")]
_Windows = Annotated[bool, typer.Option("--windows", help="One row a window of a long file, not one row a file.")]


def add_to(app: typer.Typer) -> None:
    app.command("embed", epilog="Example:  clapkit embed recordings/ --model run --out vectors.parquet")(embed)


def embed(
    paths: Paths,
    model: Model,
    out: _Out,
    windows: _Windows = False,
    strict: Strict = False,
    precision: Precision = "fp32",
    device: Device = "auto",
    trust: Trust = None,
) -> None:
    """Turn sound files into vectors of the model's space.

    Writes the columns path, start_s, duration_s, vector and pipeline_id. What could not be used is listed with its
    reason, here and in FILE.failures.json.
    """
    _check_out(out)
    sounds = find_sounds(paths)
    from clapkit.api import load

    clap = load(model, device, precision, trust=trust or ())
    outcome = embed_sounds(clap, sounds)
    if outcome.done:
        _write(out, _columns(outcome, clap.pipeline_id, windows=windows))
    write_failures(out.with_name(out.name + ".failures.json"), outcome.skipped)
    outcome.show()
    say(f"{outcome.summary}" + (f": {out}" if outcome.done else ": nothing to write"))
    raise typer.Exit(outcome.exit_status(strict=strict))


def _check_out(out: Path) -> None:
    if out.suffix not in (".parquet", ".npz"):
        raise DataError(f"--out {out}: the name has to end in .parquet or .npz, which says what is written")
    if out.is_dir():
        raise DataError(f"--out {out} is a folder: name a file")
    if out.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise MissingExtraError("pyarrow", "search", "Writing parquet")


def _columns(outcome: Outcome, pipeline_id: str, *, windows: bool) -> dict[str, Any]:
    rows = list(_rows(outcome, windows=windows))
    return {
        "path": [row[0] for row in rows],
        "start_s": np.array([row[1] for row in rows], np.float64),
        "duration_s": np.array([row[2] for row in rows], np.float64),
        "vector": np.stack([row[3] for row in rows]).astype(np.float32),
        "pipeline_id": [pipeline_id] * len(rows),
    }


def _rows(outcome: Outcome, *, windows: bool) -> Iterator[tuple[str, float, float, np.ndarray]]:
    for path, result in outcome.done:
        if not windows:
            yield printable(path), 0.0, result.duration_s, result.vector_D
            continue
        for start_s, vector_D in zip(result.starts_s, result.windows_WD, strict=True):
            yield printable(path), start_s, min(result.window_s, result.duration_s - start_s), vector_D


def _write(out: Path, columns: dict[str, Any]) -> None:
    from clapkit.files import atomic_file

    with atomic_file(out) as file:
        if out.suffix == ".npz":
            arrays: dict[str, Any] = {name: np.asarray(values) for name, values in columns.items()}
            np.savez(file, **arrays)
            return
        import pyarrow
        import pyarrow.parquet

        vectors = columns["vector"]
        flat = pyarrow.array(vectors.reshape(-1))
        columns = {**columns, "vector": pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])}
        pyarrow.parquet.write_table(pyarrow.table(columns), file)
