"""The ``json`` evaluator: measure right fields, validity and schema conformance of JSON answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field

from tunesmith.contracts import Evaluator, Measurement, TextModel
from tunesmith.errors import DataError, EnvironmentProblem, UsageError
from tunesmith.install import install_extra
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.records import Chat, Completion, Record, last_exchange
from tunesmith_evidence.answers.generate import (
    AnswerOptions,
    generate_answers,
    read_references,
    resolve_max_new_tokens,
)
from tunesmith_evidence.tasks.json_answers import (
    NO_JSON,
    are_json_values_equal,
    parse_json_answer,
)

FIELDS, VALID, SCHEMA = "json-fields", "json-valid", "json-schema"


@dataclass(frozen=True, kw_only=True)
class JsonAnswer:
    """Measures whether answers are JSON, conform to the schema, and have the right fields."""

    is_valid: Callable[[Any], bool] | None = None
    """Checks an answer against the user's schema, or None to require the reference's shape."""
    max_new_tokens: Literal["auto"] | int = "auto"

    def prepare(self, references: Sequence[Record]) -> Self:
        """Return an evaluator with the token limit for these references."""
        return replace(self, max_new_tokens=resolve_max_new_tokens(self.max_new_tokens, references))

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Generate an answer for each record and compare it with the reference.

        Raises:
            DataError: an answer calls a tool, or a reference is not JSON.
        """
        expected = []
        references = read_references(records, "json")
        for record, reference in zip(records, references, strict=True):
            value = parse_json_answer(reference)
            if value is NO_JSON:
                raise DataError(
                    record.source,
                    "the reference answer is not JSON",
                    hint="correct the answer, or use another evaluator, such as exact-match",
                )
            expected.append(value)
        answers = generate_answers(model, records, self.max_new_tokens)
        given = [parse_json_answer(answer) for answer in answers]
        pairs = [*zip(given, expected, strict=True)]
        return [
            Measurement(
                metric=FIELDS,
                values=tuple(compare_fields(answer, right) for answer, right in pairs),
                outputs=answers,
                details={"fields": describe(pairs)} if records else {},
            ),
            Measurement(metric=VALID, values=tuple(float(a is not NO_JSON) for a in given)),
            Measurement(
                metric=SCHEMA,
                values=tuple(float(self._keeps_schema(answer, right)) for answer, right in pairs),
            ),
        ]

    def _keeps_schema(self, answer: Any, expected: Any) -> bool:
        if answer is NO_JSON:
            return False
        if self.is_valid is not None:
            return self.is_valid(answer)
        return bool(describe_shape(answer) == describe_shape(expected))


def flatten_fields(value: Any, path: str | None = None) -> dict[str, Any]:
    """Return a dict from field paths (``order.id``) to values. A list counts as one value."""
    if not isinstance(value, dict) or not value:
        return {path or "": value}
    fields = {}
    for key, below in value.items():
        # A dot in a key must not make it look like two keys.
        name = key.replace("\\", "\\\\").replace(".", "\\.")
        fields.update(flatten_fields(below, name if path is None else f"{path}.{name}"))
    return fields


def compare_fields(answer: Any, expected: Any) -> float:
    """Return the share of equal fields among all fields of the two values."""
    if answer is NO_JSON:
        return 0.0
    given, right = flatten_fields(answer), flatten_fields(expected)
    equal = sum(
        name in given and are_json_values_equal(given[name], value) for name, value in right.items()
    )
    return equal / len(given.keys() | right.keys())


def describe_shape(value: Any) -> Any:
    """Return the keys and types of a value, using the first element of each list."""
    if isinstance(value, dict):
        return {key: describe_shape(below) for key, below in value.items()}
    if isinstance(value, list):
        return [describe_shape(value[0])] if value else []
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number"
    return type(value).__name__


def describe(pairs: Sequence[tuple[Any, Any]]) -> dict[str, dict[str, float]]:
    """Return, for each field of the references, its accuracy and the number of rows with it."""
    counts: dict[str, list[int]] = {}
    for answer, expected in pairs:
        given = {} if answer is NO_JSON else flatten_fields(answer)
        for name, value in flatten_fields(expected).items():
            count = counts.setdefault(name, [0, 0])
            count[0] += 1
            count[1] += name in given and are_json_values_equal(given[name], value)
    return {
        name: {"rows": rows, "accuracy": right / rows}
        for name, (rows, right) in sorted(counts.items())
    }


class JsonOptions(AnswerOptions):
    """Options of ``json``: the schema of the answers, and their maximum length."""

    json_schema: str | None = Field(
        None,
        json_schema_extra={"path": True},
        description=(
            "File with a JSON schema that answers must conform to; needs "
            "`pip install 'tunesmith[eval]'`. Unset: an answer must have the keys and types of its "
            "reference."
        ),
    )


def build(options: JsonOptions) -> Evaluator:
    """Create the evaluator from its options."""
    is_valid = read_schema(Path(options.json_schema)) if options.json_schema else None
    return JsonAnswer(is_valid=is_valid, max_new_tokens=options.max_new_tokens)


def read_schema(path: Path) -> Callable[[Any], bool]:
    """Return a function that validates a value against the JSON schema in a file.

    Raises:
        UsageError: the file is missing, or is not a valid JSON schema.
        EnvironmentProblem: jsonschema is not installed.
    """
    try:
        from jsonschema import SchemaError
        from jsonschema.validators import validator_for
    except ImportError:
        raise EnvironmentProblem(
            "json_schema needs the package jsonschema", hint=install_extra("eval")
        ) from None
    try:
        schema = json.loads(path.read_text(encoding="utf-8-sig"))
        validator = validator_for(schema)
        validator.check_schema(schema)
    except (OSError, ValueError, RecursionError, SchemaError) as error:
        message = getattr(error, "message", None) or str(error)
        raise UsageError(f"{path}: cannot be read as a JSON schema: {message}") from None
    is_valid: Callable[[Any], bool] = validator(schema).is_valid
    return is_valid


def have_json_answers(records: Sequence[Record]) -> bool:
    """Return True if all answers are JSON objects."""
    if not records or not all(isinstance(record, Chat | Completion) for record in records):
        return False
    answers = [last_exchange(record)[1] for record in records]
    return all(not a.tool_calls and isinstance(parse_json_answer(a.text), dict) for a in answers)


JSON_ANSWER = EvaluatorOffer(
    name="json",
    summary="share of correct fields in JSON answers, and share of answers that are valid JSON",
    config=JsonOptions,
    build=build,
    metrics=(
        Metric(name="json-fields", higher_is_better=True, bounds=(0, 1)),
        Metric(name="json-valid", higher_is_better=True, bounds=(0, 1)),
        Metric(name="json-schema", higher_is_better=True, bounds=(0, 1)),
    ),
    accepts=frozenset({Chat, Completion}),
    default_for=have_json_answers,
    generates=True,
    reads_media=True,
    answer_limit=JsonOptions.answer_limit,
)
