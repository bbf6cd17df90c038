"""Silent bugs of techniques, each with the check of the kit that finds it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mutations import find_failed, specimen
from pydantic import Field

from tunesmith.contracts import Artifact, TokenScores
from tunesmith.errors import RunStopped
from tunesmith.events import StepFinished, TrainingStarted
from tunesmith.records import Prompt
from tunesmith.storage import commit_folder
from tunesmith.testing.ngram import FILE, NGRAM, Ngram, NgramModel, save_ngram_model

pytestmark = pytest.mark.processes
"""Each mutation is caught by whole trainings."""


class Emitting(Ngram):
    """Changes the events of a training."""

    def change(self, event: Any) -> Any:
        return event

    def train(self, job: Any) -> Artifact:
        return super().train(replace(job, emit=lambda event: job.emit(self.change(event))))


class NotANumber(Emitting):
    def change(self, event: Any) -> Any:
        late = isinstance(event, StepFinished) and event.step == 3
        return replace(event, loss=math.nan) if late else event


class IgnoresSeed(Ngram):
    def train(self, job: Any) -> Artifact:
        return super().train(replace(job, seed=0))


class Unseeded(Ngram):
    def train(self, job: Any) -> Artifact:
        return super().train(replace(job, seed=random.randrange(2**30)))


class LearnsNothing(Ngram):
    def train(self, job: Any) -> Artifact:
        artifact = super().train(job)
        commit_folder(artifact.path, NgramModel.read(job.model).write, {"format": "model"})
        return artifact


class SavesEarlierWeights(Ngram):
    """Saves the model of the first steps; later ones are lost."""

    def train(self, job: Any) -> Artifact:
        artifact = super().train(job)
        early = Ngram(self.options.model_copy(update={"epochs": 1, "batch_size": 8}))
        earlier = replace(
            job,
            train=job.train[:3],
            out=job.out / "early",
            emit=lambda event: None,
            checkpoints=type(job.checkpoints)(job.out / "none"),
        )
        other = early.train(earlier)
        commit_folder(artifact.path, NgramModel.read(other.path).write, {"format": "model"})
        return artifact


class TrainsPrompts(Ngram):
    """Counts the characters of prompts too."""

    def train(self, job: Any) -> Artifact:
        artifact = super().train(job)
        model = NgramModel.read(artifact.path)
        for _ in range(self.options.epochs):
            for record in job.train:
                model.learn("", record.prompt)
        commit_folder(artifact.path, model.write, {"format": "model"})
        return artifact


class ChangesBase(Ngram):
    def train(self, job: Any) -> Artifact:
        artifact = super().train(job)
        (job.model / "note.json").write_text("{}", encoding="utf-8")
        return artifact


class WritesOutside(Ngram):
    def train(self, job: Any) -> Artifact:
        (job.out.parent / "cache").mkdir(exist_ok=True)
        return super().train(job)


class ResumesFromStart(Ngram):
    def train(self, job: Any) -> Artifact:
        job.checkpoints.newest = lambda: None
        return super().train(job)


class RepeatsStep(Ngram):
    """Counts the last batch before the stop twice."""

    def train(self, job: Any) -> Artifact:
        newest = job.checkpoints.newest()
        if newest is not None:
            model = NgramModel.read(newest.path)
            model.learn("France?", "Paris")
            model.learn("Peru?", "Lima")
            (newest.path / FILE).write_text(json.dumps(model.counts), encoding="utf-8")
        return super().train(job)


class SwallowsStop(Ngram):
    def train(self, job: Any) -> Artifact:
        def emit(event: Any) -> None:
            with contextlib.suppress(RunStopped):
                job.emit(event)

        return super().train(replace(job, emit=emit))


class CountsTwice(Emitting):
    def change(self, event: Any) -> Any:
        return replace(event, step=2 * event.step) if isinstance(event, StepFinished) else event


class Leaves(Ngram):
    """Changes the process."""

    def train(self, job: Any) -> Artifact:
        os.environ["MUTATION"] = str(job.out)
        return super().train(job)


class NeedsItsFolder(Ngram):
    """Keeps the counts outside of the artifact."""

    def train(self, job: Any) -> Artifact:
        artifact = super().train(job)
        (artifact.path / "where").write_text(str(job.out / "kept"), encoding="utf-8")
        NgramModel.read(artifact.path).write(job.out / "kept")
        return artifact

    def open(self, model: Path, artifact: Path | None, *, device: str) -> NgramModel:
        if artifact is not None and (artifact.parent / "kept").exists():
            return super().open(model, artifact, device=device)
        return super().open(model, None, device=device)


class AcceptsAnything(Ngram):
    def train(self, job: Any) -> Artifact:
        known = [record for record in job.train if hasattr(record, "prompt")]
        return super().train(replace(job, train=known))


class ChangedModel(NgramModel):
    """Changes the scores of answers."""

    def change(self, number: int, prompts: Sequence[Prompt], scores: TokenScores) -> TokenScores:
        return scores

    def score(self, prompts: Any, completions: Any, *, progress: Any = None) -> Any:
        scored = super().score(prompts, completions, progress=progress)
        return [self.change(n, prompts, scores) for n, scores in enumerate(scored)]


def opening(change: Callable[[int, int], float]) -> type[Ngram]:
    """Return a technique whose scores are multiplied by ``change(row, rows)``."""

    class Model(ChangedModel):
        def change(
            self, number: int, prompts: Sequence[Prompt], scores: TokenScores
        ) -> TokenScores:
            factor = change(number, len(prompts))
            return TokenScores(tuple(value * factor for value in scores.logprobs))

    class Changed(Ngram):
        def open(self, model: Path, artifact: Path | None, *, device: str) -> NgramModel:
            return Model.read(artifact or model)

    return Changed


MUTATIONS: dict[str, tuple[type[Ngram], str]] = {
    "ignores the seed": (IgnoresSeed, "uses_the_seed"),
    "draws without a seed": (Unseeded, "same_seed_same_losses"),
    "learns nothing": (LearnsNothing, "learns_eight_examples"),
    "saves other weights": (SavesEarlierWeights, "saves_what_it_trained"),
    "trains prompts": (TrainsPrompts, "does_not_train_prompts"),
    "changes the base": (ChangesBase, "writes_only_below_out"),
    "writes outside its folder": (WritesOutside, "writes_only_below_out"),
    "resumes from the start": (ResumesFromStart, "resumes_where_it_stopped"),
    "trains a batch twice when resumed": (RepeatsStep, "resumes_where_it_stopped"),
    "goes on when it is stopped": (SwallowsStop, "resumes_where_it_stopped"),
    "reports a loss that is no number": (NotANumber, "losses_are_finite"),
    "skips steps": (CountsTwice, "steps_count_up"),
    "changes the environment": (Leaves, "training_leaves_no_global_changes"),
    "artifact is not complete": (NeedsItsFolder, "artifact_reopens"),
    "trains without rows it cannot read": (AcceptsAnything, "refuses_wrong_records"),
    "scores depend on the batch": (
        opening(lambda row, rows: 1 + rows / 100), "scores_do_not_depend_on_batching",
    ),
    "scores depend on the order": (
        opening(lambda row, rows: 1 + row / 100), "scores_do_not_depend_on_batching",
    ),
    "scores depend on the day": (
        opening(lambda row, rows: 1 + time.localtime().tm_yday / 1e3),
        "scores_do_not_depend_on_the_day",
    ),
}  # fmt: skip


class PackingOptions(NGRAM.config):  # type: ignore[name-defined, misc]
    packing: bool = Field(True, description="Concatenate the rows.")


class MixesPackedRows(Ngram):
    """Has another loss if rows are packed, as if they could see one another."""

    def train(self, job: Any) -> Artifact:
        def emit(event: Any) -> None:
            mixed = isinstance(event, StepFinished) and job.config.packing
            job.emit(replace(event, loss=event.loss * 1.01) if mixed else event)

        return super().train(replace(job, emit=emit))


class Rounds(Ngram):
    """Says which precision it has; its gradient norm is off by an error if rows are packed."""

    precision, error = "bf16: the processor has it", 0.002

    def train(self, job: Any) -> Artifact:
        def emit(event: Any) -> None:
            if isinstance(event, TrainingStarted):
                event = replace(event, precision=self.precision)
            if isinstance(event, StepFinished) and job.config.packing:
                event = replace(event, gradient_norm=event.gradient_norm * (1 + self.error))
            job.emit(event)

        return super().train(replace(job, emit=emit))


class RoundsTooMuch(Rounds):
    error = 0.02


class RoundsInFp32(Rounds):
    precision = "fp32: the processor has no bf16 arithmetic"


@pytest.mark.parametrize(
    ("technique", "is_found"), [(Rounds, False), (RoundsTooMuch, True), (RoundsInFp32, True)]
)
def test_a_gradient_may_differ_by_what_its_precision_rounds(
    technique: type[Ngram], is_found: bool, tmp_path: Path
) -> None:
    found = train(technique, tmp_path, config=PackingOptions)
    assert found == ({"packing_changes_nothing"} if is_found else set())


@pytest.mark.parametrize(
    ("technique", "found"), [(Ngram, set()), (MixesPackedRows, {"packing_changes_nothing"})]
)
def test_a_loss_that_depends_on_packing_is_found(
    technique: type[Ngram], found: set[str], tmp_path: Path
) -> None:
    assert train(technique, tmp_path, config=PackingOptions) == found


def train(technique: type[Ngram], folder: Path, **changes: Any) -> set[str]:
    offer = replace(NGRAM, build=technique, **changes)
    return find_failed(
        specimen("techniques", offer),
        model=save_ngram_model(folder / "base"),
        samples={"ngram": {"epochs": 3}},
    )


def test_an_honest_technique_passes(tmp_path: Path) -> None:
    assert train(Ngram, tmp_path) == set()


@pytest.mark.parametrize("bug", MUTATIONS)
def test_a_bug_of_a_technique_is_found(
    bug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUTATION", "")
    technique, check = MUTATIONS[bug]
    assert check in train(technique, tmp_path)
