"""How fast a model is on this machine, stage by stage: what `clapkit bench` measures."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile

from clapkit.audio.decode import decode
from clapkit.errors import SpecError, TextTowerError

if TYPE_CHECKING:
    from clapkit.api import Clap

FILE_RATE_HZ = 44_100
# Captions of 3 to 30 words, as people write them: batches of mixed lengths.
_WORDS = [
    "a",
    "dog",
    "barks",
    "twice",
    "in",
    "the",
    "distance",
    "while",
    "rain",
    "falls",
    "on",
    "the",
    "roof",
    "of",
    "a",
    "parked",
    "car",
    "and",
    "someone",
    "walks",
    "by",
]


def bench(
    clap: Clap, *, seconds: float = 10.0, clips: int = 32, rounds: int = 3, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Milliseconds a clip (or text) of each stage, best of `rounds`: plain data, as `clapkit bench --json` writes it.

    The clips are `seconds` of noise in mono WAV files of 16 bits at 44.1 kHz, on disk; the system has them in its cache
    after the first round. "end to end" is `embed_audio`; the other stages are run alone: "decode" is reading and
    resampling in one process, "mel" and "tower" a batch as `embed_audio` makes it. Models that run without torch show
    "mel + tower" as one. SpecError for fewer than one clip, second or round.
    """
    if seconds <= 0 or min(clips, rounds) < 1:
        raise SpecError(f"bench needs clips of some length, at least one, and a round: {seconds} s, {clips}, {rounds}")
    texts = [" ".join(_WORDS[i % 7 : i % 7 + 3 + i * 5 % 17]) for i in range(4 * clips)]
    with tempfile.TemporaryDirectory(prefix="clapkit-bench-") as scratch:
        paths = _write_clips(Path(scratch), seconds, clips)
        sounds = [decode(path, rate_hz=clap.rate_hz).samples for path in paths[:4]]
        stages: dict[str, tuple[int, Callable[[], object]]] = {
            "decode": (min(8, clips), lambda: [decode(path, rate_hz=clap.rate_hz) for path in paths[:8]]),
            **_model_stages(clap, sounds),
            "end to end": (clips, lambda: clap.embed_audio(paths)),
        }
        with suppress(TextTowerError):
            clap.embed_text(texts[:1])
            stages["text"] = (len(texts), lambda: clap.embed_text(texts))
        rows = []
        for name, (count, work) in stages.items():
            say(name)
            rows.append(_row(name, count, work, rounds=rounds, seconds=0.0 if name == "text" else seconds))
    return {"clip_s": seconds, "clips": clips, "rounds": rounds, "stages": rows, "machine": machine()}


def _model_stages(clap: Clap, sounds: list[np.ndarray]) -> dict[str, tuple[int, Callable[[], object]]]:
    from clapkit.audio.windows import fit

    program = clap.program
    windows = [fit(samples, program.window, "repeat") for samples in sounds]
    features_of = getattr(program, "features", None)
    if features_of is None:
        return {"mel + tower": (len(windows), lambda: program.encode_windows(windows))}
    features = features_of(windows)
    return {
        "mel": (len(windows), lambda: features_of(windows)),
        "tower": (len(windows), lambda: program.encode_features(features)),
    }


def _row(name: str, count: int, work: Callable[[], object], *, rounds: int, seconds: float) -> dict[str, Any]:
    work()
    best = min(_seconds(work) for _ in range(rounds)) / count
    row: dict[str, Any] = {"stage": name, "ms": round(1e3 * best, 3), "per_second": round(1 / best, 2)}
    return row | ({"times_real_time": round(seconds / best, 1)} if seconds else {})


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _write_clips(folder: Path, seconds: float, clips: int) -> list[str]:
    generator = np.random.default_rng(0)
    paths = []
    for number in range(clips):
        samples = 0.1 * generator.standard_normal(max(1, round(seconds * FILE_RATE_HZ)))
        paths.append(str(folder / f"{number:05d}.wav"))
        soundfile.write(paths[-1], samples.clip(-1, 1), FILE_RATE_HZ, subtype="PCM_16")
    return paths


def machine() -> dict[str, Any]:
    """What the figures depend on: processor, threads, versions; with torch, the rate of large matrix products."""
    told: dict[str, Any] = {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()}
    told["python"] = platform.python_version()
    try:
        import torch
    except ImportError:
        return told
    told |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        square = torch.ones(1536, 1536, dtype=dtype)
        best = min(_seconds(lambda square=square: square @ square) for _ in range(5))  # type: ignore[misc]
        told[f"matrix_{name}_gflops"] = round(2 * 1536**3 / best / 1e9, 1)
    return told
