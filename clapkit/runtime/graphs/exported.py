"""Folders written by `runtime.export`, read and run without torch.

audio.onnx      samples [B, N] or [B, K, N] (and lengths [B]) -> vectors [B, D] (and the mel, for whoever wants to look)
audio.int8.onnx the same with linear layers in integers; only where it was asked for
text.onnx       ids [B, L], mask [B, L] -> vectors [B, D]; not there without a language side
text/           the tokenizer
config.json     what stands in `Facts`
parity.json     how far the graphs were from torch when they were made
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clapkit.errors import MissingExtraError, ModelError
from clapkit.provenance import Report, pipeline_id
from clapkit.runtime.graphs.program import Front, Graph, OnnxProgram, onnx_graph
from clapkit.runtime.lanes import MOST_LANES
from clapkit.runtime.ready import PRECISIONS, Ready, check_precision
from clapkit.text.tokenizers import TOKENIZER_FILE, TextTokenizer

VERSION_KEY = "onnx_version"  # in config.json; model folders of torch have "format_version" there
VERSION = 2
AUDIO, AUDIO_INT8, TEXT = "audio.onnx", "audio.int8.onnx", "text.onnx"
_CONFIG_LIMIT_BYTES = 2**20


@dataclass(frozen=True)
class Facts:
    """config.json of an exported folder: what running the graphs needs to know.

    space_id        of the torch model that they were made of
    dimension       numbers in a vector;  scale: factor between a cosine and a logit
    rate_hz         of the samples; a window has `window` of them, and the next one starts `hop` later
    fill, longer    as in `model.Windowing`
    frame_rate_hz   frames per second of the tower
    block           the audio graph takes any number of blocks of so many samples [B, K, block], the last one with
                    silence in it, and at least `least_blocks`; 0: it takes exactly a window [B, window]
    has_text        whether there is a language side; if not, `text_missing` says why
    vocabulary      ids that the language side knows, counted from 0; max_tokens, pad_id, suffix: of its texts
    origin          `provenance.Report` of the weights
    files           name -> SHA-256 of each graph file
    int8            what the pipeline_id calls the integers of audio.int8.onnx; "" where there is none
    """

    space_id: str
    dimension: int
    scale: float
    rate_hz: int
    window: int
    hop: int
    fill: str
    longer: str
    frame_rate_hz: float
    block: int
    least_blocks: int
    has_text: bool
    text_missing: str
    vocabulary: int
    max_tokens: int
    pad_id: int
    suffix: str
    origin: Mapping[str, Any]
    files: Mapping[str, str]
    int8: str

    def to_json(self) -> dict[str, Any]:
        return {VERSION_KEY: VERSION, **asdict(self)}

    @classmethod
    def read(cls, folder: Path) -> Facts:
        """The facts of a folder. ModelError for what is missing or of another type, another version, other files."""
        path = folder / "config.json"
        config = _config(path) or {}
        if config.get(VERSION_KEY) != VERSION:
            found = str(config.get(VERSION_KEY))[:80]
            raise ModelError(f"{path} has {VERSION_KEY} {found}, this clapkit reads {VERSION}: update clapkit")
        kinds: dict[str, Any] = {"str": str, "int": int, "float": (int, float), "bool": bool, "Mapping[str, Any]": dict}
        kinds["Mapping[str, str]"] = dict
        for field in fields(cls):
            value: Any = config.get(field.name)
            if not isinstance(value, kinds[str(field.type)]) or (field.type == "int" and not 0 <= value < 2**40):
                raise ModelError(f"{path} has {field.name} = {str(value)[:80]!r}, expected {field.type}")
        facts = cls(**{field.name: config[field.name] for field in fields(cls)})
        if min(facts.rate_hz, facts.window, facts.hop, facts.dimension) < 1 or facts.hop > facts.window:
            raise ModelError(f"{path}: rate_hz, window, hop and dimension are at least 1, and hop at most the window")
        return facts


def is_exported(path: str | os.PathLike) -> bool:
    """Whether `path` is a folder that `export` wrote, of this version or a later one."""
    config = _config(Path(path) / "config.json")
    return config is not None and VERSION_KEY in config


def _config(path: Path) -> dict[str, Any] | None:
    try:
        if path.stat().st_size > _CONFIG_LIMIT_BYTES:
            return None
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return config if isinstance(config, dict) else None


def open_exported(
    path: str | os.PathLike,
    *,
    provider: str | None = None,
    precision: str = "fp32",
    threads: int | None = None,
    front: Front | None = None,
) -> Ready:
    """The exported model in `path`, ready in a runtime.

    provider    "onnx" (onnxruntime) or "openvino"; None: openvino, which is quicker, where it is installed
    precision   "fp32"; with openvino also "bf16" (the mel stays in fp32); "int8" where the folder has it
    threads     processor threads of this model; None: as many as the runtime thinks good
    front       the front-end of the model, for a graph that hears whole windows: a Fourier transform, where graphs have
                products alone, takes a third of their time. Only openvino asks it

    ModelError for a folder that is not whole or was changed.
    """
    folder = Path(path)
    facts = Facts.read(folder)
    provider = _chosen(provider, precision)
    audio_name = AUDIO_INT8 if precision == "int8" else AUDIO
    if precision == "int8" and not facts.int8:
        raise ModelError(f"'{folder}' has no graph in int8: export the model again with --int8")
    for name in (audio_name, TEXT) if facts.has_text else (audio_name,):
        if name not in facts.files:
            raise ModelError(f"{folder / 'config.json'} does not list {name}: the folder is not whole")
    for name, digest in facts.files.items():
        if Path(name).name != name or file_digest(folder / name) != digest:
            raise ModelError(f"{folder / name} is missing, or not the file that config.json describes: it was changed")
    start = partial(_graph, provider=provider, threads=threads)
    if facts.block or provider != "openvino":
        front = None
    lanes = min(threads or os.cpu_count() or 1, MOST_LANES) if provider == "openvino" else 1
    try:
        audio = start(folder / audio_name, precision=precision, lanes=lanes, front=front)
        text = start(folder / TEXT, precision="fp32") if facts.has_text else None
    except MissingExtraError:
        raise
    except Exception as error:  # the runtimes have errors of their own
        raise ModelError(f"{folder}: {provider} cannot run its graphs: {str(error)[:500]}") from error
    label = facts.int8 if precision == "int8" else precision
    tokenizer_in = partial(TextTokenizer, max_tokens=facts.max_tokens, pad_id=facts.pad_id, suffix=facts.suffix)
    has_tokenizer = facts.has_text and (folder / "text" / TOKENIZER_FILE).is_file()
    return Ready(
        program=OnnxProgram(facts, audio=audio, text=text, lanes=lanes, front=front),
        folder=folder,
        space_id=facts.space_id,
        pipeline_id=pipeline_id(facts.space_id, precision=label, provider=provider),
        provider=provider,
        precision=precision,
        report=Report.from_json(dict(facts.origin)),
        tokenizer=tokenizer_in(folder / "text") if has_tokenizer else None,
        tokenizer_in=tokenizer_in,
        pad_id=facts.pad_id,
        text_missing=None if facts.has_text else facts.text_missing,
    )


def file_digest(path: Path) -> str | None:
    """SHA-256 of a file; None where there is none."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _chosen(provider: str | None, precision: str) -> str:
    """The provider itself, or of those that are installed the first that computes in this precision."""
    if provider is None:
        there = [name for name, package in (("openvino", "openvino"), ("onnx", "onnxruntime")) if find_spec(package)]
        if not there:
            raise MissingExtraError("onnxruntime", "onnx", "Running an exported model")
        provider = next((name for name in there if precision in PRECISIONS[name]), there[0])
    check_precision(provider, precision)
    return provider


def _graph(
    path: Path, *, provider: str, precision: str, threads: int | None, lanes: int = 1, front: Front | None = None
) -> Graph:
    if provider == "onnx":
        return onnx_graph(path, threads=threads)
    from clapkit.runtime.graphs.openvino import openvino_graph

    return openvino_graph(path, threads=threads, precision=precision, lanes=lanes, front=front)
