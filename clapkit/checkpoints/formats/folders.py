"""Which files of a folder are its checkpoint, and what the files beside it say about the model."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

from clapkit.errors import CheckpointError

_USUAL = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
_CONFIGS = ("config.json", "open_clip_config.json")
_NESTED_CONFIGS = ("preprocessor_config.json",)
_MOST_CONFIG_BYTES = 4 * 2**20
_MOST_SHARDS = 1000
_LINE = re.compile(r"([A-Za-z_][\w.-]*)\s*:\s+(.+)")


def files_of(folder: Path) -> list[Path]:
    """The file or the shards that a folder's checkpoint is made of. CheckpointError if that is none or not clear."""
    for name in _USUAL:
        if (folder / name).is_file():
            return _shards(folder / name) if name.endswith(".index.json") else [folder / name]
    # The files of a trainer (training_args.bin, optimizer.pt, ...) stand beside weights, and are none.
    other = ("optimizer", "scheduler", "scaler", "rng_state", "training_args")
    found = sorted(
        p for p in folder.iterdir() if p.suffix in _SUFFIXES and p.is_file() and not p.name.startswith(other)
    )
    if len(found) == 1:
        return found
    if found:
        names = ", ".join(p.name for p in found[:10])
        raise CheckpointError(f"'{folder}' holds {len(found)} checkpoints ({names}): give one of these files")
    inside = ", ".join(sorted(p.name for p in folder.iterdir())[:10]) or "nothing"
    raise CheckpointError(
        f"'{folder}' holds no checkpoint (there is {inside}): expected {', '.join(_USUAL[:3])}, "
        f"or one file that ends in {', '.join(_SUFFIXES)}"
    )


def is_the_checkpoint(file: Path) -> bool:
    """Whether the folder of this file is about this file, so that the configuration beside it speaks of it."""
    try:
        return files_of(file.parent) == [file]
    except (CheckpointError, OSError):
        return False


def beside(folder: Path) -> dict[str, Any]:
    """The configuration files of a folder: config.json or open_clip_config.json, and a yml if there is one alone.

    preprocessor_config.json (the front-end of transformers) stands under its own name. Of a yml only the lines
    `key: value` at the margin are read.
    """
    config: dict[str, Any] = {}
    lines = sorted(p for p in folder.iterdir() if p.suffix in (".yml", ".yaml") and p.is_file())
    if len(lines) == 1:
        config |= _flat_lines(_text(lines[0]))
    for name in _CONFIGS:
        if (folder / name).is_file():
            config |= _json(folder / name)
    for name in _NESTED_CONFIGS:
        if (folder / name).is_file():
            config[name.removesuffix(".json")] = _json(folder / name)
    return config


def _shards(index: Path) -> list[Path]:
    entries = _json(index).get("weight_map")
    if not isinstance(entries, dict) or not entries:
        raise CheckpointError(f"'{index}' has no weight_map, which says in which file each tensor is")
    names = list(dict.fromkeys(entries.values()))
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or "\\" in name or name in ("", ".", ".."):
            raise CheckpointError(f"'{index}' names the file {str(name)[:80]!r}, expected a name in its own folder")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing or len(names) > _MOST_SHARDS:
        raise CheckpointError(
            f"'{index}' names {len(names)} files, {len(missing)} are missing: {', '.join(missing[:5])}"
        )
    return [index.parent / name for name in names]


def _text(path: Path) -> str:
    if path.stat().st_size > _MOST_CONFIG_BYTES:
        raise CheckpointError(f"'{path}' is larger than {_MOST_CONFIG_BYTES >> 20} MiB: this is no configuration")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"'{path}' is no text in UTF-8 ({error.reason}), expected a configuration") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"'{path}' cannot be read as JSON ({str(error)[:200]}): get the file again") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"'{path}' holds a {type(found).__name__}, expected a JSON object with settings")
    return found


def _flat_lines(text: str) -> dict[str, Any]:
    settings = {}
    for line in text.splitlines():
        if found := _LINE.fullmatch(line.partition(" #")[0].rstrip()):
            settings[found[1]] = _value(found[2].strip())
    return settings


def _value(word: str) -> Any:
    """true, null, a number, a quoted text or a list as such; anything else is a text."""
    words = {"true": True, "yes": True, "false": False, "no": False, "null": None, "~": None}
    if word.lower() in words:
        return words[word.lower()]
    try:
        return ast.literal_eval(word) if len(word) <= 1000 else word
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return word
