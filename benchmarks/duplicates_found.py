"""`clapkit duplicates` on real sound with planted copies: which it finds, what it finds wrongly, how long it takes.

    python benchmarks/duplicates_found.py RUN --data DATA --folder SCRATCH \\
        --json benchmarks/results/duplicates_found.json

The originals are clips of ESC-50, one of each Freesound id (all of an id are takes of one recording), drawn anew
(seed 0). Three times as many as --copies get one copy each: the whole clip as Opus at 48 kbit/s, half of it (2.5 s at
a random place with at least 1 s above -60 dBFS, FLAC; a clip without such a place gets none), or the whole clip 6 dB
quieter (FLAC). `clapkit index` makes a library of them with the model RUN, on which nothing else depends; all of that
is kept in SCRATCH, and not made again. `clapkit duplicates --json` is timed and read.

recall        share of the planted pairs that stand as a link; `judgeable` counts those alone whose two sounds say
              enough to be told from others (`Fingerprint.judgeable`): the rest is silence, or nearly
false pairs   links between files of two originals. ESC-50 holds some recordings under two ids, so each of them is
              told with the largest correlation of the two original waveforms (as in proofs/leakage_guard.py): from
              0.3 they are one recording, and nothing was wrong
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import soundfile
from machine import described

from clapkit.audio.decode import Sound, decode
from clapkit.data.clip import Clip
from clapkit.data.manifest import read_all
from clapkit.search.fingerprint import RATE_HZ, THRESHOLD, fingerprint

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "proofs"))

from leakage_guard import DRAWS, LOUD_S, SAME_WAVEFORM, correlation, loud_s

KINDS = ("opus", "cut", "quiet")
CUT_S, QUIETER_DB, BITS_PER_S = 2.5, -6.0, 48_000


def originals(data: Path, count: int) -> list[Clip]:
    """Clips of different Freesound ids, in an order that is drawn."""
    clips = list(read_all([data / "esc50" / "manifest.csv"]).clips)
    order = np.random.default_rng(0).permutation(len(clips))
    first: dict[str, Clip] = {}
    for n in order:
        first.setdefault(str(clips[n].meta["freesound_id"]), clips[n])
    return list(first.values())[:count]


def as_opus(samples: np.ndarray, rate_hz: int) -> bytes:
    """Mono samples at 48 kHz as Ogg Opus."""
    words = np.round(np.clip(samples, -1, 1) * 32767).astype(np.int16)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="ogg") as out:
        stream = out.add_stream("libopus", rate=rate_hz)
        stream.bit_rate, stream.layout, stream.format = BITS_PER_S, "mono", "s16"
        frame = av.AudioFrame.from_ndarray(words[None], format="s16", layout="mono")
        frame.sample_rate = rate_hz
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def plant(clips: list[Clip], folder: Path, copies: int) -> list[tuple[str, str, str, bool]]:
    """Write originals and copies; (kind, original, copy, judgeable) of each planted pair."""
    rng = np.random.default_rng(1)
    folder.mkdir()
    planted: list[tuple[str, str, str, bool]] = []
    for n, clip in enumerate(clips):
        own = folder / f"{n:05}.ogg"
        shutil.copy(str(clip.audio), own)
        kind, sound = KINDS[len(planted) % len(KINDS)], decode(str(clip.audio))
        if len(planted) == len(KINDS) * copies or (copy := copied(kind, sound, own, rng)) is None:
            continue
        heard = [fingerprint(decode(str(path), rate_hz=RATE_HZ).samples, rate_hz=RATE_HZ) for path in (own, copy)]
        planted.append((kind, own.name, copy.name, all(one.judgeable for one in heard)))
    return planted


def copied(kind: str, sound: Sound, own: Path, rng: np.random.Generator) -> Path | None:
    """A copy beside the original; None where there is nothing to cut out."""
    copy = own.with_name(f"{own.stem}-{kind}.{'ogg' if kind == 'opus' else 'flac'}")
    if kind == "opus":
        copy.write_bytes(as_opus(sound.samples, sound.rate_hz))
        return copy
    samples: np.ndarray | None = 10 ** (QUIETER_DB / 20) * sound.samples
    if kind == "cut":
        samples = cut_of(sound.samples, sound.rate_hz, rng)
    if samples is not None:
        soundfile.write(copy, samples, sound.rate_hz)
    return None if samples is None else copy


def cut_of(samples: np.ndarray, rate_hz: int, rng: np.random.Generator) -> np.ndarray | None:
    length = int(CUT_S * rate_hz)
    for _ in range(DRAWS):
        first = int(rng.integers(0, len(samples) - length))
        if loud_s(samples[first : first + length], rate_hz) >= LOUD_S:
            return samples[first : first + length]
    return None


def links_of(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All links, with bare file names."""
    return [
        {**link, "file": Path(link["file"]).name, "other": Path(link["other"]).name}
        for group in groups
        for link in group["links"]
    ]


def judged(links: list[dict[str, Any]], planted: list[tuple[str, str, str, bool]], folder: Path) -> dict[str, Any]:
    """Recall of each kind, and the pairs of two originals."""
    found = {frozenset((link["file"], link["other"])) for link in links}
    told: dict[str, Any] = {}
    for kind in KINDS:
        hits = [(frozenset(pair) in found, fair) for one, *pair, fair in planted if one == kind]
        fair = [hit for hit, judgeable in hits if judgeable]
        told[kind] = {
            "planted": len(hits),
            "found": sum(hit for hit, _ in hits),
            "judgeable": len(fair),
            "found_of_these": sum(fair),
        }
    others = []
    for link in links:
        pair = sorted({link["file"][:5], link["other"][:5]})
        if len(pair) == 2:
            waves = [decode(str(folder / f"{name}.ogg"), rate_hz=RATE_HZ).samples for name in pair]
            others.append({**link, "waveform_correlation": round(correlation(*waves), 3)})
    unlike = [link for link in others if link["waveform_correlation"] < SAME_WAVEFORM]
    pairs = {frozenset((link["file"][:5], link["other"][:5])) for link in unlike}
    return {"planted": told, "between_originals": others, "false_links": len(unlike), "false_pairs": len(pairs)}


def library_in(given: argparse.Namespace) -> list[tuple[str, str, str, bool]]:
    """Make the sounds and the library, if they are not there; what was planted."""
    note = given.folder / "planted.json"
    if not note.exists():
        given.folder.mkdir(parents=True)
        planted = plant(originals(given.data, given.originals), given.folder / "sounds", given.copies)
        index = [sys.executable, "-m", "clapkit", "index", str(given.folder / "sounds"), "--model", given.run, "--out"]
        for _ in range(2):  # again what took too long on a machine that had other work
            subprocess.run([*index, str(given.folder / "library")], check=True)
        note.write_text(json.dumps(planted), encoding="utf-8")
    return [tuple(one) for one in json.loads(note.read_bytes())]


def measure(given: argparse.Namespace) -> dict[str, Any]:
    planted = library_in(given)
    load, started = psutil.getloadavg()[0], time.perf_counter()
    command = [sys.executable, "-m", "clapkit", "duplicates", str(given.folder / "library"), "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    files = len(list((given.folder / "sounds").iterdir()))
    return {
        "originals": files - len(planted),
        "files": files,
        "threshold": THRESHOLD,
        **judged(links_of(json.loads(done.stdout)), planted, given.folder / "sounds"),
        "seconds": round(seconds, 1),
        "seconds_per_1000_files": round(1000 * seconds / files, 1),
        "load_average_before": round(load, 1),
        "said": " ".join(done.stderr.split())[-200:],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="model")
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds esc50/")
    parser.add_argument("--originals", type=int, default=1200)
    parser.add_argument("--copies", type=int, default=200, help="of each kind")
    parser.add_argument("--folder", type=Path, required=True, help="scratch, 200 MB; one that is there is used again")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    text = json.dumps({**measure(given), "machine": described("numpy", "av")}, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
