"""A model made ready by some runtime: all that embedding needs of it, without saying which runtime that is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from clapkit.errors import TextTowerError
from clapkit.runtime.cutting import Cut


class Program(Protocol):
    """What the engine and `Clap` ask of a runtime.

    dimension       numbers in a vector
    rate_hz         rate of the samples that it hears
    window          samples of a window; hop: from one window to the next
    fills           whether shorter sound is made as long as a window
    device          kind of device it runs on: "cpu", "cuda"...
    longer          what is made of longer sound, as in `Windowing.longer`
    frame_rate_hz   frames per second of `encode_frames`
    scale           factor between a cosine and a logit
    lanes           how many threads had best call `encode_windows` or `encode_frames` side by side
    """

    dimension: int
    rate_hz: int
    window: int
    hop: int
    longer: str
    frame_rate_hz: float
    fills: bool

    @property
    def device(self) -> str: ...
    @property
    def scale(self) -> float: ...
    @property
    def lanes(self) -> int: ...

    def lane_setup(self) -> tuple[Callable[[], None], Callable[[], None]]:
        """What each of these threads calls before its first batch, and what the caller calls when all of them have."""

    def cut(self, index: int) -> Cut:
        """What cuts source `index` into windows that `encode_windows` takes."""

    def encode_windows(self, windows: Sequence[Any]) -> np.ndarray:
        """Unit-norm float32 [B, dimension] of windows of one kind: samples [n], each as long as it is."""

    def encode_frames(self, windows: Sequence[Any]) -> list[np.ndarray]:
        """Unit-norm float32 [T, dimension] for each window of samples: its frames, those of padding left out.

        SpecError for a model whose vectors are not made frame by frame.
        """

    def encode_tokens(self, ids_BL: np.ndarray, mask_BL: np.ndarray) -> np.ndarray:
        """Unit-norm float32 [B, dimension] of token ids; TextTowerError where there is no language side."""


def check_ids(ids_BL: np.ndarray, vocabulary: int) -> None:
    """TextTowerError for token ids that are not among 0 ... vocabulary - 1: a runtime would read what lies behind."""
    if ids_BL.min() < 0 or ids_BL.max() >= vocabulary:
        raise TextTowerError(
            f"token ids from {ids_BL.min()} to {ids_BL.max()}: this model knows those from 0 to {vocabulary - 1}, "
            "the ids of another tokenizer do not fit"
        )
