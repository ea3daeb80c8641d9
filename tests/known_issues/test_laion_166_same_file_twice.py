"""LAION-AI/CLAP#166, microsoft/CLAP#24: a random crop at inference gave another embedding of the same file each call.

Here embedding is a function: the same 23-second file gives the same bits, alone or beside others, also after the global
generators have moved.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import soundfile
import torch

import clapkit

GOLDEN = Path(__file__).parent.parent / "golden" / "model_v1"


def test_same_file_same_vector(tmp_path, rng):
    path = tmp_path / "long sound.wav"
    time_s = np.arange(23 * 16000) / 16000
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 300 * time_s**1.2) + 0.01 * rng.standard_normal(len(time_s)), 16000)
    clap = clapkit.load(GOLDEN)
    first = clap.embed_audio([path])
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    assert np.array_equal(first, clap.embed_audio([path]))
    assert np.allclose(first[0], clap.embed_audio([path, path])[1], atol=1e-5)
