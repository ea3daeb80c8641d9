"""Wav2CLIP: a ResNet-18 over a linear spectrogram, distilled into the space of CLIP (card 045)."""

from __future__ import annotations

import math
from dataclasses import replace

from clapkit.audio.mel_settings import WAV2CLIP, MelSettings
from clapkit.checkpoints.base import Foreign, Importer, Plan, Shapes
from clapkit.checkpoints.families.panns import shape_of
from clapkit.checkpoints.rules import Computed, Drop, Rename, Rule, transposed
from clapkit.errors import CheckpointError
from clapkit.heads.projection import MLP
from clapkit.model import DualEncoder, Windowing
from clapkit.spec import Spec, spec
from clapkit.towers.resnet18 import ResNet18

_STEM = "audio_encoder.conv1.weight"
_WINDOW = "audio_encoder.spectrogram.window"
_STAGES = 4
_CLIP_SCALE = 100.0  # between cosines and logits


def _recognises(shapes: Shapes) -> bool:
    needed = (_STEM, "audio_encoder.layer4.0.conv1.weight", "audio_transform.sequential.0.weight")
    return all(name in shapes for name in needed) and len(shapes[_STEM]) == 4


def _rules() -> tuple[Rule, ...]:
    """Their images have frequency first and ours time, so the two axes of every kernel change places."""
    rules: list[Rule] = [
        Computed(_WINDOW, "the Hann window of the front-end, computed"),
        transposed(_STEM, "audio.stem.weight"),
        Rename("audio_encoder.bn1.{p}", "audio.stem_norm.{p}"),
    ]
    for stage in range(_STAGES):
        theirs, ours = f"audio_encoder.layer{stage + 1}.{{i}}", f"audio.stages.{stage}.{{i}}"
        for part in ("1", "2"):
            rules.append(transposed(f"{theirs}.conv{part}.weight", f"{ours}.conv{part}.weight"))
            rules.append(Rename(f"{theirs}.bn{part}.{{p}}", f"{ours}.norm{part}.{{p}}"))
        rules.append(transposed(f"{theirs}.downsample.0.weight", f"{ours}.shortcut.0.weight"))
        rules.append(Rename(f"{theirs}.downsample.1.{{p}}", f"{ours}.shortcut.1.{{p}}"))
    rules += [
        Rename("audio_transform.sequential.0.{p}", "audio_head.linear1.{p}"),
        Rename("audio_transform.sequential.3.{p}", "audio_head.linear2.{p}"),
        Drop("image_transform.{rest*}", "maps images of CLIP to sounds, used in the training of Wav2CLIP only"),
    ]
    return tuple(rules)


def _frontend(shapes: Shapes) -> MelSettings:
    n_fft = shapes.get(_WINDOW, (WAV2CLIP.n_fft,))[0]
    if n_fft == WAV2CLIP.n_fft:
        return WAV2CLIP
    return replace(WAV2CLIP, n_fft=n_fft, window_samples=n_fft, mel_bins=n_fft // 2 + 1)


def _model(foreign: Foreign) -> Spec:
    shapes = foreign.shapes
    width, channels, kernel, _ = shapes[_STEM]
    depths = tuple(foreign.count(f"audio_encoder.layer{stage + 1}.{{i}}.conv1.weight") for stage in range(_STAGES))
    if channels != 1 or 0 in depths:
        raise CheckpointError(
            f"{_STEM} reads {channels} channel(s) and the stages have {depths} blocks, expected 1 channel and four "
            "stages of at least one block: this is a residual network, but not that of Wav2CLIP"
        )
    hidden, _ = shape_of(shapes, "audio_transform.sequential.0.weight", axes=2)
    dimension, _ = shape_of(shapes, "audio_transform.sequential.3.weight", axes=2)
    return spec(
        DualEncoder,
        frontend=_frontend(shapes),
        audio=spec(ResNet18, width=width, depths=depths, stem_kernel=kernel),
        text=None,
        audio_head=spec(MLP, hidden_width=hidden, activation="relu"),
        text_head=None,
        dimension=dimension,
        windowing=Windowing(window_s=120.0, hop_s=60.0),
        temperature=1 / _CLIP_SCALE,
        fixed_temperature=True,
    )


def _plan(foreign: Foreign) -> Plan:
    return Plan(
        model=_model(foreign),
        rules=_rules(),
        notes=(
            "spectrograms are standardised clip by clip; the reference takes mean and deviation over all clips of a "
            "batch, which gives the same numbers for one clip at a time",
            "the file has no logit scale: that of CLIP (100) is taken",
        ),
        constants={"logit_scale": math.log(_CLIP_SCALE)},
        no_text="Wav2CLIP files hold no text tower: sounds are embedded into the space of CLIP ViT-B/32. "
        "Give the folder of that model as transformers stores it: text='clip-vit-base-patch32'",
    )


IMPORTERS: tuple[Importer, ...] = (
    Importer(
        family="wav2clip",
        about="Wav2CLIP.pt: ResNet-18 over a linear log spectrogram, into the space of CLIP",
        recognises=_recognises,
        plan=_plan,
        licence="MIT",
    ),
)
