"""A moving average of the weights: steadier than they are, and slow enough to teach them."""

from __future__ import annotations

import copy

import torch

from clapkit.model import DualEncoder
from clapkit.training.checkpoint import learnt_state


class Average:
    """A second model whose weights follow those of the first (mean teacher, Tarvainen and Valpola 2017; BYOL).

    After optimizer step n (the first is 1), for every parameter that learns, with w the weights after that step:

        average = d average + (1 - d) w      d = decay, or with `warmup` min(decay, (1 + n) / (10 + n))

    Without the warm-up, the weights that training began with keep the share decay^n. Buffers (running statistics) are
    copied, because they follow slowly by themselves. What does not learn is not held twice: `self.model` shares it. It
    stays in eval mode, so that what it says of a clip does not depend on the rest of the batch.
    """

    def __init__(self, model: DualEncoder, *, decay: float, warmup: bool = True) -> None:
        learnt = learnt_state(model)
        self._followed = model
        self._parameters = [name for name, _ in model.named_parameters() if name in learnt]
        self._buffers = {name: tensor for name, tensor in learnt.items() if name not in self._parameters}
        self._decay = decay
        self._warmup = warmup
        self.model = copied(model)

    @torch.no_grad()
    def update(self, steps_done: int) -> None:
        """Follow the weights after the optimizer's step number `steps_done`, counted from 1."""
        decay = min(self._decay, (1 + steps_done) / (10 + steps_done)) if self._warmup else self._decay
        means = self.model.state_dict()
        parameters = dict(self._followed.named_parameters())  # asked for each time: sharing them out makes new ones
        for name in self._parameters:
            means[name].lerp_(parameters[name].detach(), 1 - decay)
        for name, buffer in self._buffers.items():
            means[name].copy_(buffer)

    def state(self) -> dict[str, torch.Tensor]:
        """The averaged tensors themselves, under the names that they have in the model."""
        means = self.model.state_dict()
        return {name: means[name] for name in (*self._parameters, *self._buffers)}

    @torch.no_grad()
    def give_to(self, model: DualEncoder) -> None:
        """Put the average in the place of the weights that it followed."""
        live = model.state_dict()
        for name, mean in self.state().items():
            live[name].copy_(mean)


def copied(model: DualEncoder) -> DualEncoder:
    """A copy in eval mode that takes no gradient; what does not learn is the same tensor in both."""
    learnt = learnt_state(model)
    tensors = (*model.named_parameters(), *model.named_buffers())
    shared = {id(tensor): tensor for name, tensor in tensors if name not in learnt}
    return copy.deepcopy(model, shared).requires_grad_(False).eval()
