"""One step: from a batch to the losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from clapkit.audio.features import Features
from clapkit.data.batches import Batch
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


def plain_step(
    model: DualEncoder,
    objective: Objective,
    batch: Batch,
    *,
    encode_texts: EncodeTexts,
    mel_views: Sequence[View] = (),
    precision: str = "fp32",
) -> dict[str, torch.Tensor]:
    """Losses of one batch seen at once; the caller runs backward and the optimizer."""
    features = batch_features(model, batch, mel_views)
    with autocast(precision, model.device):
        audio_BD = model.encode_features(features)
    text_UD = encode_texts(batch.texts)
    z = Embeddings(
        audio_BD=audio_BD.float(),
        text_UD=text_UD,
        scale=model.scale,
        soft_target_BU=torch.from_numpy(batch.soft_target_BU).to(model.device),
    )
    return dict(objective(z))
