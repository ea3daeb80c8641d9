"""The model that is meant where none is named: where its folder is on this machine."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from clapkit.errors import CheckpointError

OWN = "clapkit-tiny"
FOLDER_VARIABLE = "CLAPKIT_MODEL"
_PACKAGE = "clapkit_tiny"


def find_own() -> Path:
    """The folder of `OWN`: that of the variable CLAPKIT_MODEL, else that of the data package beside clapkit.

    CheckpointError that says how to get one, and for a variable that names no folder or file.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        if not os.path.exists(named):
            raise CheckpointError(f"{FOLDER_VARIABLE} names '{named}', which is not there: expected a model folder")
        return Path(named)
    # find_spec of a top-level name runs no code of the package.
    found = importlib.util.find_spec(_PACKAGE)
    for place in (found.submodule_search_locations or ()) if found else ():
        if (Path(place) / "model" / "config.json").is_file():
            return Path(place) / "model"
    raise CheckpointError(
        f"no model was named, and {OWN} is not on this machine. Name one (a run, a model folder, a checkpoint: "
        f"docs/checkpoints.md), set {FOLDER_VARIABLE} to its folder, or make it:  "
        "python -m clapkit.recipes.released.tiny --data DATA --out OUT"
    )
