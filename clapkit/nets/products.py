"""Products of matrices while something learns, by the library of the two in torch that is quicker with them.

In float32, torch on x86 leaves a linear layer to MKL, which is slow on processors of other makers than its own (on an
AMD EPYC with AVX-512 a third of what oneDNN makes of it), and a 1 x 1 convolution to oneDNN. Both are the same product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

# Rows below which a call costs more than its arithmetic.
_FEW_ROWS = 64
_is_quick: ContextVar[bool] = ContextVar("_is_quick", default=False)


def quick_products(device: torch.device) -> AbstractContextManager[object]:
    """Inside, float32 linear layers on `device` take the quicker of torch's ways, to rounding the same.

    Changes nothing for other devices, formats and processors, under autocast, and where no gradient is wanted: those
    who only embed have layers of their own (`runtime.packing`).
    """
    has_both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    return _LinearByConvolution() if device.type == "cpu" and has_both else nullcontext()


def quick_again() -> AbstractContextManager[object]:
    """`quick_products` for what is computed again in a backward pass, if it is on now.

    Torch hears no mode inside a backward pass that was called under it, and forward passes have to be alike.
    """
    return _LinearByConvolution() if _is_quick.get() else nullcontext()


def linear_by_convolution(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`F.linear` [..., K] -> [..., N]: rows are the pixels of one image, whose channels lie next to each other."""
    image = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
    made = F.conv2d(image, weight[:, :, None, None], bias)
    return made.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])


class _LinearByConvolution(TorchFunctionMode):
    def __enter__(self) -> Any:
        self._before = _is_quick.set(True)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        _is_quick.reset(self._before)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear and not kwargs and not torch.compiler.is_compiling() and _pays(args[0], args[1]):
            return linear_by_convolution(*args)
        return func(*args, **kwargs)


def _pays(x: torch.Tensor, weight: torch.Tensor) -> bool:
    learns = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    plain = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return learns and plain and x.numel() >= _FEW_ROWS * x.shape[-1] and weight.ndim == 2
