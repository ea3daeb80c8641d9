"""Optimizer and precision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from clapkit.train_settings import TrainSettings


def build_optimizer(
    model: nn.Module,
    settings: TrainSettings,
    *,
    shares: Mapping[str, float] | None = None,
    beside: Iterable[nn.Parameter] = (),
) -> torch.optim.AdamW:
    """AdamW over the parameters that learn; weight decay on tensors of two or more dimensions only.

    `shares` says for each parameter by which factor its learning rate differs from the schedule's; it stands in the
    `share` of its group. Parameters `beside` the model learn at the schedule's rate.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, True): [], (1.0, False): []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            share = shares[name] if shares else 1.0
            groups.setdefault((share, parameter.ndim > 1), []).append(parameter)
    for parameter in beside:
        groups[1.0, parameter.ndim > 1].append(parameter)
    made = [
        {"params": parameters, "share": share, "weight_decay": settings.weight_decay if decays else 0.0}
        for (share, decays), parameters in groups.items()
    ]
    # Not the fused one, though it is quicker: on processors its last bits depend on where the weights lie in memory,
    # and a resumed run would end with other weights.
    return torch.optim.AdamW(made, lr=settings.lr, betas=(settings.beta1, settings.beta2))


def resolve_precision(precision: str, device: torch.device) -> str:
    """ "bf16" or "fp32" for "auto": bf16 where the device computes in it natively, otherwise it would be emulated."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu":
        capable = torch.cpu._is_avx512_bf16_supported() if hasattr(torch.cpu, "_is_avx512_bf16_supported") else False
        return "bf16" if capable else "fp32"
    return "fp32"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context in which the towers compute."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
