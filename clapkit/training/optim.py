"""Optimizer and precision."""

from __future__ import annotations

import torch
from torch import nn

from clapkit.train_settings import TrainSettings


def build_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW over the parameters that learn; weight decay on tensors of two or more dimensions only."""
    learnt = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learnt if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in learnt if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.beta1, settings.beta2))


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
