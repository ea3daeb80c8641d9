"""Audio towers without a language side: BEATs and OpenBEATs, and the MobileNets of EfficientAT."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from clapkit.audio.kaldi import KaldiSettings
from clapkit.audio.mel_settings import EFFICIENTAT, MelSettings
from clapkit.checkpoints.base import Foreign, Importer, Plan, Shapes
from clapkit.checkpoints.rules import Computed, Drop, Merge, Rename, Rule, transposed
from clapkit.errors import CheckpointError
from clapkit.heads.projection import Keep
from clapkit.model import DualEncoder, Windowing
from clapkit.spec import Spec, spec
from clapkit.towers.beats import BEATs
from clapkit.towers.efficientat import EfficientAT

_NO_TEXT = (
    "{} files hold a model of sound alone, which was never trained with text: there is nothing to embed it with. "
    "Give text=<checkpoint or folder> of a language side that was trained on this tower, or load a CLAP model"
)


def _audio_only(tower: Spec, *, frontend: Any, width: int, window_s: float) -> Spec:
    return spec(
        DualEncoder,
        frontend=frontend,
        audio=tower,
        text=None,
        audio_head=spec(Keep),
        text_head=None,
        dimension=width,
        windowing=Windowing(window_s=window_s, hop_s=window_s),
    )


def _shape(shapes: Shapes, name: str, *, axes: int) -> tuple[int, ...]:
    if name not in shapes:
        raise CheckpointError(f"it has no tensor '{name}', from which the sizes of the model are read")
    if len(shapes[name]) != axes or 0 in shapes[name]:
        raise CheckpointError(f"'{name}' is {list(shapes[name])}, expected {axes} axes, none of them 0")
    return shapes[name]


# --- BEATs ------------------------------------------------------------------------------------------------------------

_ATTENTION = "encoder.layers.{i}.self_attn"
_FIRST_ATTENTION = "encoder.layers.0.self_attn"
_POSITION = "encoder.pos_conv.0"
_MAX_DISTANCE = 800  # of every published BEATs
_BEATS_BINS = 128
# What the arithmetic of the tower takes for granted, as every published file has it.
_FIXED = {
    "activation_fn": "gelu",
    "deep_norm": True,
    "layer_norm_first": False,
    "relative_position_embedding": True,
    "gru_rel_pos": True,
}


def _is_beats(shapes: Shapes) -> bool:
    needed = ("patch_embedding.weight", f"{_FIRST_ATTENTION}.grep_a", f"{_POSITION}.bias")
    return all(name in shapes for name in needed)


def _beats_rules() -> tuple[Rule, ...]:
    rules: list[Rule] = [
        Rename("patch_embedding.{p}", "audio.embed.{p}"),
        Rename("layer_norm.{p}", "audio.embed_norm.{p}"),
        Rename("post_extract_proj.{p}", "audio.embed_map.{p}"),
        Rename(f"{_POSITION}.bias", "audio.position.bias"),
        Rename(f"{_POSITION}.weight_g", "audio.position.length"),
        Rename(f"{_POSITION}.weight_v", "audio.position.direction"),
        Rename(f"{_POSITION}.parametrizations.weight.original0", "audio.position.length"),
        Rename(f"{_POSITION}.parametrizations.weight.original1", "audio.position.direction"),
        Rename("encoder.layer_norm.{p}", "audio.norm.{p}"),
        Rename(f"{_FIRST_ATTENTION}.relative_attention_bias.weight", "audio.distances.weight"),
        Computed(
            f"{_ATTENTION}.relative_attention_bias.weight",
            "the table of the first layer, which all layers share, again",
        ),
        Merge(tuple(f"{_ATTENTION}.{x}_proj.{{p}}" for x in "qkv"), "audio.blocks.{i}.query_key_value.{p}"),
        Rename(f"{_ATTENTION}.out_proj.{{p}}", "audio.blocks.{i}.out.{p}"),
        Rename(f"{_ATTENTION}.grep_linear.{{p}}", "audio.blocks.{i}.gate.{p}"),
        Rename(f"{_ATTENTION}.grep_a", "audio.blocks.{i}.gate_scale"),
    ]
    for theirs, ours in (
        ("self_attn_layer_norm", "norm1"),
        ("fc1", "rise"),
        ("fc2", "fall"),
        ("final_layer_norm", "norm2"),
    ):
        rules.append(Rename(f"encoder.layers.{{i}}.{theirs}.{{p}}", f"audio.blocks.{{i}}.{ours}.{{p}}"))
    return (
        *rules,
        Rename("predictor.{p}", "audio.predictor.{p}"),
        Computed("patch_embedding_pad.weight", "a constant kernel that shrinks padding masks"),
        Computed("raw2fbank_pad.weight", "a constant kernel that shrinks padding masks"),
        Drop("decoder{rest*}", "the decoder of pre-training, which encoding does not use"),
        Drop("mask_emb{rest*}", "the token of masked patches, used in pre-training only"),
    )


def _beats_tower(foreign: Foreign, max_distance: int) -> Spec:
    shapes = foreign.shapes
    embed_width, channels, patch, across = _shape(shapes, "patch_embedding.weight", axes=4)
    hidden, width = _shape(shapes, "encoder.layers.0.fc1.weight", axes=2)
    buckets, heads = _shape(shapes, f"{_FIRST_ATTENTION}.relative_attention_bias.weight", axes=2)
    newer = f"{_POSITION}.parametrizations.weight.original1"
    _, per_group, kernel = _shape(shapes, newer if newer in shapes else f"{_POSITION}.weight_v", axes=3)
    if channels != 1 or patch != across:
        raise CheckpointError(
            f"patch_embedding.weight is {[embed_width, channels, patch, across]}, expected [width, 1, patch, patch]"
        )
    classes = _shape(shapes, "predictor.weight", axes=2)[0] if "predictor.weight" in shapes else None
    return spec(
        BEATs,
        patch=patch,
        embed_width=embed_width,
        embed_bias="patch_embedding.bias" in shapes,
        width=width,
        depth=foreign.count("encoder.layers.{i}.fc1.weight"),
        heads=heads,
        hidden=hidden,
        kernel=kernel,
        groups=max(1, width // per_group),
        buckets=buckets,
        max_distance=max_distance,
        classes=classes,
    )


def _beats_plan(foreign: Foreign) -> Plan:
    config: Mapping[str, Any] = foreign.config
    for name, expected in _FIXED.items():
        if config.get(name, expected) != expected:
            raise CheckpointError(
                f"its config has {name}={config[name]!r}: only {expected!r} is published and known here"
            )
    notes = []
    max_distance = config.get("max_distance")
    if max_distance is None:
        max_distance = _MAX_DISTANCE
        notes.append(f"the file has no config: max_distance={_MAX_DISTANCE} is taken, as in every published BEATs")
    if not isinstance(max_distance, int):
        raise CheckpointError(f"its config has max_distance={max_distance!r}, expected a whole number of tokens")
    tower = _beats_tower(foreign, max_distance)
    if tower.arguments["classes"] is not None:
        notes.append("fine-tuned: model.audio.logits(features) are the logits of its classes")
    width = tower.arguments["width"]
    return Plan(
        model=_audio_only(tower, frontend=KaldiSettings(mel_bins=_BEATS_BINS), width=width, window_s=30.0),
        rules=_beats_rules(),
        notes=tuple(notes),
        no_text=_NO_TEXT.format("BEATs"),
    )


# --- EfficientAT ------------------------------------------------------------------------------------------------------

_KERNEL = "features.{}.block.{}.0.weight"
_DEPTH = 15  # of MobileNetV3-Large, whose strides and non-linearities the tower has unless told otherwise
_HOP, _MELS = re.compile(r"hop_(\d+)(?!\d)"), re.compile(r"mels_(\d+)(?!\d)")
_HEADS = ("classifier.2.weight", "classifier.5.weight")


def _is_efficientat(shapes: Shapes) -> bool:
    needed = ("features.0.0.weight", "features.1.block.0.0.weight")
    return all(name in shapes for name in needed) and any(".conc_se_layers." in name for name in shapes)


def _widens(shapes: Shapes, block: int) -> bool:
    """Whether a block begins with a 1 x 1 convolution, and not with the one over each channel."""
    return _shape(shapes, _KERNEL.format(block, 0), axes=4)[2] == 1


def _has_squeeze(shapes: Shapes, block: int) -> bool:
    return any(name.startswith(f"features.{block}.block.") and "conc_se_layers" in name for name in shapes)


def _efficientat_rules(shapes: Shapes) -> tuple[Rule, ...]:
    """Their images have frequency first and ours time, so the two axes of every kernel change places."""
    rules: list[Rule] = [
        transposed("features.0.0.weight", "audio.stem.weight"),
        Rename("features.0.1.{p}", "audio.stem_norm.{p}"),
    ]
    for block in range(_DEPTH):
        theirs, ours, part = f"features.{block + 1}.block", f"audio.blocks.{block}", 0
        if _widens(shapes, block + 1):
            rules.append(Rename(f"{theirs}.0.0.weight", f"{ours}.widen.weight"))
            rules.append(Rename(f"{theirs}.0.1.{{p}}", f"{ours}.norm1.{{p}}"))
            part = 1
        rules.append(transposed(f"{theirs}.{part}.0.weight", f"{ours}.filter.weight"))
        rules.append(Rename(f"{theirs}.{part}.1.{{p}}", f"{ours}.norm2.{{p}}"))
        part += 1
        if _has_squeeze(shapes, block + 1):
            rules.append(Rename(f"{theirs}.{part}.conc_se_layers.0.fc1.{{p}}", f"{ours}.squeeze.{{p}}"))
            rules.append(Rename(f"{theirs}.{part}.conc_se_layers.0.fc2.{{p}}", f"{ours}.excite.{{p}}"))
            part += 1
        rules.append(Rename(f"{theirs}.{part}.0.weight", f"{ours}.narrow.weight"))
        rules.append(Rename(f"{theirs}.{part}.1.{{p}}", f"{ours}.norm3.{{p}}"))
    return (
        *rules,
        Rename(f"features.{_DEPTH + 1}.0.weight", "audio.last.weight"),
        Rename(f"features.{_DEPTH + 1}.1.{{p}}", "audio.last_norm.{p}"),
        Rename("classifier.2.{p}", "audio.tagger.linear1.{p}"),
        Rename("classifier.5.{p}", "audio.tagger.linear2.{p}"),
    )


def _efficientat_tower(shapes: Shapes) -> Spec:
    rows: list[tuple[int, int, int, int]] = []
    for block in range(1, _DEPTH + 1):
        part = int(_widens(shapes, block))
        inner, _, kernel, _ = _shape(shapes, _KERNEL.format(block, part), axes=4)
        squeezed = 0
        if _has_squeeze(shapes, block):
            squeezed, _ = _shape(shapes, f"features.{block}.block.{part + 1}.conc_se_layers.0.fc1.weight", axes=2)
        after = _shape(shapes, _KERNEL.format(block, part + 1 + bool(squeezed)), axes=4)[0]
        rows.append((kernel, inner, after, squeezed))
    kernels, inner_widths, channels, squeezed_widths = (tuple(column) for column in zip(*rows, strict=True))
    classes = None
    if _HEADS[0] in shapes:
        classes = (_shape(shapes, _HEADS[0], axes=2)[0], _shape(shapes, _HEADS[1], axes=2)[0])
    return spec(
        EfficientAT,
        stem=_shape(shapes, "features.0.0.weight", axes=4)[0],
        kernels=kernels,
        inner=inner_widths,
        channels=channels,
        squeezed=squeezed_widths,
        final=_shape(shapes, f"features.{_DEPTH + 1}.0.weight", axes=4)[0],
        classes=classes,
    )


def _efficientat_frontend(foreign: Foreign) -> tuple[MelSettings, str]:
    """The front-end, and how it is known: published names say where it is not the usual one (hop_5, mels_40)."""
    told = foreign.variant if foreign.variant is not None else foreign.path.name
    hop, mels = _HOP.search(told), _MELS.search(told)
    if foreign.variant is not None and hop is None and mels is None:
        raise CheckpointError(
            f"variant={foreign.variant!r} is unknown for EfficientAT: give hop_N (N milliseconds) or mels_N (N bins)"
        )
    settings = EFFICIENTAT
    if hop is not None:
        settings = replace(settings, hop_samples=int(hop[1]) * settings.rate_hz // 1000)
    if mels is not None:
        settings = replace(settings, mel_bins=int(mels[1]))
    how = f"{settings.rate_hz} Hz, {settings.mel_bins} bins, a hop of {settings.hop_samples} samples"
    if hop is None and mels is None:
        return settings, f"the file does not say its front-end: that of most mn*_as files is taken ({how})"
    return settings, f"the front-end is what {told!r} says ({how})"


def _efficientat_plan(foreign: Foreign) -> Plan:
    shapes = foreign.shapes
    tower = _efficientat_tower(shapes)
    frontend, how = _efficientat_frontend(foreign)
    notes = [how]
    if tower.arguments["classes"] is not None:
        notes.append("model.audio.logits(features) are the logits of its classes")
    return Plan(
        model=_audio_only(tower, frontend=frontend, width=tower.arguments["final"], window_s=60.0),
        rules=_efficientat_rules(shapes),
        notes=tuple(notes),
        no_text=_NO_TEXT.format("EfficientAT"),
    )


IMPORTERS: tuple[Importer, ...] = (
    Importer(
        family="beats",
        about="BEATs_iter*.pt, fine-tuned or not, and OpenBEATs: transformers over Kaldi filter banks, sound alone",
        recognises=_is_beats,
        plan=_beats_plan,
        licence="MIT (BEATs), Apache-2.0 (OpenBEATs)",
    ),
    Importer(
        family="efficientat",
        about="mn*_as*.pt of EfficientAT: MobileNetV3 taggers, sound alone",
        recognises=_is_efficientat,
        plan=_efficientat_plan,
        licence="MIT",
        takes_variant=True,
    ),
)
