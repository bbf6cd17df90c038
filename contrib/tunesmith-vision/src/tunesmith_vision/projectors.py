"""Divide a model's projector: what computes features stays in the tower, the rest is trained.

A trained projector reads one feature for each token of an image. Some models gather the patches of
an image inside of their projector; this part has no weights, so the tower does it once::

    LLaVA, SmolVLM    tower -> features                    -> projector
    Qwen-VL           tower -> 4 patches side by side      -> norm, projector
    Gemma 3           tower -> mean of 16 patches          -> norm, projector
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

from torch import Tensor, nn

from tunesmith_vision.families import Family

__all__ = ["divide_projector"]


class DividedProjector(NamedTuple):
    """The parts of a model's projector."""

    kept: nn.Module
    """The part without weights, which stays in the tower."""
    trained: nn.Module
    """The projector of single features."""
    width: int
    """Number of values in a feature."""


def divide_projector(projector: Any, family: Family) -> DividedProjector:
    """Return the parts of a model's projector."""
    if family.kind == "grid":
        merger = copy.deepcopy(projector)
        (patch_width,) = merger.ln_q.weight.shape
        merger.register_forward_pre_hook(lambda _, args: (args[0].reshape(-1, patch_width),))
        width = int(merger.hidden_size)
        return DividedProjector(_SideBySide(width), merger, width)
    if family.kind == "blocks":
        width = len(projector.mm_input_projection_weight)
        return DividedProjector(_Pool(projector), _NormAndProject(projector), width)
    first = next(module for module in projector.modules() if isinstance(module, nn.Linear))
    return DividedProjector(nn.Identity(), projector, first.in_features)


class _SideBySide(nn.Module):
    """Puts the patches of a token side by side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, patches: Tensor) -> Tensor:
        return patches.reshape(-1, self.width)


class _Pool(nn.Module):
    """Gemma 3's average over neighboring patches."""

    def __init__(self, projector: Any) -> None:
        super().__init__()
        self.side, self.pool = projector.patches_per_image, projector.avg_pool

    def forward(self, patches_BPF: Tensor) -> Tensor:
        B, _, F = patches_BPF.shape
        grid_BFYX = patches_BPF.transpose(1, 2).reshape(B, F, self.side, self.side)
        means_BNF: Tensor = self.pool(grid_BFYX).flatten(2).transpose(1, 2)
        return means_BNF


class _NormAndProject(nn.Module):
    """Gemma 3's projector after the average, with the same names of weights."""

    def __init__(self, projector: Any) -> None:
        super().__init__()
        self.mm_soft_emb_norm = copy.deepcopy(projector.mm_soft_emb_norm)
        self.mm_input_projection_weight = copy.deepcopy(projector.mm_input_projection_weight)

    def forward(self, features_NF: Tensor) -> Tensor:
        projected_ND: Tensor = self.mm_soft_emb_norm(features_NF) @ self.mm_input_projection_weight
        return projected_ND
