"""LAION-CLAP (card 002): HTS-AT, with or without fusion of long clips, beside RoBERTa."""

from __future__ import annotations

from clapkit.audio.mel_settings import LAION, LAION_FUSED
from clapkit.checkpoints.base import Foreign, Importer, Plan, Shapes
from clapkit.checkpoints.laion_towers import absent_counters, htsat_rules, htsat_tower, roberta_rules, roberta_tower
from clapkit.checkpoints.panns import filterbank_name, mel_settings, shape_of
from clapkit.checkpoints.rules import Drop, Rename, Rule
from clapkit.heads.projection import MLP
from clapkit.model import DualEncoder, Windowing
from clapkit.spec import spec

_AUDIO, _TEXT = "audio_branch.", "text_branch."
_WINDOW_S = 10.0
_MAX_TOKENS = 77
_TRANSFORM = "maps an embedding for a classifier on top of it; no part of retrieval"
_RULES: tuple[Rule, ...] = (
    *htsat_rules(_AUDIO),
    *roberta_rules(_TEXT),
    *(
        Rename(f"{side}_projection.{theirs}.{{p}}", f"{side}_head.{ours}.{{p}}")
        for side in ("audio", "text")
        for theirs, ours in (("0", "linear1"), ("2", "linear2"))
    ),
    Rename("logit_scale_a", "logit_scale"),
    Drop("logit_scale_t", "the scale of texts against sounds; one scale, that of sounds against texts, is kept"),
    Drop("audio_transform.sequential.{rest*}", _TRANSFORM),
    Drop("text_transform.sequential.{rest*}", _TRANSFORM),
)


def _recognises(shapes: Shapes) -> bool:
    needed = ("logit_scale_a", "logit_scale_t", "audio_projection.0.weight", "text_projection.0.weight")
    towers = (f"{_AUDIO}patch_embed.proj.weight", f"{_TEXT}embeddings.word_embeddings.weight")
    return all(name in shapes for name in (*needed, *towers))


def _plan(foreign: Foreign) -> Plan:
    shapes = foreign.shapes
    fused = f"{_AUDIO}patch_embed.mel_conv2d.weight" in shapes
    settings = mel_settings(shapes, _AUDIO, base=LAION_FUSED if fused else LAION)
    dimension, _ = shape_of(shapes, "audio_projection.2.weight", axes=2)
    model = spec(
        DualEncoder,
        frontend=settings,
        audio=htsat_tower(foreign, _AUDIO, frames_in=settings.frames(round(_WINDOW_S * settings.rate_hz))),
        text=roberta_tower(foreign, _TEXT, max_tokens=_MAX_TOKENS),
        audio_head=spec(MLP, hidden_width=shape_of(shapes, "audio_projection.0.weight", axes=2)[0]),
        text_head=spec(MLP, hidden_width=shape_of(shapes, "text_projection.0.weight", axes=2)[0]),
        dimension=dimension,
        windowing=Windowing(_WINDOW_S, _WINDOW_S, fill="repeat-pad", longer="fuse" if fused else "windows"),
    )
    return Plan(
        model=model,
        rules=_RULES,
        tokenizer="roberta-base",
        pad_id=1,
        # The fused models hold filters too, but were trained on those of another library, outside the model.
        filterbank=None if fused else filterbank_name(shapes, _AUDIO),
        notes=_notes(fused),
        constants=absent_counters(shapes, _AUDIO),
    )


def _notes(fused: bool) -> tuple[str, ...]:
    longer = (
        "longer sound is heard as the whole and three chunks; the reference draws these at random, here they are fixed"
        if fused
        else "longer sound is heard in windows of 10 s that are averaged; the reference draws one at random"
    )
    return (
        "sound is rounded to 16 bits first, as in the reference",
        "sound shorter than 10 s is repeated a whole number of times, then followed by silence, as in the reference",
        longer,
    )


IMPORTERS: tuple[Importer, ...] = (
    Importer(
        family="laion",
        about="LAION-CLAP: 630k-*.pt, 630k-*-fusion-best.pt, music_*.pt, music_speech_*.pt",
        recognises=_recognises,
        plan=_plan,
        licence="CC0 1.0",
    ),
)
