"""From a model in torch to a folder of ONNX graphs that runs without torch (`runtime.graphs.exported` reads it).

    export(clapkit.load("run"), "exported")

The graphs hold everything from samples and token ids to unit vectors. They are compared with the model before the
folder appears: a graph that disagrees is an error, never a file.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from clapkit.errors import ClapkitError, MissingExtraError, ModelError
from clapkit.model import DualEncoder
from clapkit.native import Loaded
from clapkit.runtime.graphs import parity
from clapkit.runtime.graphs.exported import AUDIO, AUDIO_INT8, TEXT, Facts, file_digest
from clapkit.runtime.graphs.integers import with_integers
from clapkit.runtime.graphs.mel import mel_graph
from clapkit.runtime.graphs.program import OnnxProgram, onnx_graph
from clapkit.runtime.quantised import Ranges
from clapkit.runtime.ready import NO_LANGUAGE
from clapkit.runtime.torch_program import TorchProgram

if TYPE_CHECKING:
    from clapkit.api import Clap

LOWEST_COSINE = 0.9999
# Sound comes in blocks of so many frames, so that lengths are simple multiples all the way through the graph. Shorter
# sound is filled up behind its end, which changes nothing: runtimes refuse to pool less than a kernel.
_BLOCK_FRAMES, _LEAST_FRAMES = 16, 64


def export(
    model: Clap | Loaded, folder: str | os.PathLike, *, ranges: Ranges | None = None, label: str = "int8"
) -> dict[str, Any]:
    """Write the model as ONNX into a new folder; returns the parity report that stands in its parity.json.

    ranges, label   of linear layers, for a second audio graph in which they work in integers (precision "int8"), and
                    what its pipeline_id calls them (`opening.ranges_of`)

    The audio graph takes any number of clips, and sound of any length up to a window where the tower allows it; other
    models get every sound filled up to a window, which changes nothing but time.

    Raises ModelError for a model that cannot be a graph (feature fusion; a tower that looks at its input to decide what
    to do), and for graphs whose vectors differ from torch (cosine below 0.9999); MissingExtraError without the extra
    "export".
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "export", "Exporting a model")
    loaded = model if isinstance(model, Loaded) else model.loaded
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ClapkitError(f"'{folder}' exists already: choose another name, or remove it")
    if loaded.model.windowing.longer.startswith("fuse"):
        raise ModelError(
            f"'{loaded.folder}' fuses features: long sound goes through it as four mels of the whole clip, and a graph "
            "takes windows of samples. Use it with torch, or export a model without fusion."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        report = _write(loaded, partial, ranges, label)
        if folder.exists():
            folder.rmdir()
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return report


def _write(loaded: Loaded, folder: Path, ranges: Ranges | None, label: str) -> dict[str, Any]:
    # The graphs are those of float32 on the processor, in the usual order of memory.
    model = copy.deepcopy(loaded.model).cpu().float().to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    reference = TorchProgram(model if ranges is None else copy.deepcopy(model))
    facts = _facts(loaded, reference)
    tokens = _example_tokens(loaded, model)
    text = None
    if model.text is not None:
        _write_text(model, folder / TEXT, loaded.folder)
        text = onnx_graph(folder / TEXT)
    problems = []
    for block in (_block(model), 0) if facts.fill == "mask" else (0,):
        try:
            facts = replace(facts, block=block, least_blocks=-(-_least(model) // block) if block else 0)
            _write_audio(model, folder / AUDIO, facts)
            report = parity.measure(
                OnnxProgram(facts, audio=onnx_graph(folder / AUDIO), text=text), reference, tokens=tokens
            )
            if report["audio"]["lowest_cosine"] >= LOWEST_COSINE:
                break
            problems.append(f"its vectors differ from those of torch: cosine {report['audio']['lowest_cosine']:.5f}")
        except Exception as error:  # tracing runs the whole model on symbols, the runtime compiles what comes of it
            problems.append(_first_words(error))
    else:
        found = f"'{loaded.folder}' ({type(model.audio).__name__})"
        raise ModelError(f"the audio side of {found} cannot be exported: {'; and with fixed length: '.join(problems)}")
    if tokens and report["text"]["lowest_cosine"] < LOWEST_COSINE:
        found = f"cosine {report['text']['lowest_cosine']:.5f}"
        raise ModelError(f"the exported text side of '{loaded.folder}' differs from torch: {found}")
    if ranges is not None:
        facts = replace(facts, int8=label)
        with_integers(model, ranges)
        _write_audio(model, folder / AUDIO_INT8, facts)
        quick = OnnxProgram(facts, audio=onnx_graph(folder / AUDIO_INT8), text=None)
        report["audio_int8"] = parity.measure(quick, reference, tokens=[])["audio"]
    return _write_beside(loaded, facts, report, folder)


def _write_beside(loaded: Loaded, facts: Facts, report: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Tokenizer, parity.json and config.json."""
    import onnxruntime

    if loaded.tokenizer is not None:
        loaded.tokenizer.save(folder / "text")
    report = {**report, "between": f"torch {torch.__version__} and onnxruntime {onnxruntime.__version__}, fp32"}
    files = {path.name: file_digest(path) or "" for path in sorted(folder.glob("*.onnx*"))}
    config = replace(facts, files=files).to_json()
    for name, content in (("parity.json", report), ("config.json", config)):
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return report


def _facts(loaded: Loaded, program: TorchProgram) -> Facts:
    model, text = loaded.model, loaded.model.text
    return Facts(
        space_id=loaded.space_id,
        dimension=program.dimension,
        scale=program.scale,
        rate_hz=program.rate_hz,
        window=program.window,
        hop=program.hop,
        fill=model.windowing.fill,
        longer=program.longer,
        frame_rate_hz=float(program.frame_rate_hz),
        block=0,
        least_blocks=0,
        has_text=text is not None,
        text_missing="" if text is not None else model.text_missing or NO_LANGUAGE,
        vocabulary=0 if text is None else int(text.vocabulary_size),
        max_tokens=0 if text is None else int(text.max_tokens),
        pad_id=loaded.tokenizer.pad_id if loaded.tokenizer else loaded.pad_id,
        suffix=getattr(text, "suffix", ""),
        origin=loaded.report.to_json(),
        files={},
        int8="",
    )


def _block(model: DualEncoder) -> int:
    """Samples of a block: a chunk of a tower that works in chunks, else a few frames."""
    frames = getattr(model.audio, "frames_in", _BLOCK_FRAMES)
    return int(frames) * model.frontend.hop_samples


def _least(model: DualEncoder) -> int:
    graph: Any = mel_graph(model.frontend)
    return max(graph.least_samples, _LEAST_FRAMES * model.frontend.hop_samples)


class _AudioGraph(nn.Module):
    """Samples [B, N], or in blocks [B, K, N], to (vectors, mel). Without `lengths` every row is full."""

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.mel = mel_graph(model.frontend)
        self.model = model

    def forward(self, samples: torch.Tensor, lengths: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        n_frames = None
        if samples.ndim == 3:
            n_frames = samples.shape[1] * (samples.shape[2] // self.model.frontend.hop_samples)
            samples = samples.flatten(1)
        features = self.mel(samples, lengths, n_frames)
        return self.model.encode_features(features), features.values


class _TextGraph(nn.Module):
    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.model.encode_text(ids, mask.bool())


def _write_audio(model: DualEncoder, path: Path, facts: Facts) -> None:
    # Three clips, because sizes 0 and 1 are special to the tracer, and 2 is that of many things.
    samples = torch.from_numpy(np.stack(parity.sounds(facts.rate_hz, facts.window)[:3]))
    inputs, batch = {"samples": samples}, {0: torch.export.Dim.DYNAMIC}
    dims: dict[str, Any] = {"samples": batch}
    if facts.fill == "mask":
        inputs["lengths"] = torch.tensor([facts.window, facts.window // 2, facts.window // 3]).clamp(min=1)
        dims["lengths"] = batch
    if facts.block:
        blocks = max(facts.window // facts.block + 1, facts.least_blocks, 3)
        samples = functional.pad(samples, (0, blocks * facts.block - samples.shape[1]))
        inputs["samples"] = samples.unflatten(1, (blocks, facts.block))
        dims["samples"] = {**batch, 1: torch.export.Dim.DYNAMIC}
    _trace(_AudioGraph(model), inputs, dims, path, outputs=["vectors", "mel"])


def _write_text(model: DualEncoder, path: Path, source: Path) -> None:
    length = min(17, int(model.text.max_tokens))  # type: ignore[union-attr, arg-type]
    ids = torch.arange(3, 3 + 3 * length).view(3, length) % 64
    mask = torch.ones_like(ids)
    mask[1, length // 2 + 1 :] = 0
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        _trace(_TextGraph(model), {"ids": ids, "mask": mask}, {"ids": axes, "mask": axes}, path, outputs=["vectors"])
    except Exception as error:
        tower = type(model.text).__name__
        raise ModelError(f"the text side of '{source}' ({tower}) cannot be exported: {_first_words(error)}") from error


def _trace(
    graph: nn.Module, inputs: dict[str, torch.Tensor], dims: dict[str, Any], path: Path, *, outputs: list[str]
) -> None:
    with torch.no_grad(), _quiet():
        traced = torch.export.export(graph.eval(), (), kwargs=inputs, dynamic_shapes=dims, strict=False)
        program = torch.onnx.export(
            traced, (), kwargs=inputs, dynamo=True, input_names=list(inputs), output_names=outputs, verbose=False
        )
    assert program is not None, "the exporter of torch.export programs returns one"
    program.save(str(path))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says about itself, in this block alone."""
    said = logging.getLogger("torch.onnx")
    level = said.level
    said.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        said.setLevel(level)


def _example_tokens(loaded: Loaded, model: DualEncoder) -> list[tuple[np.ndarray, np.ndarray]]:
    """Texts, one batch of several and some alone; rows of ids where there is no tokenizer."""
    if model.text is None:
        return []
    if loaded.tokenizer is not None:
        return [loaded.tokenizer.encode(batch) for batch in (parity.TEXTS, parity.TEXTS[:1], parity.TEXTS[1:2])]
    ids = np.arange(5, 5 + 4 * min(9, int(model.text.max_tokens)), dtype=np.int64).reshape(4, -1)
    mask = np.arange(ids.shape[1]) < np.array([ids.shape[1], 2, 5, 1])[:, None]
    return [(np.where(mask, ids, loaded.pad_id), mask)]


def _first_words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:400]
