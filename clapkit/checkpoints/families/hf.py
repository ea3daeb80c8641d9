"""transformers' ClapModel (laion/clap-htsat-unfused, -fused, laion/larger_clap_*): folders, read and written.

Differs from LAION's own files: other names, queries, keys and values apart, and sound that is not rounded to 16 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from clapkit.audio.mel_settings import LAION, LAION_FUSED, MelSettings
from clapkit.checkpoints.base import Foreign, Importer, Plan, Shapes
from clapkit.checkpoints.families.laion_towers import (
    ClapParts,
    SizeNames,
    clap_parts,
    fusion_rules,
    htsat_tower,
    patches,
    roberta_rules,
    roberta_tower,
)
from clapkit.checkpoints.families.panns import shape_of
from clapkit.checkpoints.rules import Computed, Drop, Merge, Rename, Rule, to_theirs
from clapkit.errors import CheckpointError
from clapkit.heads.projection import MLP
from clapkit.model import DualEncoder, Fill, Windowing
from clapkit.nets.swin import distance_index
from clapkit.spec import Spec, spec

_AUDIO, _TEXT = "audio_model.audio_encoder.", "text_model."
_NAMES = SizeNames(
    block_norm="layernorm_before.weight",
    bias_table="attention.self.relative_position_bias_table",
    rise="intermediate.dense.weight",
)
_MAX_TOKENS = 512
_TEXT_EPSILON, _AUDIO_EPSILON = 1e-12, 1e-5
_FILLS: dict[str, Fill] = {"repeatpad": "repeat-pad", "repeat": "repeat", "pad": "zeros"}
_BLOCK, _OURS = f"{_AUDIO}layers.{{i}}.blocks.{{j}}", "audio.stages.{i}.blocks.{j}"
_MERGE = f"{_AUDIO}layers.{{i}}.downsample"
_RULES: tuple[Rule, ...] = (
    Rename(f"{_AUDIO}batch_norm.{{p}}", "audio.input_norm.norm.{p}"),
    patches(f"{_AUDIO}patch_embed.proj.weight", "audio.embed.weight", longer=1),
    Rename(f"{_AUDIO}patch_embed.proj.bias", "audio.embed.bias"),
    Rename(f"{_AUDIO}patch_embed.norm.{{p}}", "audio.embed_norm.{p}"),
    *fusion_rules(f"{_AUDIO}patch_embed."),
    Computed(f"{_BLOCK}.attention.self.relative_position_index", "which tokens of a window are how far apart"),
    Rename(f"{_BLOCK}.attention.self.relative_position_bias_table", f"{_OURS}.attention.bias_table"),
    Merge(
        tuple(f"{_BLOCK}.attention.self.{part}.{{p}}" for part in ("query", "key", "value")),
        f"{_OURS}.attention.qkv.{{p}}",
    ),
    Rename(f"{_BLOCK}.attention.output.dense.{{p}}", f"{_OURS}.attention.out.{{p}}"),
    Rename(f"{_BLOCK}.layernorm_before.{{p}}", f"{_OURS}.norm1.{{p}}"),
    Rename(f"{_BLOCK}.layernorm_after.{{p}}", f"{_OURS}.norm2.{{p}}"),
    Rename(f"{_BLOCK}.intermediate.dense.{{p}}", f"{_OURS}.rise.{{p}}"),
    Rename(f"{_BLOCK}.output.dense.{{p}}", f"{_OURS}.fall.{{p}}"),
    Rename(f"{_MERGE}.reduction.{{p}}", "audio.stages.{i}.merge.reduce.{p}"),
    Rename(f"{_MERGE}.norm.{{p}}", "audio.stages.{i}.merge.norm.{p}"),
    Rename(f"{_AUDIO}norm.{{p}}", "audio.norm.{p}"),
    *roberta_rules(_TEXT),
    Rename("audio_projection.{layer}.{p}", "audio_head.{layer}.{p}"),
    Rename("text_projection.{layer}.{p}", "text_head.{layer}.{p}"),
    Rename("logit_scale_a", "logit_scale"),
    Drop("logit_scale_t", "the scale of texts against sounds; one scale, that of sounds against texts, is kept"),
)


def _recognises(shapes: Shapes) -> bool:
    needed = (f"{_AUDIO}patch_embed.proj.weight", f"{_TEXT}embeddings.word_embeddings.weight")
    return all(name in shapes for name in (*needed, "audio_projection.linear1.weight", "logit_scale_a"))


def _plan(foreign: Foreign) -> Plan:
    shapes, config = foreign.shapes, foreign.config
    fused = f"{_AUDIO}patch_embed.mel_conv2d.weight" in shapes
    audio_config, text_config = _section(config, "audio_config"), _section(config, "text_config")
    _check_audio(audio_config, fused=fused)
    extractor = _section(config, "preprocessor_config")
    settings = _frontend(extractor, fused=fused, bins=shape_of(shapes, f"{_AUDIO}batch_norm.weight", axes=1)[0])
    window_s = float(extractor.get("max_length_s", 10))
    # A configuration leaves out what is as ever; a file without one says nothing, and the width of a head is taken.
    told = {"layer_norm_eps": _TEXT_EPSILON, **({"num_attention_heads": 12} if text_config else {}), **text_config}
    tower = htsat_tower(
        foreign,
        _AUDIO,
        frames_in=settings.frames(round(window_s * settings.rate_hz)),
        image=audio_config.get("spec_size", 256),
        names=_NAMES,
    )
    head = spec(
        MLP,
        hidden_width=shape_of(shapes, "audio_projection.linear1.weight", axes=2)[0],
        activation=config.get("projection_hidden_act", "relu"),
    )
    model = spec(
        DualEncoder,
        frontend=settings,
        audio=tower,
        text=roberta_tower(foreign, _TEXT, max_tokens=_MAX_TOKENS, told=told),
        audio_head=head,
        text_head=head,
        dimension=shape_of(shapes, "audio_projection.linear2.weight", axes=2)[0],
        windowing=Windowing(
            window_s,
            window_s,
            fill=_fill(extractor),
            longer="fuse" if fused else "windows",
        ),
    )
    return Plan(
        model=model,
        rules=_RULES,
        tokenizer="roberta-base",
        pad_id=told.get("pad_token_id", 1),
        notes=_notes(config, fused=fused),
    )


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name) or {}
    if not isinstance(found, Mapping):
        raise CheckpointError(f"its configuration has a {type(found).__name__} as {name}, expected an object")
    return found


def _check_audio(config: Mapping[str, Any], *, fused: bool) -> None:
    """Refuse what shapes do not show and this tower does not do."""
    side = config.get("patch_size", 4)
    fixed = {
        "hidden_act": "gelu",
        "layer_norm_eps": _AUDIO_EPSILON,
        "patch_size": side,
        "patch_stride": [4, 4],
        "enable_fusion": fused,
    }
    for name, expected in fixed.items():
        found = config.get(name, expected)
        if name == "patch_stride":
            found, expected = _pair(found), _pair(side)
        if found != expected:
            raise CheckpointError(f"its configuration has audio_config.{name} = {found!r}, expected {expected!r}")


def _pair(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value, value]


def _frontend(extractor: Mapping[str, Any], *, fused: bool, bins: int) -> MelSettings:
    """What preprocessor_config.json says, or the front-end of the published models where there is none."""
    base = replace(LAION_FUSED if fused else LAION, quantise_int16=False, mel_bins=bins)
    if not extractor:
        return base
    n_fft = extractor.get("fft_window_size", base.n_fft)
    if extractor.get("feature_size", bins) != bins or extractor.get("top_db") is not None:
        raise CheckpointError(
            f"its preprocessor_config.json has feature_size {extractor.get('feature_size')!r} and top_db "
            f"{extractor.get('top_db')!r}, expected {bins} (the width of its batch norm) and null"
        )
    return replace(
        base,
        rate_hz=extractor.get("sampling_rate", base.rate_hz),
        n_fft=n_fft,
        window_samples=n_fft,
        hop_samples=extractor.get("hop_length", base.hop_samples),
        low_hz=float(extractor.get("frequency_min", 0)),
        high_hz=float(extractor.get("frequency_max", base.high_hz)),
    )


def _fill(extractor: Mapping[str, Any]) -> Fill:
    padding = extractor.get("padding", "repeatpad")
    if padding not in _FILLS:
        raise CheckpointError(
            f"its preprocessor_config.json has padding {padding!r}, expected one of {', '.join(_FILLS)}"
        )
    return _FILLS[padding]


def _notes(config: Mapping[str, Any], *, fused: bool) -> tuple[str, ...]:
    notes = ["sound is not rounded to 16 bits, as in transformers and unlike LAION's own files"]
    if not config.get("preprocessor_config"):
        notes.append("no preprocessor_config.json beside it: the front-end of the published models is taken")
    if not config.get("text_config"):
        notes.append("no config.json beside it: the text tower has heads of 64 and epsilon 1e-12, as published")
    truncation = _section(config, "preprocessor_config").get("truncation", usual := "fusion" if fused else "rand_trunc")
    if truncation != usual:
        notes.append(
            f"preprocessor_config.json has truncation {truncation!r}, which this model cannot be fed with: "
            f"{usual!r} and its filters are taken"
        )
    if fused:
        notes.append("longer sound is heard as the whole and three chunks, which transformers draws at random")
        notes.append("transformers takes a random clip of a batch of short ones for a long one; that is left out")
    else:
        notes.append("longer sound is heard in windows that are averaged; transformers draws one at random")
    return tuple(notes)


def _write(tensors: Mapping[str, Tensor], model: Spec, aside: Mapping[str, Tensor]) -> dict[str, Any]:
    """The content of a folder: "tensors" of model.safetensors, and the objects of its two configuration files.

    What transformers cannot say is left out: that sound was rounded to 16 bits, and how windows of long sound are
    averaged.
    """
    parts = clap_parts(model, layout="transformers")
    _check_writable(parts, stored="frontend.stored_filterbank" in tensors)
    theirs = to_theirs(tensors, _RULES)
    theirs["logit_scale_t"] = aside.get("logit_scale_t", theirs["logit_scale_a"]).clone()
    counting_L = torch.arange(parts.text["max_position_embeddings"])
    theirs[f"{_TEXT}embeddings.position_ids"] = counting_L[None]
    theirs[f"{_TEXT}embeddings.token_type_ids"] = torch.zeros_like(counting_L)[None]
    window = parts.audio["window"]
    for stage, depth in enumerate(parts.audio["depths"]):
        for number in range(depth):
            block = f"{_AUDIO}layers.{stage}.blocks.{number}.attention.self"
            theirs[f"{block}.relative_position_index"] = distance_index(window).view(window**2, window**2)
    return {
        "tensors": {name: tensor.contiguous() for name, tensor in sorted(theirs.items())},
        "config": _config(parts, scale=float(theirs["logit_scale_a"].exp())),
        "preprocessor_config": _extractor(parts),
    }


def _check_writable(parts: ClapParts, *, stored: bool) -> None:
    fused = parts.audio["fusion"]
    base = LAION_FUSED if fused else LAION
    mel = parts.frontend
    free = ("rate_hz", "n_fft", "hop_samples", "mel_bins", "low_hz", "high_hz", "quantise_int16")
    fixed = replace(base, window_samples=mel.n_fft, **{name: getattr(mel, name) for name in free})
    frames = mel.frames(round(parts.window_s * mel.rate_hz))
    if mel != fixed:
        raise CheckpointError(f"transformers computes {fixed} for this model, which has {mel}: nothing else fits there")
    if parts.audio["frames_in"] != frames or parts.window_s != int(parts.window_s):
        raise CheckpointError(
            f"transformers takes whole seconds and stretches all of their frames: this model has windows of "
            f"{parts.window_s} s ({frames} frames) and stretches {parts.audio['frames_in']}"
        )
    if parts.sides[-1] < parts.audio["window"]:
        raise CheckpointError(
            f"transformers cannot shrink a window of {parts.audio['window']} to a last grid of {parts.sides[-1]} tokens"
        )
    if stored:
        raise CheckpointError("this model has its own mel filter bank, which transformers has no place for")


def _config(parts: ClapParts, *, scale: float) -> dict[str, Any]:
    audio, common = parts.audio, {"projection_dim": parts.dimension, "projection_hidden_act": parts.activation}
    text = {k: v for k, v in parts.text.items() if k != "model_type"}
    return {
        "architectures": ["ClapModel"],
        "model_type": "clap",
        "logit_scale_init_value": scale,
        **common,
        "text_config": {"model_type": "clap_text_model", **text, **common},
        "audio_config": {
            "model_type": "clap_audio_model",
            "depths": list(audio["depths"]),
            "num_attention_heads": list(audio["heads"]),
            "num_hidden_layers": len(audio["depths"]),
            "patch_embeds_hidden_size": audio["width"],
            "hidden_size": audio["width"] * 2 ** (len(audio["depths"]) - 1),
            "mlp_ratio": audio["expansion"],
            "window_size": audio["window"],
            "spec_size": audio["image"],
            "patch_size": audio["patch"],
            "patch_stride": [audio["patch"], audio["patch"]],
            "num_mel_bins": parts.frontend.mel_bins,
            "layer_norm_eps": _AUDIO_EPSILON,
            "enable_fusion": audio["fusion"],
            "fusion_type": "aff_2d" if audio["fusion"] else None,
            "aff_block_r": audio["width"] // (audio["fusion_width"] or audio["width"] // 4),
            **common,
        },
    }


def _extractor(parts: ClapParts) -> dict[str, Any]:
    mel, seconds = parts.frontend, int(parts.window_s)
    return {
        "feature_extractor_type": "ClapFeatureExtractor",
        "processor_class": "ClapProcessor",
        "feature_size": mel.mel_bins,
        "sampling_rate": mel.rate_hz,
        "fft_window_size": mel.n_fft,
        "nb_frequency_bins": mel.spectrum_bins,
        "hop_length": mel.hop_samples,
        "max_length_s": seconds,
        "nb_max_samples": seconds * mel.rate_hz,
        "frequency_min": mel.low_hz,
        "frequency_max": mel.high_hz,
        "padding": "repeatpad",
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
        "top_db": None,
        "truncation": "fusion" if parts.audio["fusion"] else "rand_trunc",
    }


IMPORTERS: tuple[Importer, ...] = (
    Importer(
        family="transformers",
        about="folders of transformers' ClapModel: laion/clap-htsat-unfused, -fused, laion/larger_clap_*",
        recognises=_recognises,
        plan=_plan,
        writes=_write,
        licence="Apache 2.0",
    ),
)
