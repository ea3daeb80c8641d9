"""The language half of CLIP as transformers stores it, for sound towers that were taught its space (Wav2CLIP)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clapkit.checkpoints.base import Foreign
from clapkit.checkpoints.families.panns import shape_of
from clapkit.checkpoints.reading import read
from clapkit.checkpoints.rules import Computed, Drop, Merge, Rename, Rule, to_ours
from clapkit.errors import CheckpointError
from clapkit.heads.projection import Linear
from clapkit.spec import Spec, spec
from clapkit.towers.clip_text import ClipText
from clapkit.towers.hf import build_to_fill, read_config

MODEL_TYPES = ("clip", "clip_text_model")
_PREFIX = "text_model."
_WORDS, _BLOCK = f"{_PREFIX}embeddings.token_embedding.weight", f"{_PREFIX}encoder.layers.{{i}}"
_PARTS = {"layer_norm1": "norm1", "layer_norm2": "norm2", "mlp.fc1": "rise", "mlp.fc2": "fall"}
_PARTS |= {"self_attn.out_proj": "out"}
_IMAGES = "the half of CLIP that looks at images"
_RULES: tuple[Rule, ...] = (
    Rename(_WORDS, "text.embedding.weight"),
    Rename(f"{_PREFIX}embeddings.position_embedding.weight", "text.position"),
    Computed(f"{_PREFIX}embeddings.position_ids", "a row of counting numbers"),
    Merge(
        tuple(f"{_BLOCK}.self_attn.{part}_proj.{{p}}" for part in "qkv"),
        "text.blocks.{i}.query_key_value.{p}",
    ),
    *(Rename(f"{_BLOCK}.{theirs}.{{p}}", f"text.blocks.{{i}}.{ours}.{{p}}") for theirs, ours in _PARTS.items()),
    Rename(f"{_PREFIX}final_layer_norm.{{p}}", "text.norm.{p}"),
    Rename("text_projection.weight", "text_head.linear.weight"),
    Drop("logit_scale", "the scale of images against texts"),
    Drop("vision_model.{rest*}", _IMAGES),
    Drop("visual_projection.weight", _IMAGES),
)


def is_clip(folder: Path) -> bool:
    """Whether this is a folder of transformers that holds a CLIP, or its text half with the projection."""
    return (folder / "config.json").is_file() and read_config(folder).get("model_type") in MODEL_TYPES


def read_clip_text(folder: Path) -> tuple[ClipText, Spec, Linear, Spec]:
    """Text tower and head of a CLIP folder, filled and in eval mode, each with the Spec that builds it.

    CheckpointError for a folder that lacks one of its tensors, or has one that is not known.
    """
    foreign = read(folder)
    config = foreign.config.get("text_config", foreign.config)
    tower_spec = _tower(foreign, config if isinstance(config, Mapping) else {})
    dimension, width = shape_of(foreign.shapes, "text_projection.weight", axes=2)
    ours = to_ours(foreign.tensors, _RULES).ours
    tower: ClipText = build_to_fill(tower_spec.build, ours)
    head = Linear(width, dimension, bias=False)
    for part, module in (("text.", tower), ("text_head.", head)):
        tensors = {name.removeprefix(part): x.float() for name, x in ours.items() if name.startswith(part)}
        try:
            module.load_state_dict(tensors, assign=True)
        except RuntimeError as error:
            raise CheckpointError(f"'{folder}' looks like CLIP, but its text tower does not fit: {error}") from error
    return tower.eval(), tower_spec, head.eval(), spec(Linear, bias=False)


def _tower(foreign: Foreign, config: Mapping[str, Any]) -> Spec:
    shapes = foreign.shapes
    vocabulary, width = shape_of(shapes, _WORDS, axes=2)
    positions, _ = shape_of(shapes, f"{_PREFIX}embeddings.position_embedding.weight", axes=2)
    hidden, _ = shape_of(shapes, f"{_PREFIX}encoder.layers.0.mlp.fc1.weight", axes=2)
    heads = config.get("num_attention_heads", 8)
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise CheckpointError(f"the text tower is {width} wide, which cannot be divided among {heads!r} heads")
    return spec(
        ClipText,
        vocabulary=vocabulary,
        width=width,
        depth=foreign.count(f"{_BLOCK}.layer_norm1.weight"),
        heads=heads,
        hidden=hidden,
        activation=config.get("hidden_act", "quick_gelu"),
        max_tokens=positions,
    )
