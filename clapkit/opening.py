"""From what a user calls a model to a model ready in a runtime: which file, which runtime, which precision."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clapkit.errors import ClapkitError, MissingExtraError, ModelError
from clapkit.runtime.ready import NO_LANGUAGE, PRECISIONS, Ready, check_precision

if TYPE_CHECKING:
    from clapkit.native import Loaded
    from clapkit.runtime.quantised import Ranges

# What int8 is calibrated on, if nothing else is given. Another choice is another version: its vectors differ.
_CALIBRATION_VERSION, _CALIBRATION_SEED, _CALIBRATION_CLIPS = 2, 8, 64


def open_model(
    path_or_name: str | os.PathLike,
    *,
    device: str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
    provider: str | None = None,
    variant: str | None = None,
    text: str | os.PathLike | None = None,
    trust: Sequence[str] = (),
    compile: bool = False,
    calibration: Sequence[Any] | None = None,
) -> Ready:
    """What `clapkit.load` says, without the `Clap` around it."""
    if provider is not None and provider not in PRECISIONS:
        raise ClapkitError(f"provider is {', '.join(map(repr, PRECISIONS))} or None, not {provider!r}")
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise ClapkitError(f"threads is a number of processor threads, at least 1, not {threads!r}")
    if calibration is not None and precision != "int8":
        raise ClapkitError(f"calibration is for precision 'int8', not {precision!r}")
    if compile and (provider not in (None, "torch") or precision == "int8"):
        raise ClapkitError("compile is for provider 'torch' in fp32 or bf16: leave it out, or the other settings")
    if provider in ("onnx", "openvino"):
        _only_processor(device, provider)
    from clapkit.runtime.graphs.exported import is_exported, open_exported

    if is_exported(path_or_name):
        _only_processor(device, "onnx")
        if provider == "torch":
            raise ModelError(
                f"'{path_or_name}' is an exported model, which torch cannot run: load the model that it was made from"
            )
        given = {"variant": variant, "text": text, "trust": trust, "compile": compile, "calibration": calibration}
        wrong = [name for name, value in given.items() if value or (name == "calibration" and value is not None)]
        if wrong:
            what = ", ".join(wrong)
            raise ModelError(f"'{path_or_name}' is an exported model and whole: leave out {what}")
        return open_exported(path_or_name, provider=provider, precision=precision, threads=threads)
    check_precision(provider or "torch", precision)
    need_torch("Loading a model")
    loaded = _read(path_or_name, variant=variant, text=text, trust=trust)
    if provider in ("onnx", "openvino"):
        ranges = ranges_of(loaded, calibration) if precision == "int8" else None
        label = label_of(ranges, calibration)
        from clapkit.runtime.torch_program import TorchFront

        front = TorchFront(loaded.model.frontend.cpu())
        how: dict[str, Any] = {"provider": provider, "precision": precision, "threads": threads, "front": front}
        folder = exported_once(loaded, ranges=ranges, label=label)
        try:
            return open_exported(folder, **how)
        except ModelError:  # damaged: what stands in the cache can be made again
            shutil.rmtree(folder, ignore_errors=True)
            return open_exported(exported_once(loaded, ranges=ranges, label=label), **how)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    return in_torch(loaded, device=device, precision=precision, compile=compile, calibration=calibration)


def in_torch(
    loaded: Loaded,
    *,
    device: str = "auto",
    precision: str = "fp32",
    compile: bool = False,
    calibration: Sequence[Any] | None = None,
) -> Ready:
    """A model on its device, ready in torch."""
    import torch

    from clapkit.native import tokenizer_of
    from clapkit.provenance import pipeline_id
    from clapkit.runtime.quantised import can_quantise
    from clapkit.runtime.torch_program import TorchProgram

    check_precision("torch", precision)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() and precision != "int8" else "cpu"
    ranges = None
    if precision == "int8":
        _only_processor(device, "torch", what="precision 'int8'")
        if not can_quantise():
            raise ClapkitError("this torch has no linear layers in integers for this processor: take precision 'bf16'")
        ranges = ranges_of(loaded, calibration)
    label = precision if ranges is None else label_of(ranges, calibration)
    model = loaded.model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    missing = model.text_missing or NO_LANGUAGE
    return Ready(
        program=TorchProgram(model, precision=precision, ranges=ranges, compile=compile),
        folder=loaded.folder,
        space_id=loaded.space_id,
        pipeline_id=pipeline_id(loaded.space_id, precision=label),
        provider="torch",
        precision=precision,
        report=loaded.report,
        tokenizer=loaded.tokenizer,
        tokenizer_in=lambda folder: tokenizer_of(model, folder),
        pad_id=loaded.pad_id,
        text_missing=missing if model.text is None else None,
        loaded=loaded,
    )


def ranges_of(loaded: Loaded, calibration: Sequence[Any] | None) -> Ranges:
    """What the inputs of the tower's linear layers span while it hears `calibration`.

    For None that is the built-in sound world with some test signals, and the answer is kept in the cache. AudioErrors
    for sounds that cannot be read, ClapkitError for a list without any.
    """
    from clapkit.files import cache_folder
    from clapkit.runtime.quantised import read_ranges, write_ranges

    if calibration is not None:
        return _hear(loaded, list(calibration))
    kept = cache_folder() / "int8" / f"v{_CALIBRATION_VERSION}" / f"{loaded.space_id}.json"
    ranges = read_ranges(kept)
    if ranges is None:
        from clapkit.building.soundworld import World
        from clapkit.runtime.graphs import parity
        from clapkit.units import seconds_to_samples

        world = World(seed=_CALIBRATION_SEED)
        heard: list[Any] = [(world.generate(index).audio, world.rate_hz) for index in range(_CALIBRATION_CLIPS)]
        # Overdriven bass, clicks, sweeps: what no clip of the world is, and a recording may be.
        rate_hz = loaded.model.frontend.rate_hz
        signals = parity.sounds(rate_hz, seconds_to_samples(loaded.model.windowing.window_s, rate_hz))
        ranges = _hear(loaded, heard + [(signal, rate_hz) for signal in signals])
        with suppress(OSError):  # without a cache that can be written, they are measured every time
            write_ranges(kept, ranges)
    return ranges


def _hear(loaded: Loaded, sources: Sequence[Any]) -> Ranges:
    from clapkit.errors import AudioErrors, AudioFailure
    from clapkit.runtime.engine import AudioEngine, Failed
    from clapkit.runtime.quantised import observed
    from clapkit.runtime.torch_program import TorchProgram

    if not sources:
        raise ClapkitError("calibration is an empty list: give some sounds, like those that the model will hear")
    model = loaded.model.cpu()
    with observed(model.audio, prefix="audio.") as ranges:
        heard = list(AudioEngine(TorchProgram(model, quick=False)).embed(sources))
    failures = [AudioFailure(r.index, r.error.source, r.error.reason) for r in heard if isinstance(r, Failed)]
    if failures:
        raise AudioErrors(failures)
    return ranges


def label_of(ranges: Ranges | None, calibration: Sequence[Any] | None) -> str:
    """The name of int8 in a pipeline_id: with ranges of one's own, vectors are others."""
    if ranges is None or calibration is None:
        return "int8"
    told = json.dumps({name: [f"{end:.4g}" for end in span] for name, span in sorted(ranges.items())})
    return f"int8-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


def exported_once(loaded: Loaded, *, ranges: Ranges | None = None, label: str = "") -> Path:
    """The exported folder of a model in the cache; made there the first time, which takes a minute for large ones.

    ranges, label   of the linear layers in integers, for a folder with an int8 graph
    """
    from clapkit.files import cache_folder
    from clapkit.runtime.graphs.exported import VERSION, is_exported

    name = loaded.space_id if ranges is None else f"{loaded.space_id}-{label}"
    folder = cache_folder() / "onnx" / f"v{VERSION}" / name
    if not is_exported(folder):
        from clapkit.runtime.export import export

        shutil.rmtree(folder, ignore_errors=True)  # half of one, after a power cut
        try:
            export(loaded, folder, ranges=ranges, label=label)
        except (OSError, ClapkitError) as error:
            # Two processes may have started at once: whoever comes second finds the folder of the first.
            if is_exported(folder):
                return folder
            if isinstance(error, OSError):
                raise ClapkitError(
                    f"cannot write into the cache {cache_folder()} ({error}): set CLAPKIT_CACHE"
                ) from error
            raise
    return folder


def need_torch(purpose: str) -> None:
    """MissingExtraError where torch cannot be imported."""
    try:
        import torch  # noqa: F401
    except ImportError:
        raise MissingExtraError("torch", "torch", purpose) from None


def _read(
    path_or_name: str | os.PathLike, *, variant: str | None, text: str | os.PathLike | None, trust: Sequence[str]
) -> Loaded:
    from clapkit.checkpoints.hub import locate
    from clapkit.checkpoints.load import read_model

    spoken = None if text is None else locate(text)
    return read_model(locate(path_or_name), variant=variant, text=spoken, trust=tuple(trust))


def _only_processor(device: str, provider: str, *, what: str = "") -> None:
    if device not in ("auto", "cpu"):
        raise ClapkitError(
            f"{what or f'provider {provider!r}'} runs on the processor: device is 'cpu' or 'auto', not {device!r}"
        )
