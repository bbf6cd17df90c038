"""A single-file plugin with all components of a run and no tensors, for tests of the core.

The data is a file of lines ``prompt<TAB>answer``. The base model has no answers. The tuned model
has memorized the training answers and, with ``generalizes``, answers other prompts in capitals.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tunesmith.contracts import (
    Artifact,
    DataLoader,
    Dataset,
    Evaluator,
    Finding,
    FoundModel,
    Job,
    Measurement,
    Reporter,
    SkippedRow,
    Technique,
    TextModel,
)
from tunesmith.errors import DataError
from tunesmith.events import CheckpointSaved, Event, StepFinished, TrainingFinished, TrainingStarted
from tunesmith.hookspecs import hookimpl
from tunesmith.offers import (
    DataLoaderOffer,
    EvaluatorOffer,
    Metric,
    ReporterOffer,
    TechniqueOffer,
)
from tunesmith.options import DataPath, Options
from tunesmith.plan import Plan
from tunesmith.records import Completion, Record, last_exchange
from tunesmith.storage import commit_folder
from tunesmith.testing.fakes import FakeTextModel, prompt_key

# --- data ------------------------------------------------------------------------------------


class LinesOptions(Options):
    """Options of the loader."""

    train: DataPath = Field(description="The data file.")


class Lines:
    """Reads records from the lines of a file."""

    def __init__(self, options: LinesOptions) -> None:
        self.path = Path(options.train)

    def load(self) -> Dataset:
        if not self.path.is_file():
            raise DataError(str(self.path), "no such file")
        records, skipped = [], []
        text = self.path.read_text(encoding="utf-8", errors="surrogateescape")
        for number, line in enumerate(text.split("\n"), 1):
            prompt, tab, answer = line.partition("\t")
            where = f"{self.path.name}:{number}"
            if tab and answer:
                records.append(Completion(source=where, prompt=prompt, completion=answer))
            elif line:
                skipped.append(SkippedRow(where=where, cause="no answer", detail=line[:80]))
        return Dataset(train=records, skipped=skipped, description=f"lines of {self.path.name}")


@hookimpl
def tunesmith_data_loaders() -> Sequence[DataLoaderOffer[Any]]:
    def build(options: LinesOptions) -> DataLoader:
        return Lines(options)

    return [
        DataLoaderOffer(name="lines", summary="lines with a tab", config=LinesOptions, build=build)
    ]


# --- technique -------------------------------------------------------------------------------


class ByHeartOptions(Options):
    """Options of the technique."""

    steps: int = Field(6, ge=1, le=100_000, description="Steps to take.")
    pause: float = Field(0.0, ge=0, description="Seconds to wait in each step.")
    mode: Literal["well", "raise", "diverge", "interrupt"] = Field(
        "well", description="Fault at the third step."
    )
    generalizes: bool = Field(True, description="Answer unknown prompts too.")


class ByHeart:
    """Memorizes the answers, with one checkpoint per step."""

    def __init__(self, options: ByHeartOptions) -> None:
        self.options = options

    def train(self, job: Job[Any]) -> Artifact:
        newest = job.checkpoints.newest()
        first = newest.step if newest else 0
        job.emit(
            TrainingStarted(
                technique="by-heart",
                steps=self.options.steps,
                epochs=1.0,
                rows=len(job.train),
                tokens=100,
                trained_tokens=40,
                trainable_parameters=7,
                parameters=1_000,
                device="cpu",
                precision="float32",
                first_step=first,
            )
        )
        for step in range(first + 1, self.options.steps + 1):
            self._step(job, step)
        table = {record.prompt: record.completion for record in job.train}

        def write(folder: Path) -> None:
            (folder / "answers.json").write_text(json.dumps(table))

        commit_folder(job.out / "artifact", write)
        job.emit(
            TrainingFinished(
                technique="by-heart",
                steps=self.options.steps,
                tokens=600,
                trained_tokens=240,
                seconds=0.5,
                peak_memory_bytes=1_000_000,
                artifact="artifact",
                format="adapter",
            )
        )
        return Artifact(path=job.out / "artifact", format="adapter")

    def _step(self, job: Job[Any], step: int) -> None:
        mode = self.options.mode if step >= 3 else "well"
        if mode == "raise":
            raise KeyError("\x1b[31mtensor\x1b[0m is not on the device")
        if mode == "interrupt" and step == 3 and not (job.out / "interrupted").exists():
            (job.out / "interrupted").touch()
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(self.options.pause)
        job.checkpoints.save(step, lambda folder: (folder / "step").write_text(str(step)) and None)
        path = f"checkpoints/step-{step:08d}"
        job.emit(CheckpointSaved(step=step, path=path, bytes=1, seconds=0.0))
        job.emit(
            StepFinished(
                step=step,
                steps=self.options.steps,
                loss=100.0 * step if mode == "diverge" else 2.0 / step,
                learning_rate=1e-3,
                gradient_norm=1.0 / step,
                rows=2,
                tokens=100,
                trained_tokens=40,
                seconds=0.1,
                memory_bytes=1_000_000,
            )
        )

    def open(self, model: Path, artifact: Path | None, *, device: str) -> TextModel:
        if artifact is None:
            return FakeTextModel()
        answers = json.loads((artifact / "answers.json").read_text())
        return (
            UppercaseModel(answers=answers)
            if self.options.generalizes
            else FakeTextModel(answers=answers)
        )


class UppercaseModel(FakeTextModel):
    """Answers unknown prompts with the prompt in capitals."""

    def generate(self, prompts: Any, max_new_tokens: int, *, progress: Any = None) -> Any:
        known = {prompt_key(prompt): prompt_key(prompt).upper() for prompt in prompts}
        self.answers = {**known, **self.answers}
        return super().generate(prompts, max_new_tokens, progress=progress)


@hookimpl
def tunesmith_techniques() -> Sequence[TechniqueOffer[Any]]:
    def build(options: ByHeartOptions) -> Technique:
        return ByHeart(options)

    def offer(name: str, needs: tuple[str, ...] = ()) -> TechniqueOffer[Any]:
        return TechniqueOffer(
            name=name,
            summary="memorizes answers",
            config=ByHeartOptions,
            build=build,
            accepts=frozenset({Completion}),
            needs=needs,
        )

    return [offer("by-heart"), offer("needy", ("no-such-distribution-anywhere>=1",))]


# --- evaluator and the rest ------------------------------------------------------------------


class SameOptions(Options):
    """Options of the evaluator."""

    other_models: int = Field(0, description="Models in memory besides the measured one.")


class Same:
    """Measures the share of answers that equal the reference."""

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        exchanges = [last_exchange(record) for record in records]
        prompts = [prompt for prompt, _ in exchanges]
        answers = [answer.text for answer in model.generate(prompts, 20)]
        pairs = zip(answers, exchanges, strict=True)
        values = tuple(float(answer == reference.text) for answer, (_, reference) in pairs)
        return [Measurement(metric="same", values=values, outputs=tuple(answers))]


@hookimpl
def tunesmith_evaluators() -> Sequence[EvaluatorOffer[Any]]:
    def build(options: SameOptions) -> Evaluator:
        return Same()

    metric = Metric(name="same", higher_is_better=True)
    return [
        EvaluatorOffer(
            name="same",
            summary="share of answers that equal the reference",
            config=SameOptions,
            build=build,
            metrics=(metric,),
            default_for=lambda records: True,
            model_count=lambda options: 1 + options.other_models,
        )
    ]


class Failing:
    """A reporter that always raises."""

    def __enter__(self) -> Failing:
        return self

    def __exit__(self, *ignored: object) -> None:
        return None

    def report(self, event: Event) -> None:
        raise RuntimeError("no network")


@hookimpl
def tunesmith_reporters() -> Sequence[ReporterOffer[Any]]:
    def build(options: SameOptions, folder: Any) -> Reporter:
        return Failing()

    return [ReporterOffer(name="failing", summary="always fails", config=SameOptions, build=build)]


@hookimpl
def tunesmith_find_model(reference: str, revision: str | None) -> FoundModel | None:
    if not reference.startswith("fake:"):
        return None
    return FoundModel(
        reference=reference,
        description=f"fake model {reference}",
        fetch=lambda: Path(__file__).parent,
        find_obstacle=lambda: "no answer from the server" if reference == "fake:far" else "",
    )


@hookimpl
def tunesmith_review_plan(plan: Plan) -> Sequence[Finding]:
    if plan.run.seed == 666:
        return [Finding(level="error", where="run.seed", message="is the number of the beast")]
    if plan.run.seed == 13:
        return [Finding(level="warning", where="run.seed", message="brings \x1b[1mbad luck")]
    return []
