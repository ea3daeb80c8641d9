"""A model in a runtime, with all that using it needs besides: what `Clap` is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clapkit.errors import ClapkitError
from clapkit.provenance import Report
from clapkit.runtime.program import Program
from clapkit.text.tokenizers import TextTokenizer

if TYPE_CHECKING:
    from clapkit.native import Loaded

NO_LANGUAGE = "this model has no language side: it embeds sound alone"
# What each provider computes in.
PRECISIONS = {"torch": ("fp32", "bf16", "int8"), "onnx": ("fp32", "int8"), "openvino": ("fp32", "bf16", "int8")}


@dataclass(frozen=True)
class Ready:
    """A model that can be asked.

    program          computes the vectors
    folder           where the model came from
    space_id         of the vectors; the same in every runtime
    pipeline_id      names the runtime and the precision too
    provider         "torch", "onnx" or "openvino"
    precision        what the sound side computes in
    report           where the weights came from
    tokenizer        None where there is no language side, or where it was not found beside the checkpoint
    tokenizer_in     makes the model's tokenizer of a folder with a tokenizer.json
    pad_id           the token id that fills short rows
    text_missing     why there is no language side; None where there is one
    loaded           the torch model; None in other runtimes
    """

    program: Program
    folder: Path
    space_id: str
    pipeline_id: str
    provider: str
    precision: str
    report: Report
    tokenizer: TextTokenizer | None
    tokenizer_in: Callable[[Path], TextTokenizer | None]
    pad_id: int
    text_missing: str | None
    loaded: Loaded | None = None


def check_precision(provider: str, precision: str) -> None:
    """ClapkitError for a precision that the provider does not have."""
    if precision not in PRECISIONS[provider]:
        known = " or ".join(map(repr, PRECISIONS[provider]))
        raise ClapkitError(f"precision is {known}, not {precision!r} (provider '{provider}')")
