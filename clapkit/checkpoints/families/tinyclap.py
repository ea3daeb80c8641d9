"""tinyCLAP (card 009): PhiNet students of the audio side of Microsoft CLAP 2022."""

from __future__ import annotations

from dataclasses import replace

from clapkit.audio.mel_settings import MSCLAP_2022
from clapkit.checkpoints.base import Foreign, Importer, Plan, Shapes
from clapkit.checkpoints.families.panns import mel_settings, shape_of
from clapkit.checkpoints.rules import Rename, Rule
from clapkit.errors import CheckpointError
from clapkit.heads.projection import ResidualProjection
from clapkit.model import DualEncoder, Windowing
from clapkit.spec import Spec, spec
from clapkit.towers.phinet import PhiNet

_STEM = "base._layers.1._layers.1.weight"
_FIRST_BLOCK = 2  # number of block 0 in their list; 0 is the padding, 1 the stem
# This narrow network amplifies the rounding of the reference's mel in quiet bands until it shows in an embedding.
_SETTINGS = replace(MSCLAP_2022, transform="convolution")
# Numbers of the layers inside a block: (convolution, its norm) of the widening, the filter and the narrowing.
_LAYERS = {"widen": (0, 1), "filter": (4, 5), "narrow": (7, 8)}
_LAYERS_OF_BLOCK_0 = {"filter": (1, 2), "narrow": (4, 5)}


def _recognises(shapes: Shapes) -> bool:
    return all(name in shapes for name in (_STEM, "base.pn_block.weight", "projection.linear1.weight"))


def _tower(foreign: Foreign) -> Spec:
    shapes = foreign.shapes
    count = _blocks(foreign)
    narrow = [_layers(block)["narrow"][0] for block in range(count)]
    sizes = [
        shape_of(shapes, f"base._layers.{block + _FIRST_BLOCK}._layers.{layer}.weight", axes=4)
        for block, layer in enumerate(narrow)
    ]
    stem, *_ = shape_of(shapes, _STEM, axes=4)
    if sizes[0][1] != stem:
        raise CheckpointError(f"{_STEM} makes {stem} channels, but the next block reads {sizes[0][1]}")
    width, *_ = shape_of(shapes, "base.pn_block.weight", axes=4)
    return spec(PhiNet, stem=stem, channels=tuple(s[0] for s in sizes), inner=tuple(s[1] for s in sizes), width=width)


def _blocks(foreign: Foreign) -> int:
    count = foreign.count("base._layers.{i}._layers.4.weight") - _FIRST_BLOCK
    if count < 1:
        raise CheckpointError("the file has a PhiNet stem (base._layers.1), but no block behind it")
    return count


def _layers(block: int) -> dict[str, tuple[int, int]]:
    return _LAYERS_OF_BLOCK_0 if block == 0 else _LAYERS


def _rules(blocks: int) -> tuple[Rule, ...]:
    rules: list[Rule] = [
        Rename("base.bn0.{p}", "audio.input_norm.norm.{p}"),
        Rename("base._layers.1._layers.0.weight", "audio.stem_filter.weight"),
        Rename(_STEM, "audio.stem.weight"),
        Rename("base._layers.1._layers.2.{p}", "audio.stem_norm.{p}"),
    ]
    for block in range(blocks):
        theirs, ours = f"base._layers.{block + _FIRST_BLOCK}._layers", f"audio.blocks.{block}"
        for name, (conv, norm) in _layers(block).items():
            rules.append(Rename(f"{theirs}.{conv}.weight", f"{ours}.{name}.weight"))
            rules.append(Rename(f"{theirs}.{norm}.{{p}}", f"{ours}.{name}_norm.{{p}}"))
    return (
        *rules,
        Rename("base.pn_block.{p}", "audio.last.{p}"),
        Rename("projection.linear1.weight", "audio_head.linear1.weight"),
        Rename("projection.linear2.weight", "audio_head.linear2.weight"),
        Rename("projection.layer_norm.{p}", "audio_head.norm.{p}"),
    )


def _plan(foreign: Foreign) -> Plan:
    dimension, _ = shape_of(foreign.shapes, "projection.linear1.weight", axes=2)
    model = spec(
        DualEncoder,
        frontend=mel_settings(foreign.shapes, "base.", base=_SETTINGS),
        audio=_tower(foreign),
        text=None,
        audio_head=spec(ResidualProjection),
        text_head=None,
        dimension=dimension,
        windowing=Windowing(window_s=60.0, hop_s=60.0, fill="mask"),
        temperature=0.01,
    )
    return Plan(
        model=model,
        rules=_rules(_blocks(foreign)),
        notes=(
            "sound keeps its own length up to 60 s, as in the reference, which pads and repeats nothing",
            "the spectrum comes from a float32 convolution, as in the reference: the network amplifies its rounding",
            "the file has no logit scale: 100, the highest in use, is taken until that of the teacher is given",
        ),
        no_text=f"tinyCLAP files hold the audio side only; their {dimension} dimensions are those of Microsoft CLAP "
        "2022, whose text side goes with them: give text=<path of CLAP_weights_2022.pth>",
    )


IMPORTERS = (
    Importer(
        family="tinyclap",
        about="tinyCLAP students: phinet_alpha_*_beta_*_t0_*_N_*.ckpt",
        recognises=_recognises,
        plan=_plan,
        licence="Apache-2.0",
    ),
)
