"""Technique ``personal``: a shared adapter, then an own adapter for each user."""

# ruff: noqa: N815 - tensors end in their shape, attributes too
from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tunesmith.contracts import Artifact, Job, TextModel
from tunesmith.events import Event, FindingReported, TrainingFinished
from tunesmith.phases import run_phase
from tunesmith.records import Record
from tunesmith.storage import verify_folder, write_atomic
from tunesmith.text import format_count
from tunesmith_personal.options import PersonalOptions
from tunesmith_personal.segments import Layout, SegmentedModel, are_rows_independent
from tunesmith_personal.store import Entry, Store, compute_digest
from tunesmith_personal.training import UserTraining, train_users
from tunesmith_torch.data.templates import Template
from tunesmith_torch.generation.open_model import open_trained_model
from tunesmith_torch.models.loading import config_context_length
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.runtime.device import Precision, pick_device
from tunesmith_torch.training.supervised import SupervisedTask
from tunesmith_torch.training.trainer import train

STAGE, FINISHED = "shared", "finished.json"
SHARED_ADAPTER = "shared/adapter"
"""Folder of the shared adapter, relative to the run folder."""
BLOCK = 64
"""Number of users that are trained together and then stored, which limits the memory."""
DEFAULT_TOKENS = 4096


class Personal:
    """Trains one adapter on all rows, and from it one adapter for each user."""

    def __init__(self, options: PersonalOptions) -> None:
        self.options = options

    def train(self, job: Job[Any]) -> Artifact:
        """Train the shared adapter and the users' adapters; users that are stored stay as stored.

        A user's adapter has the same bits in a resumed run, because it does not depend on the
        users that are trained beside it.
        """
        finished = _train_shared(job)
        people = group_by_user(job.train)
        trainer = UserTrainer.open(job.out, job.model, self.options, job.device, job.seed)
        known = {entry.user for entry in trainer.store.entries()}
        new = {user: rows for user, rows in people.items() if user not in known}
        if new:
            trainer.train(new, group_by_user(job.validation), job.emit)
        job.emit(describe_users(trainer.store.entries()))
        job.emit(replace(finished, stage="", artifact=SHARED_ADAPTER))
        return Artifact(path=job.out / SHARED_ADAPTER, format="adapter")

    def open(self, model: Path, artifact: Path | None, *, device: str) -> TextModel:
        """Open the base model, with the shared adapter unless ``artifact`` is None."""
        return open_shared(model, artifact, self.options, device)


def open_shared(
    model: Path, artifact: Path | None, options: PersonalOptions, device: str
) -> TextModel:
    """Open a model whose adapters can be replaced, without kernels that rearrange them."""
    plain = options.model_copy(update={"fused_kernels": False})
    return open_trained_model(model, artifact, device=device, options=plain)


def group_by_user(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Return the records of each user, the users in alphabetical order."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if record.group is not None:
            found.setdefault(record.group, []).append(record)
    return dict(sorted(found.items()))


def _train_shared(job: Job[Any]) -> TrainingFinished:
    """Train the shared adapter, unless an earlier process of this run has finished it."""
    stage = job.for_stage(STAGE, job.config)
    path = stage.out / FINISHED
    if path.is_file() and not verify_folder(job.out / SHARED_ADAPTER):
        return TrainingFinished(**json.loads(path.read_text(encoding="utf-8")))
    events: list[TrainingFinished] = []

    def emit(event: Event) -> None:
        if isinstance(event, TrainingFinished):
            events.append(event)
        stage.emit(event)

    stage.out.mkdir(exist_ok=True)
    train(replace(stage, emit=emit), SupervisedTask())
    (finished,) = events
    write_atomic(path, json.dumps(asdict(finished)) + "\n")
    return finished


@dataclass(frozen=True)
class UserTrainer:
    """A base model that trains users' adapters into a store."""

    store: Store
    model: SegmentedModel
    template: Template
    shared_P: torch.Tensor
    options: PersonalOptions
    seed: int

    @classmethod
    def open(
        cls, run: Path, model: Path, options: PersonalOptions, device: str, seed: int
    ) -> UserTrainer:
        """Load the base model in fp32 and the shared adapter of a run; open the run's store."""
        layout, shared_P = Layout.read(run / SHARED_ADAPTER)
        options = options.model_copy(
            update={"micro_batch_tokens": options.micro_batch_tokens or DEFAULT_TOKENS}
        )
        meta = {
            "options": options.model_dump_json(by_alias=True),
            "shared": compute_digest(shared_P),
        }
        store = Store.create(run, meta)
        torch_device = pick_device(device)
        precision = Precision(torch.float32, "users' adapters")
        base = load_model(
            model, torch_device, precision, packing=False, fused_kernels=options.fused_kernels
        )
        template = Template.from_options(base.tokenizer, options)
        shared_P = shared_P.to(torch_device)
        segmented = SegmentedModel(base, layout)
        segmented.check_separation(shared_P)
        return cls(store, segmented, template, shared_P, options, seed)

    def train(
        self,
        train: Mapping[str, Sequence[Record]],
        validation: Mapping[str, Sequence[Record]],
        emit: Callable[[Event], None],
    ) -> None:
        """Train and store an adapter for each user, in blocks of users."""
        budget = self._choose_budget(emit)
        with run_phase(emit, "training users", len(train), "users") as report:
            for start in range(0, len(train), BLOCK):
                block = [*train][start : start + BLOCK]
                tasks = list(self._prepare(block, train, validation))
                trained = [task for _, task in tasks if task is not None]
                train_users(self.model, trained, budget)
                self._store(tasks)
                report(start + len(block))

    def _choose_budget(self, emit: Callable[[Event], None]) -> int:
        """Return the number of tokens of a pass; 0 if each user needs passes alone."""
        tokens = self.options.micro_batch_tokens
        if not self.options.users.together:
            return 0
        if are_rows_independent(self.model.decoder, tokens):
            return tokens
        text = (
            "products of this model on this machine may depend on the number of rows, so users are "
            "trained one after the other, which keeps their adapters independent"
        )
        emit(FindingReported(level="info", source="technique.users", message=text))
        return 0

    def _prepare(
        self,
        users: Sequence[str],
        train: Mapping[str, Sequence[Record]],
        validation: Mapping[str, Sequence[Record]],
    ) -> Iterator[tuple[Entry, UserTraining | None]]:
        """Yield the entry of each user; None in place of a training if the rows are too few."""
        limit = min(self.options.max_length, config_context_length(self.model.base.config))
        for user in users:
            rows, held = (
                self.template.tokenize_records(
                    records, limit, truncate_prompts=self.options.truncate_prompts
                ).examples
                for records in (train[user], validation.get(user, ()))
            )
            least = self.options.users.min_rows
            if len(rows) < least:
                yield Entry(user=user, rows=len(rows), note=f"fewer than {least} rows"), None
                continue
            task = UserTraining(user, rows, held, self.shared_P, self.options, self.seed)
            yield Entry(user=user, rows=len(rows), note=""), task

    def _store(self, tasks: Sequence[tuple[Entry, UserTraining | None]]) -> None:
        entries, vectors = [], {}
        for entry, task in tasks:
            if task is None:
                entries.append(entry)
                continue
            if task.best_P is not None:
                vectors[task.user] = task.best_P.cpu()
            entries.append(
                replace(
                    entry,
                    steps=task.steps,
                    first_loss=None if math.isnan(task.first_loss) else task.first_loss,
                    best_loss=None if math.isnan(task.best_loss) else task.best_loss,
                    note=_explain(task),
                )
            )
        self.store.add(entries, vectors)


def _explain(task: UserTraining) -> str:
    """Return why a trained user keeps the shared adapter; empty for an own adapter."""
    if task.has_diverged:
        return "training diverged: lower technique.users.learning_rate"
    return "" if task.best_P is not None else "no lower loss on validation rows"


def describe_users(entries: Sequence[Entry]) -> FindingReported:
    """Return a finding with the number of users that have an own adapter, and why others do not."""
    if not entries:
        text = "no row has a group, so only the shared adapter was trained"
        hint = "set data.group to the column that names the user"
        return FindingReported(level="warning", source="data.group", message=text, hint=hint)
    own = sum(entry.has_adapter for entry in entries)
    notes = sorted({entry.note for entry in entries if entry.note})
    reasons = [f"{sum(e.note == note for e in entries)} {note}" for note in notes]
    text = f"{own} of {format_count(len(entries), 'user')} have an own adapter"
    if reasons:
        text += f"; the others keep the shared adapter ({', '.join(reasons)})"
    return FindingReported(level="info", source="users", message=text)
