"""A linear head over the hidden state at the end of a prompt, and its calibration.

Shapes: N rows, D width, L labels.

Each row gets one more token after its prompt, whose number is that of the label. The hidden state
that would predict this token is the one at the end of the prompt, so packing, shared prefixes and
the trimmed last layer work as for a language model; only the head differs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from tunesmith.errors import IntegrityError
from tunesmith_torch.data.packing import Example, collate
from tunesmith_torch.losses.selected_positions import hidden_at_targets
from tunesmith_torch.runtime.eval_mode import eval_mode
from tunesmith_torch.training.supervised import NextTokenObjective
from tunesmith_torch.untrusted.foreign_code import read_json_object

__all__ = ["ClassifierObjective", "Head", "ModelWithHead", "fit_temperature", "row_logits"]

HEAD_FILE, LABELS_FILE = "head.safetensors", "classifier.json"
_LOAD_ERRORS = (OSError, LookupError, TypeError, ValueError, RuntimeError, SafetensorError)
ROWS_PER_PASS = 32
TEMPERATURES = torch.logspace(-1.3, 1.3, 105)
"""Candidates for the temperature, from 0.05 to 20, in steps of 6 %."""


class Head(nn.Module):
    """A linear head in fp32, with the labels of its outputs."""

    def __init__(self, width: int, labels: Sequence[str], temperature: float = 1.0) -> None:
        super().__init__()
        self.labels, self.temperature = list(labels), temperature
        self.linear = nn.Linear(width, len(labels), dtype=torch.float32)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden_ND: Tensor) -> Tensor:
        """Return the logits of each row, [N, L], without the temperature."""
        with torch.autocast(hidden_ND.device.type, enabled=False):
            logits_NL: Tensor = self.linear(hidden_ND.float())
        return logits_NL

    def save(self, folder: Path) -> None:
        """Write the head, its labels and its temperature."""
        tensors = {name: t.detach().float().cpu() for name, t in self.linear.state_dict().items()}
        save_file(tensors, folder / HEAD_FILE)
        about = {"labels": self.labels, "temperature": self.temperature}
        text = json.dumps(about, ensure_ascii=False, indent=2)
        (folder / LABELS_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Head:
        """Read what :meth:`save` wrote.

        Raises:
            IntegrityError: a file is missing, or the files do not fit together.
        """
        try:
            about = read_json_object(folder / LABELS_FILE)
            tensors = load_file(folder / HEAD_FILE)
            head = cls(tensors["weight"].shape[1], about["labels"], float(about["temperature"]))
            head.linear.load_state_dict(tensors)
        except _LOAD_ERRORS as error:
            raise IntegrityError(
                f"{folder}: not a classifier: {error!s:.200}",
                hint="restore its files, or train again",
            ) from error
        return head.eval()


class ModelWithHead(nn.Module):
    """A language model and the head that is trained with it."""

    def __init__(self, model: nn.Module, head: Head) -> None:
        super().__init__()
        self.model, self.head = model, head


class ClassifierObjective(NextTokenObjective):
    """Cross-entropy of the labels; targets are their numbers."""

    head: Head
    token_layout = None  # type: ignore[assignment]  # the last token is a number of a label

    def loss(self, micro_batch: Any) -> Tensor:
        """Return the loss in nats, summed over the rows."""
        return self._losses(micro_batch).sum()

    def row_losses(self, micro_batch: Any) -> list[tuple[int, float]]:
        """Return each row with its loss in nats."""
        # Positions in the micro-batch are in the order of its rows, and each row has one.
        losses = self._losses(micro_batch).tolist()
        return list(zip(micro_batch[0].rows, losses, strict=True))

    def _losses(self, micro_batch: Any) -> Tensor:
        batch, tree_layout = micro_batch[0].to(self.device), micro_batch[1]
        kwargs = {} if tree_layout is None else {"tree_layout": tree_layout}
        logits_NL = self.head(hidden_at_targets(self.model, batch, attention_kwargs=kwargs))
        return functional.cross_entropy(logits_NL, batch.targets_N, reduction="none")


def as_example(prompt_ids: Sequence[int], label: int = 0) -> Example:
    """Return the row of a prompt, with the number of its label as the last token."""
    return Example([*prompt_ids, label], [*[False] * len(prompt_ids), True])


@torch.inference_mode()
def row_logits(model: nn.Module, head: Head, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Return the logits of each prompt, [N, L]; they do not depend on the other prompts.

    Only prompts of equal length share a pass, so no row is padded.
    """
    rows = [as_example(ids) for ids in prompts]
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    found = torch.zeros(len(rows), len(head.labels))
    device = cast(Any, model).device
    with eval_mode(model):
        while order:
            length = len(rows[order[0]])
            some = [row for row in order[:ROWS_PER_PASS] if len(rows[row]) == length]
            del order[: len(some)]
            batch = collate(rows, some, packed=False).to(device)
            found[some] = head(hidden_at_targets(model, batch)).float().cpu()
    return found


def fit_temperature(logits_NL: Tensor, labels_N: Tensor) -> float:
    """Return the temperature with the lowest negative log-likelihood.

    See Guo et al. 2017, On Calibration of Modern Neural Networks, section 4.2. If all rows are
    right, the likelihood grows without limit as the temperature falls. The targets are therefore
    (N + 1) / (N + 2) instead of 1 (Platt 1999, Probabilistic Outputs for Support Vector Machines,
    section 2.2).
    """
    N, L = logits_NL.shape
    smoothing = L / ((L - 1) * (N + 2))
    losses = [
        functional.cross_entropy(logits_NL / t, labels_N, label_smoothing=smoothing)
        for t in TEMPERATURES
    ]
    return float(TEMPERATURES[int(torch.stack(losses).argmin())])
