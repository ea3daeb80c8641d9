"""From what a user calls a model to a model ready in a runtime: which file, which runtime, which precision."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clapkit.errors import ClapkitError, MissingExtraError, ModelError
from clapkit.runtime.ready import NO_LANGUAGE, PRECISIONS, Ready, check_precision

if TYPE_CHECKING:
    from clapkit.native import Loaded


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
) -> Ready:
    """What `clapkit.load` says, without the `Clap` around it."""
    if provider is not None and provider not in PRECISIONS:
        raise ClapkitError(f"provider is {', '.join(map(repr, PRECISIONS))} or None, not {provider!r}")
    if threads is not None and threads < 1:
        raise ClapkitError(f"threads is a number of processor threads, at least 1, not {threads}")
    if provider in ("onnx", "openvino"):
        _only_processor(device, provider)
    from clapkit.runtime.graphs.exported import is_exported, open_exported

    if is_exported(path_or_name):
        _only_processor(device, "onnx")
        if provider == "torch":
            raise ModelError(
                f"'{path_or_name}' is an exported model, which torch cannot run: load the model that it was made from"
            )
        given = {"variant": variant, "text": text, "trust": trust}
        if any(given.values()):
            what = ", ".join(name for name, value in given.items() if value)
            raise ModelError(f"'{path_or_name}' is an exported model and whole: leave out {what}")
        return open_exported(path_or_name, provider=provider, precision=precision, threads=threads)
    check_precision(provider or "torch", precision)
    need_torch("Loading a model")
    loaded = _read(path_or_name, variant=variant, text=text, trust=trust)
    if provider in ("onnx", "openvino"):
        return open_exported(exported_once(loaded), provider=provider, precision=precision, threads=threads)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    return in_torch(loaded, device=device, precision=precision)


def in_torch(loaded: Loaded, *, device: str = "auto", precision: str = "fp32") -> Ready:
    """A model on its device, ready in torch."""
    import torch

    from clapkit.native import tokenizer_of
    from clapkit.provenance import pipeline_id
    from clapkit.runtime.torch_program import TorchProgram

    check_precision("torch", precision)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = loaded.model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    missing = model.text_missing or NO_LANGUAGE
    return Ready(
        program=TorchProgram(model, precision=precision),
        folder=loaded.folder,
        space_id=loaded.space_id,
        pipeline_id=pipeline_id(loaded.space_id, precision=precision),
        provider="torch",
        precision=precision,
        report=loaded.report,
        tokenizer=loaded.tokenizer,
        tokenizer_in=lambda folder: tokenizer_of(model, folder),
        pad_id=loaded.pad_id,
        text_missing=missing if model.text is None else None,
        loaded=loaded,
    )


def exported_once(loaded: Loaded) -> Path:
    """The exported folder of a model in the cache; made there the first time, which takes a minute for large ones."""
    from clapkit.files import cache_folder
    from clapkit.runtime.graphs.exported import VERSION, is_exported

    folder = cache_folder() / "onnx" / f"v{VERSION}" / loaded.space_id
    if not is_exported(folder):
        from clapkit.runtime.export import export

        try:
            export(loaded, folder)
        except (OSError, ClapkitError):
            # Two processes may have started at once: whoever comes second finds the folder of the first.
            if not is_exported(folder):
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


def _only_processor(device: str, provider: str) -> None:
    if device not in ("auto", "cpu"):
        raise ClapkitError(f"provider '{provider}' runs on the processor: device is 'cpu' or 'auto', not {device!r}")
