"""What was hidden from the tower is foretold: the patches themselves, or what a teacher makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from clapkit.errors import ClapkitError
from clapkit.objectives.base import Embeddings, Reduces
from clapkit.objectives.contrast import wide


def _patches(z: Embeddings) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(made [B, N, P], true [B, N, P] without gradient, counts [B, N]); patches that do not count are zeroed."""
    made_BNP, true_BNP = wide(z["rebuilt_BNP"]), wide(z["hidden_BNP"].detach())
    if made_BNP.ndim != 3 or made_BNP.shape != true_BNP.shape:
        found = tuple(made_BNP.shape), tuple(true_BNP.shape)
        raise ClapkitError(f"rebuilt_BNP has shape {found[0]}, hidden_BNP {found[1]}: expected equal ones, [B, N, P]")
    if z.hidden_BN is None:
        return made_BNP, true_BNP, torch.ones(made_BNP.shape[:2], dtype=torch.bool, device=made_BNP.device)
    counts_BN = z.hidden_BN.bool()
    if counts_BN.shape != made_BNP.shape[:2]:
        raise ClapkitError(
            f"hidden_BN has shape {tuple(counts_BN.shape)}, expected {tuple(made_BNP.shape[:2])}: clips x patches"
        )
    # Zeroed before anything is computed: a NaN in a padded patch times 0 would still be a NaN in the gradient.
    left_out = ~counts_BN[..., None]
    return made_BNP.masked_fill(left_out, 0.0), true_BNP.masked_fill(left_out, 0.0), counts_BN


def _mean_over_clips(error_BN: torch.Tensor, counts_BN: torch.Tensor) -> torch.Tensor:
    return ((error_BN * counts_BN).sum(1) / counts_BN.sum(1).clamp_min(1)).mean()


def _standardised(x_BNP: torch.Tensor) -> torch.Tensor:
    """Mean 0 and variance 1 over the P numbers of each patch; a constant patch becomes zeros."""
    centred = x_BNP - x_BNP.mean(-1, keepdim=True)
    return centred * (centred.square().mean(-1, keepdim=True) + 1e-6).rsqrt()


@dataclass(frozen=True)
class MaskedReconstruction:
    """The hidden patches are rebuilt from the visible ones (MAE; its use beside contrast: FLAP, card 024).

        rebuilt = 1/B sum_b  1/|H_b| sum_{n in H_b}  1/P sum_p (rebuilt_bnp - target_bnp)^2

    H_b are the hidden patches of clip b (all N where hidden_BN is None); a clip with none adds 0. What stands in other
    patches is not read. `normalise`: the target is the patch with mean 0 and variance 1 over its own P numbers (+ 1e-6
    in the root, so that silence becomes zeros), so loud and quiet patches weigh the same; otherwise the patch itself.

    Limits. Perfect: 0. A decoder that says 0 everywhere: 1 with `normalise` (a little less for nearly constant
    patches), the mean square of the patches without.
    """

    normalise: bool = True

    needs: ClassVar[tuple[str, ...]] = ("rebuilt", "hidden")
    reduces: ClassVar[Reduces] = "samples"

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        made_BNP, true_BNP, counts_BN = _patches(z)
        target_BNP = _standardised(true_BNP) if self.normalise else true_BNP
        return {"rebuilt": _mean_over_clips((made_BNP - target_BNP).square().mean(-1), counts_BN)}


@dataclass(frozen=True)
class MaskedLatent:
    """What a teacher makes of the hidden patches is foretold from the visible ones (M2D; card 022).

    rebuilt_BNP is the predictor's output, hidden_BNP the tokens of the teacher, which in M2D sees only what is hidden:

        foretold = 1/B sum_b  1/|H_b| sum_{n in H_b}  |norm(rebuilt_bn) - norm(standardise(hidden_bn))|^2
                                                      = 2 - 2 cos(rebuilt_bn, standardise(hidden_bn))

    standardise: mean 0 and variance 1 over the P numbers of a token; since lengths are divided out afterwards, only the
    removal of the mean is felt. `standardise` = False leaves the token as it is. H_b as in MaskedReconstruction.

    Relations. M2D-CLAP adds InfoNCE at weight 0.01 to this at weight 1. Siamese's l, a patch at a time.
    Limits. Perfect: 0; right angles: 2; opposite: 4. A constant token has no direction once standardised and costs 2.
    """

    standardise: bool = True

    needs: ClassVar[tuple[str, ...]] = ("rebuilt", "hidden")
    reduces: ClassVar[Reduces] = "samples"

    def __call__(self, z: Embeddings) -> dict[str, torch.Tensor]:
        made_BNP, true_BNP, counts_BN = _patches(z)
        target_BNP = _standardised(true_BNP) if self.standardise else true_BNP
        # Below 1e-6 a vector counts as zero: the derivative of its direction would know no bound.
        cosine_BN = (_unit(made_BNP) * _unit(target_BNP)).sum(-1)
        return {"foretold": _mean_over_clips(2 - 2 * cosine_BN, counts_BN)}


def _unit(x_BNP: torch.Tensor) -> torch.Tensor:
    return functional.normalize(x_BNP, dim=-1, eps=1e-6)
