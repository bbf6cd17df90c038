"""AdamW in fp32, in 8 bits or paged, with functions to save and load its state.

AdamW (Loshchilov, Hutter 2019) keeps two moments for each weight, running means of the gradient and
of its square. They take eight bytes in fp32. In 8 bits (Dettmers et al. 2022, section 2), each
block of 256 values is stored as indices into a table of 256 values and one scale, which takes a
quarter of the memory::

    fp32      exp_avg, exp_avg_sq     4 + 4 bytes per weight

    8 bits    state1, state2          1 + 1 bytes per weight      indices into qmap1, qmap2
              absmax1, absmax2        4 + 4 bytes per 256 weights

Both 8-bit optimizers come from bitsandbytes. The GPU driver moves the state of the paged optimizer
to host memory when the GPU runs out of memory. It needs a GPU: on a CPU, bitsandbytes would
silently not page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tunesmith.errors import EnvironmentProblem
from tunesmith_torch.options.training import TrainingOptions
from tunesmith_torch.runtime import bitsandbytes

OptimizerName = Literal["adamw", "adamw-8bit", "paged-adamw-8bit"]

MOMENTS = {
    "adamw": ("exp_avg", "exp_avg_sq"),
    "adamw-8bit": ("state1", "state2"),
    "paged-adamw-8bit": ("state1", "state2"),
}
"""Names of each optimizer's moments, which have the shape of the weight."""
QUANTIZATION_TABLES = ("qmap1", "qmap2", "absmax1", "absmax2")
"""Names of bitsandbytes' quantization tables, for tensors that are large enough for 8 bits."""


def check_available(optimizer_name: OptimizerName, device: torch.device) -> None:
    """Check with a small test step that the optimizer works on this device.

    Raises:
        EnvironmentProblem: bitsandbytes is missing or does not work here.
    """
    if optimizer_name == "adamw":
        return
    where = f'technique.optimizer.name: "{optimizer_name}"'
    fallback = 'set technique.optimizer.name = "adamw", which does not need bitsandbytes'
    if optimizer_name == "paged-adamw-8bit" and device.type != "cuda":
        raise EnvironmentProblem(
            f"{where} needs an NVIDIA GPU, but this run uses {device.type}",
            hint='set technique.optimizer.name = "adamw-8bit", which takes no more memory, or '
            '"adamw"',
        )
    package = bitsandbytes.import_bitsandbytes()
    try:
        weight = nn.Parameter(torch.ones(64, 128, device=device))
        optimizer = package.optim.AdamW8bit([weight], lr=0.5, weight_decay=0.0)
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        works = bool((weight - 0.5).abs().max() < 1e-3)
        reason = "a test step gave a wrong result"
    except (RuntimeError, NotImplementedError, AttributeError, OSError) as error:
        works, reason = False, f"{error!s:.160}"
    if not works:
        version = package.__version__
        raise EnvironmentProblem(
            f"{where}: bitsandbytes {version} does not work on {device.type} here: {reason}",
            hint=fallback,
        )


def build_optimizer(
    groups: Sequence[Mapping[str, Any]], options: TrainingOptions
) -> torch.optim.Optimizer:
    """Return the optimizer that the options select, for parameter groups of fp32 weights."""
    settings: dict[str, Any] = {"lr": options.learning_rate, "betas": options.optimizer.betas}
    if options.optimizer.name == "adamw":
        return torch.optim.AdamW([dict(group) for group in groups], fused=True, **settings)
    optim = bitsandbytes.import_bitsandbytes().optim
    paged = options.optimizer.name == "paged-adamw-8bit"
    optimizer_class = optim.PagedAdamW8bit if paged else optim.AdamW8bit
    # bitsandbytes raises an error for an empty group.
    nonempty = [dict(group) for group in groups if group["params"]]
    optimizer: torch.optim.Optimizer = optimizer_class(nonempty, **settings)
    return optimizer


def optimizer_state(
    optimizer: torch.optim.Optimizer, master: Tensor, optimizer_name: OptimizerName
) -> dict[str, Tensor]:
    """Return the optimizer's state for one weight.

    Before the first step, the moments of fp32 AdamW are zeros; those of 8-bit AdamW are absent.
    """
    state = optimizer.state.get(master) or {"step": 0}
    tensors = {key: torch.as_tensor(value).detach() for key, value in state.items()}
    # All weights share one quantization table, and safetensors rejects shared memory.
    tensors |= {key: tensors[key].clone() for key in QUANTIZATION_TABLES if key in tensors}
    if optimizer_name == "adamw" and len(tensors) == 1:
        tensors = {"step": torch.zeros(())}
        tensors |= {key: torch.zeros_like(master) for key in MOMENTS[optimizer_name]}
    return tensors


def load_optimizer_state(
    optimizer: torch.optim.Optimizer,
    master: Tensor,
    optimizer_name: OptimizerName,
    name: str,
    flat: Mapping[str, Tensor],
) -> None:
    """Load the state that :func:`optimizer_state` returned, from ``PART.name`` tensors in ``flat``.

    Raises:
        KeyError: a part is missing.
        ValueError: a part does not have the shape of the weight.
    """
    step = flat[f"step.{name}"]
    if optimizer_name != "adamw" and not int(step):
        optimizer.state.pop(master, None)
        return
    parts: tuple[str, ...] = MOMENTS[optimizer_name]
    for part in parts:
        if flat[f"{part}.{name}"].shape != master.shape:
            found, expected = [*flat[f"{part}.{name}"].shape], [*master.shape]
            raise ValueError(
                f"{part}.{name} has shape {found}, but the model's weight has {expected}"
            )
    if flat[f"{parts[0]}.{name}"].dtype == torch.uint8:
        parts += QUANTIZATION_TABLES
    state: dict[str, Any] = {p: flat[f"{p}.{name}"].clone().to(master.device) for p in parts}
    state["step"] = step.clone().to(master.device) if optimizer_name == "adamw" else int(step)
    optimizer.state[master] = state
