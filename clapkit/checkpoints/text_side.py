"""The language side of a file that has none, and the tokenizer of one that has."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from clapkit import native
from clapkit.checkpoints.families.clip import is_clip, read_clip_text
from clapkit.errors import CheckpointError, TextTowerError
from clapkit.heads.projection import Keep
from clapkit.model import DualEncoder
from clapkit.native import Loaded, tokenizer_of
from clapkit.spec import derive, spec
from clapkit.text.locate import tokenizer_in_cache
from clapkit.text.tokenizers import TOKENIZER_FILE
from clapkit.towers.hf import TransformersText


def find_tokenizer(model: DualEncoder, path: Path, name: str | None) -> native.TextTokenizer | None:
    """The tokenizer beside the checkpoint, or the one called `name` in the Hugging Face cache; None where neither is.

    Nothing is downloaded here: loading a model does not touch the network (`Clap.embed_text` may).
    """
    if model.text is None:
        return None
    folders = [path, path / "text", path.parent] if path.is_dir() else [path.parent, path.parent / "text"]
    cached = tokenizer_in_cache(name) if name else None
    for folder in (*folders, *([cached] if cached else [])):
        if (folder / TOKENIZER_FILE).is_file():
            return tokenizer_of(model, folder)
    return None


def with_text(loaded: Loaded, source: Path, load: Callable[..., Loaded]) -> Loaded:
    """The same sound side with the language side of `source`.

    `source` is the folder of a text encoder or of CLIP, or a checkpoint that has a language side.
    CheckpointError if the two do not share a width.
    """
    model = loaded.model
    text: Any
    text_head: Any
    if is_clip(source):
        text, text_spec, text_head, head_spec = read_clip_text(source)
        if text_head.width != model.dimension:
            raise CheckpointError(
                f"the CLIP in '{source}' speaks of a space of {text_head.width} numbers, '{loaded.folder}' of "
                f"{model.dimension}: they were not trained together"
            )
        tokenizer = tokenizer_of_folder(text, source) if (source / TOKENIZER_FILE).is_file() else None
        name, pad_id = "openai/clip-vit-base-patch32", 0
    elif _is_encoder(source):
        text = TransformersText.from_folder(source, pooling="mean")
        if text.width != model.dimension:
            raise CheckpointError(
                f"the text encoder in '{source}' gives {text.width} numbers and the space of '{loaded.folder}' has "
                f"{model.dimension}: it is not the one that this model was trained with"
            )
        text_spec, text_head, head_spec, pad_id = text.spec(), Keep(text.width, model.dimension), spec(Keep), 0
        tokenizer = tokenizer_of_folder(text, source)
        name = None
    else:
        other = load(source)
        if other.model.text is None or other.model.text_head is None:
            raise CheckpointError(
                f"'{source}' has no language side either: {other.model.text_missing or 'sound alone'}"
            )
        if other.model.dimension != model.dimension:
            raise CheckpointError(
                f"'{source}' speaks of a space of {other.model.dimension} numbers, '{loaded.folder}' of "
                f"{model.dimension}: they were not trained together"
            )
        text, text_head = other.model.text, other.model.text_head
        text_spec, head_spec = (other.spec.arguments[name] for name in ("text", "text_head"))
        tokenizer, pad_id, name = other.tokenizer, other.pad_id, other.report.tokenizer
        model.logit_scale.data.copy_(other.model.logit_scale.data)
    model.text, model.text_head, model.text_missing = text.requires_grad_(False).eval(), text_head.eval(), None
    whole = derive(loaded.spec, text=text_spec, text_head=head_spec, text_missing=None)
    note = f"the language side is that of '{os.path.basename(source)}'"
    report = replace(loaded.report, text_missing=None, tokenizer=name, notes=(*loaded.report.notes, note))
    space = native.space_id(model, whole)
    return replace(loaded, spec=whole, tokenizer=tokenizer, space_id=space, report=report, pad_id=pad_id)


def tokenizer_of_folder(text: Any, folder: Path) -> native.TextTokenizer:
    if not (folder / TOKENIZER_FILE).is_file():
        raise TextTowerError(f"'{folder}' has no {TOKENIZER_FILE} beside its text encoder")
    return native.TextTokenizer(folder, max_tokens=text.max_tokens)


def _is_encoder(source: Path) -> bool:
    """Whether this is the folder of a text encoder alone: its configuration names a model type and no front-end."""
    if not (source / "config.json").is_file() or not (source / "model.safetensors").is_file():
        return False
    from clapkit.towers.hf import read_config

    config = read_config(source)
    return "model_type" in config and config["model_type"] != "clap" and "format_version" not in config
