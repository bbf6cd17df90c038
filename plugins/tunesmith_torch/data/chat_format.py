"""How a model family writes a conversation down, found out by asking its template.

A chat template is a program, and what it does to a conversation is known only by running it. This
module renders prefixes of a conversation and looks where each answer begins and ends::

    render(messages[:t], generation prompt)   <s>user: hi\\nassistant:
    render(messages[:t+1])                    <s>user: hi\\nassistant: hello<end>\\n
                                              \\------ prompt ------/\\--answer--/

That needs no marks inside the template and gives, by construction, the very prompt that is used
when the model answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jinja2 import TemplateError

from tunesmith.errors import DataError, UsageError
from tunesmith.records import Message
from tunesmith_torch.data.tokenization import Encoder, Marks, Span

_QUESTION, _ANSWER = "question-4d1c", "answer-9e2b"


class _Cut(NamedTuple):
    """Where an answer stands in the text of a conversation."""

    start: int
    stop: int


@dataclass(frozen=True)
class ChatFormat:
    """A chat template together with what was found out about it."""

    encoder: Encoder
    source: str
    """The template itself."""
    header: str = ""
    """What opens an answer, for templates that do not know generation prompts; empty otherwise."""
    closing: str = ""
    """What follows an answer."""
    end: str = ""
    """``closing`` up to its first control token; empty if it has none."""
    end_id: int = -1
    """The token that ends an answer: the last of ``end``, else the tokenizer's EOS."""

    @classmethod
    def of(cls, encoder: Encoder, source: str) -> ChatFormat:
        """Try the template out.

        Raises:
            UsageError: it cannot write an answer, or nothing ends one.
        """
        bare = cls(encoder, source)
        question = [Message("user", _QUESTION)]
        try:
            before = bare.render(question)
            prompted = bare.render(question, generation=True)
            after = bare.render([*question, Message("assistant", _ANSWER)])
        except DataError as error:
            raise UsageError(
                f"chat template: it cannot write a question and its answer, {error}",
                hint="give another template, or a base model with a working one",
            ) from error
        if after.count(_ANSWER) != 1:
            raise UsageError("chat template: an answer does not come out of it as it went in")
        place = after.index(_ANSWER)
        header = ""
        if prompted == before and after.startswith(before):
            header = after[len(before) : place]
        closing = after[place + len(_ANSWER) :]
        return cls(
            encoder,
            source,
            header if header.strip() else "",
            closing,
            *_end(encoder, closing),
        )

    def render(self, messages: Sequence[Message], *, generation: bool = False) -> str:
        """The conversation as text.

        Raises:
            DataError: the template refuses this conversation.
        """
        try:
            text = self.encoder.tokenizer.apply_chat_template(
                [{"role": m.role, "content": m.content} for m in messages],
                chat_template=self.source,
                tokenize=False,
                add_generation_prompt=generation,
            )
        except (TemplateError, TypeError, ValueError, IndexError) as error:
            raise DataError(
                "conversation", f"the chat template refuses it, {error!s:.80}"
            ) from error
        return str(text)

    def prompt(self, messages: Sequence[Message]) -> list[Span]:
        """What the model is given to answer ``messages``."""
        marks, hidden = self._hide(messages)
        text, cuts, _ = self._prompt(hidden)
        return self._spans(marks, text, cuts, train=False)

    def exchange(self, messages: Sequence[Message], answer: str) -> tuple[list[Span], list[Span]]:
        """What the model is given, and what it is to say, its end included."""
        marks, hidden = self._hide([*messages, Message("assistant", answer)])
        text, cuts, _ = self._prompt(hidden[:-1])
        return (
            self._spans(marks, text, cuts, train=False),
            self._answer_spans(marks, self._answer(text, hidden)),
        )

    def lessons(self, messages: Sequence[Message]) -> list[list[Span]]:
        """The conversation as examples: one where it can be, else one for each answer.

        It can where every longer rendering begins with every shorter one. Templates that drop
        earlier reasoning break that: an answer then stands differently in its own prompt and in
        the next one, and no single text holds both.
        """
        marks, hidden = self._hide(messages)
        turns = [i for i, message in enumerate(hidden) if message.role == "assistant"]
        if not turns:
            raise DataError("conversation", "no assistant turn to learn")
        last = turns[-1]
        text, cuts, whole = self._prompt(hidden[:last])
        final = self._answer_spans(marks, self._answer(text, hidden[: last + 1]))
        if whole:
            return [self._spans(marks, text, cuts, train=True) + final]
        examples = []
        for turn in turns[:-1]:
            earlier, inside, _ = self._prompt(hidden[:turn])
            answer = self._answer(earlier, hidden[: turn + 1])
            examples.append(
                self._spans(marks, earlier, inside, train=False) + self._answer_spans(marks, answer)
            )
        return [*examples, self._spans(marks, text, cuts, train=False) + final]

    def _hide(self, messages: Sequence[Message]) -> tuple[Marks, list[Message]]:
        marks = Marks(self.encoder.control, [message.content for message in messages])
        return marks, [Message(m.role, marks.hide(m.content)) for m in messages]

    def _prompt(self, messages: Sequence[Message]) -> tuple[str, list[_Cut], bool]:
        """The prompt's text, where the answers in it stand, and whether all were found.

        An answer inside a prompt is tokenised by itself, as it was when the model gave it.
        """
        text = self._opened(messages)
        cuts: list[_Cut] = []
        whole = True
        for turn, message in enumerate(messages):
            if message.role != "assistant":
                continue
            before = self._opened(messages[:turn])
            answer = self._found(before, self.render(messages[: turn + 1]))
            position = cuts[-1].stop if cuts else 0
            if answer is not None and len(before) >= position and text.startswith(before + answer):
                cuts.append(_Cut(len(before), len(before) + len(answer)))
            else:
                whole = False
        return text, cuts, whole

    def _opened(self, messages: Sequence[Message]) -> str:
        return self.render(messages, generation=True) + self.header

    def _answer(self, prompt: str, messages: Sequence[Message]) -> str:
        """The text of the last message as an answer to ``prompt``.

        Where the template opens an answer differently in a prompt and in a conversation, the
        prompt counts, because that is what the model will see.
        """
        found = self._found(prompt, self.render(messages))
        return messages[-1].content + self.end if found is None else found

    def _found(self, prompt: str, text: str) -> str | None:
        if not text.startswith(prompt):
            return None
        answer = text[len(prompt) :]
        if not self.end:
            blank = len(self.closing) - len(self.closing.rstrip())
            return answer[: len(answer) - blank] if answer.endswith(self.closing) else answer
        place = answer.rfind(self.end)
        return answer[: place + len(self.end)] if place >= 0 else None

    def _answer_spans(self, marks: Marks, text: str, *, trained: bool = True) -> list[Span]:
        then = () if self.end else (self.end_id,)
        return marks.spans(text, trained=trained, start=False, then=then)

    def _spans(self, marks: Marks, text: str, cuts: Sequence[_Cut], *, train: bool) -> list[Span]:
        spans: list[Span] = []
        position = 0
        for cut in cuts:
            between = text[position : cut.start]
            spans += marks.spans(between, trained=False, start=position == 0)
            spans += self._answer_spans(marks, text[cut.start : cut.stop], trained=train)
            position = cut.stop
        return spans + marks.spans(text[position:], trained=False, start=position == 0)


def _end(encoder: Encoder, closing: str) -> tuple[str, int]:
    """What ends an answer, as text and as a token."""
    hit = encoder.control.search(closing)
    if hit:
        return closing[: hit.end()], int(encoder.tokenizer.convert_tokens_to_ids(hit.group()))
    if encoder.tokenizer.eos_token_id is None:
        raise UsageError(
            "chat template: nothing ends an answer, and the tokenizer has no EOS token",
            hint="a model trained this way would never stop: add an end token to the template",
        )
    return "", int(encoder.tokenizer.eos_token_id)
