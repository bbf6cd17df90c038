"""Technique ``distill``."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tunesmith.additions import Addition
from tunesmith.contracts import Artifact, Job, TextModel
from tunesmith.events import FindingReported
from tunesmith_distill.objective import DistillObjective
from tunesmith_distill.on_policy import OnPolicy
from tunesmith_distill.options import DistillOptions
from tunesmith_distill.teacher import StoredPredictions, Teacher, check_tokenizers
from tunesmith_torch.data.tokenized_records import TokenizedRecords
from tunesmith_torch.generation.open_model import open_trained_model
from tunesmith_torch.losses.selected_positions import get_lm_head
from tunesmith_torch.training.additions import AdditionContext
from tunesmith_torch.training.supervised import SupervisedData, SupervisedTask
from tunesmith_torch.training.trainer import PreparedTraining, TrainingSession, train

__all__ = ["Distill"]


class Distill:
    """Trains a student on the demonstrations and on a teacher's predictions."""

    def __init__(self, options: DistillOptions) -> None:
        self.options = options

    def train(self, job: Job[Any]) -> Artifact:
        """Train the student and write a model folder, or an adapter folder."""
        task = DistillTask()
        if self.options.on_policy:
            own = Addition(build=task.build_on_policy, table="on_policy")
            job = replace(job, additions=(*job.additions, own))
        return train(job, task)

    def open(self, model: Path, artifact: Path | None, *, device: str) -> TextModel:
        """Open the trained student, or the untrained one if ``artifact`` is None."""
        return open_trained_model(model, artifact, device=device, options=self.options)


class DistillTask(SupervisedTask):
    """Supervised training with a second loss, the divergence from the teacher."""

    can_compute_rows_alone = False
    objective_class = DistillObjective
    _teacher: Teacher | None = None
    """Kept only if it rates the student's own answers, which are not known before training."""

    def prepare(self, session: TrainingSession, data: SupervisedData) -> PreparedTraining:
        """Return the objective with the teacher's predictions.

        Raises:
            UsageError: there is no such teacher, or its tokenizer is not the student's.
        """
        prepared = super().prepare(session, data)
        options: DistillOptions = session.options
        objective: Any = prepared.objective
        objective.options = options
        if not (options.weight or options.on_policy):
            return prepared
        vocabulary = len(get_lm_head(session.adapted.model).weight_VD)
        teacher = Teacher(options, vocabulary, session.job.device)
        student_tokenizer = session.template.tokenizer
        check_tokenizers(student_tokenizer, teacher.tokenizer)
        if teacher.tokenizer.chat_template != student_tokenizer.chat_template:
            text = "the teacher reads rows in the student's chat template, which is not its own"
            session.job.emit(FindingReported(level="warning", source="teacher", message=text))
        details = {"teacher": options.teacher, "top_k": teacher.top_k}
        prepared = replace(prepared, details={**prepared.details, **details})
        if options.on_policy:
            self._teacher = teacher
        if not options.weight:
            return prepared
        # Streamed examples are tokenized one batch at a time, so nothing is stored in advance.
        if options.cache and isinstance(data, TokenizedRecords):
            stored = StoredPredictions.load_or_compute(teacher, data.examples, session.job)
            objective.targets = stored.read
            text = f"its {teacher.top_k} most likely tokens have {stored.covered:.1%} of the "
            text += "probability on average"
            session.job.emit(FindingReported(level="info", source="teacher", message=text))
        else:
            examples = data.examples if isinstance(data, TokenizedRecords) else data
            objective.targets = partial(teacher.predict_rows, examples)
        return prepared

    def build_on_policy(self, context: AdditionContext) -> OnPolicy:
        """Return the addition that lets the student answer, after the training was prepared."""
        assert self._teacher is not None
        return OnPolicy(context.job.config, context, self._teacher)
