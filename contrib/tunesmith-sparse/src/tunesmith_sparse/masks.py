"""Choose the weights that train: by magnitude, or by their gradient on a sample of rows."""

from __future__ import annotations

from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from tunesmith.contracts import Job
from tunesmith.errors import UsageError
from tunesmith.storage import write_atomic
from tunesmith_sparse.layers import list_layers
from tunesmith_sparse.options import SparseOptions
from tunesmith_torch.data.large_data import sample_evenly
from tunesmith_torch.data.packing import collate
from tunesmith_torch.data.templates import Template
from tunesmith_torch.losses.selected_positions import get_lm_head, hidden_at_targets
from tunesmith_torch.models.loading import LoadedBase

__all__ = ["choose_positions"]

ROWS = 64
"""Number of training rows in the one-shot gradient."""
MASK_FILE = "mask.safetensors"
"""File in the job's folder, because another machine may compute other gradients after a resume."""


def choose_positions(base: LoadedBase, job: Job[Any]) -> dict[str, Tensor] | None:
    """Return the positions of trained weights by layer; None if they follow from the seed.

    Raises:
        UsageError: no training row can be read for the gradient.
    """
    options: SparseOptions = job.config
    path = job.out / MASK_FILE
    if options.mask == "random":
        return None
    if path.is_file():
        return load_file(path)
    layers = list_layers(base.model, options.modules)
    if options.mask == "gradient":
        _accumulate_gradients(base, job, [layer.weight for _, _, layer in layers.values()])
    chosen = {}
    for name, (_, _, layer) in layers.items():
        weight = layer.weight.grad if options.mask == "gradient" else layer.weight
        assert weight is not None
        count = max(1, round(options.density * weight.numel()))
        chosen[name] = weight.detach().abs().flatten().topk(count).indices.sort().values.int().cpu()
        layer.weight.grad = None
    write_atomic(path, save(chosen))
    return chosen


def _accumulate_gradients(base: LoadedBase, job: Job[Any], weights: list[Tensor]) -> None:
    """Compute the gradient of the summed loss of a sample of rows."""
    template = Template.from_options(base.tokenizer, job.config)
    records = [job.train[row] for row in sample_evenly(range(len(job.train)), ROWS)]
    examples = template.tokenize_records(records, job.config.max_length).examples
    if not len(examples):
        raise UsageError("technique.mask: no training row can be read for the gradient")
    base.model.requires_grad_(False)
    for weight in weights:
        weight.requires_grad_(True)
    for row in range(len(examples)):
        batch = collate(examples, [row], packed=False).to(base.model.device)
        hidden_ND = hidden_at_targets(base.model, batch)
        get_lm_head(base.model).loss(hidden_ND, batch).backward()  # type: ignore[no-untyped-call]
