"""AdamW of several makes, and what each remembers, as named tensors.

AdamW (Loshchilov, Hutter 2019) keeps two running means for each weight, eight bytes in fp32. In 8
bits (Dettmers et al. 2022, section 2) each block of 256 numbers is stored as indices into a table
of 256 values and one scale: a quarter of the memory. Paged, these live in memory that the GPU's
driver moves to the host when the GPU's runs out. Both come from bitsandbytes; the paged one needs a
GPU, where the CPU version would quietly not page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tunesmith.errors import EnvironmentProblem
from tunesmith_torch.options.training import FitOptions
from tunesmith_torch.runtime import bitsandbytes

Kind = Literal["adamw", "adamw-8bit", "paged-adamw-8bit"]

MEANS = {
    "adamw": ("exp_avg", "exp_avg_sq"),
    "adamw-8bit": ("state1", "state2"),
    "paged-adamw-8bit": ("state1", "state2"),
}
"""What each calls its running means; they have the weight's shape."""
TABLES = ("qmap1", "qmap2", "absmax1", "absmax2")
"""What bitsandbytes keeps beside, for tensors large enough to be stored in 8 bits."""


def require(kind: Kind, device: torch.device) -> None:
    """See to it that this optimizer works here, before anything is loaded.

    Raises:
        EnvironmentProblem: it does not.
    """
    if kind == "adamw":
        return
    where = f'technique.optimizer: "{kind}"'
    other = 'use optimizer = "adamw", which needs no bitsandbytes'
    if kind == "paged-adamw-8bit" and device.type != "cuda":
        raise EnvironmentProblem(
            f"{where} pages memory of an NVIDIA GPU, and this run is on {device.type}",
            hint='use optimizer = "adamw-8bit", which takes as little, or "adamw"',
        )
    package = bitsandbytes.package()
    try:
        weight = nn.Parameter(torch.ones(64, 128, device=device))
        optimizer = package.optim.AdamW8bit([weight], lr=0.5, weight_decay=0.0)
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        works = bool((weight - 0.5).abs().max() < 1e-3)
        reason = "a first step came out wrong"
    except (RuntimeError, NotImplementedError, AttributeError, OSError) as error:
        works, reason = False, f"{error!s:.160}"
    if not works:
        version = package.__version__
        raise EnvironmentProblem(
            f"{where}: bitsandbytes {version} cannot do it on {device.type} here, {reason}",
            hint=other,
        )


def build(groups: Sequence[Mapping[str, Any]], options: FitOptions) -> torch.optim.Optimizer:
    """The optimizer that the options ask for, over groups of fp32 weights."""
    settings: dict[str, Any] = {"lr": options.learning_rate, "betas": options.betas}
    if options.optimizer == "adamw":
        return torch.optim.AdamW([dict(group) for group in groups], fused=True, **settings)
    optim = bitsandbytes.package().optim
    paged = options.optimizer == "paged-adamw-8bit"
    make = optim.PagedAdamW8bit if paged else optim.AdamW8bit
    # bitsandbytes takes an empty group for a mistake.
    made: torch.optim.Optimizer = make([dict(g) for g in groups if g["params"]], **settings)
    return made


def remembered(optimizer: torch.optim.Optimizer, master: Tensor, kind: Kind) -> dict[str, Tensor]:
    """What the optimizer knows of a weight.

    Before the first step that is nothing, and what it begins with are zeros.
    """
    state = optimizer.state.get(master) or {"step": 0}
    found = {key: torch.as_tensor(value).detach() for key, value in state.items()}
    # All weights share one table, and a file of tensors holds no shared memory.
    found |= {key: found[key].clone() for key in TABLES if key in found}
    if kind == "adamw" and len(found) == 1:
        found = {"step": torch.zeros(())}
        found |= {key: torch.zeros_like(master) for key in MEANS[kind]}
    return found


def remember(
    optimizer: torch.optim.Optimizer, master: Tensor, kind: Kind, name: str, flat: dict[str, Tensor]
) -> None:
    """Take over what :func:`remembered` gave, from tensors called ``PART.name``.

    Raises:
        KeyError: a part is missing.
        ValueError: a part has another shape than the weight.
    """
    step = flat[f"step.{name}"]
    if kind != "adamw" and not int(step):
        optimizer.state.pop(master, None)
        return
    parts: tuple[str, ...] = MEANS[kind]
    for part in parts:
        if flat[f"{part}.{name}"].shape != master.shape:
            found, wanted = [*flat[f"{part}.{name}"].shape], [*master.shape]
            raise ValueError(f"{part}.{name} is {found}, the model's is {wanted}")
    if flat[f"{parts[0]}.{name}"].dtype == torch.uint8:
        parts += TABLES
    state: dict[str, Any] = {p: flat[f"{p}.{name}"].clone().to(master.device) for p in parts}
    state["step"] = step.clone().to(master.device) if kind == "adamw" else int(step)
    optimizer.state[master] = state
