"""What a log-mel front-end computes, as plain data, and the settings that published models were trained with."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from clapkit.errors import SpecError, nearest_name
from clapkit.units import samples_to_frames

Scale = Literal["slaney", "htk", "kaldi", "linear"]
_CHOICES = {
    "scale": ("slaney", "htk", "kaldi", "linear"),
    "norm": ("slaney", None),
    "power": (1, 2),
    "log": ("db", "ln"),
    "pad": ("reflect", "zeros"),
    "window": ("hann", "hann_symmetric"),
    "transform": ("exact", "float32", "convolution"),
}


def _later(default: Any) -> Any:
    """A field younger than the first saved models: at its default it is not written, so their space_id stays."""
    return field(default=default, metadata={"omit_default": True})


@dataclass(frozen=True, kw_only=True)
class MelSettings:
    """Everything that decides the numbers of a log-mel spectrogram.

    rate_hz             rate of the samples
    n_fft               length of the transform, even; the window of `window_samples` is centred in it
    window              "hann": the periodic Hann window; "hann_symmetric": its last sample is 0 as its first one
    hop_samples         distance of two frames
    mel_bins            number of triangular filters between `low_hz` and `high_hz`
    scale               "slaney" or "htk": triangles in Hz, corners equally far apart on that mel scale;
                        "kaldi": the HTK scale with triangles drawn in mel; "linear": no filters but the spectrum
                        itself, `mel_bins` = n_fft // 2 + 1 from 0 Hz to half the rate, norm None
    norm                "slaney": each filter has area 1 (in Hz); None: each filter has height 1
    power               2: the filters sum powers; 1: they sum magnitudes
    log, floor          "db": 10 log10(max(x, floor)); "ln": log(x + floor)
    centred, pad        True: frame t is centred on sample t * hop_samples and the sound is continued at both ends by
                        its mirror image ("reflect") or by silence ("zeros"); False: frame t starts there
    top_db              with "db": no value lies further than this below the loudest one of its clip; None: no limit
    standardise         (mean, deviation): after the logarithm, (x - mean) / deviation; "clip": mean and (unbiased)
                        deviation are those of the values of each clip; None: left alone
    quantise_int16      the samples are clipped to [-1, 1] and rounded toward zero to 16 bits first
    preemphasis         c: then sample t becomes x[t + 1] - c x[t], so that a clip is one sample shorter; None: none
    filterbank_rate_hz  the rate the filters are laid out for; None: `rate_hz`. One published model was trained with
                        filters meant for another rate.
    transform           "exact": a fast Fourier transform in float64; "float32": in float32, as torchaudio computes it;
                        "convolution": in float32, with the kernels of the transform, as torchlibrosa does. Rounding,
                        up to 0.1 dB in bands near -100 dB, shows in what a network that amplifies such differences
                        makes of it. The convolution is slower, and only on a CPU and in float32; elsewhere it is the
                        exact one.

    Raises SpecError, naming the field, for values that cannot work together.
    """

    rate_hz: int
    n_fft: int
    window_samples: int
    hop_samples: int
    mel_bins: int
    low_hz: float
    high_hz: float
    scale: Scale = "slaney"
    norm: Literal["slaney"] | None = "slaney"
    power: Literal[1, 2] = 2
    log: Literal["db", "ln"] = "db"
    floor: float = 1e-10
    centred: bool = True
    pad: Literal["reflect", "zeros"] = "reflect"
    standardise: tuple[float, float] | Literal["clip"] | None = None
    quantise_int16: bool = False
    filterbank_rate_hz: int | None = None
    window: Literal["hann", "hann_symmetric"] = _later("hann")
    preemphasis: float | None = _later(None)
    top_db: float | None = _later(None)
    transform: Literal["exact", "float32", "convolution"] = _later("exact")

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            _require(getattr(self, name) in allowed, self, name, f"one of {', '.join(map(repr, allowed))}")
        _require(self.n_fft >= 2 and self.n_fft % 2 == 0, self, "n_fft", "an even number")
        for name in ("rate_hz", "hop_samples", "mel_bins"):
            _require(getattr(self, name) >= 1, self, name, "1 or more")
        _require(2 <= self.window_samples <= self.n_fft, self, "window_samples", f"from 2 to n_fft = {self.n_fft}")
        top_hz = (self.filterbank_rate_hz or self.rate_hz) / 2
        _require(0 <= self.low_hz < self.high_hz, self, "low_hz", f"from 0 to below high_hz = {self.high_hz}")
        _require(self.high_hz <= top_hz, self, "high_hz", f"at most half the rate of the filters = {top_hz}")
        _require(self.floor > 0, self, "floor", "above 0, since the logarithm of silence is taken")
        _require(_standardises(self.standardise), self, "standardise", "(mean, deviation above 0), 'clip' or None")
        _require(self.preemphasis is None or 0 < self.preemphasis <= 1, self, "preemphasis", "above 0, at most 1")
        _require(self.top_db is None or self.top_db > 0, self, "top_db", "above 0")
        _require(self.top_db is None or self.log == "db", self, "top_db", "None, since log is not 'db'")
        if self.scale == "linear":
            _require(self.mel_bins == self.spectrum_bins, self, "mel_bins", f"{self.spectrum_bins} for scale 'linear'")
            _require(self.low_hz == 0, self, "low_hz", "0 for scale 'linear'")
            _require(self.high_hz == self.rate_hz / 2, self, "high_hz", f"{self.rate_hz / 2} for scale 'linear'")
            _require(self.norm is None, self, "norm", "None for scale 'linear'")
            _require(self.filterbank_rate_hz is None, self, "filterbank_rate_hz", "None for scale 'linear'")

    @property
    def spectrum_bins(self) -> int:
        """Number of frequencies of the transform, from 0 Hz to half the rate."""
        return self.n_fft // 2 + 1

    @property
    def reach_samples(self) -> tuple[int, int]:
        """How many samples before sample t * hop_samples frame t sees, and how many from it on."""
        before = self.n_fft // 2 if self.centred else 0
        return before, self.n_fft - before + (self.preemphasis is not None)

    def frames(self, n_samples: int) -> int:
        """Number of frames of a clip of `n_samples` samples; never fewer than one."""
        n_samples = n_samples if self.preemphasis is None else max(0, n_samples - 1)
        whole = n_samples if self.centred else max(0, n_samples - self.n_fft)
        return samples_to_frames(whole, self.hop_samples)


def _standardises(value: Any) -> bool:
    return value is None or value == "clip" or (isinstance(value, (tuple, list)) and len(value) == 2 and value[1] > 0)


def _require(fits: bool, settings: MelSettings, name: str, expected: str) -> None:
    if not fits:
        raise SpecError(f"MelSettings: {name} = {getattr(settings, name)!r}, expected {expected}")


# The default for towers trained here: two thirds of the frames of LAION, and 32 kHz keeps all that its filters see.
ECONOMICAL = MelSettings(
    rate_hz=32000,
    n_fft=1024,
    window_samples=1024,
    hop_samples=500,
    mel_bins=64,
    low_hz=50.0,
    high_hz=14000.0,
    floor=1e-8,
)

LAION = MelSettings(
    rate_hz=48000,
    n_fft=1024,
    window_samples=1024,
    hop_samples=480,
    mel_bins=64,
    low_hz=50.0,
    high_hz=14000.0,
    quantise_int16=True,
)

# The checkpoints with feature fusion were trained on another library's filters than those without.
LAION_FUSED = replace(LAION, scale="htk", norm=None)

MSCLAP_2022 = replace(LAION, rate_hz=44100, hop_samples=320, quantise_int16=False)

# Its sound is at 44.1 kHz, its filters were laid out for 32 kHz: every band sits 1.38 times higher than it says.
MSCLAP_2023 = replace(MSCLAP_2022, filterbank_rate_hz=32000)

# The deviation and mean are those of the published training set; a checkpoint can carry its own.
M2D = MelSettings(
    rate_hz=16000,
    n_fft=400,
    window_samples=400,
    hop_samples=160,
    mel_bins=80,
    low_hz=50.0,
    high_hz=8000.0,
    log="ln",
    floor=2.0**-23,
    standardise=(-7.1, 4.2),
)

# The reference limits the range over a whole batch, where a quiet clip changes beside a loud one; here it is per clip.
GLAP = MelSettings(
    rate_hz=16000,
    n_fft=512,
    window_samples=512,
    hop_samples=160,
    mel_bins=64,
    low_hz=0.0,
    high_hz=8000.0,
    scale="htk",
    norm=None,
    top_db=120.0,
)

EFFICIENTAT = MelSettings(
    rate_hz=32000,
    n_fft=1024,
    window_samples=800,
    window="hann_symmetric",
    hop_samples=320,
    mel_bins=128,
    low_hz=0.0,
    high_hz=15000.0,
    scale="kaldi",
    norm=None,
    log="ln",
    floor=1e-5,
    standardise=(-4.5, 5.0),
    preemphasis=0.97,
)

# The reference standardises over a whole batch; here every clip is standardised on its own.
WAV2CLIP = MelSettings(
    rate_hz=16000,
    n_fft=512,
    window_samples=512,
    hop_samples=353,
    mel_bins=257,
    low_hz=0.0,
    high_hz=8000.0,
    scale="linear",
    norm=None,
    log="ln",
    floor=1e-7,
    standardise="clip",
)

NAMED = MappingProxyType(
    {
        "economical": ECONOMICAL,
        "laion": LAION,
        "laion_fused": LAION_FUSED,
        "msclap_2022": MSCLAP_2022,
        "msclap_2023": MSCLAP_2023,
        "m2d": M2D,
        "glap": GLAP,
        "efficientat": EFFICIENTAT,
        "wav2clip": WAV2CLIP,
    }
)


def named_settings(name: str) -> MelSettings:
    """The settings called `name` ("laion", "msclap_2023", ...; see NAMED). Raises SpecError with the nearest name."""
    if name not in NAMED:
        raise SpecError(f"there are no mel settings '{name}'; {nearest_name(name, list(NAMED))}")
    return NAMED[name]
