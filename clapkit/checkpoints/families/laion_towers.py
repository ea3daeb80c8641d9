"""The HTS-AT and RoBERTa towers under the names of LAION-CLAP, which several families share behind other prefixes.

Sizes are read from shapes: `htsat_tower`, `roberta_tower`; what becomes of each tensor: `htsat_rules`, `roberta_rules`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from clapkit.audio.mel_settings import MelSettings
from clapkit.checkpoints.base import Foreign, Shapes
from clapkit.checkpoints.families.panns import mel_rules, shape_of
from clapkit.checkpoints.rules import Change, Computed, Drop, Rename, Rule
from clapkit.errors import CheckpointError
from clapkit.heads.projection import MLP
from clapkit.model import Windowing
from clapkit.nets.fusion import CHUNKS
from clapkit.spec import Spec, part_name, spec, with_defaults
from clapkit.towers.hf import TransformersText
from clapkit.towers.htsat import HTSAT

HEAD_WIDTH = 64  # of every published RoBERTa; the number of its heads leaves no trace in the shapes
_BLOCK = "layers.{i}.blocks.{j}"
# Behind the mean over the image, the layers of the global gate count from one.
_GATE_LAYERS = {
    f"{theirs}.{first + place}": f"{ours}.{name}"
    for theirs, ours, first in (("local_att", "local_gate", 0), ("global_att", "whole_gate", 1))
    for place, name in ((0, "down"), (1, "norm1"), (3, "up"), (4, "norm2"))
}
_TAGGING = "the tagging layer over the classes of AudioSet, behind the embedding"


@dataclass(frozen=True)
class SizeNames:
    """Names inside a block of the tensors from which the sizes of an HTS-AT are read."""

    block_norm: str = "norm1.weight"
    bias_table: str = "attn.relative_position_bias_table"
    rise: str = "mlp.fc1.weight"


def htsat_tower(
    foreign: Foreign, prefix: str, *, frames_in: int, image: int = 256, names: SizeNames | None = None
) -> Spec:
    """The Spec of the HTS-AT whose tensors begin with `prefix`, e.g. "audio_branch."; fused if it has a fusion."""
    shapes, names = foreign.shapes, names or SizeNames()
    width, channels, patch, other = shape_of(shapes, f"{prefix}patch_embed.proj.weight", axes=4)
    if channels != 1 or patch != other:
        raise CheckpointError(
            f"{prefix}patch_embed.proj.weight is {[width, channels, patch, other]}, expected one channel and square "
            "patches: fusion by channels ('channel_map') was never published"
        )
    stages = foreign.count(f"{prefix}layers.{{i}}.blocks.0.{names.block_norm}")
    blocks = [f"{prefix}layers.{i}.blocks" for i in range(stages)]
    tables = [shape_of(shapes, f"{block}.0.{names.bias_table}", axes=2) for block in blocks]
    hidden, _ = shape_of(shapes, f"{prefix}layers.0.blocks.0.{names.rise}", axes=2)
    gate = f"{prefix}patch_embed.fusion_model.local_att.0.weight"
    fused = any(name.startswith(f"{prefix}patch_embed.fusion_model.") for name in shapes)
    return spec(
        HTSAT,
        frames_in=frames_in,
        width=width,
        depths=tuple(foreign.count(f"{block}.{{i}}.{names.block_norm}") for block in blocks),
        heads=tuple(heads for _, heads in tables),
        window=window_of(tables[0][0]),
        image=image,
        patch=patch,
        expansion=hidden / width,
        fusion=fused,
        fusion_width=shape_of(shapes, gate, axes=4)[0] if fused else None,
    )


def window_of(rows: int) -> int:
    """Side of the window whose table of distances has so many rows. CheckpointError if there is none."""
    side = math.isqrt(rows)
    if side * side != rows or side % 2 == 0:
        raise CheckpointError(f"a table of relative positions has {rows} rows, expected the square of an odd number")
    return (side + 1) // 2


def htsat_rules(prefix: str) -> tuple[Rule, ...]:
    """From the names behind `prefix` to those of the audio tower of a DualEncoder."""
    block, ours = f"{prefix}{_BLOCK}", "audio.stages.{i}.blocks.{j}"
    merge = f"{prefix}layers.{{i}}.downsample"
    return (
        *mel_rules(prefix),
        Rename(f"{prefix}bn0.{{p}}", "audio.input_norm.norm.{p}"),
        patches(f"{prefix}patch_embed.proj.weight", "audio.embed.weight", longer=1),
        Rename(f"{prefix}patch_embed.proj.bias", "audio.embed.bias"),
        Rename(f"{prefix}patch_embed.norm.{{p}}", "audio.embed_norm.{p}"),
        *fusion_rules(f"{prefix}patch_embed."),
        Computed(f"{block}.attn_mask", "which tokens of a shifted window are no neighbours"),
        Computed(f"{block}.attn.relative_position_index", "which tokens of a window are how far apart"),
        Rename(f"{block}.attn.relative_position_bias_table", f"{ours}.attention.bias_table"),
        Rename(f"{block}.attn.qkv.{{p}}", f"{ours}.attention.qkv.{{p}}"),
        Rename(f"{block}.attn.proj.{{p}}", f"{ours}.attention.out.{{p}}"),
        Rename(f"{block}.norm1.{{p}}", f"{ours}.norm1.{{p}}"),
        Rename(f"{block}.norm2.{{p}}", f"{ours}.norm2.{{p}}"),
        Rename(f"{block}.mlp.fc1.{{p}}", f"{ours}.rise.{{p}}"),
        Rename(f"{block}.mlp.fc2.{{p}}", f"{ours}.fall.{{p}}"),
        Rename(f"{merge}.reduction.{{p}}", "audio.stages.{i}.merge.reduce.{p}"),
        Rename(f"{merge}.norm.{{p}}", "audio.stages.{i}.merge.norm.{p}"),
        Rename(f"{prefix}norm.{{p}}", "audio.norm.{p}"),
        Drop(f"{prefix}tscam_conv.{{p}}", _TAGGING),
        Drop(f"{prefix}head.{{p}}", _TAGGING),
    )


def fusion_rules(prefix: str) -> tuple[Rule, ...]:
    """The attention feature fusion; its 1 x 1 convolutions are linear layers over tokens here."""
    rules: list[Rule] = [
        patches(f"{prefix}mel_conv2d.weight", "audio.fusion.embed.weight", longer=CHUNKS),
        Rename(f"{prefix}mel_conv2d.bias", "audio.fusion.embed.bias"),
    ]
    for theirs, ours in _GATE_LAYERS.items():
        inside, outside = f"{prefix}fusion_model.{theirs}", f"audio.fusion.{ours}"
        if ours.endswith(("down", "up")):
            rules.append(Change(f"{inside}.weight", f"{outside}.weight", _flat, _as_convolution))
        rules.append(Rename(f"{inside}.{{p}}", f"{outside}.{{p}}"))
    return tuple(rules)


def absent_counters(shapes: Shapes, prefix: str) -> dict[str, float]:
    """Our names of the batch counters that a file lacks: a batch norm has one, but not every file does."""
    norms = {"bn0": "audio.input_norm.norm"}
    norms |= {f"patch_embed.fusion_model.{theirs}": f"audio.fusion.{ours}" for theirs, ours in _GATE_LAYERS.items()}
    return {
        f"{ours}.num_batches_tracked": 0.0
        for theirs, ours in norms.items()
        if f"{prefix}{theirs}.running_mean" in shapes and f"{prefix}{theirs}.num_batches_tracked" not in shapes
    }


def patches(theirs: str, ours: str, *, longer: int) -> Change:
    """A convolution over patches p high and `longer` * p long is a linear layer over their pixels."""

    def as_convolution(weight: Tensor) -> Tensor:
        side = math.isqrt(weight.shape[1] // longer)
        return weight.unflatten(1, (1, side, longer * side))

    return Change(theirs, ours, _flat, as_convolution)


def _flat(weight: Tensor) -> Tensor:
    return weight.flatten(1)


def _as_convolution(weight: Tensor) -> Tensor:
    return weight[:, :, None, None]


def roberta_tower(foreign: Foreign, prefix: str, *, max_tokens: int, told: Mapping[str, Any] | None = None) -> Spec:
    """The Spec of the RoBERTa, read by its pooler, whose tensors begin with `prefix`, e.g. "text_branch.".

    `told` is what a configuration beside the file says where shapes are silent: number of heads, epsilon...
    """
    shapes, told = foreign.shapes, told or {}
    vocabulary, width = shape_of(shapes, f"{prefix}embeddings.word_embeddings.weight", axes=2)
    positions, _ = shape_of(shapes, f"{prefix}embeddings.position_embeddings.weight", axes=2)
    types, _ = shape_of(shapes, f"{prefix}embeddings.token_type_embeddings.weight", axes=2)
    inner, _ = shape_of(shapes, f"{prefix}encoder.layer.0.intermediate.dense.weight", axes=2)
    heads = told.get("num_attention_heads", max(1, width // HEAD_WIDTH))
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise CheckpointError(f"the text tower is {width} wide, which cannot be divided among {heads!r} heads")
    pad_id = told.get("pad_token_id", 1)
    if positions - pad_id < 2:
        raise CheckpointError(
            f"{prefix}embeddings has {positions} positions, of which the first {pad_id + 1} are unused"
        )
    config = {
        "model_type": "roberta",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": foreign.count(f"{prefix}encoder.layer.{{i}}.output.dense.weight"),
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "max_position_embeddings": positions,
        "type_vocab_size": types,
        "layer_norm_eps": told.get("layer_norm_eps", 1e-5),
        "hidden_act": told.get("hidden_act", "gelu"),
        "pad_token_id": pad_id,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    # Positions are counted from behind the padding id.
    return spec(TransformersText, config=config, pooling="pooler", max_tokens=min(max_tokens, positions - pad_id - 1))


def roberta_rules(prefix: str) -> tuple[Rule, ...]:
    """From the names behind `prefix` to those of the text tower of a DualEncoder."""
    return (
        Computed(f"{prefix}embeddings.position_ids", "a row of counting numbers"),
        Computed(f"{prefix}embeddings.token_type_ids", "a row of zeros"),
        Rename(f"{prefix}{{rest*}}", "text.encoder.{rest*}"),
    )


@dataclass(frozen=True)
class ClapParts:
    """What the layouts of LAION-CLAP and transformers can hold, taken from the Spec of a DualEncoder.

    audio       arguments of the HTS-AT, all of them
    text        configuration of the RoBERTa
    activation  of both heads, MLPs whose hidden width is `dimension`
    """

    frontend: MelSettings
    audio: Mapping[str, Any]
    text: Mapping[str, Any]
    activation: str
    dimension: int
    window_s: float

    @property
    def sides(self) -> list[int]:
        """Tokens along a side of the grid of each stage."""
        return [self.audio["image"] // self.audio["patch"] // 2**i for i in range(len(self.audio["depths"]))]


def clap_parts(model: Spec, *, layout: str) -> ClapParts:
    """The parts of a model that is to be written as `layout`. CheckpointError names the one that has no place there."""
    found = with_defaults(model).arguments
    audio, text = found["audio"], found["text"]
    heads = [found["audio_head"], found["text_head"]]
    if audio.target != part_name(HTSAT):
        raise CheckpointError(f"files of {layout} hold an HTSAT as audio tower, not {audio}")
    if text is None or text.target != part_name(TransformersText) or text.arguments["pooling"] != "pooler":
        raise CheckpointError(f"files of {layout} hold a RoBERTa read by its pooler as text tower, not {text}")
    if text.arguments["config"].get("model_type") != "roberta":
        raise CheckpointError(
            f"files of {layout} hold a RoBERTa as text tower, not '{text.arguments['config'].get('model_type')}'"
        )
    for head in heads:
        fits = head.target == part_name(MLP) and head.arguments["hidden_width"] in (None, found["dimension"])
        if not fits or head.arguments["activation"] != heads[0].arguments["activation"]:
            raise CheckpointError(
                f"files of {layout} hold two MLP heads alike, {found['dimension']} wide inside, not {head}"
            )
    if not isinstance(found["frontend"], MelSettings):
        raise CheckpointError(f"{layout} computes a log-mel as front-end, not {found['frontend']}")
    return ClapParts(
        frontend=found["frontend"],
        audio=audio.arguments,
        text=text.arguments["config"],
        activation=heads[0].arguments["activation"],
        dimension=found["dimension"],
        window_s=(found["windowing"] or Windowing()).window_s,
    )
