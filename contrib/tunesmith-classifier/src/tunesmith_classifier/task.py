"""Train a classification head, with or without LoRA adapters."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from tunesmith.contracts import Job, SkippedRow
from tunesmith.errors import DataError
from tunesmith.events import FindingReported
from tunesmith.records import Chat, Completion, Record, last_exchange
from tunesmith.text import format_count
from tunesmith_classifier.head import (
    ClassifierObjective,
    Head,
    ModelWithHead,
    as_example,
    fit_temperature,
    row_logits,
)
from tunesmith_classifier.options import ClassifierOptions
from tunesmith_torch.data.packing import Example
from tunesmith_torch.data.templates import Template
from tunesmith_torch.data.tokenized_records import TOO_LONG
from tunesmith_torch.models.adapter_stack import adapt_model
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.models.initial_model import InitialModel
from tunesmith_torch.models.loading import LoadedBase
from tunesmith_torch.runtime.device import Precision
from tunesmith_torch.training.loop import BatchCounts
from tunesmith_torch.training.row_losses import list_row_groups
from tunesmith_torch.training.skipped_rows import (
    check_skipped_share,
    count_skip_reasons,
    describe_remedy,
    report_skipped,
)
from tunesmith_torch.training.trainer import PreparedTraining, TrainingSession, TrainingTask

__all__ = ["ClassifierTask", "LabeledRows"]

MIN_CALIBRATION_ROWS = 10
CARD = """---
tags: [tunesmith, classifier]
---

A classifier, made with tunesmith by `classifier`: the labels and the temperature are in
`classifier.json`. A row's logits are those of the linear head in `head.safetensors`, over the last
layer's hidden state (after the final norm) at the last token of the prompt.
"""


@dataclass(frozen=True)
class LabeledRows:
    """Tokenized prompts with the numbers of their labels."""

    labels: list[str]
    """All labels, in alphabetical order."""
    examples: list[Example]
    records: list[int]
    """The record of each example."""
    skipped: list[SkippedRow]
    """Records without an example, each with the reason."""


def read_labels(records: Iterable[Record]) -> list[str]:
    """Return the labels of the records in alphabetical order."""
    return sorted({_label(r) for r in records if isinstance(r, (Chat, Completion))})


def _label(record: Record) -> str:
    return str(last_exchange(record)[1].text).strip()


def tokenize(
    records: Sequence[Record], labels: list[str], template: Template, limit: int
) -> LabeledRows:
    """Return the rows that have a known label and fit into ``limit`` tokens."""
    numbers = {label: number for number, label in enumerate(labels)}
    refused = {row.where: row for row in template.find_problems(records)}
    rows = LabeledRows(labels, [], [], [])
    usable = []
    for at, record in enumerate(records):
        if record.source in refused:
            rows.skipped.append(refused[record.source])
        elif not isinstance(record, (Chat, Completion)) or _label(record) not in numbers:
            cause = "answer is not a known label"
            rows.skipped.append(SkippedRow(where=record.source, cause=cause))
        else:
            usable.append((at, record))
    prompts = template.encode_prompts([last_exchange(record)[0] for _, record in usable])
    for (at, record), ids in zip(usable, prompts, strict=True):
        if len(ids) >= limit:
            detail = f"{len(ids):,} tokens, at most {limit - 1:,} are allowed"
            rows.skipped.append(SkippedRow(where=record.source, cause=TOO_LONG, detail=detail))
            continue
        rows.examples.append(as_example(ids, numbers[_label(record)]))
        rows.records.append(at)
    return rows


class ClassifierTask(TrainingTask[LabeledRows]):
    """The training task of ``classifier``."""

    has_row_losses = True

    def tokenize(self, job: Job[Any], template: Template, limit: int) -> LabeledRows:
        """Return the training rows, and report the skipped ones.

        Raises:
            DataError: fewer than two labels, or too many skipped rows.
        """
        labels = read_labels(job.train)
        rows = tokenize(job.train, labels, template, limit)
        report_skipped(job, rows.skipped)
        remedy = describe_remedy(limit, job.config.max_length)
        check_skipped_share(rows.skipped, len(job.train), job.config.max_skipped, remedy)
        if len(labels) < 2 or not rows.examples:
            raise DataError(
                "training data",
                f"has {format_count(len(labels), 'label')}; at least 2 are needed",
                hint="add rows with other answers",
            )
        counts = Counter(int(example.ids[-1]) for example in rows.examples)
        alone = sum(count == 1 for count in counts.values())
        if 2 * alone > len(rows.examples):
            text = f"{alone} of {len(rows.examples)} rows have a label that no other row has"
            text += ", so these are not labels; technique lora generates free text"
            job.emit(FindingReported(level="warning", source="data", message=text))
        return rows

    def token_rows(self, data: LabeledRows, template: Template) -> Iterator[Sequence[int]]:
        """Yield the tokens of the training rows."""
        return (cast(Sequence[int], example.ids) for example in data.examples)

    def adapt(
        self, base: LoadedBase, precision: Precision, job: Job[Any], initial: InitialModel | None
    ) -> AdaptedModel:
        """Add LoRA adapters, or freeze the whole model."""
        options: ClassifierOptions = job.config
        if options.adapt == "lora":
            fused = options.fused_kernels
            adaptation = options.adaptation
            return adapt_model(
                base, precision, adaptation, initial_model=None, seed=job.seed, fused_kernels=fused
            )
        base.model.requires_grad_(False)
        return AdaptedModel(base.model, base, precision, "adapter", {"weights": "head"})

    def prepare(self, session: TrainingSession, data: LabeledRows) -> PreparedTraining:
        """Return the objective over the labels, with a new head."""
        width = session.adapted.base.config.get_text_config().hidden_size
        self.head = Head(width, data.labels).to(session.adapted.base.model.device)
        net: Any = ModelWithHead(session.adapted.model, self.head)
        tokens = sum(map(len, data.examples))
        return PreparedTraining(
            self._objective(session, data.examples),
            replace(session.adapted, model=net),
            BatchCounts(tokens, len(data.examples), len(data.examples)),
            details={"labels": len(data.labels)},
            affected_rows=lambda: count_skip_reasons(data.skipped),
            write_extra=self._write,
        )

    def _objective(self, session: TrainingSession, rows: Sequence[Example]) -> ClassifierObjective:
        packing = session.options.packing
        objective = ClassifierObjective(
            session.adapted, rows, packing=packing, report=session.report
        )
        objective.head = self.head
        return objective

    def objective_over(
        self,
        session: TrainingSession,
        prepared: PreparedTraining,
        records: Sequence[Record],
        name: str,
    ) -> ClassifierObjective | None:
        """Return the objective over the records that have a known label."""
        rows = tokenize(records, self.head.labels, session.template, session.limit)
        if not rows.examples:
            return None
        objective = self._objective(session, rows.examples)
        objective.row_groups = list_row_groups(records, rows.records)
        return objective

    def finalize(self, session: TrainingSession) -> AdaptedModel:
        """Calibrate the head on the validation rows, and return the adapter to save."""
        records = session.job.validation
        rows = tokenize(records, self.head.labels, session.template, session.limit)
        if len(rows.examples) >= MIN_CALIBRATION_ROWS:
            prompts = [[*example.ids][:-1] for example in rows.examples]
            with session.adapted.autocast():
                logits_NL = row_logits(session.adapted.model, self.head, prompts)
            labels_N = torch.tensor([int(example.ids[-1]) for example in rows.examples])
            self.head.temperature = fit_temperature(logits_NL, labels_N)
            text = f"temperature {self.head.temperature:.3g}, from {len(labels_N)} validation rows"
        else:
            text = f"not calibrated: needs {MIN_CALIBRATION_ROWS} validation rows"
        session.job.emit(FindingReported(level="info", source="calibration", message=text))
        if session.options.adapt == "lora":
            return super().finalize(session)
        return replace(session.adapted, model=cast(Any, _NoAdapter()))

    def _write(self, folder: Path) -> None:
        self.head.save(folder)
        (folder / "README.md").write_text(CARD, encoding="utf-8")


class _NoAdapter:
    """Stands for the adapter in an artifact that has only a head."""

    def save_pretrained(self, folder: Path, *, save_embedding_layers: bool) -> None:
        """Write the config that marks the folder as one for the unchanged base model."""
        text = json.dumps({"peft_type": "TUNESMITH_HEAD"})
        (folder / "adapter_config.json").write_text(text, encoding="utf-8")
