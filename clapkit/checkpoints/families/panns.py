"""PANNs: the CNN14, CNN10 and CNN6 taggers of Kong et al. (2020), without their tagging layer.

What their files share with those of Microsoft CLAP (a torchlibrosa front-end and these networks under a prefix) stands
here too: `mel_settings`, `cnn_tower`, `cnn_rules`.
"""

from __future__ import annotations

from dataclasses import replace

from clapkit.audio.mel_settings import LAION, MelSettings
from clapkit.checkpoints.base import Foreign, Importer, Plan, Shapes
from clapkit.checkpoints.rules import Computed, Drop, Rename, Rule
from clapkit.errors import CheckpointError
from clapkit.heads.projection import Keep
from clapkit.model import DualEncoder, Windowing
from clapkit.spec import Spec, spec
from clapkit.towers.cnn14 import CNN14

# Numbers of the three published front-ends, by the rate of the sound in kHz.
_32_KHZ = replace(LAION, rate_hz=32000, hop_samples=320, quantise_int16=False)
_16_KHZ = replace(_32_KHZ, rate_hz=16000, n_fft=512, window_samples=512, hop_samples=160, high_hz=8000.0)
_8_KHZ = replace(_32_KHZ, rate_hz=8000, n_fft=256, window_samples=256, hop_samples=80, high_hz=4000.0)
_BY_VARIANT = {"32k": _32_KHZ, "16k": _16_KHZ, "8k": _8_KHZ}
_MOST_POOLINGS = 5


def shape_of(shapes: Shapes, name: str, *, axes: int) -> tuple[int, ...]:
    """Shape of a tensor that a file must have. CheckpointError if it is absent or has another number of axes."""
    if name not in shapes:
        raise CheckpointError(f"the file has no tensor '{name}', from which the sizes of the model are read")
    if len(shapes[name]) != axes or 0 in shapes[name]:
        raise CheckpointError(f"'{name}' is {list(shapes[name])}, expected {axes} axes, none of them 0")
    return shapes[name]


def filterbank_name(shapes: Shapes, prefix: str) -> str | None:
    """Name of the mel filter bank that torchlibrosa stores with a model, None where a file was saved without it."""
    name = f"{prefix}logmel_extractor.melW"
    return name if name in shapes else None


def mel_settings(shapes: Shapes, prefix: str, *, base: MelSettings) -> MelSettings:
    """`base` with the sizes that the file shows: mel bins by the first norm, the transform by its filter bank."""
    (bins,) = shape_of(shapes, f"{prefix}bn0.weight", axes=1)
    n_fft = base.n_fft
    if name := filterbank_name(shapes, prefix):
        rows, columns = shape_of(shapes, name, axes=2)
        n_fft = 2 * (rows - 1)
        if columns != bins or n_fft < 2:
            raise CheckpointError(f"'{name}' is [{rows}, {columns}], expected [n_fft / 2 + 1, {bins}] as {prefix}bn0")
    window = base.window_samples if n_fft == base.n_fft else n_fft
    return replace(base, n_fft=n_fft, window_samples=window, mel_bins=bins)


def mel_rules(prefix: str) -> tuple[Rule, ...]:
    """What torchlibrosa stores with a model."""
    return (
        Computed(f"{prefix}spectrogram_extractor.stft.{{kernel*}}", "the Fourier transform, computed by the front-end"),
        Computed(f"{prefix}logmel_extractor.melW", "the mel filter bank, part of the front-end"),
    )


def cnn_tower(shapes: Shapes, prefix: str) -> Spec:
    """The Spec of the network whose tensors begin with `prefix`."""
    blocks = _blocks(shapes, prefix)
    kernels = [shape_of(shapes, f"{prefix}conv_block{i + 1}.conv1.weight", axes=4) for i in range(blocks)]
    width, _ = shape_of(shapes, f"{prefix}fc1.weight", axes=2)
    return spec(
        CNN14,
        channels=tuple(kernel[0] for kernel in kernels),
        layers=_layers(shapes, prefix),
        kernel=kernels[0][2],
        poolings=min(blocks, _MOST_POOLINGS),
        width=width,
    )


def cnn_rules(shapes: Shapes, prefix: str) -> tuple[Rule, ...]:
    """From the names behind `prefix` to those of the tower of a DualEncoder."""
    rules: list[Rule] = [*mel_rules(prefix), Rename(f"{prefix}bn0.{{p}}", "audio.input_norm.norm.{p}")]
    for block in range(_blocks(shapes, prefix)):
        theirs, ours = f"{prefix}conv_block{block + 1}", f"audio.blocks.{block}"
        for layer in range(_layers(shapes, prefix)):
            rules.append(Rename(f"{theirs}.conv{layer + 1}.weight", f"{ours}.convs.{layer}.weight"))
            rules.append(Rename(f"{theirs}.bn{layer + 1}.{{p}}", f"{ours}.norms.{layer}.{{p}}"))
    return (
        *rules,
        Rename(f"{prefix}fc1.{{p}}", "audio.last.{p}"),
        Drop(f"{prefix}fc_audioset.{{p}}", "the tagging layer over the classes of AudioSet, behind the embedding"),
    )


def _blocks(shapes: Shapes, prefix: str) -> int:
    """Number of the last block, whatever of it is there: what it lacks is missed by name."""
    numbers = (name.removeprefix(f"{prefix}conv_block").partition(".")[0] for name in shapes)
    return max((int(n) for n in numbers if n.isdecimal() and n.isascii() and len(n) < 3), default=0)


def _layers(shapes: Shapes, prefix: str) -> int:
    return 2 if any(name.startswith(f"{prefix}conv_block") and ".conv2." in name for name in shapes) else 1


def _recognises(shapes: Shapes) -> bool:
    return all(name in shapes for name in ("bn0.weight", "conv_block1.conv1.weight", "fc1.weight"))


def _base_settings(foreign: Foreign) -> tuple[MelSettings, str]:
    """The front-end that the file was trained with, and how that is known."""
    if foreign.variant is not None:
        if foreign.variant not in _BY_VARIANT:
            raise CheckpointError(f"variant='{foreign.variant}' is unknown for PANNs: give one of {list(_BY_VARIANT)}")
        return _BY_VARIANT[foreign.variant], f"the front-end for {foreign.variant}Hz sound, as variant= says"
    if name := filterbank_name(foreign.shapes, ""):
        rows, _ = shape_of(foreign.shapes, name, axes=2)
        for settings in _BY_VARIANT.values():
            if settings.spectrum_bins == rows:
                return settings, f"{settings.rate_hz} Hz, by the size of the stored filter bank"
    return _32_KHZ, "the file does not say its sample rate: 32000 Hz is taken (variant='16k' or '8k' for the others)"


def _plan(foreign: Foreign) -> Plan:
    shapes = foreign.shapes
    base, how = _base_settings(foreign)
    tower = cnn_tower(shapes, "")
    model = spec(
        DualEncoder,
        frontend=mel_settings(shapes, "", base=base),
        audio=tower,
        text=None,
        audio_head=spec(Keep),
        text_head=None,
        dimension=tower.arguments["width"],
        windowing=Windowing(window_s=60.0, hop_s=60.0, fill="mask"),
    )
    return Plan(
        model=model,
        rules=cnn_rules(shapes, ""),
        filterbank=filterbank_name(shapes, ""),
        notes=(how,),
        no_text="PANNs files are audio taggers and were never trained with text: there is nothing to embed it with. "
        "Load a CLAP model, or give text=<checkpoint or folder> of a text side that was trained on this tower",
    )


IMPORTERS = (
    Importer(
        family="panns",
        about="PANNs taggers: Cnn14_mAP=0.431.pth, Cnn10_mAP=0.380.pth, Cnn6_mAP=0.343.pth and their 16k and 8k kin",
        recognises=_recognises,
        plan=_plan,
        licence="CC BY 4.0",
        takes_variant=True,
    ),
)
