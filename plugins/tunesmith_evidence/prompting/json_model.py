"""Constrain a model's answers to JSON objects that follow a schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Protocol, runtime_checkable

from tunesmith.contracts import Generation, Progress, TextModel
from tunesmith.errors import UsageError
from tunesmith.execution.wrapped_model import CachedModel, WrappedModel
from tunesmith.install import install_extra
from tunesmith.records import Prompt
from tunesmith_evidence.tasks.json_answers import JsonStyle
from tunesmith_evidence.tasks.json_schema import Schema

__all__ = ["constrain_to_schema", "is_json_library_installed"]


@runtime_checkable
class ConstrainableModel(Protocol):
    """The interface of a model that supports constrained decoding."""

    def constrained_to(
        self, schema: Schema, *, item_separator: str, key_separator: str, is_indented: bool
    ) -> TextModel:
        """Return the model with answers that follow the schema, unless they are cut off."""
        ...


def is_json_library_installed() -> bool:
    """Return True if llguidance is installed."""
    return find_spec("llguidance") is not None


def can_constrain(model: TextModel) -> bool:
    """Return True if the model supports constrained answers and llguidance is installed."""
    inner: object = model
    while isinstance(inner, WrappedModel):
        inner = inner.model
    return is_json_library_installed() and isinstance(inner, ConstrainableModel)


def constrain_to_schema(model: TextModel, schema: Schema, style: JsonStyle) -> TextModel:
    """Return the model with its prompts unchanged and its answers constrained to a JSON schema.

    Raises:
        UsageError: the model does not support constrained decoding, or llguidance is not installed.
    """
    if isinstance(model, CachedModel):  # The cached answers are not constrained.
        return constrain_to_schema(model.model, schema, style)
    if isinstance(model, WrappedModel):
        return replace(model, model=constrain_to_schema(model.model, schema, style))
    if not is_json_library_installed():
        text = "decoding constrained to a JSON schema needs llguidance, which is not installed"
        raise UsageError(text, hint=install_extra("json"))
    if not isinstance(model, ConstrainableModel):
        raise UsageError(
            f"{type(model).__name__}: this model does not support decoding that is constrained to "
            "a JSON schema"
        )
    constrained = model.constrained_to(
        schema,
        item_separator=style.comma,
        key_separator=style.colon,
        is_indented=style.indent > 0,
    )
    return FencedModel(constrained, style.opening, style.closing)


@dataclass(frozen=True)
class FencedModel(WrappedModel):
    """A text model whose answers are enclosed in two texts, such as a Markdown fence."""

    opening: str
    closing: str

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, progress: Progress | None = None
    ) -> Sequence[Generation]:
        """Generate an answer to each prompt and enclose it."""
        answers = self.model.generate(prompts, max_new_tokens, progress=progress)
        return [
            replace(answer, text=f"{self.opening}{answer.text}{self.closing}") for answer in answers
        ]
