"""Offer of ``json``: its options, and the records it is used for by default."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from tunesmith.contracts import Evaluator
from tunesmith.errors import EnvironmentProblem, UsageError
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.records import Chat, Completion, Record, last_exchange
from tunesmith_evidence.answers.generate import AnswerOptions


class JsonOptions(AnswerOptions):
    """Options: the schema, and how long an answer may be."""

    json_schema: str | None = Field(
        None,
        json_schema_extra={"path": True},
        description=(
            "File with a JSON schema that answers must keep to; needs "
            "`pip install 'tunesmith[eval]'`. Without it, an answer must have the keys and types "
            "of its reference."
        ),
    )


def build(options: JsonOptions) -> Evaluator:
    """Build the evaluator."""
    from tunesmith_plugins.evaluators.json_answer.evaluator import JsonAnswer

    is_valid = read_schema(Path(options.json_schema)) if options.json_schema else None
    return JsonAnswer(is_valid=is_valid, max_new_tokens=options.max_new_tokens)


def read_schema(path: Path) -> Callable[[Any], bool]:
    """Return a function that checks a value against the schema in a file.

    Raises:
        UsageError: the file is lost, or has no JSON schema.
        EnvironmentProblem: jsonschema is not installed.
    """
    try:
        from jsonschema import SchemaError
        from jsonschema.validators import validator_for
    except ImportError:
        raise EnvironmentProblem(
            "a JSON schema needs jsonschema", hint="pip install 'tunesmith[eval]'"
        ) from None
    try:
        schema = json.loads(path.read_text(encoding="utf-8-sig"))
        validator = validator_for(schema)
        validator.check_schema(schema)
    except (OSError, ValueError, RecursionError, SchemaError) as error:
        message = getattr(error, "message", None) or str(error)
        raise UsageError(f"{path}: not a JSON schema: {message}") from None
    is_valid: Callable[[Any], bool] = validator(schema).is_valid
    return is_valid


def have_json_answers(records: Sequence[Record]) -> bool:
    """Return True if all answers are JSON objects."""
    from tunesmith_plugins.evaluators.json_answer.evaluator import parse

    if not records or not all(isinstance(record, Chat | Completion) for record in records):
        return False
    answers = [last_exchange(record)[1] for record in records]
    return all(not a.tool_calls and isinstance(parse(a.text), dict) for a in answers)


JSON_ANSWER = EvaluatorOffer(
    name="json",
    summary="share of right fields in answers that are JSON, and if they are valid",
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
    answer_limit=JsonOptions.answer_limit,
)
