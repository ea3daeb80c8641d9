"""Is a checkpoint alive? What a file that loads without complaint can still be: broken weights, vectors all alike.

A public port of a CLAP model loads with text vectors of cosine 0.999 to each other (mteb issue 5069): every query then
finds the same sounds, and nothing says why.
"""

from __future__ import annotations

import numpy as np
import torch

from clapkit.native import Loaded

# Unlike sentences of one healthy model have cosines far below this.
ALIKE = 0.99
_SENTENCES = ("a dog barks", "heavy rain on a tin roof", "a woman sings an aria", "an engine refuses to start")


def problems(loaded: Loaded) -> list[str]:
    """One sentence for each thing that is wrong; empty for a model that does what a model should. Takes seconds."""
    found = [
        f"{name} holds numbers that are not finite"
        for name, tensor in loaded.model.state_dict().items()
        if tensor.is_floating_point() and not bool(tensor.isfinite().all())
    ]
    if found:
        return found
    for what, vectors in (("text", _texts(loaded)), ("sound", _sounds(loaded))):
        if vectors is None:
            continue
        if not np.isfinite(vectors).all():
            found.append(f"the {what} vectors are not finite")
            continue
        cosines = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]
        if cosines.min() >= ALIKE:
            found.append(
                f"the {what} vectors are all alike: four unlike {what}s have cosines from {cosines.min():.4f} to "
                f"{cosines.max():.4f}"
            )
    return found


@torch.inference_mode()
def _texts(loaded: Loaded) -> np.ndarray | None:
    """Vectors of four sentences; of four rows of token ids without a tokenizer. None without a language side."""
    model = loaded.model
    if model.text is None:
        return None
    if loaded.tokenizer is not None:
        ids, mask = loaded.tokenizer.encode(_SENTENCES)
    else:
        # The lower part of a vocabulary is its frequent one; the table of words stands before that of positions.
        words = next(part.num_embeddings for part in model.text.modules() if isinstance(part, torch.nn.Embedding))
        ids = np.random.default_rng(5).integers(min(4, words - 1), min(200, words), (4, 8))
        mask = np.ones_like(ids, bool)
    return model.encode_text(torch.from_numpy(ids), torch.from_numpy(mask)).float().numpy()


@torch.inference_mode()
def _sounds(loaded: Loaded) -> np.ndarray:
    """Vectors of a tone, noise, clicks and a sweep, one window each."""
    model = loaded.model
    count = round(min(model.windowing.window_s, 10.0) * model.frontend.rate_hz)
    time = np.arange(count) / model.frontend.rate_hz
    clicks = np.zeros(count)
    clicks[:: model.frontend.rate_hz // 4] = 0.9
    noise = 0.2 * np.random.default_rng(6).standard_normal(count)
    sweep = 0.5 * np.sin(2 * np.pi * (100 * time + 2000 * time**2 / time[-1]))
    waves = np.stack([0.5 * np.sin(2 * np.pi * 440 * time), noise, clicks, sweep]).astype(np.float32)
    return model.encode_audio(torch.from_numpy(waves)).float().numpy()
