"""clapkit classify: which of some labels fits a sound best."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from clapkit.cli.inputs import find_sounds, model_options, read_labels
from clapkit.cli.options import Calibration, Compile, Device, Model, Paths, Precision, Provider, Strict, Threads, Trust
from clapkit.cli.sounds import embed_sounds, printable
from clapkit.cli.terminal import print_json, results, say, table

_Labels = Annotated[str | None, typer.Option("--labels", metavar="a,b,c", help="Labels to choose among.")]
_LabelsFile = Annotated[Path | None, typer.Option("--labels-file", help="The same as a text file, one a line.")]
_TopK = Annotated[int, typer.Option("--top-k", min=1, help="Labels shown for each file.")]
_Template = Annotated[str | None, typer.Option(help="Sentence around the label, as in 'this is the sound of {}'.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def add_to(app: typer.Typer) -> None:
    app.command("classify", epilog="Example:  clapkit classify dog.wav --model run --labels 'dog,cat,rain'")(classify)


def classify(
    paths: Paths,
    model: Model,
    labels: _Labels = None,
    labels_file: _LabelsFile = None,
    top_k: _TopK = 3,
    template: _Template = None,
    as_json: _Json = False,
    strict: Strict = False,
    precision: Precision = "fp32",
    device: Device = "auto",
    provider: Provider = None,
    threads: Threads = None,
    trust: Trust = None,
    compile: Compile = False,
    calibration: Calibration = None,
) -> None:
    """Name the labels that fit each sound best, with probabilities.

    The probabilities of all labels sum to 1: they say which label fits best, not whether any does.
    """
    names = read_labels(labels, labels_file)
    sounds = find_sounds(paths)
    from clapkit.api import load

    given = {"device": device, "precision": precision, "provider": provider}
    options = model_options(**given, trust=trust, compile=compile, calibration=calibration)
    clap = load(model, threads=threads, **options)
    outcome = embed_sounds(clap, sounds)
    if outcome.done:
        vectors_ND = np.stack([result.vector_D for _, result in outcome.done])
        ranked = clap.classify_vectors(vectors_ND, names, template=template, top_k=top_k)
    else:
        ranked = []
    found = [(printable(path), best) for (path, _), best in zip(outcome.done, ranked, strict=True)]
    if as_json:
        print_json(
            [{"path": path, "labels": [{"label": n, "probability": p} for n, p in best]} for path, best in found]
        )
    elif found:
        rows = [(path, "   ".join(f"{name} {p:.1%}" for name, p in best)) for path, best in found]
        results().print(table(f"best of {len(names)} labels", ("file", "labels"), rows))
    outcome.show()
    say(outcome.summary)
    raise typer.Exit(outcome.exit_status(strict=strict))
