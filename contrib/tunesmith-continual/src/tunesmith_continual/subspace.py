"""Projection of weight updates out of the subspace that earlier tasks use.

Shapes: I inputs, O outputs of a layer, R rows of a trained matrix, K protected directions.

A layer computes ``W x``. If an update changes nothing for the inputs ``x`` of earlier tasks,
``dW x = 0``, those tasks keep their outputs. The inputs of each layer on earlier rows span almost
only K of I directions, the columns of ``U_IK``, so the update is projected: ``dW (1 - U U')``
(Saha et al. 2021, Gradient Projection Memory, section 4). Of a LoRA adapter ``B A``, the matrix A
reads the inputs. Its initial value is projected too, so ``B A U = 0`` for every B.

The projection applies to the *applied* update, after optimizer, momentum and weight decay. Their
result leaves the subspace even if all gradients are inside: Adam divides each weight by its own
scale. The projected update also has to fit into fp32: the sum of a weight of 0.1 and an update of
1e-6 is rounded, and the rounding error lies in all directions. An update that rounding would turn
into a leak above :data:`MAX_LEAK` is therefore withheld, and applied together with later ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith_torch.training.additions import Update

MAX_LEAK = 1e-5
"""Largest share of an applied update's norm inside the protected subspace."""


def find_reading_layers(
    model: nn.Module, parameters: Mapping[str, nn.Parameter]
) -> dict[str, nn.Module]:
    """Return the layer whose inputs each trained matrix reads, by name of the matrix.

    Other trained parameters, such as norms, embeddings and LoRA's B, are not in the result.
    """
    modules = dict(model.named_modules())
    found = {}
    for name, parameter in parameters.items():
        owner = name.partition(".lora_A.")[0] if ".lora_A." in name else name.rpartition(".")[0]
        layer = modules.get(owner)
        is_input = ".lora_A." in name or (name.endswith(".weight") and type(layer) is nn.Linear)
        if layer is not None and is_input and parameter.ndim == 2 and ".lora_B." not in name:
            found[name] = layer
    return found


@torch.no_grad()
def measure_subspaces(
    layers: Mapping[str, nn.Module], run_rows: Callable[[], None], share: float
) -> dict[str, Tensor]:
    """Return the directions that hold this share of the energy of each layer's inputs, by name.

    ``run_rows`` computes the model on earlier rows. One direction always stays free.
    """
    moments: dict[nn.Module, Tensor] = {}

    def record(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        inputs_NI = arguments[0].detach().flatten(0, -2).double()
        moments[layer] = moments.get(layer, 0) + inputs_NI.T @ inputs_NI

    hooks = [layer.register_forward_pre_hook(record) for layer in dict.fromkeys(layers.values())]
    try:
        run_rows()
    finally:
        for hook in hooks:
            hook.remove()
    bases = {layer: _leading_directions(moment_II, share) for layer, moment_II in moments.items()}
    return {name: bases[layer] for name, layer in layers.items() if layer in bases}


def _leading_directions(moment_II: Tensor, share: float) -> Tensor:
    """Return the eigenvectors of the largest eigenvalues, in fp64, as columns."""
    energies_I, vectors_II = torch.linalg.eigh(moment_II)
    kept_I = energies_I.flip(0).clamp(min=0).cumsum(0) / energies_I.clamp(min=0).sum()
    count = min(int((kept_I < share).sum()) + 1, len(kept_I) - 1)
    leading_IK: Tensor = vectors_II.flip(1)[:, :count].contiguous()
    return leading_IK


class Projection:
    """The protected subspaces, and the updates that wait because rounding would make them leak."""

    def __init__(self, bases: Mapping[str, Tensor], free: Sequence[str]) -> None:
        """Protect these matrices; parameters in ``free`` change freely, all others not at all."""
        self.bases, self._free = bases, frozenset(free)
        self._waiting: dict[str, Tensor] = {}

    @torch.no_grad()
    def project_initial(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Remove the protected subspace from LoRA's initial A, whose product with B is still 0."""
        for name in [name for name in self.bases if ".lora_A." in name]:
            parameters[name].copy_(self.project(name, parameters[name].double()))

    def project(self, name: str, change_RI: Tensor) -> Tensor:
        """Return a change without its part in the protected subspace, in fp64."""
        basis_IK = self.bases[name]
        for _ in range(2):  # the second pass removes the rounding errors of the first one
            change_RI = change_RI - (change_RI @ basis_IK) @ basis_IK.T
        return change_RI

    def transform(self, update: Update) -> None:
        """Replace the update by its projection, or withhold it."""
        for name, after in update.after.items():
            before = update.before[name]
            if name in self.bases:
                change_RI = self.project(name, after.double() - before.double())
                wanted_RI = change_RI + self._waiting.get(name, 0.0)
                after.copy_(before.double() + wanted_RI)
                applied_RI = after.double() - before.double()
                if measure_leak(applied_RI, self.bases[name]) > MAX_LEAK:
                    after.copy_(before)
                    applied_RI = torch.zeros_like(wanted_RI)
                self._waiting[name] = wanted_RI - applied_RI
            elif name not in self._free:
                after.copy_(before)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the updates that rounding held back, for a checkpoint."""
        return {f"waiting.{name}": waiting for name, waiting in self._waiting.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the updates of :meth:`state_dict`."""
        self._waiting = {
            name.removeprefix("waiting."): tensor.to(self._device, copy=True)
            for name, tensor in state.items()
            if name.startswith("waiting.")
        }

    @property
    def _device(self) -> torch.device:
        return next(iter(self.bases.values())).device


def measure_leak(change_RI: Tensor, basis_IK: Tensor) -> float:
    """Return the share of a change's norm that lies in a subspace; 0 for no change."""
    change_RI = change_RI.double()
    norm = float(change_RI.norm())
    return float((change_RI @ basis_IK).norm()) / norm if norm else 0.0
