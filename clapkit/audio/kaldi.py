"""The filter-bank features of the Kaldi toolkit, as BEATs was trained on them: batched and differentiable.

    frontend = KaldiFbank(KaldiSettings())
    features = frontend(samples_BN, lengths_B)      # values [B, T, mel_bins], mask_BT

Unlike a centred spectrogram, every frame is levelled and pre-emphasised on its own, and only frames that lie inside the
clip exist. A clip's frames inside its mask are the same whatever shares its batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from clapkit.audio.features import Features
from clapkit.audio.filterbank import mel_filterbank
from clapkit.audio.mel import check_samples, checked_lengths
from clapkit.audio.mel_settings import MelSettings
from clapkit.errors import SpecError

_BLOCK_SAMPLES = 2**22  # inside the frames of one block: bounds the memory of long batches
_POVEY_POWER = 0.85


@dataclass(frozen=True, kw_only=True)
class KaldiSettings:
    """Everything that decides the numbers of Kaldi's log filter-bank energies; the defaults are those of BEATs.

    rate_hz         rate of the samples
    window_samples  length of a frame: a Hann window to the power of 0.85 ("Povey"), zero at both ends; it is
                    transformed with the next power of two
    hop_samples     distance of two frames
    mel_bins        triangular filters between `low_hz` and `high_hz`, corners and triangles on the HTK mel scale
    preemphasis     c: in each frame, behind the removal of its mean, sample t becomes x[t] - c x[t - 1]
    gain            the samples are multiplied by this first: Kaldi's full scale is that of 16-bit integers
    floor           lowest energy of a filter: values are ln(max(energy, floor))
    standardise     (mean, deviation): after the logarithm, (x - mean) / deviation; None: left alone

    Raises SpecError, naming the field, for values that cannot work together.
    """

    rate_hz: int = 16000
    window_samples: int = 400
    hop_samples: int = 160
    mel_bins: int = 128
    low_hz: float = 20.0
    high_hz: float = 8000.0
    preemphasis: float = 0.97
    gain: float = 32768.0
    floor: float = 2.0**-23
    standardise: tuple[float, float] | None = (15.41663, 2 * 6.55582)

    def __post_init__(self) -> None:
        for name in ("rate_hz", "hop_samples", "mel_bins"):
            self._require(getattr(self, name) >= 1, name, "1 or more")
        self._require(self.window_samples >= 2, "window_samples", "2 or more")
        self._require(0 <= self.low_hz < self.high_hz, "low_hz", f"from 0 to below high_hz = {self.high_hz}")
        self._require(self.high_hz <= self.rate_hz / 2, "high_hz", f"at most half the rate = {self.rate_hz / 2}")
        self._require(0 <= self.preemphasis <= 1, "preemphasis", "from 0 to 1")
        for name in ("gain", "floor"):
            self._require(getattr(self, name) > 0, name, "above 0")
        self._require(self.standardise is None or self.standardise[1] > 0, "standardise", "(mean, deviation above 0)")

    @property
    def n_fft(self) -> int:
        """Length of the transform: the power of two that holds a frame."""
        return 1 << (self.window_samples - 1).bit_length()

    @property
    def reach_samples(self) -> tuple[int, int]:
        """How many samples before sample t * hop_samples frame t sees, and how many from it on."""
        return 0, self.window_samples

    def frames(self, n_samples: int) -> int:
        """Number of whole frames in `n_samples` samples; one for a clip shorter than a frame, continued by silence."""
        return max(0, n_samples - self.window_samples) // self.hop_samples + 1

    def _require(self, fits: bool, name: str, expected: str) -> None:
        if not fits:
            raise SpecError(f"KaldiSettings: {name} = {getattr(self, name)!r}, expected {expected}")


class KaldiFbank(nn.Module):
    """Kaldi's log filter-bank energies of a batch of mono waveforms, without dither.

    Window and filters are buffers outside the state dict. The values are float32, or float64 after `.double()`; half
    precision and autocast change nothing here. Unlike in `MelFrontend`, the transform runs in the format of the values:
    what the quiet filters hold beside loud sound is mostly the rounding of float32, the window's included, and the
    published models were trained on that. An exact transform moves their embeddings by up to 1e-4.
    """

    window: torch.Tensor
    filterbank: torch.Tensor

    def __init__(self, settings: KaldiSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or KaldiSettings()
        self._filterbank = _filterbank(self.settings)
        for name in ("window", "filterbank"):
            self.register_buffer(name, torch.empty(0), persistent=False)
        self._fill_buffers()

    @property
    def rate_hz(self) -> int:
        """Rate that the samples must have."""
        return self.settings.rate_hz

    @property
    def hop_samples(self) -> int:
        """Distance of two frames in samples."""
        return self.settings.hop_samples

    @property
    def bins(self) -> int:
        """Number of mel bands, the last dimension of the values."""
        return self.settings.mel_bins

    def frames(self, n_samples: int) -> int:
        """Number of frames of a clip of `n_samples` samples."""
        return self.settings.frames(n_samples)

    def extra_repr(self) -> str:
        return repr(self.settings)

    def forward(self, samples_BN: torch.Tensor, lengths_B: torch.Tensor | None = None) -> Features:
        """Features with values [B, T, mel_bins] and mask_BT, T = `frames(N)`.

        samples_BN  float waveforms at `rate_hz`; full scale is 1
        lengths_B   int: how many samples of each row are sound; the rest of a row is ignored, whatever it holds.
                    Frames that reach beyond the length are False in the mask and have the value of silence; a clip
                    shorter than one frame is continued by silence. None: all of every row is sound.

        Raises AudioError for a batch without samples, of other than two dimensions or of integers, and for lengths
        that do not fit it.
        """
        check_samples(samples_BN)
        lengths_B = checked_lengths(lengths_B, samples_BN)
        return self.from_energies(self._energies(samples_BN, lengths_B), lengths_B)

    def energies(self, samples_BN: torch.Tensor, lengths_B: torch.Tensor | None = None) -> torch.Tensor:
        """[B, T, mel_bins]: what the filters sum up, before the logarithm; what stands in padding says nothing.

        Arguments and errors as for the front-end itself, which is `from_energies(energies(...), lengths_B)`.
        """
        check_samples(samples_BN)
        return self._energies(samples_BN, checked_lengths(lengths_B, samples_BN))

    def from_energies(self, energies_BTF: torch.Tensor, lengths_B: torch.Tensor | None = None) -> Features:
        """Features of the energies of sounds that are `lengths_B` samples long; None: all frames are sound."""
        with torch.autocast(energies_BTF.device.type, enabled=False):
            values_BTF = self._compressed(energies_BTF.to(self.filterbank.dtype))
            if lengths_B is None:
                return Features(values_BTF, values_BTF.new_ones(values_BTF.shape[:2], dtype=torch.bool))
            last_B1 = ((lengths_B - self.settings.window_samples).clamp_min(0) // self.settings.hop_samples)[:, None]
            mask_BT = torch.arange(values_BTF.shape[1], device=last_B1.device) <= last_B1
            silence = self._compressed(values_BTF.new_zeros(()))
            return Features(torch.where(mask_BT[:, :, None], values_BTF, silence), mask_BT)

    def _energies(self, samples_BN: torch.Tensor, lengths_B: torch.Tensor | None) -> torch.Tensor:
        with torch.autocast(samples_BN.device.type, enabled=False):
            samples_BN = samples_BN.to(self.filterbank.dtype)
            if lengths_B is not None:
                positions_N = torch.arange(samples_BN.shape[1], device=samples_BN.device)
                samples_BN = samples_BN.masked_fill(positions_N >= lengths_B[:, None], 0.0)
            samples_BN = F.pad(samples_BN, (0, max(0, self.settings.window_samples - samples_BN.shape[1])))
            frames_BTW = samples_BN.unfold(1, self.settings.window_samples, self.settings.hop_samples)
            block = max(1, _BLOCK_SAMPLES // (len(samples_BN) * self.settings.n_fft))
            return torch.cat([self._mel_of_frames(part) for part in frames_BTW.split(block, dim=1)], dim=1)

    def _mel_of_frames(self, frames_BTW: torch.Tensor) -> torch.Tensor:
        spectrum = self._spectrum(frames_BTW)
        return (spectrum.real.square() + spectrum.imag.square()) @ self.filterbank

    def _spectrum(self, frames_BTW: torch.Tensor) -> torch.Tensor:
        frames_BTW = frames_BTW * self.settings.gain
        frames_BTW = frames_BTW - frames_BTW.mean(-1, keepdim=True)
        before_BTW = F.pad(frames_BTW, (1, 0), mode="replicate")[..., :-1]
        windowed_BTW = (frames_BTW - self.settings.preemphasis * before_BTW) * self.window
        return torch.fft.rfft(windowed_BTW, n=self.settings.n_fft)

    def _compressed(self, mel: torch.Tensor) -> torch.Tensor:
        values = mel.clamp_min(self.settings.floor).log()
        if self.settings.standardise is None:
            return values
        mean, deviation = self.settings.standardise
        return (values - mean) / deviation

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> KaldiFbank:
        # Every change of device or format passes here: the constants are made again instead of rounded twice.
        super()._apply(fn, recurse)
        self._fill_buffers()
        return self

    def _fill_buffers(self) -> None:
        device = self.window.device
        values = torch.float64 if self.filterbank.dtype == torch.float64 else torch.float32
        hann = torch.hann_window(self.settings.window_samples, periodic=False, dtype=values, device="cpu")
        self.window = hann.pow(_POVEY_POWER).to(device)
        self.filterbank = torch.tensor(self._filterbank, device=device, dtype=values)


def _filterbank(settings: KaldiSettings) -> np.ndarray:
    """[n_fft // 2 + 1, mel_bins] triangles that are drawn on the mel scale."""
    drawn = MelSettings(
        rate_hz=settings.rate_hz,
        n_fft=settings.n_fft,
        window_samples=settings.n_fft,
        hop_samples=settings.hop_samples,
        mel_bins=settings.mel_bins,
        low_hz=settings.low_hz,
        high_hz=settings.high_hz,
        scale="kaldi",
        norm=None,
    )
    return mel_filterbank(drawn, dtype=np.float64)
