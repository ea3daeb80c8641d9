"""Mel spectra of the training clips on disk: computed once, read by every step in place of samples.

Kept is what the filters of the front-end sum up, before the logarithm, as float32: the bits that a step would compute
itself, and the form in which a louder sound is a multiple. The files lie beside the decoded sound in shards of a few
hundred clips, each named by a hash of what decides its numbers: the front-end, its filters, and the clips. A shard is
written whole or not at all.

A stretch of a longer clip begins on a frame. Frames whose window lies inside the stretch are those of the whole clip;
the few at its edges, where a stretch alone is continued by its mirror image or by silence, are computed from its
samples when it is read. So it is the mel of that stretch, and its neighbours in the clip are not heard.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from clapkit.audio.frontends import Frontend
from clapkit.audio.mel_settings import MelSettings
from clapkit.audio.windows import fit
from clapkit.data.cache import CachedAudio
from clapkit.errors import DataError, RecipeError
from clapkit.files import atomic_file, cache_folder
from clapkit.model import Fill
from clapkit.views.base import View

_VERSION = 1
_SHARD_CLIPS = 256
_SAMPLES_AT_ONCE = 2**22  # of clips that are computed together, padding included


class Cut(NamedTuple):
    """`length` samples from sample `first` on, of the clip at position `row`."""

    row: int
    first: int
    length: int


def check_exact(views: Sequence[View], frontend: Frontend) -> None:
    """RecipeError for an audio view that a cached mel of this front-end cannot follow exactly.

    A factor on all samples is one on the mel where nothing rounds on the way: not through 16 bits, nor through a
    transform in float32, whose rounding fills the bands beside loud ones.
    """
    settings = frontend.settings
    exact = isinstance(settings, MelSettings) and settings.transform == "exact" and not settings.quantise_int16
    refused = [type(v).__name__ for v in views if v.domain == "audio" and getattr(v, "mel_form", None) == "factor"]
    if refused and not exact:
        raise RecipeError(
            f"train.cache_mel: with this front-end {', '.join(refused)} cannot be carried over to a mel exactly "
            f"({settings!r} rounds samples or spectra): leave the view out, or set train.cache_mel=false"
        )


class CachedMels:
    """Mel energies of every clip of `audio`, in the order of `audio`.

    fill, clip_samples   as in the batch: unless `fill` is "mask", a shorter clip is kept as the batch fills it up
    folder               where the cache lies, `files.cache_folder()` if None

    `prepare` computes what is not there yet; `batch` reads.
    """

    def __init__(
        self, audio: CachedAudio, frontend: Frontend, *, fill: Fill, clip_samples: int, folder: Path | None = None
    ) -> None:
        self._audio = audio
        self._frontend = frontend
        self._fill = fill
        self._clip_samples = clip_samples
        self.folder = (folder or cache_folder()) / "mel"
        whole = (Cut(row, 0, audio.length_samples(row)) for row in range(len(audio)))
        self._frames = [frontend.frames(self.length_samples(cut)) for cut in whole]
        self._parts = [
            range(first, min(first + _SHARD_CLIPS, len(audio))) for first in range(0, len(audio), _SHARD_CLIPS)
        ]
        self._paths = [self.folder / f"{self._key(part)}.npy" for part in self._parts]
        self._maps: list[np.ndarray] = []
        self._starts = np.concatenate([np.cumsum([0, *(self._frames[row] for row in p)])[:-1] for p in self._parts])

    @property
    def hop_samples(self) -> int:
        """Where a stretch of a clip may begin: at multiples of this."""
        return self._frontend.hop_samples

    @property
    def missing_bytes(self) -> int:
        """How much `prepare` would write."""
        missing = [p for p, path in zip(self._parts, self._paths, strict=True) if self._opened(p, path) is None]
        return sum(self._bytes(part) for part in missing)

    def prepare(self, *, progress: Callable[[int, int], None] | None = None) -> None:
        """Compute and write the shards that are missing or damaged, and open all.

        DataError, before anything is written, if they need more room than there is, and if a write fails; shards that
        were whole by then stay, and of the others nothing is left.
        """
        self._check_room()
        self._maps = []
        for part, path in zip(self._parts, self._paths, strict=True):
            stored = self._opened(part, path)
            if stored is None:
                self._write(part, path, progress)
                stored = self._opened(part, path)
                assert stored is not None, f"{path} was written just now"
            elif progress:
                progress(part.stop, len(self._audio))
            self._maps.append(stored)

    def length_samples(self, cut: Cut) -> int:
        """How long that stretch is heard: a clip that is filled up, as long as the batch."""
        return self._clip_samples if self._is_filled(cut.row) else cut.length

    def batch(self, cuts: Sequence[Cut], factors_B: Sequence[float], *, samples: int) -> tuple[np.ndarray, np.ndarray]:
        """(energies [B, T, F] float32, lengths_B in samples) of stretches of clips, T = frames of `samples` samples.

        A stretch that is not the whole clip begins at a multiple of `hop_samples`. Each clip is heard times its factor.
        Frames behind the end of a clip are 0.
        """
        assert self._maps, "prepare comes first"
        mel_BTF = np.zeros((len(cuts), self._frontend.frames(samples), self._frontend.bins), np.float32)
        lengths_B = np.array([self.length_samples(cut) for cut in cuts], np.int64)
        edges: dict[int, Cut] = {}
        for b, cut in enumerate(cuts):
            stored_TF = self._stored(cut.row)
            if cut.length == self._audio.length_samples(cut.row):
                mel_BTF[b, : len(stored_TF)] = stored_TF
                continue
            frames, at = self._frontend.frames(cut.length), cut.first // self.hop_samples
            inside_TF = stored_TF[at : at + frames]  # none, where a stretch is shorter than a window
            mel_BTF[b, : len(inside_TF)] = inside_TF
            edges[b] = cut
        self._put_edges(mel_BTF, edges)
        power = getattr(self._frontend.settings, "power", 2)
        mel_BTF *= np.abs(np.asarray(factors_B, np.float32))[:, None, None] ** power
        return mel_BTF, lengths_B

    def _put_edges(self, mel_BTF: np.ndarray, edges: Mapping[int, Cut]) -> None:
        """Frames whose window leaves the stretch, as its samples alone make them."""
        if not edges:
            return
        (length,) = {cut.length for cut in edges.values()}  # only clips longer than the batch are cut
        hop, (before, after) = self.hop_samples, self._frontend.settings.reach_samples
        frames = self._frontend.frames(length)
        first = -(-before // hop)  # so many frames see the beginning
        last = min(frames, max(0, (length - after) // hop + 1))  # from here on they see the end
        start = max(0, last - first)
        if first:
            made = self._stretches(edges, 0, min(length, first * hop + after))
            mel_BTF[list(edges), :first] = made[:, :first]
        if last < frames:
            made = self._stretches(edges, start * hop, length)
            mel_BTF[list(edges), last:frames] = made[:, last - start : frames - start]

    def _stretches(self, edges: Mapping[int, Cut], first: int, end: int) -> np.ndarray:
        """[B, T, F] of the samples from `first` to `end` of each stretch."""
        sounds = (self._audio.samples(c.row, first=c.first + first, count=end - first) for c in edges.values())
        return np.stack(self._energies(list(sounds)))

    def _energies(self, sounds: Sequence[np.ndarray]) -> list[np.ndarray]:
        """[T, F] of each sound, T = its own frames."""
        lengths_B = torch.tensor([len(sound) for sound in sounds])
        samples_BN = torch.zeros(len(sounds), int(lengths_B.max()))
        for row_N, sound in zip(samples_BN, sounds, strict=True):
            row_N[: len(sound)] = torch.from_numpy(sound)
        with torch.no_grad():
            energies_BTF = self._frontend.energies(samples_BN.to(self._frontend.filterbank.device), lengths_B)
        made = energies_BTF.float().cpu().numpy()
        return [mel_TF[: self._frontend.frames(len(sound))] for mel_TF, sound in zip(made, sounds, strict=True)]

    def _is_filled(self, row: int) -> bool:
        return self._fill != "mask" and self._audio.length_samples(row) < self._clip_samples

    def _heard(self, row: int) -> np.ndarray:
        """What the kept mel is of: the whole clip, filled up where a batch fills it up."""
        sound = self._audio.samples(row)
        if not self._is_filled(row):
            return sound
        assert self._fill != "mask", "nothing is filled then"
        return fit(sound, self._clip_samples, "pad" if self._fill == "zeros" else self._fill)

    def _stored(self, row: int) -> np.ndarray:
        start = int(self._starts[row])
        return self._maps[row // _SHARD_CLIPS][start : start + self._frames[row]]

    def _bytes(self, part: range) -> int:
        return sum(self._frames[row] for row in part) * self._frontend.bins * 4

    def _key(self, part: range) -> str:
        frontend = self._frontend
        filled = "" if self._fill == "mask" else f"{self._fill} {self._clip_samples}"
        where = f"{frontend.filterbank.device.type} {frontend.filterbank.dtype} {frontend.window.dtype}"
        digest = hashlib.sha256(f"{_VERSION} {frontend.settings!r} {where} {filled}".encode())
        digest.update(frontend.filterbank.cpu().numpy().tobytes())
        digest.update("\n".join(self._audio.keys[row] for row in part).encode())
        return digest.hexdigest()[:32]

    def _opened(self, part: range, path: Path) -> np.ndarray | None:
        """The map of a shard; None if it is not there, or is not what it should be."""
        try:
            stored = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError):
            return None
        expected = (sum(self._frames[row] for row in part), self._frontend.bins)
        return stored if stored.shape == expected and stored.dtype == np.float32 else None

    def _check_room(self) -> None:
        missing = self.missing_bytes
        there = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        free = shutil.disk_usage(there).free
        if missing > free:
            raise self._no_room(f"{missing / 1e9:.2f} GB are to be written and {free / 1e9:.2f} GB are free")

    def _no_room(self, found: str) -> DataError:
        return DataError(
            f"the mel cache cannot be written to '{self.folder}': {found}. Make room, choose another place with the "
            "environment variable CLAPKIT_CACHE, or train without it (train.cache_mel=false)"
        )

    def _write(self, part: range, path: Path, progress: Callable[[int, int], None] | None) -> None:
        shape = (sum(self._frames[row] for row in part), self._frontend.bins)
        try:
            with atomic_file(path) as file:
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for rows in self._together(part):
                    for mel_TF in self._energies([self._heard(row) for row in rows]):
                        file.write(np.ascontiguousarray(mel_TF, "<f4").tobytes())
                    if progress:
                        progress(rows[-1] + 1, len(self._audio))
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise self._no_room("the disk is full" if full else f"{error}") from error

    def _together(self, part: range) -> Iterator[list[int]]:
        """Clips that follow each other, as many as fit into one computation with the padding they need."""
        rows: list[int] = []
        longest = 0
        for row in part:
            length = self.length_samples(Cut(row, 0, self._audio.length_samples(row)))
            if rows and max(longest, length) * (len(rows) + 1) > _SAMPLES_AT_ONCE:
                yield rows
                rows, longest = [], 0
            rows.append(row)
            longest = max(longest, length)
        yield rows
