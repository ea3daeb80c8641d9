"""LAION-CLAP (card 002): HTS-AT, with or without fusion of long clips, beside RoBERTa."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clapkit.audio.filterbank import analysis_window, mel_filterbank
from clapkit.audio.mel_settings import LAION, LAION_FUSED
from clapkit.checkpoints.base import Foreign, Importer, Plan, Shapes
from clapkit.checkpoints.families.laion_towers import (
    HEAD_WIDTH,
    ClapParts,
    absent_counters,
    clap_parts,
    htsat_rules,
    htsat_tower,
    roberta_rules,
    roberta_tower,
)
from clapkit.checkpoints.families.panns import filterbank_name, mel_settings, shape_of
from clapkit.checkpoints.rules import Drop, Rename, Rule, to_theirs
from clapkit.errors import CheckpointError
from clapkit.heads.projection import MLP
from clapkit.model import DualEncoder, Windowing
from clapkit.nets.swin import apart_scores, distance_index
from clapkit.spec import Spec, spec

_AUDIO, _TEXT = "audio_branch.", "text_branch."
_WINDOW_S = 10.0
_MAX_TOKENS = 77
_CLASSES = 527  # of AudioSet
_ROUNDING = 1e-5
# What a file holds beside the model: kept aside when it is read.
_LEFT_OUT = ("audio_branch.tscam_conv.", "audio_branch.head.", "audio_transform.", "text_transform.", "logit_scale_t")
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


def _write(tensors: Mapping[str, Tensor], model: Spec, aside: Mapping[str, Tensor]) -> dict[str, Any]:
    """The content of a .pt file that the reference loads, strictly.

    What it holds beside the model comes from `aside`, where a file had it; else the tagging layer and the two maps
    behind the embeddings, which have no part in embeddings, are zero.
    """
    parts = clap_parts(model, layout="laion")
    _check_writable(parts)
    ours = dict(tensors)
    stored = ours.pop("frontend.stored_filterbank", None)
    theirs = to_theirs(ours, _RULES)
    made = _kernels(stored) | _geometry(parts) | _silent(parts)
    # As the file had them, in which the last bits of a kernel may be others.
    known = {name: tensor for name, tensor in aside.items() if _stands_for(tensor, made.get(name))}
    theirs |= made | known
    theirs["logit_scale_t"] = theirs["logit_scale_a"].clone()
    theirs |= {name: tensor for name, tensor in aside.items() if name.startswith(_LEFT_OUT)}
    return {"epoch": 0, "name": "clapkit", "state_dict": {f"module.{name}": theirs[name] for name in sorted(theirs)}}


def _stands_for(tensor: Tensor, computed: Tensor | None) -> bool:
    """Whether a tensor of the file is the computed one but for rounding."""
    if computed is None or tensor.shape != computed.shape or tensor.dtype != computed.dtype:
        return False
    return torch.allclose(tensor, computed, rtol=0, atol=_ROUNDING)


def _check_writable(parts: ClapParts) -> None:
    """Refuse what the file would not say: the reference would silently compute something else."""
    expected = LAION_FUSED if parts.audio["fusion"] else LAION
    if replace(parts.frontend, quantise_int16=True) != expected or parts.window_s != _WINDOW_S:
        raise CheckpointError(
            f"the reference of laion computes {expected} in windows of {_WINDOW_S} s, but this model has "
            f"{parts.frontend} in windows of {parts.window_s} s"
        )
    if parts.activation != "relu":
        raise CheckpointError(f"the heads of laion have a ReLU, but those of this model have {parts.activation!r}")
    heads, epsilon = parts.text["num_attention_heads"], parts.text["layer_norm_eps"]
    # Ports of these files to transformers were published with 1e-12; vectors differ by less than a thousandth.
    if heads * HEAD_WIDTH != parts.text["hidden_size"] or epsilon > 1e-5:
        raise CheckpointError(
            f"the text tower of laion has heads {HEAD_WIDTH} wide and epsilon 1e-5, but that of this model is "
            f"{parts.text['hidden_size']} wide with {heads} heads and epsilon {epsilon}"
        )


def _kernels(filterbank: Tensor | None) -> dict[str, Tensor]:
    """The front-end of the reference, whose Fourier transform is two convolutions: [frequencies, 1, n_fft] each."""
    frequency, sample = np.arange(LAION.spectrum_bins)[:, None], np.arange(LAION.n_fft)
    turn = frequency * sample % LAION.n_fft * (2 * np.pi / LAION.n_fft)
    window = analysis_window(LAION, dtype=np.float64)
    stft = f"{_AUDIO}spectrogram_extractor.stft.conv_"
    return {
        f"{stft}real.weight": torch.from_numpy((np.cos(turn) * window).astype(np.float32)[:, None]),
        f"{stft}imag.weight": torch.from_numpy((-np.sin(turn) * window).astype(np.float32)[:, None]),
        f"{_AUDIO}logmel_extractor.melW": torch.from_numpy(mel_filterbank(LAION)) if filterbank is None else filterbank,
    }


def _geometry(parts: ClapParts) -> dict[str, Tensor]:
    """Indices and masks of the windows, and the positions of the text."""
    made = {f"{_TEXT}embeddings.position_ids": torch.arange(parts.text["max_position_embeddings"])[None]}
    for stage, (side, depth) in enumerate(zip(parts.sides, parts.audio["depths"], strict=True)):
        window = min(parts.audio["window"], side)
        for number in range(depth):
            block = f"{_AUDIO}layers.{stage}.blocks.{number}"
            made[f"{block}.attn.relative_position_index"] = distance_index(window).view(window**2, window**2)
            if side > window and number % 2 == 1:
                made[f"{block}.attn_mask"] = apart_scores(side, window=window)
    return made


def _silent(parts: ClapParts) -> dict[str, Tensor]:
    """The layers behind the embeddings that this model does not have, as zeros."""
    width = parts.audio["width"] * 2 ** (len(parts.audio["depths"]) - 1)
    rows = parts.sides[-1] * parts.frontend.mel_bins // parts.audio["image"]
    square = (parts.dimension, parts.dimension)
    shapes: dict[str, tuple[int, ...]] = {
        f"{_AUDIO}tscam_conv": (_CLASSES, width, rows, 3),
        f"{_AUDIO}head": (_CLASSES, _CLASSES),
        **{f"{side}_transform.sequential.{number}": square for side in ("audio", "text") for number in (0, 3)},
    }
    weights = {f"{name}.weight": torch.zeros(shape) for name, shape in shapes.items()}
    return weights | {f"{name}.bias": torch.zeros(shape[0]) for name, shape in shapes.items()}


IMPORTERS: tuple[Importer, ...] = (
    Importer(
        family="laion",
        about="LAION-CLAP: 630k-*.pt, 630k-*-fusion-best.pt, music_*.pt, music_speech_*.pt",
        recognises=_recognises,
        plan=_plan,
        writes=_write,
        licence="CC0 1.0",
    ),
)
