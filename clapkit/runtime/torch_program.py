"""The torch runtime: a dual encoder on its device, at a precision."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from clapkit.audio.features import Features
from clapkit.audio.windows import fit
from clapkit.errors import SpecError, TextTowerError
from clapkit.model import DualEncoder
from clapkit.runtime import packing
from clapkit.runtime.cutting import Cut
from clapkit.runtime.fusing import FusedCut
from clapkit.runtime.lanes import MOST_LANES
from clapkit.runtime.program import check_ids
from clapkit.runtime.quantised import Ranges
from clapkit.units import seconds_to_samples


class TorchProgram:
    """A `Program` over a dual encoder. `precision` is that of the sound side (texts stay in fp32): "fp32", "bf16", or
    "int8" for the linear layers of the tower that `ranges` names and bf16 between them.

    On a processor, the towers that run are packed copies of those of `model` (`runtime.packing`), made at the first use
    and again after a change of the weights. With `compile` they are those of `model`, compiled by torch; with
    `quick=False` they are those of `model` as they stand, and one thread calls them: for whoever watches them.
    """

    def __init__(
        self,
        model: DualEncoder,
        *,
        precision: str = "fp32",
        ranges: Ranges | None = None,
        compile: bool = False,
        quick: bool = True,
    ) -> None:
        self.model = model
        self._compiled = torch.compile(model.encode_features, dynamic=True) if compile else None
        self._is_quick = quick and not compile
        self.precision = "fp32" if precision == "fp32" else "bf16"
        self._ranges = ranges
        self.dimension = model.dimension
        self.rate_hz = model.frontend.rate_hz
        self.window = seconds_to_samples(model.windowing.window_s, self.rate_hz)
        self.hop = seconds_to_samples(model.windowing.hop_s, self.rate_hz)
        self.longer: str = model.windowing.longer
        self.frame_rate_hz = model.audio.frame_rate_hz
        self._fill = model.windowing.fill
        self.fills = self._fill != "mask"
        self._packed: dict[str, tuple[Any, nn.Module]] = {}
        self._packing = threading.Lock()

    @property
    def device(self) -> str:
        """Kind of device that the model is on now: "cpu", "cuda"..."""
        return self.model.device.type

    @property
    def scale(self) -> float:
        return float(self.model.scale.detach())

    @property
    def lanes(self) -> int:
        return min(torch.get_num_threads(), MOST_LANES) if self.device == "cpu" and self._is_quick else 1

    def lane_setup(self) -> tuple[Callable[[], None], Callable[[], None]]:
        return share_threads(self.lanes)

    def cut(self, index: int) -> Cut:
        if self.longer.startswith("fuse"):
            return FusedCut(index, self.window, self.hop, frontend=self.model.frontend, how=self.longer)
        return Cut(index, self.window, self.hop, from_onset=self.longer == "windows")

    @torch.inference_mode()
    def encode_windows(self, windows: Sequence[Any]) -> np.ndarray:
        """Windows of samples [n]; or mels [T, F], or fused mels [4, T, F], of clips that `FusedCut` has read."""
        return self.encode_features(self.features(windows)).float().cpu().numpy()

    @torch.inference_mode()
    def encode_features(self, features: Features) -> torch.Tensor:
        """Unit-norm vectors [B, dimension] of what `features` gives."""
        encode = self._compiled or self._sound_side().encode_features
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return encode(features)

    @torch.inference_mode()
    def encode_frames(self, windows: Sequence[Any]) -> list[np.ndarray]:
        """Each frame of the tower through the head, as if it were the summary of a clip."""
        if getattr(self.model.audio_head, "reads", "summary") == "frames":
            raise SpecError("this model makes its vectors of all frames together: it has no vectors of single frames")
        model, features = self._sound_side(), self.features(windows)
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            out = model.audio(features)
            frames_BTD = functional.normalize(model.audio_head(out.frames_BTD).float(), dim=-1)
        counts = out.mask_BT.sum(1).tolist()
        return [frames_TD[:count] for frames_TD, count in zip(frames_BTD.cpu().numpy(), counts, strict=True)]

    @torch.inference_mode()
    def encode_tokens(self, ids_BL: np.ndarray, mask_BL: np.ndarray) -> np.ndarray:
        if self.model.text is None:
            raise TextTowerError(self.model.text_missing or "this model has no text tower: it embeds sound alone")
        check_ids(ids_BL, self.model.text.vocabulary_size)
        ids, mask = (torch.from_numpy(x).to(self.model.device) for x in (ids_BL, mask_BL))
        features_BW = self._quick("text", self.model.text, "fp32")(ids, mask).summary_BD
        return self.model.project_text(features_BW).float().cpu().numpy()

    def _sound_side(self) -> DualEncoder:
        """The model with a quick sound side; its language side is not touched, and costs nothing until it is used."""
        quick = self._quick("sound", self.model, self.precision, leave=self.model.text, ranges=self._ranges)
        assert isinstance(quick, DualEncoder)
        return quick

    def _quick(self, name: str, module: nn.Module, precision: str, **more: Any) -> nn.Module:
        if not self._is_quick:
            return module
        now = packing.versions(module)
        with self._packing:
            if name not in self._packed or self._packed[name][0] != now:
                self._packed[name] = now, packing.packed(module, precision=precision, **more)
            return self._packed[name][1]

    @torch.inference_mode()
    def features(self, windows: Sequence[Any]) -> Features:
        """What the tower reads of windows: filled as the model asks, through the front-end."""
        device = self.model.device
        if windows[0].ndim > 1:
            values = torch.stack([torch.as_tensor(w) for w in windows]).to(device)
            mask_BT = torch.ones((len(values), values.shape[-2]), dtype=torch.bool, device=device)
            is_longer_B = torch.ones(len(values), dtype=torch.bool, device=device) if values.ndim == 4 else None
            return Features(values, mask_BT, is_longer_B)
        if self._fill != "mask":
            policy = "pad" if self._fill == "zeros" else self._fill
            samples = np.stack([fit(window, self.window, policy) for window in windows])
            return self.model.frontend(torch.from_numpy(samples).to(device))
        lengths = torch.tensor([len(window) for window in windows])
        samples = np.zeros((len(windows), int(lengths.max())), np.float32)
        for row, window in enumerate(windows):
            samples[row, : len(window)] = window
        return self.model.frontend(torch.from_numpy(samples).to(device), lengths.to(device))


class TorchFront:
    """The front-end of a model on the processor as a `graphs.program.Front`."""

    def __init__(self, frontend: nn.Module) -> None:
        self._frontend = frontend

    @torch.inference_mode()
    def __call__(self, samples_BN: np.ndarray) -> np.ndarray:
        return self._frontend(torch.from_numpy(samples_BN)).values.numpy()

    def lane_setup(self, lanes: int) -> tuple[Callable[[], None], Callable[[], None]]:
        return share_threads(lanes)


def share_threads(lanes: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """A lane takes its share of the threads of this one, which keeps all of its own."""
    threads = torch.get_num_threads()

    def enter() -> None:
        torch.get_num_threads()  # what torch does at the first question in a thread would undo the next line later
        torch.set_num_threads(max(1, threads // lanes))

    # The setting of a thread is also the one that later threads start with.
    return enter, lambda: torch.set_num_threads(threads)
