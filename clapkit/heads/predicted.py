"""A head followed by the network that learnt to say, from its vectors, what a teacher makes of sound and language."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clapkit.heads.projection import Linear
from clapkit.spec import Spec, spec


class Predictor(nn.Module):
    """x + network(x), the network being linear, layer norm, ReLU, linear; its last layer begins at 0.

    So a predictor begins as no change: what it is asked for, the model is asked for first. One that begins anywhere
    else learns by itself to turn sound into text, and the two sides of the model have less reason to meet. Layer norm
    in place of BYOL's batch norm: what becomes of a clip does not depend on the rest of its batch.
    """

    def __init__(self, width: int, *, hidden: int) -> None:
        super().__init__()
        last = Linear(hidden, width)
        nn.init.zeros_(last.linear.weight)
        self.network = nn.Sequential(Linear(width, hidden), nn.LayerNorm(hidden), nn.ReLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.network(x)


class PredictedHead(nn.Module):
    """predictor(unit norm of head(x)): the vectors that a run with predictors ends with (card 077).

    Sound and language are each asked for the same two things, what the teacher hears and what it reads, and their
    predictions meet between these; the vectors before the predictors have no reason to.

    head           Spec of the head that the model was trained with, which is given the widths
    hidden_width   of the predictor
    """

    predictor: nn.Module

    def __init__(self, in_width: int, out_width: int, *, head: Spec, hidden_width: int = 2048) -> None:
        super().__init__()
        self.head = head.build(in_width=in_width, out_width=out_width)
        self.predictor = Predictor(out_width, hidden=hidden_width)
        self.width, self.hidden_width = out_width, hidden_width
        self._head_spec = head

    @classmethod
    def around(cls, head: nn.Module, predictor: nn.Module, *, head_spec: Spec, hidden_width: int) -> PredictedHead:
        """One of a head and a predictor that are there; the Spec is what builds such a head."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made.head, made.predictor = head, predictor
        made.width, made.hidden_width = int(head.width), hidden_width  # type: ignore[arg-type]
        made._head_spec = head_spec
        return made

    @property
    def reads(self) -> str:
        """What the dual encoder hands over: "summary", or "frames" with their mask."""
        return getattr(self.head, "reads", "summary")

    def forward(self, x: Tensor, *mask: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.predictor(F.normalize(self.head(x.float(), *mask), dim=-1))

    def spec(self) -> Spec:
        """What builds a head that the weights of this one fit, given the widths."""
        inner = self.head.spec() if hasattr(self.head, "spec") else self._head_spec
        return spec(type(self), head=inner, hidden_width=self.hidden_width)
