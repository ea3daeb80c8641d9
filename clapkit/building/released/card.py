"""The card of a model that `making.make` made: written from its files, so that no line of it is remembered."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clapkit.errors import DataError
from clapkit.files import atomic_file

_USE = {
    "released": "CC BY 4.0. The sound it learned from is CC0, CC BY or as free, each clip by its own licence; "
    "`ATTRIBUTION.txt` names everybody.",
    "research": "**For research only.** Some of the sound it learned from allows no commercial use, or asks for the "
    "same licence again (`ATTRIBUTION.txt`).",
}
_LIMITS = """\
- It cannot tell order, nor who does what to whom: a text is the mean of its words.
- It knows few kinds of sound. Classes that it never heard are often taken for others.
- English only. Speech is heard as speech: what is said is not understood.
- Scores rank; they are no probabilities that a sound is there.
- Hardly any music beyond single instruments and loops. No sound of any region or culture was sought for balance."""


def write_card(out: Path, *, figures: Mapping[str, Any] | None = None) -> Path:
    """`run/model/README.md` of a folder that `make` filled, with the attributions beside it; returns its path.

    figures  name -> number or {"value", "low", "high"}; None: the card says that nothing was measured
    DataError where the training has not ended.
    """
    model = out / "run" / "model"
    if not (model / "config.json").is_file():
        raise DataError(f"{out} holds no finished model: run/model/config.json is missing, make it first")
    selection, distilled = _read(out / "selection.json"), _read(out / "text" / "distilled.json")
    heard, config = _read(out / "run" / "data.json"), _read(model / "config.json")
    recipe = _read(out / "run" / "recipe.json")["recipe"]
    parts = [
        f"# clapkit-tiny ({selection['variant']})\n\nSound and English text in one space, `{config['space_id']}`.",
        f"## Use\n\n{_USE[selection['variant']]}",
        f"## What it learned from\n\n{_sets(selection)}\n\n{heard['used']} clips were heard in "
        f"{heard['steps']} steps of {recipe['batch']['clips']}, seed {recipe['train']['seed']}, by clapkit "
        f"{config['clapkit']}.",
        "## Text\n\nA table of token vectors, distilled from all-MiniLM-L6-v2 (Apache-2.0) on "
        f"{distilled['texts']} texts; mean cosine with it there {distilled['cosine']:.3f}.",
        f"## Figures\n\n{_figures(figures)}",
        f"## What it cannot do\n\n{_LIMITS}",
    ]
    shutil.copyfile(out / "ATTRIBUTION.txt", model / "ATTRIBUTION.txt")
    path = model / "README.md"
    with atomic_file(path) as file:
        file.write(("\n\n".join(parts) + "\n").encode())
    return path


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _sets(selection: Mapping[str, Any]) -> str:
    """A row for each set: clips taken, and those left out by reason."""
    taken, left_out = selection["sets"], selection["left_out"]
    rows = ["| set | clips | left out: licence | left out: held for tests |", "|---|---|---|---|"]
    for name in sorted({*taken, *left_out}):
        reasons = left_out.get(name, {})
        rows.append(f"| {name} | {taken.get(name, 0)} | {reasons.get('licence', 0)} | {reasons.get('held out', 0)} |")
    return "\n".join(rows)


def _figures(figures: Mapping[str, Any] | None) -> str:
    if not figures:
        return "None were measured."
    rows = ["| what | figure | 95 % interval |", "|---|---|---|"]
    for name, found in figures.items():
        if isinstance(found, Mapping):
            rows.append(f"| {name} | {found['value']:.3f} | {found['low']:.3f} - {found['high']:.3f} |")
        else:
            rows.append(f"| {name} | {found:g} | |")
    return "\n".join(rows)
