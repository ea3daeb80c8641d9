"""open_clip's own CLAP models: HTS-AT, with or without fusion of long clips, beside the text tower of CLIP or RoBERTa.

The file says all sizes but leaves out three things, which open_clip_config.json beside it tells: the non-linearity of
the projections, that of the text tower of CLIP, and the front-end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from clapkit.audio.mel_settings import LAION, LAION_FUSED, MelSettings
from clapkit.checkpoints.base import Foreign, Importer, Plan, Shapes
from clapkit.checkpoints.families.laion_towers import (
    HEAD_WIDTH,
    absent_counters,
    htsat_rules,
    htsat_tower,
    roberta_rules,
    roberta_tower,
)
from clapkit.checkpoints.families.panns import filterbank_name, mel_settings, shape_of
from clapkit.checkpoints.rules import Change, Computed, Drop, Rename, Rule, transposed
from clapkit.errors import CheckpointError, SpecError
from clapkit.heads.projection import MLP, Keep, Linear
from clapkit.model import DualEncoder, Windowing
from clapkit.spec import Spec, derive, spec
from clapkit.towers.clip_text import ClipText

_AUDIO, _HF = "audio.encoder.", "text.transformer."
_PATCHES = f"{_AUDIO}patch_embed.proj.weight"
_CLIP_WORDS, _HF_WORDS = "text.token_embedding.weight", f"{_HF}embeddings.word_embeddings.weight"
_CLIP_BLOCK = "text.transformer.resblocks.{i}"
_CLIP_SAMPLES, _MAX_TOKENS = 480000, 77
_POOLINGS = {"cls_pooler": "cls", "cls_last_hidden_state_pooler": "cls", "mean_pooler": "mean"}
_FRONTEND = {"sample_rate": "rate_hz", "hop_size": "hop_samples", "fmin": "low_hz", "fmax": "high_hz"}
# What the configuration may ask for and these models have never had: field, value that is meant where it is absent.
_UNHEARD: dict[str, dict[str, Any]] = {
    "audio_cfg": {"pre_norm": False, "training_head": False},
    "text_cfg": {"no_causal_mask": False, "embed_cls": False, "pool_type": "argmax"},
}

Activation = Literal["gelu", "relu"]


@dataclass(frozen=True)
class _Text:
    """The language side of a file: its tower and head, the rules of its names, and its tokenizer."""

    tower: Spec
    head: Spec
    rules: tuple[Rule, ...]
    tokenizer: str
    pad_id: int
    constants: Mapping[str, float] = field(default_factory=dict)


def _recognises(shapes: Shapes) -> bool:
    words = _HF_WORDS if _is_hf(shapes) else _CLIP_WORDS
    needed = ("logit_scale", "audio.proj.0.weight", "audio.proj.2.weight", _PATCHES, words)
    return all(name in shapes for name in needed)


def _is_hf(shapes: Shapes) -> bool:
    """Whether the text tower is one of transformers, and not that of CLIP."""
    return any(name.startswith(f"{_HF}encoder.") for name in shapes)


def _plan(foreign: Foreign) -> Plan:
    shapes = foreign.shapes
    config = _config(foreign)
    fused = f"{_AUDIO}patch_embed.mel_conv2d.weight" in shapes
    settings = _frontend(shapes, config["audio_cfg"], fused=fused)
    samples = config["audio_cfg"].get("clip_samples", _CLIP_SAMPLES)
    text = _hf_text(foreign, config["text_cfg"]) if _is_hf(shapes) else _clip_text(foreign, config)
    activation, told = _activation(foreign, config["audio_cfg"])
    window_s = samples / settings.rate_hz
    model = spec(
        DualEncoder,
        frontend=settings,
        audio=htsat_tower(foreign, _AUDIO, frames_in=settings.frames(samples)),
        text=text.tower,
        audio_head=spec(MLP, hidden_width=shape_of(shapes, "audio.proj.0.weight", axes=2)[0], activation=activation),
        text_head=text.head,
        dimension=shape_of(shapes, "audio.proj.2.weight", axes=2)[0],
        windowing=Windowing(window_s, window_s, fill="repeat-pad", longer="fuse-crop" if fused else "start"),
    )
    return Plan(
        model=model,
        rules=(*_audio_rules(shapes), *text.rules),
        tokenizer=text.tokenizer,
        pad_id=text.pad_id,
        # The fused models hold filters too, but were trained on those of another library, outside the model.
        filterbank=None if fused else filterbank_name(shapes, _AUDIO),
        notes=(told, *_notes(window_s, fused=fused)),
        constants={**absent_counters(shapes, _AUDIO), **text.constants},
    )


def _config(foreign: Foreign) -> dict[str, Any]:
    """The model's configuration with "audio_cfg" and "text_cfg", both {} where no file tells."""
    found = foreign.config.get("model_cfg", foreign.config)
    config = dict(found) if isinstance(found, Mapping) else {}
    for part, fields in _UNHEARD.items():
        told = config.get(part)
        config[part] = told = dict(told) if isinstance(told, Mapping) else {}
        for name, usual in fields.items():
            if told.get(name, usual) != usual:
                raise CheckpointError(
                    f"the configuration says {part}.{name} = {told[name]!r}, expected {usual!r}: others are not read"
                )
    return config


def _frontend(shapes: Shapes, told: Mapping[str, Any], *, fused: bool) -> MelSettings:
    changed = {ours: told[theirs] for theirs, ours in _FRONTEND.items() if theirs in told}
    if "window_size" in told:
        changed |= {"n_fft": told["window_size"], "window_samples": told["window_size"]}
    base = LAION_FUSED if fused else LAION
    try:
        return mel_settings(shapes, _AUDIO, base=replace(base, quantise_int16=False, **changed))
    except (SpecError, TypeError) as error:
        raise CheckpointError(f"the configuration asks for a front-end that cannot be: {error}") from error


def _activation(foreign: Foreign, told: Mapping[str, Any]) -> tuple[Activation, str]:
    """The non-linearity between the layers of the audio projection, and who says so."""
    if told:
        activation, source = told.get("proj_act", "gelu"), "as its configuration says"
        if foreign.variant not in (None, activation):
            source += f"; variant={foreign.variant!r} is not used"
    elif foreign.variant is not None:
        activation, source = foreign.variant, "as variant= says"
    else:
        activation = "relu" if "text.proj.0.bias" in foreign.tensors else "gelu"
        source = "as in the published models of this layout, since neither a configuration nor variant= tells"
    if activation not in ("gelu", "relu"):
        raise CheckpointError(f"the audio projection cannot have '{activation}', expected variant='gelu' or 'relu'")
    return activation, f"the audio projection has {activation}, {source}"


def _audio_rules(shapes: Shapes) -> tuple[Rule, ...]:
    scale: Rule = Rename("logit_scale", "logit_scale")
    if shapes["logit_scale"] == (1,):
        scale = Change("logit_scale", "logit_scale", lambda x: x.reshape(()), lambda x: x.reshape(1))
    return (
        *htsat_rules(_AUDIO),
        Rename("audio.proj.0.{p}", "audio_head.linear1.{p}"),
        Rename("audio.proj.2.{p}", "audio_head.linear2.{p}"),
        scale,
        Drop("logit_bias", "added to every logit alike; similarities are cosines here"),
    )


def _clip_text(foreign: Foreign, config: Mapping[str, Any]) -> _Text:
    shapes, told = foreign.shapes, config["text_cfg"]
    vocabulary, width = shape_of(shapes, _CLIP_WORDS, axes=2)
    positions, _ = shape_of(shapes, "text.positional_embedding", axes=2)
    hidden, _ = shape_of(shapes, f"{_CLIP_BLOCK}.mlp.c_fc.weight".replace("{i}", "0"), axes=2)
    heads = told.get("heads", max(1, width // HEAD_WIDTH))
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise CheckpointError(f"the text tower is {width} wide, which cannot be divided among {heads!r} heads")
    tower = spec(
        ClipText,
        vocabulary=vocabulary,
        width=width,
        depth=foreign.count(f"{_CLIP_BLOCK}.ln_1.weight"),
        heads=heads,
        hidden=hidden,
        activation="quick_gelu" if config.get("quick_gelu") else "gelu",
        max_tokens=positions,
    )
    parts = {"ln_1.{p}": "norm1.{p}", "ln_2.{p}": "norm2.{p}", "attn.out_proj.{p}": "out.{p}"}
    parts |= {"attn.in_proj_{p}": "query_key_value.{p}", "mlp.c_fc.{p}": "rise.{p}", "mlp.c_proj.{p}": "fall.{p}"}
    rules: tuple[Rule, ...] = (
        Rename(_CLIP_WORDS, "text.embedding.weight"),
        Rename("text.positional_embedding", "text.position"),
        *(Rename(f"{_CLIP_BLOCK}.{a}", f"text.blocks.{{i}}.{b}") for a, b in parts.items()),
        Rename("text.ln_final.{p}", "text.norm.{p}"),
        transposed("text.text_projection", "text_head.linear.weight"),
        Computed("text.attn_mask", "which tokens stand before which"),
    )
    return _Text(tower, spec(Linear, bias=False), rules, "openai/clip-vit-base-patch32", 0)


def _hf_text(foreign: Foreign, told: Mapping[str, Any]) -> _Text:
    shapes = foreign.shapes
    types, _ = shape_of(shapes, f"{_HF}embeddings.token_type_embeddings.weight", axes=2)
    if types != 1:
        raise CheckpointError(
            f"the text tower has {types} token types, expected 1: only RoBERTa and XLM-RoBERTa are read"
        )
    tower = roberta_tower(foreign, _HF, max_tokens=told.get("context_length", _MAX_TOKENS))
    asked = told.get("hf_pooler_type", "mean_pooler")
    if not any(name.startswith(f"{_HF}pooler.") for name in shapes):
        if asked not in _POOLINGS:
            raise CheckpointError(f"the configuration asks for the text pooling '{asked}', expected {list(_POOLINGS)}")
        tower = derive(tower, pooling=_POOLINGS[asked])
    rules: tuple[Rule, ...] = (
        *roberta_rules(_HF),
        Rename("text.proj.0.{p}", "text_head.linear1.{p}"),
        Rename("text.proj.2.{p}", "text_head.linear2.{p}"),
        Rename("text.proj.weight", "text_head.linear.weight"),
    )
    tokenizer = told.get("hf_tokenizer_name") or told.get("hf_model_name") or "roberta-base"
    if not isinstance(tokenizer, str):
        raise CheckpointError(f"the configuration names {tokenizer!r} as tokenizer, expected a text")
    # The older of the two projections of two layers has no biases.
    absent = "text.proj.0.weight" in shapes and "text.proj.0.bias" not in shapes
    constants = {f"text_head.linear{layer}.bias": 0.0 for layer in (1, 2) if absent}
    return _Text(tower, _hf_head(shapes), rules, tokenizer, tower.arguments["config"]["pad_token_id"], constants)


def _hf_head(shapes: Shapes) -> Spec:
    if "text.proj.0.weight" in shapes:
        hidden, _ = shape_of(shapes, "text.proj.0.weight", axes=2)
        return spec(MLP, hidden_width=hidden, activation="relu" if "text.proj.0.bias" in shapes else "gelu")
    return spec(Linear, bias=False) if "text.proj.weight" in shapes else spec(Keep)


def _notes(window_s: float, *, fused: bool) -> tuple[str, ...]:
    longer = (
        "longer sound is heard as a crop from its middle and three chunks; the reference draws the crop at random"
        if fused
        else f"of longer sound only the first {window_s:g} s are heard, as in the reference"
    )
    filled = f"sound shorter than {window_s:g} s is repeated a whole number of times, then followed by silence"
    return (f"{filled}, as in the reference", longer)


IMPORTERS: tuple[Importer, ...] = (
    Importer(
        family="open_clip",
        about="CLAP models of open_clip: HTS-AT with CLIP or RoBERTa text, open_clip_model.safetensors or *.bin",
        recognises=_recognises,
        plan=_plan,
        licence="of the publisher of each file",
        takes_variant=True,
    ),
)
