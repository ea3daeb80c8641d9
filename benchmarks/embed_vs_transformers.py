"""Files to embeddings: clapkit against transformers, same weights, same files, same run.

Run:   python benchmarks/embed_vs_transformers.py [--threads 2] [--clips 48] [--rounds 5] [--precisions fp32,bf16]
           [--providers torch] [--json benchmarks/results/embed_vs_transformers.json]

Input: clips of 10 s, mono WAV, 44.1 kHz, 16 bits, of the sound world. Model: ClapModel with HTSAT-tiny, random weights
(batch norm statistics, biases and tables among them), saved by transformers and loaded by both.

The peer reads with soundfile, resamples with soxr (the quickest there is), extracts features with ClapFeatureExtractor
and embeds with ClapModel.get_audio_features in float32, at the best of several batch sizes; for the ratios of equal
precision also under autocast in bf16, which is what int8 is compared with too. Both do the whole way from the file.
They take turns, round by round, so that other work on the machine slows both alike; the best round of each counts.
Stages are timed by processor time of one thread. The machine's limits are measured in the same run: the rate of a large
matrix product, and of copying memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
import transformers

import clapkit
from clapkit.audio.decode import decode
from clapkit.building.soundworld import write_world

RATE_HZ, SECONDS = 44_100, 10
TOWER_GFLOP = 11.8  # of HTSAT-tiny for one clip of 10 s


def write_clips(folder: Path, count: int) -> list[Path]:
    """`count` clips of the sound world, brought to 10 s at 44.1 kHz."""
    write_world(folder / "world", train=count, test=2)
    paths = []
    for number, source in enumerate(sorted((folder / "world").rglob("*.flac"))[:count]):
        samples, rate_hz = soundfile.read(source, dtype="float32")
        samples = np.resize(soxr.resample(samples, rate_hz, RATE_HZ), RATE_HZ * SECONDS)
        paths.append(folder / f"{number:05d}.wav")
        soundfile.write(paths[-1], samples, RATE_HZ, subtype="PCM_16")
    return paths


def write_model(folder: Path) -> None:
    """A ClapModel of HTSAT-tiny in which nothing is 0 or 1 by default."""
    audio = {"patch_embeds_hidden_size": 96, "depths": [2, 2, 6, 2], "num_attention_heads": [4, 8, 16, 32]}
    text = {"num_hidden_layers": 2, "vocab_size": 1000}
    config = transformers.ClapConfig(audio_config={**audio, "hidden_size": 768}, text_config=text)
    torch.manual_seed(0)
    model = transformers.ClapModel(config).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("batch_norm.running_mean"):
                tensor.fill_(-30.0)
            elif name.endswith("batch_norm.running_var"):
                tensor.fill_(300.0)
            elif tensor.is_floating_point() and "logit_scale" not in name:
                tensor.add_(0.02 * torch.randn(tensor.shape))
    model.save_pretrained(folder)
    transformers.ClapFeatureExtractor(truncation="rand_trunc", padding="repeatpad").save_pretrained(folder)


class Peer:
    """transformers, from file to unit vectors."""

    def __init__(self, folder: Path) -> None:
        self.model = transformers.ClapModel.from_pretrained(folder).eval()
        self.extractor = transformers.ClapFeatureExtractor.from_pretrained(folder)
        self.batch = 1
        self.precision = "fp32"

    def __call__(self, paths: list[Path]) -> np.ndarray:
        rows = []
        for first in range(0, len(paths), self.batch):
            clips = [self.read(path) for path in paths[first : first + self.batch]]
            features = self.features(clips)
            rows.append(self.embed(features))
        return np.concatenate(rows)

    @staticmethod
    def read(path: Path) -> np.ndarray:
        samples, rate_hz = soundfile.read(path, dtype="float32")
        return soxr.resample(samples, rate_hz, 48_000)

    def features(self, clips: list[np.ndarray]) -> transformers.BatchFeature:
        return self.extractor(clips, sampling_rate=48_000, return_tensors="pt")

    @torch.inference_mode()
    def embed(self, features: transformers.BatchFeature) -> np.ndarray:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            found = self.model.get_audio_features(**features)
        vectors = getattr(found, "pooler_output", found)
        return torch.nn.functional.normalize(vectors.float(), dim=-1).numpy()

    def settle(self, paths: list[Path]) -> None:
        """Take the batch size that is quickest here."""
        took = {}
        for batch in (1, 4, 8, 16):
            self.batch = batch
            took[batch] = seconds(lambda: self(paths[:16]))
        self.batch = min(took, key=lambda size: took[size])


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def processor_ms(work: Callable[[], object], *, repeats: int, clips: int) -> float:
    """Processor milliseconds a clip, best of `repeats`."""
    best = float("inf")
    for _ in range(repeats):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return 1e3 * best / clips


def limits(threads: int) -> dict[str, float]:
    """GFLOP/s of a matrix product in each format, and GB/s of copying."""
    found = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        square = torch.randn(2048, 2048).to(dtype)
        took = min(seconds(lambda square=square: square @ square) for _ in range(8))
        found[f"gemm_{name}_gflops"] = 2 * 2048**3 / took / 1e9
    data = torch.empty(64 * 2**20, dtype=torch.float32)
    other = torch.empty_like(data)
    found["copy_gb_s"] = 2 * data.nbytes / min(seconds(lambda: other.copy_(data)) for _ in range(5)) / 1e9
    return {"threads": threads, **{name: round(value, 1) for name, value in found.items()}}


def stages(folder: Path, peer: Peer, paths: list[Path]) -> dict[str, float]:
    """Processor milliseconds a clip of each stage in torch, one thread; our towers in batches of 2, as in a lane, the
    rest in batches of 8."""
    programs = {kind: clapkit.load(folder, device="cpu", precision=kind).program for kind in ("fp32", "bf16")}
    some = paths[:8]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    sounds = [decode(path, rate_hz=48_000).samples for path in some]
    samples_BN = torch.from_numpy(np.stack(sounds))
    with torch.inference_mode():
        frontend = programs["fp32"].model.frontend
        features = frontend(samples_BN[:2])
        theirs = peer.features(sounds)
        measured = {
            "decode + resample": processor_ms(
                lambda: [decode(path, rate_hz=48_000) for path in some], repeats=5, clips=8
            ),
            "mel": processor_ms(lambda: frontend(samples_BN), repeats=5, clips=8),
            "peer: read + resample": processor_ms(lambda: [peer.read(path) for path in some], repeats=5, clips=8),
            "peer: features": processor_ms(lambda: peer.features(sounds), repeats=3, clips=8),
        }
        for kind, program in programs.items():
            peer.precision = kind
            work = {
                "tower and head": (lambda program=program: program.encode_features(features), 2),
                "peer: tower and head": (lambda: peer.embed(theirs), 8),
            }
            for name, (does, clips) in work.items():
                does()  # packs the weights
                measured[f"{name}, {kind}"] = processor_ms(does, repeats=5, clips=clips)
    torch.set_num_threads(before)
    return {name: round(value, 1) for name, value in measured.items()}


def contest(paths: list[Path], folder: Path, arguments: argparse.Namespace) -> dict:
    peer = Peer(folder)
    peer.settle(paths)
    reference = peer(paths)
    ours = {
        (provider, precision): clapkit.load(
            folder, device="cpu", precision=precision, provider=provider, threads=arguments.threads
        )
        for provider in arguments.providers.split(",")
        for precision in arguments.precisions.split(",")
    }
    peers = [name for name in ("fp32", "bf16") if name == "fp32" or name in arguments.precisions]
    best = dict.fromkeys([*peers, *ours], float("inf"))
    agreement = {}
    for key, clap in ours.items():
        agreement[key] = (clap.embed_audio(paths) * reference).sum(1)
    for _ in range(arguments.rounds):
        for peer.precision in peers:
            best[peer.precision] = min(best[peer.precision], seconds(lambda: peer(paths)))
        for key, clap in ours.items():
            best[key] = min(best[key], seconds(lambda clap=clap: clap.embed_audio(paths)))
    rows = [
        {
            "provider": provider,
            "precision": precision,
            "ms_per_clip": round(1e3 * best[provider, precision] / len(paths), 1),
            "ratio_to_peer_fp32": round(best["fp32"] / best[provider, precision], 2),
            "ratio_at_equal_precision": round(best[peers[precision != "fp32"]] / best[provider, precision], 2),
            "lowest_cosine": float(agreement[provider, precision].min()),
        }
        for provider, precision in ours
    ]
    return {
        "peer": {
            "batch": peer.batch,
            **{f"{name}_ms_per_clip": round(1e3 * best[name] / len(paths), 1) for name in peers},
        },
        "clapkit": rows,
        "stages_processor_ms_one_thread": stages(folder, peer, paths),
        "tower_mb_per_clip": moved_mb(clapkit.load(folder, device="cpu"), paths[0]),
    }


def moved_mb(clap: clapkit.Clap, path: Path) -> dict[str, float]:
    """Megabytes of float32 that the layers of the tower read and write for one clip, if none stays in a cache."""
    counted = {"weights": 0, "inputs_and_results": 0}

    def count(layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
        counted["weights"] += sum(p.nbytes for p in layer.parameters())
        counted["inputs_and_results"] += inputs[0].nbytes + result.nbytes

    layers = [m for m in clap.model.audio.modules() if isinstance(m, torch.nn.Linear | torch.nn.LayerNorm)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.inference_mode():
        clap.model.encode_audio(torch.from_numpy(decode(path, rate_hz=48_000).samples)[None])
    for hook in hooks:
        hook.remove()
    return {name: round(value / 1e6, 1) for name, value in counted.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--providers", default="torch")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_model(folder / "model")
        paths = write_clips(folder, arguments.clips)
        told = contest(paths, folder / "model", arguments)
    told |= {"limits": limits(arguments.threads)}
    peaks = told["limits"]
    told["tower_at_the_matrix_peak_ms"] = {
        name: round(1e3 * TOWER_GFLOP / peaks[f"gemm_{name}_gflops"], 1) for name in ("fp32", "bf16")
    }
    moved = sum(told["tower_mb_per_clip"].values())
    told["tower_at_the_copy_rate_ms"] = round(moved / peaks["copy_gb_s"], 1)
    told["versions"] = {"python": platform.python_version(), "torch": torch.__version__} | {
        "transformers": transformers.__version__,
        "clapkit": clapkit.__version__,
    }
    print(json.dumps(told, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
