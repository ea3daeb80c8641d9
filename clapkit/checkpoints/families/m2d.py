"""M2D and M2D-CLAP (card 022): a ViT encoded in chunks, with the projections and the text encoder that the file has."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import torch

from clapkit.audio.mel_settings import M2D, MelSettings
from clapkit.checkpoints.base import Foreign, Importer, Plan, Shapes
from clapkit.checkpoints.rules import Change, Computed, Drop, Rename, Rule
from clapkit.errors import CheckpointError
from clapkit.heads.projection import MLP, Keep, Linear
from clapkit.heads.semantic import SemanticToken
from clapkit.model import DualEncoder, Windowing
from clapkit.spec import Spec, spec
from clapkit.towers.hf import TransformersText
from clapkit.towers.m2d import M2DViT

_HEAD_WIDTH = 64  # of every published size, and of BERT
_START_SCALE = 2.6592600  # ln(1 / 0.07)
_CHUNKS_IN_A_WINDOW = 20  # clips of two minutes stay whole, as the reference leaves them
_NAME = re.compile(r"(\d+)x(\d+)p(\d+)x(\d+)((?:p[A-Za-z0-9]+)*)(?![A-Za-z0-9])")
_RATES = {"16k": M2D, "32k": replace(M2D, rate_hz=32000, n_fft=800, window_samples=800, hop_samples=320, high_hz=16000)}
_AUDIO_PREFIXES = ("", "backbone.", "ar.runtime.backbone.")
_TEXT_PREFIXES = ("", "text_encoder.text_encoder.", "text_encoder.model.", "text_encoder.")
_WORDS = "embeddings.word_embeddings.weight"
_TEXTS = {"A": "thenlper/gte-base", "B": "google-bert/bert-base-uncased", "N": "nvidia/NV-Embed-v2"}
_EXAMPLE = "m2d_clap_vit_base-80x608p16x16-240128"


@dataclass(frozen=True)
class _Sizes:
    """What the original folder name says: bins x frames, patch bins x frames, the rate and the letter of the text."""

    bins: int
    frames: int
    patch: tuple[int, int]  # (bins, frames)
    rate: str
    letter: str


def _recognises(shapes: Shapes) -> bool:
    prefix = _audio_prefix(shapes)
    if prefix is None:
        return False
    kernel, position = shapes[f"{prefix}patch_embed.proj.weight"], shapes[f"{prefix}pos_embed"]
    if len(kernel) != 4 or kernel[1] != 1 or len(position) != 3:
        return False
    marks = ("norm_stats", "audio_proj.0.weight", "audio_proj.sem_token", "text_proj.weight", "text_proj.0.weight")
    # The oldest files have none of these marks: they are told from other one-channel ViTs by five bands of 16 bins.
    return any(prefix + mark in shapes for mark in marks) or (kernel[2] == 16 and (position[1] - 1) % 5 == 0)


def _audio_prefix(shapes: Shapes) -> str | None:
    needed = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "norm.weight")
    return next((p for p in _AUDIO_PREFIXES if all(p + name in shapes for name in needed)), None)


def _text_prefix(shapes: Shapes) -> str | None:
    return next((p for p in _TEXT_PREFIXES if p + _WORDS in shapes), None)


def _plan(foreign: Foreign) -> Plan:
    try:
        return _complete_plan(foreign)
    except KeyError as missing:
        raise CheckpointError(f"the file has no tensor {missing}, from which a size is read: it is not whole") from None


def _complete_plan(foreign: Foreign) -> Plan:
    shapes = foreign.shapes
    audio, text = _audio_prefix(shapes), _text_prefix(shapes)
    assert audio is not None, "the file was recognised"
    sizes, notes = _sizes(foreign, audio)
    settings, more = _frontend(foreign, audio, sizes)
    notes += more
    head, dimension, frames = _audio_head(foreign, audio)
    width, depth = shapes[f"{audio}norm.weight"][0], foreign.count(f"{audio}blocks.{{i}}.norm1.weight")
    tower = spec(
        M2DViT,
        patch=(sizes.patch[1], sizes.patch[0]),
        width=width,
        depth=depth,
        heads=_heads(width, "the audio tower"),
        hidden=shapes[f"{audio}blocks.0.mlp.fc1.weight"][0],
        chunk_frames=sizes.frames,
        frames=frames,
    )
    window_s = _CHUNKS_IN_A_WINDOW * sizes.frames * settings.hop_samples / settings.rate_hz
    scaled = f"{audio}logit_scale" in shapes
    if not scaled:
        notes += ("the file has no logit scale: that of the start of its training, 1 / 0.07, is taken",)
    model = spec(
        DualEncoder,
        frontend=settings,
        audio=tower,
        text=None if text is None else _text(foreign, text, sizes),
        audio_head=head,
        text_head=None if text is None else _text_head(shapes, audio),
        dimension=dimension,
        windowing=Windowing(window_s=window_s, hop_s=window_s),
    )
    return Plan(
        model=model,
        rules=(*_audio_rules(audio, width, sizes.patch), *_text_rules(audio, text), *_left_out(audio)),
        tokenizer=None if text is None else _TEXTS[sizes.letter],
        notes=notes,
        no_text=None if text is not None else _no_text(shapes, audio, sizes),
        constants={} if scaled else {"logit_scale": _START_SCALE},
    )


def _sizes(foreign: Foreign, prefix: str) -> tuple[_Sizes, tuple[str, ...]]:
    """From the folder name, else the variant, else the shapes; CheckpointError where they contradict the tensors."""
    shapes = foreign.shapes
    _, _, patch_bins, patch_frames = shapes[f"{prefix}patch_embed.proj.weight"]
    positions = shapes[f"{prefix}pos_embed"][1] - 1
    told, notes = _told(foreign)
    if told is None:
        steps = positions // (M2D.mel_bins // patch_bins)
        # 1001 frames (10 s) do not fill their last patch: every other published length is a multiple of the patch.
        frames = 1001 if 1001 // patch_frames == steps else steps * patch_frames
        letter = "B" if any(f"{prefix}text_proj.{part}" in shapes for part in ("weight", "0.weight")) else "A"
        told = _Sizes(M2D.mel_bins, frames, (patch_bins, patch_frames), "16k", letter)
        notes = (
            f"no folder name says how the file was made (such as {_EXAMPLE}, also taken as variant=): {told.bins} bins "
            f"and chunks of {frames} frames at 16 kHz are taken, and text as in files of kind '{letter}'",
        )
    grid = (told.bins // told.patch[0]) * (told.frames // told.patch[1])
    if told.patch != (patch_bins, patch_frames) or grid != positions or told.bins % told.patch[0]:
        raise CheckpointError(
            f"{told.bins}x{told.frames}p{told.patch[0]}x{told.patch[1]} makes {grid} patches, but the file has "
            f"{positions} positions for patches of {patch_bins}x{patch_frames}: give the folder its original name "
            f"(such as {_EXAMPLE}), or load a file from a folder of another name with variant=<that name>"
        )
    return told, notes


def _told(foreign: Foreign) -> tuple[_Sizes | None, tuple[str, ...]]:
    path = foreign.path.absolute()
    for name in (path.parent.name, path.name):
        if found := _NAME.search(name):
            same = foreign.variant is None or foreign.variant == name
            ignored = "" if same else f"; variant={foreign.variant!r} is not used"
            return _parsed(found), (f"the sizes are those of the name '{name}'{ignored}",)
    if foreign.variant is None:
        return None, ()
    found = _NAME.search(foreign.variant)
    if found is None:
        raise CheckpointError(
            f"variant={foreign.variant!r} names no sizes: expected the original folder name of the file, "
            f"such as {_EXAMPLE}"
        )
    return _parsed(found), (f"the sizes are those of variant={foreign.variant!r}",)


def _parsed(found: re.Match[str]) -> _Sizes:
    bins, frames, patch_bins, patch_frames = (int(found.group(i)) for i in range(1, 5))
    extras = found.group(5).split("p")[1:]
    rate = extras[0] if extras else "16k"
    letter = extras[1] if len(extras) > 1 else "A"
    if rate not in _RATES or letter not in _TEXTS or min(frames, patch_bins, patch_frames) < 1:
        raise CheckpointError(
            f"the name '{found.string}' says rate '{rate}' and text '{letter}', expected one of {', '.join(_RATES)} "
            f"and one of {', '.join(_TEXTS)}, as in m2d_clap_vit_base-80x1001p16x16p16kpBpTI-2025"
        )
    return _Sizes(bins, frames, (patch_bins, patch_frames), rate, letter)


def _frontend(foreign: Foreign, prefix: str, sizes: _Sizes) -> tuple[MelSettings, tuple[str, ...]]:
    settings = replace(_RATES[sizes.rate], mel_bins=sizes.bins)
    stats = foreign.tensors.get(f"{prefix}norm_stats")
    if stats is None:
        assert isinstance(settings.standardise, tuple)
        mean, deviation = settings.standardise
        return settings, (
            f"the file has no norm_stats: mean {mean} and deviation {deviation}, those of 2022, are taken",
        )
    if tuple(stats.shape) != (2,) or not bool(torch.isfinite(stats).all()) or float(stats[1]) <= 0:
        raise CheckpointError(f"norm_stats is {stats.flatten().tolist()[:8]}, expected a mean and a deviation above 0")
    mean, deviation = (float(value) for value in stats)
    return replace(settings, standardise=(mean, deviation)), ()


def _heads(width: int, what: str) -> int:
    if width % _HEAD_WIDTH:
        raise CheckpointError(f"{what} is {width} wide, expected a multiple of {_HEAD_WIDTH}, the width of its heads")
    return width // _HEAD_WIDTH


def _audio_head(foreign: Foreign, prefix: str) -> tuple[Spec, int, str]:
    """The head, the width of the space, and which frames the head needs."""
    shapes = foreign.shapes
    width = shapes[f"{prefix}norm.weight"][0]
    if f"{prefix}audio_proj.sem_token" in shapes:
        depth = foreign.count(f"{prefix}audio_proj.sem_blocks.{{i}}.norm1.weight")
        hidden = shapes[f"{prefix}audio_proj.sem_blocks.0.mlp.fc1.weight"][0] if depth else width
        return spec(SemanticToken, depth=depth, heads=1, hidden=hidden), width, "patches"
    if f"{prefix}audio_proj.0.weight" in shapes and f"{prefix}audio_proj.2.weight" in shapes:
        hidden, dimension = shapes[f"{prefix}audio_proj.0.weight"][0], shapes[f"{prefix}audio_proj.2.weight"][0]
        return spec(MLP, hidden_width=hidden, activation="relu"), dimension, "steps"
    return spec(Keep), width, "steps"


def _text(foreign: Foreign, prefix: str, sizes: _Sizes) -> Spec:
    shapes = foreign.shapes
    vocabulary, width = shapes[prefix + _WORDS]
    positions = shapes[f"{prefix}embeddings.position_embeddings.weight"][0]
    config = {
        "model_type": "bert",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": foreign.count(f"{prefix}encoder.layer.{{i}}.output.dense.weight"),
        "num_attention_heads": _heads(width, "the text tower"),
        "intermediate_size": shapes[f"{prefix}encoder.layer.0.intermediate.dense.weight"][0],
        "max_position_embeddings": positions,
        "type_vocab_size": shapes[f"{prefix}embeddings.token_type_embeddings.weight"][0],
    }
    return spec(TransformersText, config=config, pooling="cls" if sizes.letter == "B" else "mean", max_tokens=positions)


def _text_head(shapes: Shapes, prefix: str) -> Spec:
    if f"{prefix}text_proj.weight" in shapes:
        return spec(Linear, bias=f"{prefix}text_proj.bias" in shapes)
    if f"{prefix}text_proj.0.weight" in shapes:
        return spec(MLP, hidden_width=shapes[f"{prefix}text_proj.0.weight"][0], activation="relu")
    return spec(Keep)


def _no_text(shapes: Shapes, prefix: str, sizes: _Sizes) -> str:
    if not any(name.startswith((f"{prefix}audio_proj.", f"{prefix}text_proj.")) for name in shapes):
        return "this M2D file was trained without language: its space has no texts, and it embeds sound alone"
    if any(name.startswith(f"{prefix}text_proj.") for name in shapes):
        return (
            "the file projects texts, but the encoder that reads them is not in it: load the whole M2D-CLAP file, "
            "whose folder name has 'pTI' (text encoder included)"
        )
    return (
        "the file holds no text encoder: it was trained beside a frozen one that is published on its own. "
        f"Give its folder: clapkit.load(..., text='{_TEXTS[sizes.letter]}')"
    )


def _audio_rules(p: str, width: int, patch: tuple[int, int]) -> tuple[Rule, ...]:
    block, sem = f"{p}blocks.{{i}}", f"{p}audio_proj.sem_blocks.{{i}}"
    return (
        Change(f"{p}cls_token", "audio.class_token", lambda x: x.reshape(-1), lambda x: x[None, None]),
        Change(f"{p}pos_embed", "audio.position", lambda x: x[0], lambda x: x[None]),
        Change(
            f"{p}patch_embed.proj.weight",
            "audio.embed.weight",
            lambda x: x.flatten(1),
            lambda x: x.reshape(width, 1, *patch),
        ),
        Rename(f"{p}patch_embed.proj.bias", "audio.embed.bias"),
        *_block_rules(block, "audio.blocks.{i}"),
        Rename(f"{p}norm.{{w}}", "audio.norm.{w}"),
        Computed(f"{p}norm_stats", "mean and deviation of the mel: read into the settings of the front-end"),
        Change(f"{p}logit_scale", "logit_scale", lambda x: x.reshape(()), lambda x: x),
        Change(f"{p}audio_proj.sem_token", "audio_head.token", lambda x: x.reshape(-1), lambda x: x[None, None]),
        *_block_rules(sem, "audio_head.blocks.{i}"),
        Rename(f"{p}audio_proj.norm.{{w}}", "audio_head.norm.{w}"),
        Rename(f"{p}audio_proj.0.{{w}}", "audio_head.linear1.{w}"),
        Rename(f"{p}audio_proj.2.{{w}}", "audio_head.linear2.{w}"),
    )


def _block_rules(theirs: str, ours: str) -> tuple[Rule, ...]:
    """The blocks of the timm library, as in all ViTs here."""
    parts = {"attn.qkv": "query_key_value", "attn.proj": "out", "mlp.fc1": "rise", "mlp.fc2": "fall"}
    norms = {"norm1": "norm1", "norm2": "norm2"}
    return tuple(Rename(f"{theirs}.{a}.{{w}}", f"{ours}.{b}.{{w}}") for a, b in (norms | parts).items())


def _text_rules(p: str, q: str | None) -> tuple[Rule, ...]:
    if q is None:
        return (Drop(f"{p}text_proj.{{rest*}}", "projects texts, but the encoder that reads them is not in the file"),)
    return (
        Rename(f"{p}text_proj.0.{{w}}", "text_head.linear1.{w}"),
        Rename(f"{p}text_proj.2.{{w}}", "text_head.linear2.{w}"),
        Rename(f"{p}text_proj.{{w}}", "text_head.linear.{w}"),
        Computed(f"{q}embeddings.position_ids", "a row of counting numbers"),
        Computed(f"{q}embeddings.token_type_ids", "a row of zeros"),
        Rename(f"{q}embeddings.{{rest*}}", "text.encoder.embeddings.{rest*}"),
        Rename(f"{q}encoder.{{rest*}}", "text.encoder.encoder.{rest*}"),
        Drop(f"{q}pooler.{{rest*}}", "a layer above the text encoder that M2D-CLAP does not use"),
    )


def _left_out(p: str) -> tuple[Rule, ...]:
    training = "belongs to the masked pre-training of M2D, not to the encoder"
    return (
        Drop(f"{p}decoder_{{rest*}}", training),
        Drop(f"{p}target_{{rest*}}", training),
        Drop(f"{p}mask_token", training),
        Drop("head.{rest*}", "the classifier of a fine-tuned file"),
        Computed("to_spec.{rest*}", "kernels of the mel front-end"),
        Computed("ar.runtime.to_spec.{rest*}", "kernels of the mel front-end"),
    )


IMPORTERS: tuple[Importer, ...] = (
    Importer(
        family="m2d",
        about="M2D-CLAP 2024 and 2025 (m2d_clap_vit_base-*/checkpoint-*.pth) and plain M2D encoders",
        recognises=_recognises,
        plan=_plan,
        licence="NTT licence for evaluation (see the repository of M2D)",
        takes_variant=True,
    ),
)
