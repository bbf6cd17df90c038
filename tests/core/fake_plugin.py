"""A one-file plugin with everything that a run needs and no tensors: for tests of the core.

Data is a file of lines ``prompt<TAB>answer``. The base model knows nothing, the tuned one knows
the training answers by heart and, with ``generalises``, answers anything else in capitals.
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
    LeftOut,
    Measurement,
    Reporter,
    Technique,
    TextModel,
)
from tunesmith.errors import DataError
from tunesmith.events import Event, Saved, Stepped, Trained, TrainingStarted
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
from tunesmith.testing.fakes import FakeTextModel, key_of

# --- data ------------------------------------------------------------------------------------


class LinesOptions(Options):
    """Options of the loader."""

    train: DataPath = Field(description="The file.")


class Lines:
    """Reads the lines."""

    def __init__(self, options: LinesOptions) -> None:
        self.path = Path(options.train)

    def load(self) -> Dataset:
        if not self.path.is_file():
            raise DataError(str(self.path), "no such file")
        records, left_out = [], []
        text = self.path.read_text(encoding="utf-8", errors="surrogateescape")
        for number, line in enumerate(text.split("\n"), 1):
            prompt, tab, answer = line.partition("\t")
            where = f"{self.path.name}:{number}"
            if tab and answer:
                records.append(Completion(source=where, prompt=prompt, completion=answer))
            elif line:
                left_out.append(LeftOut(where=where, cause="no answer", detail=line[:80]))
        return Dataset(train=records, left_out=left_out, description=f"lines of {self.path.name}")


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
    pause: float = Field(0.0, ge=0, description="Seconds that a step takes.")
    mode: Literal["well", "raise", "diverge", "interrupt"] = Field(
        "well", description="What happens at the third step."
    )
    generalises: bool = Field(True, description="Whether it knows what it has not seen.")


class ByHeart:
    """Learns the answers by heart, one checkpoint a step."""

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
            Trained(
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
        job.emit(Saved(step=step, path=f"checkpoints/step-{step:08d}", bytes=1, seconds=0.0))
        job.emit(
            Stepped(
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
            Shouting(answers=answers)
            if self.options.generalises
            else FakeTextModel(answers=answers)
        )


class Shouting(FakeTextModel):
    """Answers unknown prompts with their capitals."""

    def generate(self, prompts: Any, limit: int, *, progress: Any = None) -> Any:
        known = {key_of(prompt): key_of(prompt).upper() for prompt in prompts}
        self.answers = {**known, **self.answers}
        return super().generate(prompts, limit, progress=progress)


@hookimpl
def tunesmith_techniques() -> Sequence[TechniqueOffer[Any]]:
    def build(options: ByHeartOptions) -> Technique:
        return ByHeart(options)

    def offer(name: str, needs: tuple[str, ...] = ()) -> TechniqueOffer[Any]:
        return TechniqueOffer(
            name=name,
            summary="learns by heart",
            config=ByHeartOptions,
            build=build,
            accepts=frozenset({Completion}),
            needs=needs,
        )

    return [offer("by-heart"), offer("needy", ("no-such-distribution-anywhere>=1",))]


# --- evaluator and the rest ------------------------------------------------------------------


class SameOptions(Options):
    """Options of the evaluator."""

    beside: int = Field(0, description="Models that it says it holds beside the measured one.")


class Same:
    """Whether the answer is the expected one."""

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        asked = [last_exchange(record) for record in records]
        said = [answer.text for answer in model.generate([prompt for prompt, _ in asked], 20)]
        right = tuple(float(a == b) for a, (_, b) in zip(said, asked, strict=True))
        return [Measurement(metric="same", values=right, outputs=tuple(said))]


@hookimpl
def tunesmith_evaluators() -> Sequence[EvaluatorOffer[Any]]:
    def build(options: SameOptions) -> Evaluator:
        return Same()

    metric = Metric(name="same", higher_is_better=True)
    return [
        EvaluatorOffer(
            name="same",
            summary="the very answer",
            config=SameOptions,
            build=build,
            metrics=(metric,),
            suits=lambda records: True,
            models=lambda options: 1 + options.beside,
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
        reference=reference, description=f"fake model {reference}", fetch=lambda: Path(__file__)
    )


@hookimpl
def tunesmith_review_plan(plan: Plan) -> Sequence[Finding]:
    if plan.run.seed == 666:
        return [Finding(level="error", where="run.seed", message="is the number of the beast")]
    if plan.run.seed == 13:
        return [Finding(level="warning", where="run.seed", message="brings \x1b[1mbad luck")]
    return []
