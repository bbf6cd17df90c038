"""Options and evaluator of ``code``: share of programs that pass the tests of their row."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from pydantic import Field

from tunesmith.contracts import Evaluator, Measurement, TextModel
from tunesmith.errors import DataError
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.records import Chat, Completion, Record
from tunesmith_evidence.answers.generate import (
    AnswerOptions,
    generate_answers,
    read_references,
)

METRIC_NAME = "code-pass"


class CodeOptions(AnswerOptions):
    """Options of ``code``: the tests, the limits, and the consent to execute generated code."""

    extra_tokens: ClassVar[int] = 64
    """Extra tokens for the fences around a program, and for programs longer than the reference."""

    execute_generated_code: Literal[True] = Field(
        description=(
            "Must be true: this evaluator executes programs that the model writes. Each program "
            "runs in a process with limits, which protect against accidents but not against an "
            "attacker. Use a container for models or data that you do not trust."
        ),
    )
    tests: str = Field(
        "test",
        description=(
            "Column with the tests: Python code that raises an error if the program is wrong. "
            "Also list the column in `data.slices`; otherwise the data loader does not keep it."
        ),
    )
    seconds: float = Field(10.0, gt=0, le=600, description="Time limit per program, in seconds.")
    memory_mb: int = Field(1000, ge=64, description="Memory limit per program, in MB.")
    processes: int = Field(1, ge=1, le=64, description="Number of programs to run in parallel.")


@dataclass(frozen=True)
class Code:
    """Scores 1 for a record if the program in the answer passes its tests, otherwise 0."""

    options: CodeOptions
    limit: int | None = None
    """Maximum tokens per answer, or None to derive it from the measured rows."""

    def prepare(self, references: Sequence[Record]) -> Self:
        """Return an evaluator with the token limit for these references."""
        return replace(self, limit=self.options.answer_limit(references))

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Generate a program for each record, and run it with the record's tests.

        Raises:
            DataError: an answer calls a tool, or a row has no tests.
        """
        from tunesmith_evidence.answers.extract_code import extract_code
        from tunesmith_plugins.evaluators.code.run_program import Limits, passes_tests

        read_references(records, "code")
        tests = [self._read_tests(record) for record in records]
        limit = self.limit or self.options.answer_limit(records)
        answers = generate_answers(model, records, limit)
        limits = Limits(
            seconds=self.options.seconds, memory_bytes=self.options.memory_mb * 1_000_000
        )
        with ThreadPoolExecutor(self.options.processes) as pool:
            programs = [*map(extract_code, answers, tests)]
            results = pool.map(
                lambda pair: passes_tests(pair[0], pair[1], limits),
                zip(programs, tests, strict=True),
            )
            values = tuple(map(float, results))
        return [Measurement(metric=METRIC_NAME, values=values, outputs=answers)]

    def _read_tests(self, record: Record) -> str:
        column = self.options.tests
        tests = dict(record.slices).get(column)
        if tests is None or not tests.strip():
            hint = f'also list the column for the data loader: data.slices = ["{column}"]'
            raise DataError(record.source, f"the row has no tests in `{column}`", hint=hint)
        return tests


def build(options: CodeOptions) -> Evaluator:
    """Create the evaluator, if the user consents to executing generated code."""
    assert options.execute_generated_code
    return Code(options)


CODE = EvaluatorOffer(
    name="code",
    summary="share of generated programs that pass the tests of their row; executes them",
    config=CodeOptions,
    build=build,
    metrics=(Metric(name=METRIC_NAME, higher_is_better=True, bounds=(0, 1)),),
    accepts=frozenset({Chat, Completion}),
    generates=True,
    answer_limit=CodeOptions.answer_limit,
    sample_records=tuple(
        Completion(
            source=f"sample:{number}",
            prompt=f"Add {number}.",
            completion=f"def add(a):\n    return a + {number}",
            slices=(("test", f"assert add(1) == {1 + number}"),),
        )
        for number in (1, 2)
    ),
)
