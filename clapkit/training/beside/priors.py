"""How often each text is heard, counted before the first step (card 049)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from clapkit.audio.features import Features
from clapkit.data.batches import Batch, event_frames
from clapkit.errors import SpecError
from clapkit.model import DualEncoder


@dataclass(frozen=True)
class TextPriors:
    """A number for each text of the data, the log-odds that it is heard in a frame, beginning where the data say.

    batches  so many batches of the run are looked at beforehand, through all views of sound

    Where the model has a `framewise` head, that head says the log-odds of any text, and the count only decides where it
    begins: the mean of all texts, in place of the published -8. Where it has none, the numbers of the known texts are a
    table that learns beside the model (`PriorBCE`; a text outside has the mean) and is left behind at the end.
    """

    batches: int = 16

    adds: ClassVar[tuple[str, ...]] = ("text_prior",)

    def __post_init__(self) -> None:
        if self.batches < 1:
            raise SpecError(f"batches has to be at least 1, not {self.batches}")


def counted_log_odds(batches: Iterable[Batch], *, rate_hz: int, frame_rate_hz: float) -> dict[str, float]:
    """Log-odds of each text over the frames of which it is known whether it is heard.

    Half a frame is added to those in which it is heard and to those in which it is not, so that what never or always
    happens has finite odds. A text of which nothing is known is left out.
    """
    heard: dict[str, float] = {}
    known: dict[str, int] = {}
    for batch in batches:
        lengths = np.ceil(batch.lengths_B / rate_hz * frame_rate_hz).astype(int)
        events_BUT = event_frames(batch, frames=int(lengths.max()), rate_hz=frame_rate_hz)
        events_BUT[np.broadcast_to(np.arange(events_BUT.shape[2]) >= lengths[:, None, None], events_BUT.shape)] = np.nan
        for u, text in enumerate(batch.texts):
            heard[text] = heard.get(text, 0.0) + float(np.nansum(events_BUT[:, u]))
            known[text] = known.get(text, 0) + int(np.isfinite(events_BUT[:, u]).sum())
    return {text: math.log((heard[text] + 0.5) / (count - heard[text] + 0.5)) for text, count in known.items() if count}


class PriorTable(nn.Module):
    """Log-odds of texts that are known, and of any other text: `(model, batch, ...) -> text_prior_U`."""

    def __init__(self, log_odds: Mapping[str, float]) -> None:
        super().__init__()
        self._place = {text: i for i, text in enumerate(log_odds, start=1)}
        self.log_odds = nn.Parameter(torch.tensor([mean_log_odds(log_odds), *log_odds.values()]))

    def forward(
        self, model: DualEncoder, batch: Batch, features: Features, encode_texts: Callable[[Sequence[str]], Any]
    ) -> dict[str, torch.Tensor]:
        places = [self._place.get(text, 0) for text in batch.texts]
        return {"text_prior_U": self.log_odds[torch.tensor(places, device=self.log_odds.device)]}


def mean_log_odds(log_odds: Mapping[str, float]) -> float:
    """Of all texts that were counted; 0 where there is none."""
    return sum(log_odds.values()) / len(log_odds) if log_odds else 0.0
