"""Captions to embeddings: clapkit against transformers, same weights, same captions, same run.

Run:   python benchmarks/text_vs_transformers.py [--threads 2] [--texts 512] [--rounds 3] [--provider torch]
           [--json benchmarks/results/text_vs_transformers.json]

Input: captions of 3 to 30 words, made of a list of words; a byte-pair tokenizer of 8,000 tokens trained on other
captions of the same words. Model: ClapModel whose text side has the size of RoBERTa-base (12 layers, width 768), random
weights, saved by transformers and loaded by both.

The peer goes from strings to unit vectors with its tokenizer and ClapModel.get_text_features in float32, batch after
batch as the captions come, padded to the longest of each batch, at the best of several batch sizes; and again padded
to 77 tokens, which is what the published code of CLAP does. They take turns, round by round, and the best round counts.
Times are of the clock; with --threads 1 of the processor, which other work on the machine hardly touches.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers
from machine import described

import clapkit

VOCABULARY = 8000
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
SYLLABLES = ["ba", "cro", "del", "fi", "gru", "hum", "ing", "jo", "kle", "lo", "mer", "nar", "ot", "plu", "ra", "sti"]


def captions(count: int, *, seed: int) -> list[str]:
    """Captions of 3 to 30 words, of 2,000 words of one to four syllables, the first words the most frequent."""
    words_rng = np.random.default_rng(0)
    words = ["".join(words_rng.choice(SYLLABLES, words_rng.integers(1, 5))) for _ in range(2000)]
    rng = np.random.default_rng(seed)
    return [
        " ".join(words[int(len(words) * place**2)] for place in rng.random(rng.integers(3, 31))) for _ in range(count)
    ]


def write_tokenizer(folder: Path) -> None:
    """A byte-pair tokenizer that frames each text as RoBERTa's does."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(captions(2000, seed=1), trainer)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


def write_model(folder: Path) -> None:
    """A ClapModel with a text side of the size of RoBERTa-base, and a small sound side."""
    audio = {"patch_embeds_hidden_size": 24, "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 4, 8]}
    text = {"vocab_size": VOCABULARY, "max_position_embeddings": 514}
    config = transformers.ClapConfig(audio_config={**audio, "hidden_size": 192}, text_config=text)
    torch.manual_seed(0)
    model = transformers.ClapModel(config).eval()
    with torch.no_grad():
        for tensor in model.text_model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.02 * torch.randn(tensor.shape))
    model.save_pretrained(folder)
    transformers.ClapFeatureExtractor(truncation="rand_trunc", padding="repeatpad").save_pretrained(folder)
    write_tokenizer(folder)


class Peer:
    """transformers, from strings to unit vectors; `padding` as its tokenizers take it."""

    def __init__(self, folder: Path, *, padding: str) -> None:
        self.model = transformers.ClapModel.from_pretrained(folder).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.padding, self.batch = padding, 1

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        rows = []
        for first in range(0, len(texts), self.batch):
            part = list(texts[first : first + self.batch])
            longest = 77 if self.padding == "max_length" else 512
            tokens = self.tokenizer(
                part, padding=self.padding, max_length=longest, truncation=True, return_tensors="pt"
            )
            found = self.model.get_text_features(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
            vectors = getattr(found, "pooler_output", found)
            rows.append(torch.nn.functional.normalize(vectors, dim=-1).numpy())
        return np.concatenate(rows)

    def settle(self, texts: Sequence[str], now: Callable[[], float]) -> dict[int, float]:
        """Take the batch size that is quickest here; milliseconds a caption of each."""
        took = {}
        for batch in (1, 4, 16, 64):
            self.batch = batch
            took[batch] = round(1e3 * seconds(partial(self, texts), now) / len(texts), 2)
        self.batch = min(took, key=lambda size: took[size])
        return took


def seconds(work: Callable[[], object], now: Callable[[], float]) -> float:
    started = now()
    work()
    return now() - started


def contest(folder: Path, texts: list[str], *, threads: int, rounds: int, provider: str | None) -> dict[str, Any]:
    clap = clapkit.load(folder, device="cpu", provider=provider, threads=threads)
    peers = {
        "padded to the longest": Peer(folder, padding="longest"),
        "padded to 77": Peer(folder, padding="max_length"),
    }
    now = time.process_time if threads == 1 else time.perf_counter
    sizes = {name: peer.settle(texts[:64], now) for name, peer in peers.items()}
    best = dict.fromkeys(["clapkit", *peers], float("inf"))
    ours = clap.embed_text(texts)
    for _ in range(rounds):
        best["clapkit"] = min(best["clapkit"], seconds(partial(clap.embed_text, texts), now))
        for name, peer in peers.items():
            best[name] = min(best[name], seconds(partial(peer, texts), now))
    lengths = [len(tokens) for tokens in peers["padded to 77"].tokenizer(texts)["input_ids"]]
    return {
        "texts": len(texts),
        "tokens_a_text": {"least": min(lengths), "mean": round(float(np.mean(lengths)), 1), "most": max(lengths)},
        "provider": clap.provider,
        "threads": threads,
        "time_of_the": "processor" if threads == 1 else "clock",
        "clapkit_ms_a_text": round(1e3 * best["clapkit"] / len(texts), 2),
        "peers": [
            {
                "padding": name,
                "batch": peer.batch,
                "ms_a_text": round(1e3 * best[name] / len(texts), 2),
                "ms_a_text_by_batch": sizes[name],
                "ratio": round(best[name] / best["clapkit"], 2),
                "lowest_cosine": float((peer(texts) * ours).sum(1).min()),
            }
            for name, peer in peers.items()
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--provider", help="as in clapkit.load")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(given.threads)
    machine = described("torch", "transformers", "tokenizers")
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        texts = captions(given.texts, seed=2)
        told = contest(Path(folder), texts, threads=given.threads, rounds=given.rounds, provider=given.provider)
    text = json.dumps({**told, "machine": machine}, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
