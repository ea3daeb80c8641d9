"""The language side of a file that has none, and the tokenizer of one that has."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from clapkit import native
from clapkit.checkpoints.families.clip import is_clip, read_clip_text
from clapkit.errors import CheckpointError, TextTowerError
from clapkit.heads.projection import Keep, Linear
from clapkit.model import DualEncoder
from clapkit.native import Loaded, tokenizer_of
from clapkit.spec import Spec, derive, spec
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


@dataclass(frozen=True)
class _Language:
    """A language side on its own: modules, what describes them, and the width of the space that it speaks of."""

    text: Any
    text_spec: Spec
    head: Any
    head_spec: Spec
    width: int
    tokenizer: native.TextTokenizer | None
    name: str | None
    pad_id: int
    temperature: torch.Tensor | None = None


def with_text(loaded: Loaded, source: Path, load: Callable[..., Loaded], *, join: bool = False) -> Loaded:
    """The same sound side with the language side of `source`.

    `source` is the folder of a text encoder or of CLIP, or a checkpoint that has a language side. With `join`, a sound
    side that was never trained with text, or with texts of another width, gets a new head into the space of `source`:
    a beginning for training.
    CheckpointError if the two do not share a width, or neither has a language side.
    """
    model = loaded.model
    language = _language_of(source, load)
    changes: dict[str, Any] = {}
    note = f"the language side is that of '{os.path.basename(source)}'"
    if join and (isinstance(model.audio_head, Keep) or language.width != model.dimension):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model.audio_head = Linear(model.audio.width, language.width)
        model.dimension = language.width
        changes = {"audio_head": spec(Linear), "dimension": language.width}
        note += "; the head of the sound side is new and knows nothing before it is trained"
    elif language.width != model.dimension:
        raise CheckpointError(
            f"'{source}' speaks of a space of {language.width} numbers, '{loaded.folder}' of {model.dimension}: they "
            "were not trained together"
        )
    if language.temperature is not None:
        model.logit_scale.data.copy_(language.temperature)
    model.text, model.text_head = language.text.requires_grad_(False).eval(), language.head.eval()
    model.text_missing = None
    whole = derive(loaded.spec, text=language.text_spec, text_head=language.head_spec, text_missing=None, **changes)
    notes = (*loaded.report.notes, note)
    report = replace(loaded.report, text_missing=None, tokenizer=language.name, notes=notes)
    space = native.space_id(model, whole)
    return replace(
        loaded, spec=whole, tokenizer=language.tokenizer, space_id=space, report=report, pad_id=language.pad_id
    )


def _language_of(source: Path, load: Callable[..., Loaded]) -> _Language:
    if is_clip(source):
        text, text_spec, head, head_spec = read_clip_text(source)
        tokenizer = tokenizer_of_folder(text, source) if (source / TOKENIZER_FILE).is_file() else None
        return _Language(text, text_spec, head, head_spec, head.width, tokenizer, "openai/clip-vit-base-patch32", 0)
    if _is_encoder(source):
        text = TransformersText.from_folder(source, pooling="mean")
        head, tokenizer = Keep(text.width, text.width), tokenizer_of_folder(text, source)
        return _Language(text, text.spec(), head, spec(Keep), text.width, tokenizer, None, 0)
    other = load(source)
    model = other.model
    if model.text is None or model.text_head is None:
        raise CheckpointError(f"'{source}' has no language side either: {model.text_missing or 'sound alone'}")
    text_spec, head_spec = (other.spec.arguments[part] for part in ("text", "text_head"))
    return _Language(
        *(model.text, text_spec, model.text_head, head_spec, model.dimension),
        *(other.tokenizer, other.report.tokenizer, other.pad_id, model.logit_scale.data),
    )


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
