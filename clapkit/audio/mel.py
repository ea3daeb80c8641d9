"""The one mel front-end: waveforms in, log-mel frames out, batched and differentiable.

    frontend = MelFrontend(ECONOMICAL)
    features = frontend(samples_BN, lengths_B)      # values [B, T, mel_bins], mask_BT

A clip's frames inside its mask are the same whatever shares its batch, and the same as when it comes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from clapkit.audio.features import Features
from clapkit.audio.filterbank import analysis_window, fourier_kernels, mel_filterbank
from clapkit.audio.mel_settings import (
    ECONOMICAL,
    EFFICIENTAT,
    GLAP,
    LAION,
    LAION_FUSED,
    M2D,
    MSCLAP_2022,
    MSCLAP_2023,
    NAMED,
    WAV2CLIP,
    MelSettings,
    named_settings,
)
from clapkit.errors import AudioError, SpecError

__all__ = [
    "ECONOMICAL",
    "EFFICIENTAT",
    "GLAP",
    "LAION",
    "LAION_FUSED",
    "M2D",
    "MSCLAP_2022",
    "MSCLAP_2023",
    "NAMED",
    "WAV2CLIP",
    "MelFrontend",
    "MelSettings",
    "mel_filterbank",
    "named_settings",
    "single_transforms",
]

# Samples inside the windows of one block of frames. A processor is quickest while a block stays in its cache (four
# times the speed of one block for all); an accelerator wants few launches, and a bound on its memory.
_BLOCK_CPU_SAMPLES = 2**18
_BLOCK_ACCELERATOR_SAMPLES = 2**25
# Samples of the clips that a processor takes together, for the same reason.
_CLIPS_CPU_SAMPLES = 2**19
_INT16_MAX = 32767.0
_SMALLEST_VARIANCE = 1e-6  # of a clip that is standardised by itself: silence becomes 0 and keeps a finite gradient
_in_single: ContextVar[bool] = ContextVar("_in_single", default=False)


@contextmanager
def single_transforms(*, wanted: bool = True) -> Iterator[None]:
    """Inside, if `wanted`, front-ends with an exact transform compute it in float32 in place of float64.

    Nearly twice as quick, and for towers that compute in bfloat16 no loss: beside a loud tone the quiet bands are off
    by up to 0.07 dB at -80 dB, where the next two numbers of that format are 0.5 dB apart.
    """
    before = _in_single.set(wanted or _in_single.get())
    try:
        yield
    finally:
        _in_single.reset(before)


class MelFrontend(nn.Module):
    """Log-mel frames of a batch of mono waveforms, by one set of `MelSettings`.

    `filterbank` [n_fft // 2 + 1, mel_bins] takes the place of the computed one (a checkpoint that stores its own).
    Window and filters are buffers outside the state dict, unless `stored_filterbank` is True: then the filters are in
    it, as float32 under the name "stored_filterbank", and those that `load_state_dict` brings are used from then on.
    The values are float32, or float64 after `.double()`;
    `.half()`, `.bfloat16()` and autocast change nothing here, since log-mel spans more than those formats hold.
    The transform itself runs in float64 wherever the device has it: in float32, beside a loud tone, the quiet bands
    are off by up to 0.07 dB at -80 dB; in float64 they agree with an exact transform to 1e-4 dB. Training in bfloat16
    asks for less (`single_transforms`).
    Raises SpecError for a filter bank of another shape, without any weight, or beside the scale "linear".
    """

    window: torch.Tensor
    filterbank: torch.Tensor
    stored_filterbank: torch.Tensor | None
    kernels: torch.Tensor | None

    def __init__(
        self,
        settings: MelSettings = ECONOMICAL,
        *,
        filterbank: np.ndarray | torch.Tensor | None = None,
        stored_filterbank: bool = False,
    ) -> None:
        super().__init__()
        self.settings = settings
        if settings.scale == "linear" and (stored_filterbank or filterbank is not None):
            raise SpecError("a spectrum with scale='linear' has no filter bank, but one was given or is to be stored")
        self._window = analysis_window(settings, dtype=np.float64)
        for name in ("window", "filterbank"):
            self.register_buffer(name, torch.empty(0), persistent=False)
        self.register_buffer(
            "kernels", torch.empty(0) if settings.transform == "convolution" else None, persistent=False
        )
        self.register_buffer("stored_filterbank", torch.empty(0) if stored_filterbank else None)
        self._use_filterbank(mel_filterbank(settings, dtype=np.float64) if filterbank is None else filterbank)

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
        lengths_B   int: how many samples of each row are sound. The rest of a row is ignored, whatever it holds: its
                    sound is continued at its own end as if it came alone. Frames beyond `frames(length)` are False in
                    the mask and have the value of digital silence (0 where clips are standardised by themselves).
                    None: all of every row is sound, so zeros at the end are silence that is heard (as models do that
                    were trained on zero-padded clips).
                    Lengths on the CPU are cheapest: elsewhere, checking them waits for the device.

        A clip of fewer than n_fft // 2 + 1 samples cannot be mirrored and is first continued by silence to that length.
        Raises AudioError for a batch without samples, of other than two dimensions or of integers, and for lengths
        that do not fit it.
        """
        check_samples(samples_BN)
        lengths_B = checked_lengths(lengths_B, samples_BN)
        return self.from_energies(self._energies(samples_BN, lengths_B), lengths_B)

    def energies(self, samples_BN: torch.Tensor, lengths_B: torch.Tensor | None = None) -> torch.Tensor:
        """[B, T, mel_bins]: what the filters sum up, before the logarithm; what stands in padding says nothing.

        A sound c times as loud has abs(c) ** settings.power times as much, unless it is quantised. Arguments and errors
        as for the front-end itself, which is `from_energies(energies(samples_BN, lengths_B), lengths_B)`.
        """
        check_samples(samples_BN)
        return self._energies(samples_BN, checked_lengths(lengths_B, samples_BN))

    def from_energies(self, energies_BTF: torch.Tensor, lengths_B: torch.Tensor | None = None) -> Features:
        """Features of the energies of sounds that are `lengths_B` samples long; None: all frames are sound."""
        with torch.autocast(energies_BTF.device.type, enabled=False):
            log_BTF = self._logarithm(energies_BTF.to(self.filterbank.dtype))
            if lengths_B is None:
                mask_BT = log_BTF.new_ones(log_BTF.shape[:2], dtype=torch.bool)
                return Features(self._levelled(log_BTF, mask_BT), mask_BT)
            mask_BT = self._mask(lengths_B - int(self.settings.preemphasis is not None), log_BTF.shape[1])
            log_BTF = torch.where(mask_BT[:, :, None], log_BTF, self._silence(log_BTF))
            return Features(self._levelled(log_BTF, mask_BT), mask_BT)

    def _energies(self, samples_BN: torch.Tensor, lengths_B: torch.Tensor | None) -> torch.Tensor:
        with torch.autocast(samples_BN.device.type, enabled=False):
            samples_BN = samples_BN.to(self.filterbank.dtype)
            n_frames = self.frames(samples_BN.shape[1])
            if self.settings.quantise_int16:
                samples_BN = _quantise_int16(samples_BN)
            if self.settings.preemphasis is not None:
                samples_BN = samples_BN[:, 1:] - self.settings.preemphasis * samples_BN[:, :-1]
                lengths_B = None if lengths_B is None else lengths_B - 1
            if samples_BN.device.type != "cpu" or samples_BN.numel() <= _CLIPS_CPU_SAMPLES:
                return self._mel(self._continued(samples_BN, lengths_B), n_frames)
            clips = max(1, _CLIPS_CPU_SAMPLES // samples_BN.shape[1])
            some_BN = samples_BN.split(clips)
            some_B = [None] * len(some_BN) if lengths_B is None else lengths_B.split(clips)
            padded = (self._continued(*some) for some in zip(some_BN, some_B, strict=True))
            return torch.cat([self._mel(padded_BN, n_frames) for padded_BN in padded])

    def _continued(self, samples_BN: torch.Tensor, lengths_B: torch.Tensor | None) -> torch.Tensor:
        """The samples with what the windows see before the start and after the end of each clip."""
        half = self.settings.n_fft // 2
        if lengths_B is not None:
            positions_N = torch.arange(samples_BN.shape[1], device=samples_BN.device)
            samples_BN = samples_BN.masked_fill(positions_N >= lengths_B[:, None], 0.0)
        if not self.settings.centred:
            return F.pad(samples_BN, (0, max(0, self.settings.n_fft - samples_BN.shape[1])))
        if self.settings.pad == "zeros":
            return F.pad(samples_BN, (half, half))
        samples_BN = F.pad(samples_BN, (0, max(0, half + 1 - samples_BN.shape[1])))
        padded_BN = F.pad(samples_BN[:, None], (half, half), mode="reflect")[:, 0]
        if lengths_B is not None:
            ends_B1 = half + lengths_B.clamp_min(half + 1)[:, None]
            steps_H = torch.arange(half, device=samples_BN.device)
            mirrored_BH = padded_BN.gather(1, ends_B1 - 2 - steps_H)
            padded_BN = padded_BN.scatter(1, ends_B1 + steps_H, mirrored_BH)
        return padded_BN

    def _mel(self, padded_BN: torch.Tensor, n_frames: int) -> torch.Tensor:
        kernels = self.kernels if padded_BN.device.type == "cpu" and padded_BN.dtype == torch.float32 else None
        if kernels is not None:
            rows = [self._mel_by_convolution(row_1N, kernels) for row_1N in padded_BN.split(1)]
            return torch.stack(rows)[:, :n_frames]
        frames_BTW = padded_BN.unfold(1, self.settings.n_fft, self.settings.hop_samples)[:, :n_frames]
        block_samples = _BLOCK_CPU_SAMPLES if padded_BN.device.type == "cpu" else _BLOCK_ACCELERATOR_SAMPLES
        block_frames = max(1, block_samples // (len(padded_BN) * self.settings.n_fft))
        return torch.cat([self._mel_of_frames(block) for block in frames_BTW.split(block_frames, dim=1)], dim=1)

    def _mel_by_convolution(self, padded_1N: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
        """[T, mel_bins] of one clip: row by row, so that no rounding depends on the batch."""
        real_KT, imaginary_KT = F.conv1d(padded_1N, kernels, stride=self.hop_samples).chunk(2)
        return self._mel_of_energy(real_KT.T.square() + imaginary_KT.T.square())

    def _mel_of_frames(self, frames_BTW: torch.Tensor) -> torch.Tensor:
        is_single = _in_single.get() and frames_BTW.dtype == torch.float32
        window_W = self.window.float() if is_single else self.window
        spectrum = torch.fft.rfft(frames_BTW * window_W)[..., self._used_bins]
        return self._mel_of_energy(spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag))

    def _mel_of_energy(self, energy: torch.Tensor) -> torch.Tensor:
        if self.settings.power == 1:
            # The slope of a square root at 0 is infinite: without the bound, silence would have no gradient.
            energy = energy.clamp_min(torch.finfo(energy.dtype).tiny).sqrt()
        energy = energy.to(self.filterbank.dtype)
        return energy if self.settings.scale == "linear" else energy @ self.filterbank[self._used_bins]

    def _logarithm(self, mel: torch.Tensor) -> torch.Tensor:
        if self.settings.log == "db":
            return 10.0 * mel.clamp_min(self.settings.floor).log10()
        return (mel + self.settings.floor).log()

    def _silence(self, like: torch.Tensor) -> torch.Tensor:
        return self._logarithm(like.new_zeros(()))

    def _levelled(self, log_BTF: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """What looks at the values of a whole clip, and the fixed mean and deviation; padding holds silence."""
        settings = self.settings
        if settings.top_db is not None:
            # Padding is at the floor of the logarithm: it is never the loudest, and stays where it is.
            limit_B11 = log_BTF.amax((1, 2), keepdim=True) - settings.top_db
            log_BTF = torch.where(mask_BT[:, :, None], log_BTF.maximum(limit_B11), log_BTF)
        if settings.standardise is None:
            return log_BTF
        if settings.standardise == "clip":
            return _standardised_by_clip(log_BTF - self._silence(log_BTF), mask_BT)
        mean, deviation = settings.standardise
        return (log_BTF - mean) / deviation

    def _mask(self, lengths_B: torch.Tensor, n_frames: int) -> torch.Tensor:
        whole_B = lengths_B if self.settings.centred else (lengths_B - self.settings.n_fft).clamp_min(0)
        last_B1 = (whole_B // self.settings.hop_samples)[:, None]
        return torch.arange(n_frames, device=lengths_B.device) <= last_B1

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> MelFrontend:
        # Every change of device or format passes here: the constants are made again instead of rounded twice.
        super()._apply(fn, recurse)
        self._fill_buffers()
        return self

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        stored = self.stored_filterbank
        if stored is not None and prefix + "stored_filterbank" in state_dict and not stored.is_meta:
            self._use_filterbank(stored)

    def _use_filterbank(self, filterbank: np.ndarray | torch.Tensor) -> None:
        self._filterbank = _checked_filterbank(filterbank, self.settings)
        used = np.flatnonzero(self._filterbank.any(axis=1))
        self._used_bins = slice(int(used[0]), int(used[-1]) + 1)  # no filter sees the frequencies outside
        if self.stored_filterbank is not None:
            self._filterbank = self._filterbank.astype(np.float32).astype(np.float64)  # what is saved is what is used
        self._fill_buffers()

    def _fill_buffers(self) -> None:
        device = self.window.device
        exact = torch.float32 if device.type == "mps" else torch.float64
        values = torch.float64 if self.filterbank.dtype == torch.float64 else torch.float32
        self.window = torch.tensor(self._window, device=device, dtype=exact)
        if self.settings.transform == "float32" and values == torch.float32:
            # torch computes its window in float32 too: in the last bit it is another, and so is the rounding behind it.
            window = torch.hann_window(self.settings.window_samples, self.settings.window == "hann")
            before = (self.settings.n_fft - len(window)) // 2
            self.window = F.pad(window, (before, self.settings.n_fft - len(window) - before)).to(device)
        self.filterbank = torch.tensor(self._filterbank, device=device, dtype=values)
        if self.kernels is not None:
            kernels = fourier_kernels(self._window, bins=range(self.settings.spectrum_bins)[self._used_bins])
            self.kernels = torch.tensor(kernels, device=device, dtype=torch.float32)[:, None]
        if self.stored_filterbank is not None:
            self.stored_filterbank = torch.tensor(self._filterbank, device=device, dtype=torch.float32)


def _checked_filterbank(filterbank: Any, settings: MelSettings) -> np.ndarray:
    if isinstance(filterbank, torch.Tensor):
        filterbank = filterbank.detach().cpu().numpy()
    filterbank = np.array(filterbank, dtype=np.float64)
    expected = (settings.spectrum_bins, settings.mel_bins)
    if filterbank.shape != expected:
        raise SpecError(
            f"the given filter bank has shape {filterbank.shape}, expected {expected}: (n_fft // 2 + 1, mel_bins)"
        )
    if not (np.isfinite(filterbank).all() and filterbank.any()):
        raise SpecError("the given filter bank holds NaN, infinity or only zeros, expected finite weights")
    return filterbank


def check_samples(samples_BN: torch.Tensor) -> None:
    """AudioError unless `samples_BN` holds at least one clip of at least one float sample."""
    shape = list(samples_BN.shape)
    if samples_BN.ndim != 2:
        raise AudioError(f"samples {shape}", "expected [clips, samples]; one clip alone is samples[None]")
    if samples_BN.numel() == 0:
        raise AudioError(f"samples {shape}", "there is no sample in it, expected at least one clip of one sample")
    if not samples_BN.is_floating_point():
        raise AudioError(f"samples {shape}", f"are {samples_BN.dtype}, expected floats with full scale 1")


def checked_lengths(lengths_B: torch.Tensor | None, samples_BN: torch.Tensor) -> torch.Tensor | None:
    """The lengths on the device of the samples; None when every row is full (which is quicker, and the same).

    AudioError for lengths that do not fit the samples.
    """
    if lengths_B is None:
        return None
    n_clips, n_samples = samples_BN.shape
    if lengths_B.shape != (n_clips,) or lengths_B.is_floating_point():
        found = f"{list(lengths_B.shape)} of {lengths_B.dtype}"
        raise AudioError(f"lengths {found}", f"expected one integer for each of the {n_clips} clips")
    shortest, longest = (int(bound) for bound in lengths_B.aminmax())
    if shortest < 1 or longest > n_samples:
        wrong = shortest if shortest < 1 else longest
        clip = lengths_B.tolist().index(wrong)
        raise AudioError(f"clip {clip} of the batch", f"has length {wrong}, expected 1 to {n_samples} samples")
    return None if shortest == n_samples else lengths_B.to(samples_BN.device, torch.int64)


def _standardised_by_clip(above_BTF: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """Mean 0 and unbiased deviation 1 over the real values of each clip; 0 in padding. Silence and padding come as 0,
    so that padding adds nothing to the sums and a silent clip is exactly 0."""
    count_B11 = mask_BT.sum(1)[:, None, None] * above_BTF.shape[2]
    mean_B11 = above_BTF.sum((1, 2), keepdim=True) / count_B11
    centred_BTF = torch.where(mask_BT[:, :, None], above_BTF - mean_B11, 0.0)
    variance_B11 = centred_BTF.square().sum((1, 2), keepdim=True) / (count_B11 - 1).clamp_min(1)
    return centred_BTF / variance_B11.clamp_min(_SMALLEST_VARIANCE).sqrt()


def _quantise_int16(samples: torch.Tensor) -> torch.Tensor:
    """The values of 16-bit samples; the gradient is that of clipping alone, as rounding has none that helps."""
    clipped = samples.clamp(-1.0, 1.0)
    quantised = (clipped.detach() * _INT16_MAX).trunc() / _INT16_MAX
    return quantised + (clipped - clipped.detach()) if samples.requires_grad else quantised
