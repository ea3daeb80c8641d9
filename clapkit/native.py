"""The model folder: `model.safetensors`, `config.json`, `text/` (tokenizer). Saved whole, loaded whole or refused.

A model whose text tower reads token ids alone has no `text/`; one that came from a foreign checkpoint may have
`aside.safetensors`: what the checkpoint held and the model does not need, kept for the way back.

config.json
    format_version   of this layout
    model            Spec of the dual encoder with the text tower written out in full, so that the folder needs no other
    space_id         of the weights and settings beside it, checked on loading
    origin           where the model came from (`provenance.Report`); not there for models made here
    pad_id           the token id that fills short rows where no mask is given; without it, that of the tokenizer
    clapkit          version that wrote it
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from clapkit import __version__
from clapkit.audio.frontends import Settings
from clapkit.audio.spans import MAX_SAMPLES
from clapkit.errors import ModelError, SpecError, TextTowerError
from clapkit.files import atomic_file
from clapkit.model import GIVEN_WHEN_BUILT, DualEncoder, Windowing
from clapkit.provenance import Report
from clapkit.spec import Spec, derive, from_json, to_json, with_defaults
from clapkit.text.tokenizers import TOKENIZER_FILE, TextTokenizer
from clapkit.towers.hf import build_to_fill

FORMAT_VERSION = 1
# Raised whenever our own arithmetic changes the vector that a model gives a sound: mel, windows, pooling, norm.
# 2: the windows of long sound begin where leading silence ends.
ALGORITHM_VERSION = "clapkit-space-2"
_FORMER_VERSIONS = ("clapkit-space-1",)
_CONFIG_LIMIT_BYTES = 16 * 2**20
_MOST_FRONTEND_NUMBERS = 2**25  # weights of a front-end; the largest published one has 2**20


@dataclass(frozen=True)
class Loaded:
    """A model with what belongs to it.

    tokenizer  None where there is no language side, or its tokenizer was not found (`report` says which it is)
    aside      tensors of a foreign checkpoint that the model does not need; for the way back
    """

    model: DualEncoder
    tokenizer: TextTokenizer | None
    spec: Spec
    space_id: str
    folder: Path
    report: Report = field(default_factory=Report)
    aside: Mapping[str, torch.Tensor] = field(default_factory=dict)
    pad_id: int = 0


def tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, independent of the order of the mapping."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def space_id(model: DualEncoder, model_spec: Spec, *, algorithm: str = ALGORITHM_VERSION) -> str:
    """Identity of the embedding space: weights, front-end, windows, pooling and our algorithm version."""
    aside = ("temperature", "frozen_text", "fixed_temperature", "pair_bias")
    settings = {k: v for k, v in to_json(model_spec).items() if k not in aside}
    # Temperature and bias change scores, not vectors.
    weights = {
        k: v
        for k, v in model.state_dict().items()
        if k not in ("logit_scale", "bias") and not k.endswith("num_batches_tracked")
    }
    named = json.dumps([algorithm, settings, tensors_digest(weights)], sort_keys=True)
    return "space-" + hashlib.sha256(named.encode()).hexdigest()[:16]


def whole_spec(model: DualEncoder, model_spec: Spec) -> Spec:
    """The Spec with all defaults, and with the parts that are shaped by more than their Spec written out in full.

    Such parts (a text model by its folder, anchors by the data) describe themselves; then no name has to be looked up
    on loading, and no later default changes the model.
    """
    shaped = {name: getattr(model, name) for name in ("text", "audio_head", "text_head")}
    described = {name: part.spec() for name, part in shaped.items() if hasattr(part, "spec")}
    return with_defaults(derive(model_spec, **described), leave=GIVEN_WHEN_BUILT)


def save(
    model: DualEncoder,
    model_spec: Spec,
    folder: str | Path,
    *,
    tokenizer: TextTokenizer | None,
    report: Report | None = None,
    aside: Mapping[str, torch.Tensor] | None = None,
    pad_id: int | None = None,
) -> str:
    """Write the model folder, config last, and return its space_id."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    whole = whole_spec(model, model_spec)
    save_tensors(model.state_dict(), folder / "model.safetensors")
    if aside:
        save_tensors(aside, folder / "aside.safetensors")
    if tokenizer is not None:
        tokenizer.save(folder / "text")
    space = space_id(model, whole)
    config = {
        "format_version": FORMAT_VERSION,
        "clapkit": __version__,
        "space_id": space,
        "model": to_json(whole),
    }
    if report is not None and report.family != "clapkit":
        config["origin"] = report.to_json()
    if pad_id is not None or tokenizer is None:
        config["pad_id"] = pad_id or 0
    with atomic_file(folder / "config.json") as file:
        file.write(json.dumps(config, indent=2, ensure_ascii=False).encode())
    return space


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file, atomically."""
    # Cloned where two share their memory (views of one tensor, tied weights): the format refuses those.
    seen: set[int] = set()
    whole: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        whole[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    partial = path.with_name(f".{path.name}.partial")
    save_file(whole, partial, metadata={"format": "pt"})
    partial.replace(path)


def find_folder(path: str | os.PathLike) -> Path:
    """The model folder for a model folder or for a run folder that holds one in `model/`."""
    path = Path(path)
    for folder in (path, path / "model"):
        if (folder / "config.json").is_file():
            return folder
    if not path.exists():
        raise ModelError(f"there is no model at '{path}': give a model folder or the folder of a training run")
    if (path / "checkpoints").is_dir():
        raise ModelError(
            f"'{path}' is a run that has not ended: finish it with  clapkit train ... --out {path} --resume"
        )
    raise ModelError(f"'{path}' is no model folder: it holds no config.json and no model/config.json")


def is_ours(folder: Path) -> bool:
    """Whether the folder is one of ours, of this version or a later one; ModelError if config.json cannot be read."""
    return "format_version" in _config_of(folder)


def _config_of(folder: Path) -> dict:
    path = folder / "config.json"
    if path.stat().st_size > _CONFIG_LIMIT_BYTES:
        raise ModelError(f"{path} is larger than {_CONFIG_LIMIT_BYTES >> 20} MiB: this is no configuration of ours")
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as a model configuration: {str(error)[:200]!r}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} cannot be read as a model configuration: it is a {type(config).__name__}")
    return config


def read_config(folder: Path) -> dict:
    """config.json of a model folder, its version checked."""
    path, config = folder / "config.json", _config_of(folder)
    if "format_version" not in config:
        raise ModelError(f"{path} cannot be read as a model configuration: it has no format_version")
    if (version := config["format_version"]) != FORMAT_VERSION:
        told = reprlib.repr(version)
        raise ModelError(f"{path} has format_version {told}, this clapkit reads {FORMAT_VERSION}: update clapkit")
    return config


# What building by settings of a stranger ends in: sizes of any type may meet any arithmetic.
NOT_BUILT: tuple[type[Exception], ...] = (
    *(SpecError, ModelError, LookupError, TypeError, ValueError),
    *(ArithmeticError, AttributeError, RuntimeError, MemoryError),
)


def load(path: str | os.PathLike, *, trust: tuple[str, ...] = ()) -> Loaded:
    """Rebuild the model that `save` wrote, in eval mode, on the CPU.

    A folder of an earlier algorithm loads with the space_id of today's: its vectors are no longer comparable.

    ModelError if a tensor is missing, left over or of another shape, or if the weights are not those of `space_id`.
    """
    folder = find_folder(path)
    config = read_config(folder)
    try:
        model_spec = from_json(config["model"], trust=trust)
        _check_parts(model_spec)
        check_sizes(model_spec)
    except NOT_BUILT as error:
        raise _not_built(folder, error) from error
    tensors = _read_tensors(folder / "model.safetensors")
    try:
        model = build_to_fill(model_spec.build, tensors)
    except NOT_BUILT as error:
        raise _not_built(folder, error) from error
    fill(model, tensors, folder)
    model.eval()
    found = space_id(model, model_spec)
    known = (found, *(space_id(model, model_spec, algorithm=version) for version in _FORMER_VERSIONS))
    if config.get("space_id") not in known:
        raise ModelError(
            f"{folder}: config.json says {config.get('space_id')} but these weights and settings are {found}: "
            "a file was changed or does not belong here"
        )
    tokenizer = tokenizer_of(model, folder / "text")
    if model.text is not None and tokenizer is None and "pad_id" not in config:
        raise TextTowerError(f"{folder / 'text'} has no {TOKENIZER_FILE}: the folder is not whole")
    pad_id = config.get("pad_id", tokenizer.pad_id if tokenizer else 0) or 0
    if not isinstance(pad_id, int):
        raise ModelError(f"{folder / 'config.json'} has a {type(pad_id).__name__} as pad_id, expected a token id")
    report = Report.from_json(config.get("origin"))
    return Loaded(model, tokenizer, model_spec, found, folder, report=report, aside=_aside(folder), pad_id=pad_id)


def _not_built(folder: Path, error: Exception) -> ModelError:
    return ModelError(f"{folder / 'config.json'}: the model cannot be built: {str(error)[:2000]}")


def tokenizer_of(model: DualEncoder, folder: Path) -> TextTokenizer | None:
    """The tokenizer in `folder` with the options of the model's text tower; None where there is none to be had."""
    if model.text is None or not (folder / TOKENIZER_FILE).is_file():
        return None
    options = {name: getattr(model.text, name, None) for name in ("pad_id", "suffix")}
    return TextTokenizer(
        folder, max_tokens=model.text.max_tokens, **{k: v for k, v in options.items() if v not in (None, "")}
    )


def _aside(folder: Path) -> Mapping[str, torch.Tensor]:
    path = folder / "aside.safetensors"
    return _read_tensors(path) if path.is_file() else {}


def _check_parts(model_spec: Any) -> None:
    """Refuse a configuration that is no DualEncoder, or would call anything but modules: a stranger wrote it."""
    if not isinstance(model_spec, Spec) or not _is_module(model_spec, DualEncoder):
        raise ModelError(f"it describes {reprlib.repr(model_spec)}, not a DualEncoder")
    for part in _specs(model_spec):
        if not _is_module(part, torch.nn.Module):
            raise ModelError(f"'{part.target}' is not a class of torch.nn.Module")


def check_sizes(model_spec: Spec) -> None:
    """ModelError for a front-end or a window that would take more memory than any model of sound has use for."""
    frontend, windowing = (model_spec.arguments.get(part) for part in ("frontend", "windowing"))
    if isinstance(frontend, Settings):
        bands = frontend.n_fft if getattr(frontend, "transform", None) == "convolution" else 0
        if frontend.n_fft * max(bands, frontend.mel_bins) > _MOST_FRONTEND_NUMBERS:
            raise ModelError(
                f"its front-end has {frontend.mel_bins} bands over {frontend.n_fft} samples "
                f"(transform {getattr(frontend, 'transform', 'exact')!r}), far more than sound has use for"
            )
        window_s = (windowing if isinstance(windowing, Windowing) else Windowing()).window_s
        if not math.isfinite(window_s) or window_s * frontend.rate_hz > MAX_SAMPLES:
            raise ModelError(
                f"its windows have {window_s:g} s of {frontend.rate_hz} samples each, expected at most {MAX_SAMPLES} "
                "samples in a window"
            )


def _is_module(part: Spec, kind: type) -> bool:
    target = part.resolve()
    return isinstance(target, type) and issubclass(target, kind)


def _specs(value: Any) -> Iterator[Spec]:
    """Every Spec in a value, itself included."""
    if isinstance(value, Spec):
        yield value
        value = value.arguments
    for inner in value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else ():
        yield from _specs(inner)


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    if path.exists() and not path.is_file():  # a pipe would never end
        raise ModelError(f"{path} cannot be read as safetensors: it is no regular file")
    try:
        return load_file(path)
    except FileNotFoundError:
        raise ModelError(f"{path} is missing: the folder is not whole") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as safetensors: {error}") from error


def fill(
    model: DualEncoder,
    tensors: Mapping[str, torch.Tensor],
    source: str | Path,
    *,
    shown: Callable[[str], str] = str,
) -> None:
    """Give every tensor of the model its value; the model takes over the memory of `tensors`.

    ModelError that lists what is missing, left over or of another shape, each by the name that `shown` gives it: never
    a partial load.
    """
    expected = model.state_dict()
    problems = [f"missing: {shown(k)}" for k in expected if k not in tensors]
    problems += [f"left over: {shown(k)}" for k in tensors if k not in expected]
    problems += [
        f"shape of {shown(k)}: {tuple(tensors[k].shape)} in the file, {tuple(expected[k].shape)} in the model"
        for k in expected
        if k in tensors and tensors[k].shape != expected[k].shape
    ]
    if problems:
        listed = "\n  - ".join(problems[:20])
        raise ModelError(
            f"{source}: the weights do not fit the configuration ({len(problems)} problems):\n  - {listed}"
        )
    fitting = {k: v if v.dtype == expected[k].dtype else v.to(expected[k].dtype) for k, v in tensors.items()}
    model.load_state_dict(fitting, assign=True)
