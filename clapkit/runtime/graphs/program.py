"""An exported model as a `Program`: graphs of ONNX in whatever runtime runs them, and no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from clapkit.audio.windows import fit
from clapkit.errors import MissingExtraError, SpecError, TextTowerError
from clapkit.runtime.cutting import Cut
from clapkit.runtime.program import check_ids

if TYPE_CHECKING:
    from clapkit.runtime.graphs.exported import Facts

# Named inputs -> vectors [B, D].
Graph = Callable[[Mapping[str, np.ndarray]], np.ndarray]
Setup = tuple[Callable[[], None], Callable[[], None]]


class Front(Protocol):
    """What makes the mel [B, T, F] of samples [B, N] in place of a graph."""

    def __call__(self, samples_BN: np.ndarray) -> np.ndarray: ...

    def lane_setup(self, lanes: int) -> Setup:
        """As `Program.lane_setup`, for so many threads."""


def onnx_graph(path: Path, *, threads: int | None = None) -> Graph:
    """A graph file in onnxruntime, on the processor."""
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime", "onnx", "Running an exported model with provider 'onnx'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3  # its warnings are about its own optimiser
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(["vectors"], dict(inputs))[0]


class OnnxProgram:
    """A `Program` over the graphs of an exported folder."""

    device = "cpu"

    def __init__(
        self, facts: Facts, *, audio: Graph, text: Graph | None, lanes: int = 1, front: Front | None = None
    ) -> None:
        """`lanes` as in `Program`: how many runs of the audio graph the runtime does side by side. `front`: what the
        audio graph calls, if it does."""
        self._facts, self._front = facts, front
        self._audio, self._text = audio, text
        self.dimension = facts.dimension
        self.rate_hz = facts.rate_hz
        self.window, self.hop, self.longer = facts.window, facts.hop, facts.longer
        self.frame_rate_hz = facts.frame_rate_hz
        self.scale = facts.scale
        self.fills = facts.fill != "mask"
        self.lanes = lanes

    def lane_setup(self) -> Setup:
        return self._front.lane_setup(self.lanes) if self._front else ((lambda: None), (lambda: None))

    def cut(self, index: int) -> Cut:
        return Cut(index, self.window, self.hop, from_onset=self.longer == "windows")

    def encode_windows(self, windows: Sequence[Any]) -> np.ndarray:
        """Windows of samples [n], each as long as it is."""
        if self.fills:
            policy: Any = "pad" if self._facts.fill == "zeros" else self._facts.fill
            return self._audio({"samples": np.stack([fit(window, self.window, policy) for window in windows])})
        lengths_B = np.array([len(window) for window in windows], np.int64)
        block = self._facts.block
        blocks = max(int(lengths_B.max()) // block + 1, self._facts.least_blocks) if block else 0
        samples_BN = np.zeros((len(windows), blocks * block or self.window), np.float32)
        for row, window in enumerate(windows):
            samples_BN[row, : len(window)] = window
        samples = samples_BN.reshape(len(windows), blocks, block) if block else samples_BN
        return self._audio({"samples": samples, "lengths": lengths_B})

    def encode_frames(self, windows: Sequence[Any]) -> list[np.ndarray]:
        raise SpecError(
            "an exported model gives one vector a window and has no vectors of frames: load the model that it was made "
            "from, with torch"
        )

    def encode_tokens(self, ids_BL: np.ndarray, mask_BL: np.ndarray) -> np.ndarray:
        if self._text is None:
            raise TextTowerError(self._facts.text_missing)
        if ids_BL.shape[1] > self._facts.max_tokens:
            raise TextTowerError(
                f"the texts are {ids_BL.shape[1]} tokens long, at most {self._facts.max_tokens} are read"
            )
        check_ids(ids_BL, self._facts.vocabulary)
        return self._text({"ids": ids_BL.astype(np.int64), "mask": mask_BL.astype(np.int64)})
