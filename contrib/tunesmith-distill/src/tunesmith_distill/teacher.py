"""The teacher: a model that is read only, and its stored predictions.

Shapes: N loss positions of one or more rows, V vocabulary, k most likely tokens, K = k + 1.

The teacher computes each row alone, so its predictions for a row depend on nothing else. The run
folder stores them with a hash of all that they depend on: weights, token ids, loss positions,
temperature and k. A resumed run reads them only if its teacher and rows have the same hash.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from tunesmith.contracts import Job, Progress
from tunesmith.errors import UsageError
from tunesmith.phases import run_phase
from tunesmith.storage import MANIFEST, commit_folder, read_manifest, verify_folder
from tunesmith.text import safe_text
from tunesmith_distill.divergence import coarse_logprobs
from tunesmith_distill.objective import Targets
from tunesmith_distill.options import DistillOptions
from tunesmith_torch.compare.open_by_name import open_by_name
from tunesmith_torch.data.packing import Example, collate
from tunesmith_torch.generation.text_model import TorchTextModel
from tunesmith_torch.losses.selected_positions import get_lm_head, hidden_at_targets
from tunesmith_torch.models.fingerprint import compute_fingerprint
from tunesmith_torch.prefix.completion_groups import CompletionGroup

__all__ = ["StoredPredictions", "Teacher", "check_tokenizers"]

WHERE = "technique.teacher"
_FILES = ("ids.npy", "logprobs.npy")
_PROBE = "Ünïcode 12345, \tdef f(x):\n    return x  # <|im_end|> 漢字 🙂"
"""Text that tokenizers of the same vocabulary may still split differently."""


class Teacher:
    """A loaded teacher for students with a vocabulary of ``vocabulary`` tokens."""

    def __init__(self, options: DistillOptions, vocabulary: int, device: str) -> None:
        """Load the teacher.

        Raises:
            UsageError: there is no such model, or it gives no probabilities of tokens.
        """
        precision = options.precision
        opened = open_by_name(options.teacher, device=device, option=WHERE, precision=precision)
        if not isinstance(opened, TorchTextModel):
            raise UsageError(
                f"{WHERE}: {safe_text(options.teacher)} is not a language model that this program "
                "computes itself",
                hint="use a base model, or a run of a technique that trains a language model",
            )
        self.model = opened.model.requires_grad_(False).eval()
        self.tokenizer: PreTrainedTokenizerBase = opened.template.tokenizer
        self._head, self._temperature = get_lm_head(self.model), options.temperature
        # Rows of padding at the end of either model's embeddings stand for no token.
        self._vocabulary = min(vocabulary, len(self._head.weight_VD))
        self.top_k = min(options.top_k, self._vocabulary - 1)

    @torch.no_grad()
    def predict(self, example: Example) -> Targets:
        """Return the predictions at the loss positions of a row."""
        device = self._head.weight_VD.device
        batch = collate([example], [0], packed=False).to(device)
        with torch.autocast(device.type, enabled=False):  # as if no student were in training
            hidden_ND = hidden_at_targets(self.model, batch)
            logits_NV = self._head.logits(hidden_ND)[:, : self._vocabulary] / self._temperature
        ids_Nk = logits_NV.topk(self.top_k).indices
        return Targets(ids_Nk, coarse_logprobs(logits_NV, ids_Nk))

    def predict_rows(self, examples: Sequence[Example], rows: Sequence[int]) -> Targets:
        """Return the predictions at the loss positions of some rows, in their order."""
        found = [self.predict(examples[row]) for row in rows]
        return Targets(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def key(self, examples: Sequence[Example]) -> str:
        """Return a hash of all that the predictions for these rows depend on."""
        groups = [CompletionGroup(e.ids, (e.trained,)) for e in examples]  # type: ignore[arg-type]
        facts = compute_fingerprint(self.model, groups), self._vocabulary, self._temperature
        return hashlib.sha256(repr((*facts, self.top_k)).encode()).hexdigest()


class StoredPredictions:
    """The predictions for all rows, in files that are read where they are needed."""

    def __init__(self, folder: Path, starts: Sequence[int]) -> None:
        self._starts = starts
        self._ids_Nk, self._logprobs_NK = (np.load(folder / f, mmap_mode="r") for f in _FILES)

    @classmethod
    def load_or_compute(
        cls, teacher: Teacher, examples: Sequence[Example], job: Job[Any]
    ) -> StoredPredictions:
        """Return the predictions in the run folder, or compute and store them."""
        folder, key = job.out / "teacher", teacher.key(examples)
        counts = [int(np.count_nonzero(np.asarray(example.trained)[1:])) for example in examples]
        starts = [0, *accumulate(counts)]
        is_intact = (folder / MANIFEST).is_file() and not verify_folder(folder)
        if not is_intact or read_manifest(folder).meta.get("key") != key:
            with run_phase(job.emit, "asking the teacher", len(examples)) as progress:
                write = partial(_write, teacher, examples, starts, progress)
                commit_folder(folder, write, {"key": key})
        return cls(folder, starts)

    def read(self, rows: Sequence[int]) -> Targets:
        """Return the predictions at the loss positions of some rows, in their order."""
        at = np.concatenate([np.arange(*self._starts[row : row + 2]) for row in rows])
        ids_Nk = torch.from_numpy(self._ids_Nk[at].astype(np.int64))
        return Targets(ids_Nk, torch.from_numpy(self._logprobs_NK[at]))

    @property
    def covered(self) -> float:
        """Mean probability of the tokens that are compared one by one."""
        return float(-np.expm1(self._logprobs_NK[:, -1].astype(np.float64)).mean())


def _write(
    teacher: Teacher,
    examples: Sequence[Example],
    starts: Sequence[int],
    progress: Progress,
    folder: Path,
) -> None:
    shapes = (starts[-1], teacher.top_k), (starts[-1], teacher.top_k + 1)
    files = [
        np.lib.format.open_memmap(folder / name, "w+", dtype, shape)
        for name, dtype, shape in zip(_FILES, (np.int32, np.float32), shapes, strict=True)
    ]
    for row, example in enumerate(examples):
        for file, tensor in zip(files, teacher.predict(example), strict=True):
            file[starts[row] : starts[row + 1]] = tensor.cpu().numpy()
        progress(row + 1)
    for file in files:
        file.flush()


def check_tokenizers(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:
    """Check that a number stands for the same token in both models.

    Raises:
        UsageError: the tokenizers differ; the message names the first difference.
    """
    own, other = student.get_vocab(), teacher.get_vocab()
    names = [f"{type(t).__name__} with {len(t.get_vocab()):,} tokens" for t in (teacher, student)]
    different = sorted(
        (token for token in {**own, **other} if own.get(token) != other.get(token)),
        key=lambda token: (min(own.get(token, math.inf), other.get(token, math.inf)), token),
    )
    reason = ""
    if different:
        ids = [str(vocabulary.get(different[0], "absent")) for vocabulary in (other, own)]
        reason = f"token {safe_text(different[0])!r} is {ids[0]} in one and {ids[1]} in the other"
    elif student.encode(_PROBE) != teacher.encode(_PROBE):
        reason = "both have the same tokens, but split text differently"
    if reason:
        raise UsageError(
            f"{WHERE}: its tokenizer ({names[0]}) is not the student's ({names[1]}): {reason}",
            hint="choose a teacher of the student's model family",
        )
