"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Option("--model", help="Run, model folder, checkpoint of another library, short name or hf://owner/name."),
]
Trust = Annotated[
    list[str] | None,
    typer.Option("--trust", metavar="PACKAGE", help="Package whose parts the model may name; its code is run."),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, ...")]
Precision = Annotated[str, typer.Option("--precision", help="What the audio tower computes in: fp32, bf16 or int8.")]
Provider = Annotated[
    str | None, typer.Option("--provider", help="Runtime: torch, onnx or openvino. Default: the model's own.")
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Processor threads of the model.")]
Compile = Annotated[
    bool, typer.Option("--compile", help="Compile the tower with torch.compile; worth it on accelerators only.")
]
Calibration = Annotated[
    list[Path] | None,
    typer.Option("--calibration", help="With int8: sounds, or a folder of them, that it takes its ranges from."),
]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with status 1 if any file was skipped.")]
Data = Annotated[
    list[Path],
    typer.Option(
        "--data",
        help="Manifest (CSV, JSONL, JSON, parquet), dataset folder, folder of sound or tar shards. Repeatable.",
    ),
]
Split = Annotated[
    list[str] | None,
    typer.Option("--split", metavar="COLUMN=a,b", help="Only rows with one of these values. Repeatable."),
]
Column = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="ROLE=COLUMN", help="Read COLUMN as path, caption, label, ... Repeatable."),
]
Paths = Annotated[list[Path], typer.Argument(help="Sound files, and folders that are searched for them.")]
