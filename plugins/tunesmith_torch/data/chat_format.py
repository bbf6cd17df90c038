"""Split a conversation into prompts and answers by running its chat template.

A chat template is a program; its output for a conversation is known only after running it. This
module renders prefixes of a conversation and compares the texts to find where each answer begins
and ends::

    render(messages[:t], generation prompt)   <s>user: hi\\nassistant:
    render(messages[:t+1])                    <s>user: hi\\nassistant: hello<end>\\n
                                              \\------ prompt ------/\\--answer--/

No ``{% generation %}`` markers are needed in the template, and the prompt in training is by
construction the prompt that the model gets when it answers.

Three irregularities of published templates are handled:

- no generation prompt: the text between prompt and answer (``answer_header``) is added to it;
- no control token after an answer: the tokenizer's EOS is appended (``end_id``);
- earlier answers change later, such as dropped reasoning: each answer becomes its own example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jinja2 import TemplateError

from tunesmith.errors import DataError, UsageError
from tunesmith.records import Message
from tunesmith_torch.data.template_limits import check_template
from tunesmith_torch.data.tokenization import ControlTokenMarks, SpanEncoder, TextSpan

_TEMPLATE_ERRORS = (
    TemplateError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    RecursionError,
    MemoryError,
)
"""Errors that a template can raise: it computes, and calls methods of its values."""
_TEST_QUESTION, _TEST_ANSWER = "question-4d1c", "answer-9e2b"


class _AnswerRange(NamedTuple):
    """The character range of an answer in the text of a conversation."""

    start: int
    stop: int


@dataclass(frozen=True)
class ChatFormat:
    """A chat template together with the properties found by running it."""

    encoder: SpanEncoder
    source: str
    """The template's Jinja source."""
    answer_header: str = ""
    """Text in front of an answer if the template ignores ``add_generation_prompt``, else empty."""
    after_answer: str = ""
    """Text that follows an answer."""
    end_text: str = ""
    """``after_answer`` up to the end of its first control token; empty if it has none."""
    end_id: int = -1
    """Id of the token that ends an answer: the last of ``end_text``, else the tokenizer's EOS."""

    @classmethod
    def from_template(cls, encoder: SpanEncoder, source: str) -> ChatFormat:
        """Run the template on one question and answer to find its properties.

        Raises:
            UsageError: the template cannot render an answer, no token ends one, or it runs too long
                or prints too much.
        """
        check_template(source)
        untested = cls(encoder, source)
        question = [Message("user", _TEST_QUESTION)]
        try:
            before = untested.render(question)
            prompted = untested.render(question, generation=True)
            after = untested.render([*question, Message("assistant", _TEST_ANSWER)])
        except DataError as error:
            raise UsageError(
                f"chat template: it cannot render a question and its answer, {error}",
                hint="give another template, or a base model with a working one",
            ) from error
        if after.count(_TEST_ANSWER) != 1:
            raise UsageError("chat template: it changes the text of an answer")
        index = after.index(_TEST_ANSWER)
        answer_header = ""
        if prompted == before and after.startswith(before):
            answer_header = after[len(before) : index]
        after_answer = after[index + len(_TEST_ANSWER) :]
        return cls(
            encoder,
            source,
            answer_header if answer_header.strip() else "",
            after_answer,
            *_find_end(encoder, after_answer),
        )

    def render(self, messages: Sequence[Message], *, generation: bool = False) -> str:
        """Return the conversation as text.

        Raises:
            DataError: the template refuses this conversation.
        """
        try:
            text = self.encoder.tokenizer.apply_chat_template(
                [{"role": m.role, "content": m.text} for m in messages],
                chat_template=self.source,
                tokenize=False,
                add_generation_prompt=generation,
            )
        except _TEMPLATE_ERRORS as error:
            raise DataError(
                "conversation", f"the chat template refuses it, {error!s:.80}"
            ) from error
        return str(text)

    def prompt_spans(self, messages: Sequence[Message]) -> list[TextSpan]:
        """Return the spans of the prompt that asks the model to continue ``messages``."""
        marks, masked = self._mask_control_tokens(messages)
        text, answers, _ = self._prompt_with_answers(masked)
        return self._spans(marks, text, answers, train=False)

    def exchange_spans(
        self, messages: Sequence[Message], answer: str
    ) -> tuple[list[TextSpan], list[TextSpan]]:
        """Return the spans of the prompt and those of the answer to it, its end token included."""
        marks, masked = self._mask_control_tokens([*messages, Message("assistant", answer)])
        text, answers, _ = self._prompt_with_answers(masked[:-1])
        return (
            self._spans(marks, text, answers, train=False),
            self._answer_spans(marks, self._answer(text, masked)),
        )

    def training_examples(self, messages: Sequence[Message]) -> list[list[TextSpan]]:
        """Return the spans of one example for the conversation, or of one example per answer.

        One example is enough if every longer rendering begins with every shorter one. Templates
        that drop earlier reasoning break that: an answer then reads differently in its own prompt
        and in the next one, and no single text contains both.

        Raises:
            DataError: the conversation has no assistant turn, or the template refuses it.
        """
        marks, masked = self._mask_control_tokens(messages)
        turns = [i for i, message in enumerate(masked) if message.role == "assistant"]
        if not turns:
            raise DataError("conversation", "no assistant turn to learn")
        last = turns[-1]
        text, answers, all_found = self._prompt_with_answers(masked[:last])
        last_answer = self._answer_spans(marks, self._answer(text, masked[: last + 1]))
        if all_found:
            return [self._spans(marks, text, answers, train=True) + last_answer]
        examples = []
        for turn in turns[:-1]:
            prompt_text, earlier_answers, _ = self._prompt_with_answers(masked[:turn])
            answer = self._answer(prompt_text, masked[: turn + 1])
            examples.append(
                self._spans(marks, prompt_text, earlier_answers, train=False)
                + self._answer_spans(marks, answer)
            )
        return [*examples, self._spans(marks, text, answers, train=False) + last_answer]

    def _mask_control_tokens(
        self, messages: Sequence[Message]
    ) -> tuple[ControlTokenMarks, list[Message]]:
        marks = ControlTokenMarks(
            self.encoder.control_pattern, [message.text for message in messages]
        )
        return marks, [Message(m.role, marks.mask(m.text)) for m in messages]

    def _prompt_with_answers(
        self, messages: Sequence[Message]
    ) -> tuple[str, list[_AnswerRange], bool]:
        """Return the prompt's text, the ranges of the answers in it, and True if all were found.

        An answer inside a prompt is tokenized separately, as it was when the model generated it.
        Otherwise a token could span the border, and training and generation would see different
        ids.
        """
        text = self._render_prompt(messages)
        answers: list[_AnswerRange] = []
        all_found = True
        for turn, message in enumerate(messages):
            if message.role != "assistant":
                continue
            before = self._render_prompt(messages[:turn])
            answer = self._answer_after(before, self.render(messages[: turn + 1]))
            position = answers[-1].stop if answers else 0
            if answer is not None and len(before) >= position and text.startswith(before + answer):
                answers.append(_AnswerRange(len(before), len(before) + len(answer)))
            else:
                all_found = False
        return text, answers, all_found

    def _render_prompt(self, messages: Sequence[Message]) -> str:
        return self.render(messages, generation=True) + self.answer_header

    def _answer(self, prompt: str, messages: Sequence[Message]) -> str:
        """Return the text of the last message as an answer to ``prompt``.

        If the template opens an answer differently in a prompt and in a conversation, the prompt's
        form is used, because that is what the model will be given.
        """
        found = self._answer_after(prompt, self.render(messages))
        return messages[-1].text + self.end_text if found is None else found

    def _answer_after(self, prompt: str, text: str) -> str | None:
        if not text.startswith(prompt):
            return None
        answer = text[len(prompt) :]
        if not self.end_text:
            # Without an end token only the text is kept, not the white space after it.
            blank = len(self.after_answer) - len(self.after_answer.rstrip())
            return answer[: len(answer) - blank] if answer.endswith(self.after_answer) else answer
        index = answer.rfind(self.end_text)
        return answer[: index + len(self.end_text)] if index >= 0 else None

    def _answer_spans(
        self, marks: ControlTokenMarks, text: str, *, trained: bool = True
    ) -> list[TextSpan]:
        following_ids = () if self.end_text else (self.end_id,)
        return marks.spans(text, trained=trained, at_start=False, following_ids=following_ids)

    def _spans(
        self, marks: ControlTokenMarks, text: str, answers: Sequence[_AnswerRange], *, train: bool
    ) -> list[TextSpan]:
        spans: list[TextSpan] = []
        position = 0
        for answer in answers:
            between = text[position : answer.start]
            spans += marks.spans(between, trained=False, at_start=position == 0)
            spans += self._answer_spans(marks, text[answer.start : answer.stop], trained=train)
            position = answer.stop
        return spans + marks.spans(text[position:], trained=False, at_start=position == 0)


def _find_end(encoder: SpanEncoder, after_answer: str) -> tuple[str, int]:
    """Return what ends an answer, as text and as a token id."""
    control_token = encoder.control_pattern.search(after_answer)
    if control_token:
        return after_answer[: control_token.end()], int(
            encoder.tokenizer.convert_tokens_to_ids(control_token.group())
        )
    if encoder.tokenizer.eos_token_id is None:
        raise UsageError(
            "chat template: nothing ends an answer, and the tokenizer has no EOS token",
            hint="a model trained this way would never stop: add an end token to the template",
        )
    return "", int(encoder.tokenizer.eos_token_id)
