"""One step: from a batch to the losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from clapkit.audio.features import Features
from clapkit.data.batches import Batch
from clapkit.data.sampling import TOKENS, stream
from clapkit.errors import RecipeError
from clapkit.model import DualEncoder
from clapkit.objectives.base import Embeddings, Objective
from clapkit.training.optim import autocast
from clapkit.views.base import View

# texts -> unit-norm [U, D], with gradient where there is something to learn
EncodeTexts = Callable[[Sequence[str]], torch.Tensor]


def batch_features(model: DualEncoder, batch: Batch, mel_views: Sequence[View]) -> Features:
    """Features of the batch's sound, changed by the mel views; no gradient flows into sound."""
    with torch.no_grad():
        samples = torch.from_numpy(batch.samples_BN).to(model.device)
        features = model.frontend(samples, torch.from_numpy(batch.lengths_B).to(model.device))
        if not mel_views:
            return features
        values = features.values.cpu().numpy()
        counts = features.mask_BT.sum(1).tolist()
        changed = values.copy()
        for view, params in zip(mel_views, batch.mel_params, strict=True):
            for b, frames in enumerate(counts):
                changed[b, :frames] = view.apply(changed[b, :frames], params[b], {})
        return features.with_values(torch.from_numpy(np.ascontiguousarray(changed)).to(model.device))


def draw_visible(model: DualEncoder, features: Features, share: float, seed: int, step: int) -> torch.Tensor | None:
    """Indices [B, K] of the tokens that a step sees when `share` of them is dropped at random; None for all.

    Each clip has its own draw, a function of (seed, step) alone. RecipeError for a tower that has no tokens to drop.
    """
    if not share:
        return None
    if not hasattr(model.audio, "token_count"):
        raise RecipeError(f"train.drop_tokens={share}: {type(model.audio).__name__} has no tokens to drop; set it to 0")
    clips, frames = features.values.shape[:2]
    tokens = model.audio.token_count(frames)
    kept = max(1, round(tokens * (1.0 - share)))
    order = stream(seed, TOKENS, step).random((clips, tokens)).argsort(axis=1)[:, :kept]
    return torch.from_numpy(np.sort(order, axis=1)).to(features.values.device)


def plain_step(
    model: DualEncoder,
    objective: Objective,
    batch: Batch,
    *,
    encode_texts: EncodeTexts,
    mel_views: Sequence[View] = (),
    precision: str = "fp32",
    drop_tokens: float = 0.0,
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """Losses of one batch seen at once; the caller runs backward and the optimizer."""
    features = batch_features(model, batch, mel_views)
    keep = draw_visible(model, features, drop_tokens, seed, batch.step)
    with autocast(precision, model.device):
        audio_BD = model.encode_features(features, keep)
    text_UD = encode_texts(batch.texts)
    z = Embeddings(
        audio_BD=audio_BD.float(),
        text_UD=text_UD,
        scale=model.scale,
        soft_target_BU=torch.from_numpy(batch.soft_target_BU).to(model.device),
    )
    return dict(objective(z))
