"""The front-ends once more, as graphs of plain real arithmetic that every runtime has: no Fourier transform, no branch.

A frame is turned into its spectrum by a product with the cosines and sines of the transform. Folding the frame first
(x[n] + x[N - n] for the cosines, x[n] - x[N - n] for the sines) halves that product.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from clapkit.audio.features import Features
from clapkit.audio.kaldi import KaldiFbank
from clapkit.audio.mel import MelFrontend


def mel_graph(frontend: MelFrontend | KaldiFbank) -> nn.Module:
    """The features that `frontend` makes, in float32 throughout: `(samples_BN, lengths_B or None, n_frames=None)`.

    n_frames   of the result, where that is known better than by counting: fewer than the front-end makes, if the ones
               left out hold no sound, and at most one for each hop. Nothing is checked.
    """
    return MelGraph(frontend) if isinstance(frontend, MelFrontend) else KaldiGraph(frontend)


class MelGraph(MelFrontend):
    """`MelFrontend` for export. Sound has to be continued by silence to `least_samples` before it comes."""

    cosines: torch.Tensor
    sines: torch.Tensor

    def __init__(self, frontend: MelFrontend) -> None:
        settings = frontend.settings
        super().__init__(settings, filterbank=None if settings.scale == "linear" else frontend.filterbank)
        size, half = settings.n_fft, settings.n_fft // 2
        self.least_samples = (half + 1 if settings.centred else size) + (settings.preemphasis is not None)
        bins = np.arange(self.settings.spectrum_bins)[self._used_bins]
        angle_NK = 2 * np.pi / size * (np.arange(half + 1)[:, None] * bins)
        self.register_buffer("cosines", torch.tensor(np.cos(angle_NK), dtype=torch.float32), persistent=False)
        self.register_buffer("sines", torch.tensor(np.sin(angle_NK[1:half]), dtype=torch.float32), persistent=False)

    def forward(
        self, samples_BN: torch.Tensor, lengths_B: torch.Tensor | None = None, n_frames: int | None = None
    ) -> Features:
        settings = self.settings
        n_frames = settings.frames(samples_BN.shape[1]) if n_frames is None else n_frames
        if settings.quantise_int16:
            samples_BN = (samples_BN.clamp(-1.0, 1.0) * 32767.0).to(torch.int32).to(torch.float32) / 32767.0
        if settings.preemphasis is not None:
            samples_BN = samples_BN[:, 1:] - settings.preemphasis * samples_BN[:, :-1]
            lengths_B = None if lengths_B is None else lengths_B - 1
        frames_BTN = frames_of(
            self._continued(samples_BN, lengths_B), n_frames, size=settings.n_fft, hop=settings.hop_samples
        )
        log_BTF = self._logarithm(self._mel_of_frames(frames_BTN))
        if lengths_B is None:
            mask_BT = torch.ones_like(log_BTF[:, :, 0], dtype=torch.bool)
        else:
            mask_BT = self._mask(lengths_B, n_frames)
            log_BTF = torch.where(mask_BT[:, :, None], log_BTF, self._silence(log_BTF))
        return Features(self._levelled(log_BTF, mask_BT), mask_BT)

    def _continued(self, samples_BN: torch.Tensor, lengths_B: torch.Tensor | None) -> torch.Tensor:
        """One gather in place of mirroring and scattering: where each sample of the continued sound comes from."""
        half, total = self.settings.n_fft // 2, samples_BN.shape[1]
        if lengths_B is not None:
            samples_BN = samples_BN * (torch.arange(total, device=samples_BN.device) < lengths_B[:, None])
        if not self.settings.centred:
            return F.pad(samples_BN, (0, self.settings.n_fft))
        if self.settings.pad == "zeros":
            return F.pad(samples_BN, (half, half))
        if lengths_B is None:
            return F.pad(samples_BN[:, None], (half, half), mode="reflect")[:, 0]
        from_P = (torch.arange(total + 2 * half, device=samples_BN.device) - half).abs()
        last_B1 = lengths_B.clamp_min(half + 1)[:, None] - 1
        mirrored_BP = torch.where(from_P <= last_B1, from_P, 2 * last_B1 - from_P)
        return samples_BN.gather(1, mirrored_BP.clamp(min=0, max=total - 1))

    def _mel_of_frames(self, frames_BTW: torch.Tensor) -> torch.Tensor:
        half = self.settings.n_fft // 2
        frames_BTW = frames_BTW * self.window.float()
        ahead, behind = frames_BTW[..., 1:half], frames_BTW[..., half + 1 :].flip(-1)
        even = torch.cat([frames_BTW[..., :1], ahead + behind, frames_BTW[..., half : half + 1]], dim=-1)
        real_BTK, imaginary_BTK = even @ self.cosines, (ahead - behind) @ self.sines
        return self._mel_of_energy(real_BTK * real_BTK + imaginary_BTK * imaginary_BTK)


class KaldiGraph(KaldiFbank):
    """`KaldiFbank` for export: levelling, pre-emphasis, window and transform of a frame are one matrix."""

    cosines: torch.Tensor
    sines: torch.Tensor

    def __init__(self, frontend: KaldiFbank) -> None:
        super().__init__(frontend.settings)
        self.least_samples = self.settings.window_samples
        exact = KaldiFbank(frontend.settings).double()
        spectrum_NK = exact._spectrum(torch.eye(self.settings.window_samples, dtype=torch.float64))
        for name, part in (("cosines", spectrum_NK.real), ("sines", spectrum_NK.imag)):
            self.register_buffer(name, part.float().contiguous(), persistent=False)

    def forward(
        self, samples_BN: torch.Tensor, lengths_B: torch.Tensor | None = None, n_frames: int | None = None
    ) -> Features:
        settings = self.settings
        n_frames = settings.frames(samples_BN.shape[1]) if n_frames is None else n_frames
        if lengths_B is not None:
            samples_BN = samples_BN * (torch.arange(samples_BN.shape[1], device=samples_BN.device) < lengths_B[:, None])
        samples_BN = F.pad(samples_BN, (0, settings.window_samples))
        frames_BTW = frames_of(samples_BN, n_frames, size=settings.window_samples, hop=settings.hop_samples)
        real_BTK, imaginary_BTK = frames_BTW @ self.cosines, frames_BTW @ self.sines
        values_BTF = self._compressed((real_BTK * real_BTK + imaginary_BTK * imaginary_BTK) @ self.filterbank)
        if lengths_B is None:
            return Features(values_BTF, torch.ones_like(values_BTF[:, :, 0], dtype=torch.bool))
        last_B1 = ((lengths_B - settings.window_samples).clamp_min(0) // settings.hop_samples)[:, None]
        mask_BT = torch.arange(n_frames, device=last_B1.device) <= last_B1
        return Features(torch.where(mask_BT[:, :, None], values_BTF, self._compressed(torch.zeros(()))), mask_BT)


def frames_of(samples_BN: torch.Tensor, n_frames: int, *, size: int, hop: int) -> torch.Tensor:
    """[B, n_frames, size]: overlapping frames, gathered in pieces as long as `size` and `hop` allow."""
    piece = math.gcd(size, hop)
    pieces_BMP = samples_BN[:, : (n_frames - 1) * hop + size].unflatten(1, (-1, piece))
    starts_T1 = torch.arange(n_frames, device=samples_BN.device)[:, None] * (hop // piece)
    index = (starts_T1 + torch.arange(size // piece, device=samples_BN.device)).flatten()
    return pieces_BMP.index_select(1, index).unflatten(1, (n_frames, size // piece)).flatten(2)
