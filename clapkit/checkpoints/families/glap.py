"""GLAP (card 034): Dasheng reads the sound, the multilingual SONAR encoder the text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from clapkit.audio.mel_settings import GLAP, MelSettings
from clapkit.checkpoints.base import Foreign, Importer, Plan, Shapes
from clapkit.checkpoints.rules import Change, Computed, Drop, Merge, Rename, Rule
from clapkit.errors import CheckpointError, SpecError
from clapkit.heads.projection import MLP
from clapkit.model import DualEncoder, Windowing
from clapkit.spec import Spec, spec
from clapkit.towers.dasheng import Dasheng
from clapkit.towers.sonar import SonarText

_AUDIO, _TEXT = "audio_encoder.model.", "text_encoder.model."
_WORDS = f"{_TEXT}encoder_frontend.embed.weight"
_FILTERS = f"{_AUDIO}front_end.0.mel_scale.fb"
_NORM = f"{_AUDIO}init_bn.1."
_HEAD_WIDTHS = {1280: 80}  # of the second size of Dasheng; 64 in all others
_CHUNKS_IN_A_WINDOW = 12  # clips of two minutes stay whole, as the reference leaves them

# Arguments of the encoder that a file's own config may set, and the settings of ours they are.
_ARGUMENTS = {
    "sample_rate": "rate_hz",
    "n_fft": "n_fft",
    "win_size": "window_samples",
    "hop_size": "hop_samples",
    "f_min": "low_hz",
    "f_max": "high_hz",
    "center": "centred",
}


def _recognises(shapes: Shapes) -> bool:
    needed = {f"{_AUDIO}time_pos_embed": 4, f"{_AUDIO}patch_embed.proj.weight": 4, "audio_proj.0.weight": 2, _WORDS: 2}
    return all(len(shapes.get(name, ())) == axes for name, axes in needed.items())


def _plan(foreign: Foreign) -> Plan:
    try:
        return _complete_plan(foreign)
    except KeyError as missing:
        raise CheckpointError(f"the file has no tensor {missing}, from which a size is read: it is not whole") from None


def _complete_plan(foreign: Foreign) -> Plan:
    shapes = foreign.shapes
    arguments = _arguments(foreign.config)
    settings = _frontend(shapes, arguments)
    audio, chunk_frames = _audio(foreign, arguments)
    window_s = _CHUNKS_IN_A_WINDOW * chunk_frames * settings.hop_samples / settings.rate_hz
    hidden, text_hidden = (shapes[f"{side}_proj.0.weight"][0] for side in ("audio", "text"))
    model = spec(
        DualEncoder,
        frontend=settings,
        audio=audio,
        text=_text(foreign),
        audio_head=spec(MLP, hidden_width=hidden, activation="relu"),
        text_head=spec(MLP, hidden_width=text_hidden, activation="relu"),
        dimension=shapes["audio_proj.2.weight"][0],
        windowing=Windowing(window_s=window_s, hop_s=window_s),
        temperature=0.01,
        fixed_temperature=True,
    )
    constants = {"logit_scale": math.log(100.0)}
    if f"{_NORM}num_batches_tracked" not in shapes:
        constants["audio.input_norm.norm.num_batches_tracked"] = 0.0
    return Plan(
        model=model,
        rules=_rules(shapes),
        pad_id=0,
        filterbank=_FILTERS if _FILTERS in shapes else None,
        notes=(
            "the score is 100 times the cosine: GLAP has no logit scale in its file",
            "the floor of the log-mel, 120 dB below the loudest value, is taken clip by clip; the reference takes it "
            "over all clips of a batch, which is the same for one clip at a time",
            "texts need a tokenizer.json with the ids of SONAR beside the file: the language first (eng_Latn: 256047), "
            "then the pieces, one above their number in sentencepiece.source.256000.model, then the end, 3; padding is "
            "0. The tokenizer of NLLB has other ids for padding and end and would give wrong vectors",
        ),
        constants=constants,
    )


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the audio encoder in the file's config, {} where it says none."""
    found: Any = config
    for key in ("model_args", "audio_encoder_args"):
        found = found.get(key, {}) if isinstance(found, Mapping) else {}
    return dict(found) if isinstance(found, Mapping) else {}


def _frontend(shapes: Shapes, arguments: Mapping[str, Any]) -> MelSettings:
    changed = {ours: arguments[theirs] for theirs, ours in _ARGUMENTS.items() if theirs in arguments}
    if _FILTERS in shapes:
        changed["n_fft"] = 2 * (shapes[_FILTERS][0] - 1)
    try:
        # The reference transforms in float32; the exact transform moves its embeddings by up to 1e-4.
        return replace(GLAP, transform="float32", mel_bins=shapes[f"{_NORM}weight"][0], **changed)
    except (SpecError, TypeError) as error:
        raise CheckpointError(f"the config of the file asks for a front-end that cannot be: {error}") from error


def _audio(foreign: Foreign, arguments: Mapping[str, Any]) -> tuple[Spec, int]:
    """The tower and the frames of a chunk."""
    shapes = foreign.shapes
    width, _, patch_bins, patch_frames = shapes[f"{_AUDIO}patch_embed.proj.weight"]
    chunk_frames = shapes[f"{_AUDIO}time_pos_embed"][3] * patch_frames
    asked = arguments.get("target_length", chunk_frames)
    if asked != chunk_frames:
        raise CheckpointError(
            f"the config of the file asks for chunks of {asked} frames (target_length), but it has positions for "
            f"{chunk_frames}: expected the same number"
        )
    head_width = _HEAD_WIDTHS.get(width, 64)
    if width % head_width:
        raise CheckpointError(f"the audio tower is {width} wide, expected a multiple of {head_width}")
    tower = spec(
        Dasheng,
        patch=(patch_frames, patch_bins),
        width=width,
        depth=foreign.count(f"{_AUDIO}blocks.{{i}}.norm1.weight"),
        heads=width // head_width,
        hidden=shapes[f"{_AUDIO}blocks.0.mlp.fc1.weight"][0],
        chunk_frames=chunk_frames,
    )
    return tower, chunk_frames


def _text(foreign: Foreign) -> Spec:
    shapes = foreign.shapes
    vocabulary, width = shapes[_WORDS]
    if width % 64:
        raise CheckpointError(f"the text tower is {width} wide, expected a multiple of 64, the width of its heads")
    return spec(
        SonarText,
        vocabulary=vocabulary,
        width=width,
        depth=foreign.count(f"{_TEXT}encoder.layers.{{i}}.ffn_layer_norm.weight"),
        heads=width // 64,
        hidden=shapes[f"{_TEXT}encoder.layers.0.ffn.inner_proj.weight"][0],
    )


def _rules(shapes: Shapes) -> tuple[Rule, ...]:
    width, _, patch_bins, patch_frames = shapes[f"{_AUDIO}patch_embed.proj.weight"]
    audio_block, text_block = f"{_AUDIO}blocks.{{i}}.", f"{_TEXT}encoder.layers.{{i}}."
    audio_parts = {"attn.qkv": "query_key_value", "attn.proj": "out", "mlp.fc1": "rise", "mlp.fc2": "fall"}
    audio_parts |= {"norm1": "norm1", "norm2": "norm2"}
    text_parts = {"self_attn_layer_norm": "norm1", "self_attn.output_proj": "out", "ffn_layer_norm": "norm2"}
    text_parts |= {"ffn.inner_proj": "rise", "ffn.output_proj": "fall"}
    attention = tuple(f"{text_block}self_attn.{part}_proj.{{w}}" for part in "qkv")
    return (
        Change(
            f"{_AUDIO}patch_embed.proj.weight",
            "audio.embed.weight",
            lambda x: x.flatten(1),
            lambda x: x.reshape(width, 1, patch_bins, patch_frames),
        ),
        Rename(f"{_AUDIO}patch_embed.proj.bias", "audio.embed.bias"),
        Change(
            f"{_AUDIO}time_pos_embed",
            "audio.time_position",
            lambda x: x[0, :, 0].mT.contiguous(),
            lambda x: x.mT.contiguous()[None, :, None],
        ),
        Change(
            f"{_AUDIO}freq_pos_embed",
            "audio.band_position",
            lambda x: x[0, :, :, 0].mT.contiguous(),
            lambda x: x.mT.contiguous()[None, :, :, None],
        ),
        Rename(f"{_NORM}{{w}}", "audio.input_norm.norm.{w}"),
        *(Rename(f"{audio_block}{a}.{{w}}", f"audio.blocks.{{i}}.{b}.{{w}}") for a, b in audio_parts.items()),
        Rename(f"{_AUDIO}norm.{{w}}", "audio.norm.{w}"),
        Computed(f"{_AUDIO}front_end.0.spectrogram.window", "the Hann window of the front-end"),
        Computed(_FILTERS, "the mel filters of the front-end"),
        Drop(f"{_AUDIO}outputlayer.{{rest*}}", "the classifier of Dasheng, which GLAP replaces by its projection"),
        Rename(_WORDS, "text.embedding.weight"),
        Merge(attention, "text.blocks.{i}.query_key_value.{w}"),
        *(Rename(f"{text_block}{a}.{{w}}", f"text.blocks.{{i}}.{b}.{{w}}") for a, b in text_parts.items()),
        Rename(f"{_TEXT}layer_norm.{{w}}", "text.norm.{w}"),
        Computed(f"{_TEXT}encoder_frontend.pos_encoder.{{rest*}}", "the sinusoids of the positions"),
        *(
            Rename(f"{side}_proj.{number}.{{w}}", f"{side}_head.linear{layer}.{{w}}")
            for side in ("audio", "text")
            for number, layer in ((0, 1), (2, 2))
        ),
    )


IMPORTERS: tuple[Importer, ...] = (
    Importer(
        family="glap",
        about="GLAP (glap_checkpoint.pt): Dasheng and the SONAR text encoder",
        recognises=_recognises,
        plan=_plan,
        licence="Apache-2.0; the SONAR encoder inside has terms of its own",
    ),
)
