"""What a model is, in numbers and in words: the facts for `clapkit inspect`, and the README.md of a model folder."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from clapkit import native
from clapkit.errors import ModelError, SpecError
from clapkit.files import atomic_file
from clapkit.model import Windowing
from clapkit.provenance import Report, grouped
from clapkit.spec import Spec, from_json, to_json

PARTS = {
    "audio": "audio tower",
    "audio_head": "audio head",
    "text": "text tower",
    "text_head": "text head",
    "framewise": "frame-wise head",
}
_REST = "temperature, filters"
# The words of the importers -> what the front matter of a model card may say.
_LICENCES = {"mit": "mit", "apache-2.0": "apache-2.0", "cc0-1.0": "cc0-1.0", "cc-by-4.0": "cc-by-4.0"}
_FILLS = {
    "mask": "shorter sound is padded and the padding is not heard",
    "zeros": "shorter sound is followed by silence",
    "repeat": "shorter sound is repeated until the window is full",
    "repeat-pad": "shorter sound is repeated whole, then followed by silence",
}
_LONGER = {
    "windows": "longer sound is heard in windows every {hop_s:g} s that are averaged",
    "start": "of longer sound only the first {window_s:g} s are heard",
    "fuse": "longer sound is heard as a whole, resized, and in three chunks",
    "fuse-crop": "longer sound is heard in a crop from its middle and in three chunks",
}


def describe(model_spec: Spec, numbers: Mapping[str, int], report: Report, *, space_id: str = "") -> dict[str, Any]:
    """The facts about a model, as plain JSON data.

    numbers   name of each parameter -> how many numbers it holds
    """
    settings = model_spec.arguments
    parameters = dict.fromkeys((*PARTS.values(), _REST), 0)
    for name, count in numbers.items():
        parameters[PARTS.get(name.partition(".")[0], _REST)] += count
    windowing = settings.get("windowing") or Windowing()
    return {
        "family": report.family,
        "about": report.about,
        "licence": report.licence,
        "space_id": space_id,
        "dimension": settings.get("dimension", 384),
        "parameters": {part: count for part, count in parameters.items() if count},
        "towers": {side: _tower(settings.get(side)) for side in ("audio", "text")},
        "front_end": to_json(settings["frontend"]),
        "front_end_in_words": _front_end(settings["frontend"]),
        "window": to_json(windowing),
        "window_in_words": _window(windowing),
        "mapped": report.mapped,
        "computed": _reasons(report.computed),
        "dropped": _reasons(report.dropped),
        "assumed": list(report.notes),
        "tokenizer": report.tokenizer,
        "text_missing": report.text_missing,
    }


def write_card(folder: str | os.PathLike, *, name: str | None = None) -> Path:
    """Write the README.md of a model folder of ours, from its configuration; returns its path.

    name   what the card calls the model, and how it is loaded: its name on the hub. None: the name of the folder.

    Raises ModelError where `folder` is no model folder, or holds a README.md that somebody else wrote.
    """
    folder = Path(folder)
    config = native.read_config(native.find_folder(folder))
    folder = native.find_folder(folder)
    card = folder / "README.md"
    if card.is_file() and _MARK not in card.read_text(encoding="utf-8", errors="replace"):
        raise ModelError(f"'{card}' was written by hand: remove or rename it to have a new one made")
    try:
        model_spec = from_json(config["model"])
        facts = describe(model_spec, _numbers(folder), _report(config), space_id=str(config.get("space_id", "")))
    except (SpecError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder / 'config.json'} does not describe a model: {error}") from error
    with atomic_file(card) as file:
        file.write(_card(facts, name or folder.name).encode())
    return card


_MARK = "<!-- Written by clapkit from config.json; remove this line to keep your own changes. -->"


def _report(config: Mapping[str, Any]) -> Report:
    return Report.from_json(config.get("origin"))


def _numbers(folder: Path) -> dict[str, int]:
    """Name of each tensor -> how many numbers it holds; only the header of the file is read."""
    path = folder / "model.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            return {name: math.prod(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"'{path}' cannot be read as safetensors: {error}") from error


def _tower(part: Spec | None) -> str | None:
    return None if part is None else part.target.rpartition(":")[2]


def _front_end(settings: Any) -> str:
    hop_ms = 1000 * settings.hop_samples / settings.rate_hz
    if getattr(settings, "scale", "") == "linear":
        bands = f"spectrum of {settings.mel_bins} bins"
    else:
        bands = f"{settings.mel_bins} mel bands from {settings.low_hz:g} to {settings.high_hz:g} Hz"
    rounded = ", rounded to 16 bits" if getattr(settings, "quantise_int16", False) else ""
    return f"{settings.rate_hz} Hz mono{rounded}; {bands}, a frame every {hop_ms:.4g} ms"


def _window(windowing: Windowing) -> str:
    longer = _LONGER[windowing.longer].format(window_s=windowing.window_s, hop_s=windowing.hop_s)
    return f"{windowing.window_s:g} s; {_FILLS[windowing.fill]}; {longer}"


def _reasons(reasons: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {"tensors": pattern, "count": count, "reason": reason} for pattern, (count, reason) in grouped(reasons).items()
    ]


def _card(facts: Mapping[str, Any], name: str) -> str:
    licence = _LICENCES.get(facts["licence"].lower().replace(" ", "-"))
    tags = ["audio", "clap", "language-audio-pretraining", "feature-extraction"]
    front = ["library_name: clapkit", *([f"license: {licence}"] if licence else []), "tags:", *(f"- {t}" for t in tags)]
    total = sum(facts["parameters"].values())
    sizes = "\n".join(f"| {part} | {count:,} |" for part, count in facts["parameters"].items())
    speaks = facts["text_missing"] is None and facts["towers"]["text"] is not None
    origin = "" if facts["family"] == "clapkit" else f" It was made from a checkpoint of the family {facts['family']}."
    texts = (
        'print(clap.classify(["dog.wav"], ["a dog barks", "rain"]))'
        if speaks
        else f"# No texts: {facts['text_missing'] or 'this model has no language side'}"
    )
    notes = "".join(f"- {note}\n" for note in facts["assumed"])
    return f"""---
{chr(10).join(front)}
---
{_MARK}

# {name}

{"A model of sound and language in one space" if speaks else "A model of sound"}: {facts["about"]}.{origin}

| part | numbers |
|---|---|
{sizes}
| together | {total:,} |

- Space: {facts["dimension"]} dimensions, `{facts["space_id"]}`
- Towers: {facts["towers"]["audio"]} for sound{f", {facts['towers']['text']} for texts" if speaks else ""}
- Front-end: {facts["front_end_in_words"]}
- Window: {facts["window_in_words"]}
- Licence of the weights: {facts["licence"]}
{f"- Tokenizer: {facts['tokenizer']}{chr(10)}" if facts["tokenizer"] else ""}{notes}
## Use

```python
import clapkit

clap = clapkit.load("{name}")
vectors = clap.embed_audio(["dog.wav", "rain.wav"])
{texts}
```
"""
