"""A real technique without tensors: an n-gram model of characters, trained in milliseconds.

Use it in tests that need complete runs, and as an example of a technique with its own loop. It
keeps every promise of a technique. Its base model is a folder written by :func:`save_ngram_model`.
To use it as a plugin, pass this file to ``--plugin``.

The probability of a character comes from the longest known context. It is mixed with the
probabilities of shorter contexts, down to a uniform distribution. Only answers are counted.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from tunesmith.contracts import Artifact, FoundModel, Generation, Job, Progress, TokenScores
from tunesmith.errors import DataError, RunStopped
from tunesmith.events import CheckpointSaved, StepFinished, TrainingFinished, TrainingStarted
from tunesmith.hookspecs import hookimpl
from tunesmith.offers import TechniqueOffer
from tunesmith.options import Options
from tunesmith.records import Answer, Chat, Completion, Prompt, exchanges, prompt_text
from tunesmith.storage import commit_folder

FILE = "ngram.json"
END = "\x03"
"""The character that ends an answer."""
ORDER = 6
"""Length of the longest n-gram: five characters of context, and the next character."""
SYMBOLS = 1000
"""Number of characters in the uniform distribution."""
WEIGHT = 0.5
"""Weight of the shorter context, as a number of observed characters."""


@dataclass
class NgramModel:
    """A text model of characters: ``counts`` of the characters that follow each context."""

    counts: dict[str, dict[str, int]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> NgramModel:
        """Read the counts from a folder."""
        return cls(json.loads((folder / FILE).read_text(encoding="utf-8")))

    def write(self, folder: Path) -> None:
        """Write the counts to a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.counts, sort_keys=True)
        (folder / FILE).write_text(text, encoding="utf-8")

    def learn(self, prompt: Prompt, answer: Answer) -> None:
        """Count the characters of an answer after its prompt."""
        for context, character in _steps(prompt, answer):
            for length in range(ORDER):
                if length <= len(context):
                    following = self.counts.setdefault(context[len(context) - length :], {})
                    following[character] = following.get(character, 0) + 1

    def probability(self, context: str, character: str) -> float:
        """Return the probability of a character after a context."""
        share = 1 / SYMBOLS
        for length in range(min(ORDER - 1, len(context)) + 1):
            following = self.counts.get(context[len(context) - length :])
            if following is None:
                break
            total = sum(following.values())
            share = (following.get(character, 0) + WEIGHT * share) / (total + WEIGHT)
        return share

    def logprobs(self, prompt: Prompt, answer: Answer) -> tuple[float, ...]:
        """Return the log-probability of each character of an answer, and of its end, in nats."""
        return tuple(math.log(self.probability(c, x)) for c, x in _steps(prompt, answer))

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Answer],
        *,
        progress: Progress | None = None,
    ) -> Sequence[TokenScores]:
        """Return the log-probabilities of each completion; a character is a token."""
        pairs = zip(prompts, completions, strict=True)
        scores = [TokenScores(self.logprobs(prompt, answer)) for prompt, answer in pairs]
        if progress is not None:
            progress(len(prompts))
        return scores

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, progress: Progress | None = None
    ) -> Sequence[Generation]:
        """Generate the most probable next character repeatedly, up to ``max_new_tokens`` times."""
        generations = [self._generate(_text(prompt), max_new_tokens) for prompt in prompts]
        if progress is not None:
            progress(len(prompts))
        return generations

    def _generate(self, prompt: str, limit: int) -> Generation:
        answer = ""
        for tokens in range(1, limit + 1):
            context = (prompt + answer)[-(ORDER - 1) :]
            while context and context not in self.counts:
                context = context[1:]
            following = self.counts.get(context, {END: 1})
            character = min(following, key=lambda c: (-following[c], c))
            if character == END:
                return Generation(answer, tokens, "stop")
            answer += character
        return Generation(answer, limit, "length")


def _text(prompt: Prompt) -> str:
    """Return the text before the answer, with one message per line."""
    return f"{prompt_text(prompt)}\n"


def _steps(prompt: Prompt, answer: Answer) -> Iterable[tuple[str, str]]:
    """Yield each character of an answer, and its end, with the characters before it."""
    text = _text(prompt)
    completion = (answer if isinstance(answer, str) else answer.text) + END
    whole = text + completion
    for position in range(len(text), len(whole)):
        yield whole[max(0, position - ORDER + 1) : position], whole[position]


def save_ngram_model(folder: Path) -> Path:
    """Save a base model without counts, which gives each character the same probability."""
    NgramModel().write(folder)
    return folder


class NgramOptions(Options):
    """The options of the ``ngram`` technique."""

    epochs: int = Field(2, ge=1, le=1000, description="Passes over the training rows.")
    batch_size: int = Field(4, ge=1, description="Rows that are counted in one step.")
    save_every: int = Field(2, ge=1, description="Steps from one checkpoint to the next.")


class Ngram:
    """The ``ngram`` technique: trains by counting the characters of answers, batch by batch."""

    def __init__(self, options: NgramOptions) -> None:
        self.options = options

    def train(self, job: Job[Any]) -> Artifact:
        """Count the answers; continue from the newest checkpoint.

        Raises:
            DataError: the data has no answers to count.
        """
        pairs = [
            (prompt, answer.text) for record in job.train for prompt, answer in exchanges(record)
        ]
        if not pairs:
            raise DataError("data", "the data has no rows to train on")
        batches = list(self._batches(len(pairs), job.seed))
        newest = job.checkpoints.newest()
        model = NgramModel.read(newest.path if newest else job.model)
        started = _Counts(len(batches), sum(len(answer) + 1 for _, answer in pairs))
        job.emit(started.training_started(job, self.options, newest.step if newest else 0))
        for step in range((newest.step if newest else 0) + 1, len(batches) + 1):
            rows = [pairs[row] for row in batches[step - 1]]
            event = started.step_finished(step, model, rows)
            for prompt, answer in rows:
                model.learn(prompt, answer)
            self._report(job, event, model)
        commit_folder(job.out / "model", model.write, {"format": "model"})
        job.emit(started.training_finished(job))
        return Artifact(path=job.out / "model", format="model")

    def open(self, model: Path, artifact: Path | None, *, device: str) -> NgramModel:
        """Read the counts of the artifact, or of the base model if ``artifact`` is None."""
        return NgramModel.read(artifact or model)

    def _batches(self, rows: int, seed: int) -> Iterable[list[int]]:
        for epoch in range(self.options.epochs):
            order = list(range(rows))
            random.Random(f"{seed}:{epoch}").shuffle(order)
            for start in range(0, rows, self.options.batch_size):
                yield order[start : start + self.options.batch_size]

    def _report(self, job: Job[Any], event: StepFinished, model: NgramModel) -> None:
        """Emit a step; save a checkpoint if one is due or if the run is stopped."""
        try:
            job.emit(event)
        except RunStopped:
            job.checkpoints.save(event.step, model.write)
            raise
        if event.step % self.options.save_every == 0:
            path = job.checkpoints.save(event.step, model.write)
            size = (path / FILE).stat().st_size
            where = str(path.relative_to(job.out))
            job.emit(CheckpointSaved(step=event.step, path=where, bytes=size, seconds=0.0))


@dataclass
class _Counts:
    """Builds the events of a training run from their common numbers."""

    steps: int
    characters: int
    started: float = field(default_factory=time.perf_counter)

    def training_started(
        self, job: Job[Any], options: NgramOptions, first_step: int
    ) -> TrainingStarted:
        return TrainingStarted(
            technique=job.technique,
            steps=self.steps,
            epochs=options.epochs,
            rows=len(job.train),
            tokens=self.characters,
            trained_tokens=self.characters,
            trainable_parameters=self.characters,
            parameters=self.characters,
            device="cpu",
            precision="counts",
            first_step=first_step,
        )

    def step_finished(
        self, step: int, model: NgramModel, rows: Sequence[tuple[Prompt, str]]
    ) -> StepFinished:
        logprobs = [value for row in rows for value in model.logprobs(*row)]
        loss = -math.fsum(logprobs) / len(logprobs)
        return StepFinished(
            step=step,
            steps=self.steps,
            loss=loss,
            learning_rate=1.0,
            gradient_norm=loss,
            rows=len(rows),
            tokens=len(logprobs),
            trained_tokens=len(logprobs),
            seconds=time.perf_counter() - self.started,
            memory_bytes=0,
        )

    def training_finished(self, job: Job[Any]) -> TrainingFinished:
        return TrainingFinished(
            technique=job.technique,
            steps=self.steps,
            tokens=self.characters,
            trained_tokens=self.characters,
            seconds=time.perf_counter() - self.started,
            peak_memory_bytes=0,
            artifact="model",
            format="model",
        )


NGRAM = TechniqueOffer(
    name="ngram",
    summary="an n-gram model of characters, for tests: it needs no tensors",
    config=NgramOptions,
    build=Ngram,
    accepts=frozenset({Chat, Completion}),
)


@hookimpl
def tunesmith_techniques() -> list[TechniqueOffer[NgramOptions]]:
    """Return the offer of the ``ngram`` technique."""
    return [NGRAM]


@hookimpl
def tunesmith_find_model(reference: str, revision: str | None) -> FoundModel | None:
    """Find a model in a folder that :func:`save_ngram_model` wrote; None for other references."""
    folder = Path(reference)
    if not (folder / FILE).is_file():
        return None
    description = f"an n-gram model in {folder.name}"
    return FoundModel(reference=reference, description=description, fetch=lambda: folder)
