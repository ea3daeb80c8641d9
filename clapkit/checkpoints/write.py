"""A loaded model written in another layout: ours, that of transformers, or that of LAION."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from clapkit import native
from clapkit.checkpoints.base import Importer
from clapkit.checkpoints.table import IMPORTERS
from clapkit.errors import CheckpointError, ModelError, nearest_name
from clapkit.files import atomic_file
from clapkit.native import Loaded


def layouts() -> list[str]:
    """What a model can be written as: "native" and every family with a way back."""
    return ["native", *(importer.family for importer in IMPORTERS if importer.writes is not None)]


def write_model(loaded: Loaded, out: str | os.PathLike, *, to: str = "native") -> Path:
    """Write `loaded` to `out`: a new folder ("native", "transformers") or a file ("laion"). Returns the path.

    CheckpointError for a model that has no place in that layout, before anything is written; ModelError where `out`
    exists already.
    """
    out = Path(out)
    if to not in layouts():
        raise CheckpointError(f"a model is not written as '{to}'; {nearest_name(to, layouts())}")
    if out.exists():
        raise ModelError(f"'{out}' exists already: choose another name, or remove it")
    if to == "native":
        native.save(
            loaded.model,
            loaded.spec,
            out,
            tokenizer=loaded.tokenizer,
            report=loaded.report,
            aside=loaded.aside,
            pad_id=loaded.pad_id,
        )
        return out
    importer = next(i for i in IMPORTERS if i.family == to)
    content = _content(importer, loaded)
    if to == "transformers":
        _write_folder(content, out, loaded)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(out) as file:
            torch.save(content, file)
    return out


def _content(importer: Importer, loaded: Loaded) -> Any:
    assert importer.writes is not None, "layouts() names only families with a way back"
    tensors = {name: tensor.detach().cpu() for name, tensor in loaded.model.state_dict().items()}
    return importer.writes(tensors, loaded.spec, loaded.aside)


def _write_folder(content: dict[str, Any], out: Path, loaded: Loaded) -> None:
    """A folder of transformers: JSON files, the weights, the tokenizer where it is known."""
    out.mkdir(parents=True)
    for name in ("config", "preprocessor_config"):
        with atomic_file(out / f"{name}.json") as file:
            file.write(json.dumps(content[name], indent=2, ensure_ascii=False).encode())
    native.save_tensors(content["tensors"], out / "model.safetensors")
    if loaded.tokenizer is not None:
        loaded.tokenizer.save(out)
