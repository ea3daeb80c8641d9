"""clapkit bench: how fast a model is on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clapkit.cli.checkpoints import SOURCES
from clapkit.cli.inputs import model_options
from clapkit.cli.options import Calibration, Compile, Device, Precision, Trust
from clapkit.cli.terminal import results, say, table

_Model = Annotated[str, typer.Argument(metavar="MODEL", help=SOURCES)]
_Seconds = Annotated[float, typer.Option("--seconds", help="Length of a clip.")]
_Clips = Annotated[int, typer.Option("--clips", help="How many clips.")]
_Rounds = Annotated[int, typer.Option("--rounds", help="The best of so many rounds counts.")]
_Threads = Annotated[int | None, typer.Option("--threads", help="Processor threads.")]
_Provider = Annotated[str | None, typer.Option("--provider", help="torch, onnx or openvino.")]
_Json = Annotated[Path | None, typer.Option("--json", help="Write everything there, too.")]


def add_to(app: typer.Typer) -> None:
    app.command("bench", epilog="Example:  clapkit bench run --precision bf16 --threads 2")(bench)


def bench(
    model: _Model,
    seconds: _Seconds = 10.0,
    clips: _Clips = 32,
    rounds: _Rounds = 3,
    precision: Precision = "fp32",
    threads: _Threads = None,
    provider: _Provider = None,
    device: Device = "auto",
    json: _Json = None,
    trust: Trust = None,
    compile: Compile = False,
    calibration: Calibration = None,
) -> None:
    """Measure decoding, mel, tower, text and the whole way from files to vectors, on this machine.

    Clips of noise are written to a temporary folder and embedded several times. A stage alone says where time goes; the
    stages overlap, so that the whole way may take less than their sum.
    """
    from clapkit.api import load
    from clapkit.runtime.bench import bench as measure

    given = {"device": device, "precision": precision, "provider": provider}
    options = model_options(**given, trust=trust, compile=compile, calibration=calibration)
    clap = load(model, threads=threads, **options)
    told = measure(clap, seconds=seconds, clips=clips, rounds=rounds, say=lambda stage: say(f"measuring {stage}"))
    told = {"model": model, "precision": precision, "provider": provider or "default", **told}
    rows = [_cells(row) for row in told["stages"]]
    columns = ("stage", "ms", "a second", "times real time")
    results().print(table(f"{model}, {precision}, clips of {seconds:g} s", columns, rows, numbers=columns[1:]))
    say(", ".join(f"{key} {value}" for key, value in told["machine"].items()))
    if json is not None:
        import json as writer

        from clapkit.files import atomic_file

        with atomic_file(json) as file:
            file.write((writer.dumps(told, indent=2) + "\n").encode())


def _cells(row: dict[str, Any]) -> tuple[str, str, str, str]:
    faster = f"{row['times_real_time']:.0f}" if "times_real_time" in row else ""
    return row["stage"], f"{row['ms']:.2f}", f"{row['per_second']:.1f}", faster
