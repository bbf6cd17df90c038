"""Put instructions and worked examples before every question to a language model.

The model keeps its chat template, stop tokens and decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

from tunesmith.contracts import Generation, Progress, TextModel, TokenScores
from tunesmith.errors import DataError
from tunesmith.execution.wrapped_model import WrappedModel, attribute_prompt_errors
from tunesmith.records import Answer, Message, Prompt, prompt_text
from tunesmith_evidence.tasks.examples import Example

__all__ = ["QUESTION_TEMPLATE", "PromptedModel", "add_passages", "count_prompt_tokens"]

CHARACTERS_PER_TOKEN = 3
"""Conservative estimate for models that cannot count the tokens of a prompt."""
DEFAULT_CONTEXT_TOKENS = 2_048
"""Context length, in tokens, assumed for models that do not state it."""
END_OF_TURN_TOKENS = 8
QUESTION_TEMPLATE = "{prompt}"
"""Placeholder for the question in a template of the user's message."""
PASSAGES_INSTRUCTION = "Answer the question from these passages."


@runtime_checkable
class ContextLimitedModel(Protocol):
    """The interface of a model that can check whether a prompt leaves room for an answer."""

    def fits(self, prompt: Prompt, extra_tokens: int) -> bool:
        """Return True if the prompt leaves room for ``extra_tokens`` more tokens."""
        ...


def make_fit_check(model: TextModel) -> Callable[[Prompt, int], bool]:
    """Return a function that checks whether a prompt leaves room for a number of tokens."""
    inner: object = model
    while isinstance(inner, WrappedModel):
        inner = inner.model
    return inner.fits if isinstance(inner, ContextLimitedModel) else _fits_by_length


@runtime_checkable
class TokenCountingModel(Protocol):
    """The interface of a model that can count the tokens of a prompt."""

    def count_tokens(self, prompt: Prompt) -> int:
        """Return the number of tokens of a prompt in the model's chat template."""
        ...


def count_prompt_tokens(model: TextModel, prompts: Sequence[Prompt]) -> list[int] | None:
    """Count the tokens that the inner model reads for each prompt, including examples.

    Returns:
        One number per prompt, or None if the model cannot count tokens.
    """
    while isinstance(model, WrappedModel):
        prompts = model.convert_prompts(prompts)
        model = model.model
    if not isinstance(model, TokenCountingModel):
        return None
    return [model.count_tokens(prompt) for prompt in prompts]


def _fits_by_length(prompt: Prompt, extra_tokens: int) -> bool:
    return len(prompt_text(prompt)) // CHARACTERS_PER_TOKEN + extra_tokens <= DEFAULT_CONTEXT_TOKENS


def write_example_turns(examples: Sequence[Example]) -> tuple[Message, ...]:
    """Return worked examples as alternating user and assistant turns."""
    turns = [(Message("user", e.question), Message("assistant", e.answer)) for e in examples]
    return tuple(message for turn in turns for message in turn)


def add_passages(passages: Sequence[str], question: str) -> str:
    """Return a question preceded by passages and an instruction to answer from them."""
    return "\n\n".join([PASSAGES_INSTRUCTION, *passages, f"Question: {question}"])


class _Built(NamedTuple):
    prompt: Prompt
    shown: int
    """Number of worked examples."""
    is_text: bool
    """True if the prompt is a single text to continue."""


@dataclass(frozen=True)
class PromptedModel(WrappedModel):
    """A text model that puts instructions and worked examples before every prompt.

    If the prompt leaves no room for the answer, drop the least useful examples first, then the
    least similar passages, and the description last.
    """

    system: str | None = None
    """Instructions to put before a prompt's own system messages."""
    find: Callable[[str], Sequence[Example]] = lambda text: ()
    """Returns worked examples for a text, the most useful first. The most useful one is placed last
    in the prompt, next to the question."""
    template: str = QUESTION_TEMPLATE
    """Text of the user's last message, where ``{prompt}`` stands for the question."""
    description: str = ""
    """Description of the answers, appended to the instructions."""
    find_passages: Callable[[str], Sequence[str]] = lambda text: ()
    """Returns passages of documents for a text, the most similar first. The most similar one is
    placed last, next to the question."""

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, progress: Progress | None = None
    ) -> Sequence[Generation]:
        """Generate an answer to each prompt, with instructions and as many examples as fit.

        If the examples and the prompt form a single text, an answer ends at the first empty line.
        """
        built = [self._build(prompt, max_new_tokens) for prompt in prompts]
        converted = [each.prompt for each in built]
        with attribute_prompt_errors(prompts, converted):
            answers = self.model.generate(converted, max_new_tokens, progress=progress)
        return [
            _until_empty_line(answer) if each.is_text and each.shown else answer
            for answer, each in zip(answers, built, strict=True)
        ]

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Answer],
        *,
        progress: Progress | None = None,
    ) -> Sequence[TokenScores]:
        """Score completions, with the same examples for all completions of a prompt."""
        room: dict[Prompt, int] = {}
        for prompt, answer in zip(prompts, completions, strict=True):
            room[prompt] = max(room.get(prompt, 0), _most_tokens(answer))
        built = {prompt: self.build_prompt(prompt, tokens) for prompt, tokens in room.items()}
        converted = [built[prompt] for prompt in prompts]
        with attribute_prompt_errors(prompts, converted):
            return self.model.score(converted, completions, progress=progress)

    def convert_prompts(self, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
        """Return the prompts with instructions and examples added."""
        return [self.build_prompt(prompt, 0) for prompt in prompts]

    def build_prompt(self, prompt: Prompt, extra_tokens: int) -> Prompt:
        """Return a prompt with instructions and examples added.

        A plain text to continue has no turns and stays unchanged. If the model has no chat
        template, or its template does not support instructions or examples, everything becomes a
        single text.
        """
        return self._build(prompt, extra_tokens).prompt

    def count_shown(self, prompt: Prompt, extra_tokens: int) -> int:
        """Return the number of examples that :meth:`build_prompt` would include."""
        return self._build(prompt, extra_tokens).shown

    def _build(self, prompt: Prompt, extra_tokens: int) -> _Built:
        if isinstance(prompt, str):
            return _Built(prompt, 0, False)
        found = list(self.find(prompt_text(prompt)))
        passages = list(self.find_passages(prompt_text(prompt)))
        fits = make_fit_check(self.model)
        while True:
            shots = write_example_turns(found[::-1])
            built, is_text = self._add(prompt, shots, passages[::-1]), False
            try:
                has_room = fits(built, extra_tokens)
            except DataError:
                if built == prompt or any(m.tools or m.tool_calls for m in built):
                    raise
                built, is_text = (Message("user", _write_as_text(built)),), True
                has_room = fits(built, extra_tokens)
            if has_room or not (found or passages or self.description):
                return _Built(built, len(found), is_text)
            if not (found or passages):
                return replace(self, description="")._build(prompt, extra_tokens)
            (found or passages).pop()

    def _add(
        self, prompt: tuple[Message, ...], shots: tuple[Message, ...], passages: Sequence[str]
    ) -> tuple[Message, ...]:
        system = [message for message in prompt if message.role == "system"]
        own = "\n\n".join(filter(None, (self.system, self.description)))
        if own:
            system.insert(0, Message("system", own))
        # Chat templates accept only one system message, at the start, so all of them are joined.
        joined = [Message("system", "\n\n".join(m.text for m in system))] if system else []
        rest = [replace(m, tools=()) for m in prompt if m.role != "system"]
        last = next((i for i in reversed(range(len(rest))) if rest[i].role == "user"), None)
        if last is not None and (passages or self.template != QUESTION_TEMPLATE):
            text = self.template.replace(QUESTION_TEMPLATE, rest[last].text)
            if passages:
                text = add_passages(passages, text)
            rest[last] = replace(rest[last], content=text)
        first, *others = (*joined, *shots, *rest)
        return (replace(first, tools=prompt[0].tools), *others)


def _write_as_text(messages: Sequence[Message]) -> str:
    """Write a conversation as text, with an empty line after instructions and answers."""
    parts = [f"{m.text}\n" if m.role == "user" else f"{m.text}\n\n" for m in messages]
    return "".join(parts)


def _until_empty_line(answer: Generation) -> Generation:
    """Return an answer up to the first empty line, after which models invent a next question."""
    text, line, _ = answer.text.strip().partition("\n\n")
    return Generation(text, answer.tokens, "stop") if line else answer


def _most_tokens(answer: Answer) -> int:
    """Return an upper bound on the number of tokens in an answer."""
    text = answer if isinstance(answer, str) else answer.text
    return len(text.encode("utf-8", "surrogatepass")) + END_OF_TURN_TOKENS
