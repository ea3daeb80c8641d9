"""OpenFLAM (card 049): HTS-AT and RoBERTa as in LAION-CLAP, and a head that compares single frames with texts."""

from __future__ import annotations

from dataclasses import replace

from clapkit.audio.mel_settings import LAION
from clapkit.checkpoints.base import Foreign, Importer, Plan, Shapes
from clapkit.checkpoints.families.laion_towers import (
    absent_counters,
    htsat_rules,
    htsat_tower,
    roberta_rules,
    roberta_tower,
)
from clapkit.checkpoints.families.panns import filterbank_name, mel_settings, shape_of
from clapkit.checkpoints.rules import Rename, Rule
from clapkit.heads.framewise import FramewiseHead
from clapkit.heads.projection import MLP
from clapkit.model import DualEncoder, Windowing
from clapkit.spec import spec

_AUDIO, _TEXT = "audio_branch.", "text_branch."
_BIAS, _SCALE = "fc_per_text_logit_bias", "fc_per_text_logit_scale"
_WINDOW_S, _MAX_TOKENS = 10.0, 77
_HEADS = {"audio_projection": "audio_head", "text_projection": "text_head"}
_HEADS |= {_BIAS: "framewise.bias", _SCALE: "framewise.scale"}
_RULES: tuple[Rule, ...] = (
    *htsat_rules(_AUDIO),
    *roberta_rules(_TEXT),
    *(
        Rename(f"{theirs}.{number}.{{p}}", f"{ours}.linear{layer}.{{p}}")
        for theirs, ours in _HEADS.items()
        for number, layer in ((0, 1), (2, 2))
    ),
    Rename("logit_scale_a", "logit_scale"),
    Rename("aed_logit_scale", "framewise.log_scale"),
)


def _recognises(shapes: Shapes) -> bool:
    needed = (f"{_AUDIO}patch_embed.proj.weight", f"{_TEXT}embeddings.word_embeddings.weight")
    return all(name in shapes for name in (*needed, "audio_projection.0.weight", f"{_BIAS}.0.weight"))


def _plan(foreign: Foreign) -> Plan:
    shapes = foreign.shapes
    settings = mel_settings(shapes, _AUDIO, base=replace(LAION, quantise_int16=False))
    hidden, text_width = shape_of(shapes, f"{_BIAS}.0.weight", axes=2)
    model = spec(
        DualEncoder,
        frontend=settings,
        audio=htsat_tower(foreign, _AUDIO, frames_in=settings.frames(round(_WINDOW_S * settings.rate_hz))),
        text=roberta_tower(foreign, _TEXT, max_tokens=_MAX_TOKENS),
        audio_head=spec(MLP, hidden_width=shape_of(shapes, "audio_projection.0.weight", axes=2)[0]),
        text_head=spec(MLP, hidden_width=shape_of(shapes, "text_projection.0.weight", axes=2)[0]),
        dimension=shape_of(shapes, "audio_projection.2.weight", axes=2)[0],
        windowing=Windowing(_WINDOW_S, _WINDOW_S / 2, fill="zeros"),
        framewise=spec(FramewiseHead, text_width=text_width, hidden_width=hidden),
    )
    return Plan(
        model=model,
        rules=_RULES,
        tokenizer="roberta-base",
        pad_id=1,
        filterbank=filterbank_name(shapes, _AUDIO),
        notes=(
            "sound shorter than 10 s is followed by silence that is heard; the reference takes exactly 10 s",
            "longer sound is heard in windows of 10 s, half of each overlapping the next, that are averaged",
        ),
        constants=absent_counters(shapes, _AUDIO),
    )


IMPORTERS: tuple[Importer, ...] = (
    Importer(
        family="flam",
        about="OpenFLAM: open_flam_oct17.pth",
        recognises=_recognises,
        plan=_plan,
        licence="Adobe Research Licence, non-commercial",
    ),
)
