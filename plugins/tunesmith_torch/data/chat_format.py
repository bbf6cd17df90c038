"""Split a conversation into prompts and answers by running its chat template.

A chat template is a program: its output is known only after running it. This module renders
prefixes of a conversation and compares the texts to find where each answer begins and ends::

    render(messages[:t], generation prompt)   <s>user: hi\\nassistant:
    render(messages[:t+1])                    <s>user: hi\\nassistant: hello<end>\\n
                                              \\------ prompt ------/\\--answer--/

The template needs no ``{% generation %}`` markers. By construction, the prompt in training is the
prompt that the model gets when it answers. It is also what transformers renders with the saved
template, including earlier answers.

Published templates have irregularities, which are handled as follows:

- no generation prompt: the text between prompt and answer becomes the generation prompt;
- no control token after an answer: the tokenizer's EOS ends the answer (``end_id``). It does not
  follow earlier answers in a prompt, because the template does not write it there;
- earlier answers change in later prompts, for example lose their reasoning: each answer becomes its
  own example (:func:`~tunesmith_torch.data.tokenized_records.join_exchanges`);
- the generation prompt opens reasoning that the answer lacks: the answer closes it first;
- the template drops reasoning, or reads it from a separate key: the answer contains it anyway;
- the template drops a message: the conversation is rejected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from tunesmith.errors import DataError, UsageError
from tunesmith.records import Message
from tunesmith_torch.data.conversation import (
    RenderedConversation,
    TemplateLimitError,
    build_render_error,
    drops_tools_error,
    prepare_conversation,
    require_all_texts,
    weighted_pieces,
)
from tunesmith_torch.data.message_fields import (
    build_message_fields,
    find_missing_calls,
    parse_answer,
)
from tunesmith_torch.data.reasoning import PromptEnd, join_answer
from tunesmith_torch.data.refusals import HAS_REASONING, NO_ANSWER
from tunesmith_torch.data.tokenization import SpanEncoder, TextSpan
from tunesmith_torch.untrusted.template_renderer import (
    RENDERER,
    Conversation,
    Failure,
    TemplateRenderer,
    TemplateSource,
)

_TEST_QUESTION, _TEST_ANSWER, _TEST_REASONING = "question-4d1c", "answer-9e2b", "reasoning-7a3f"


class Exchange(NamedTuple):
    """A prompt and an answer to it, as spans of text."""

    prompt: list[TextSpan]
    answer: list[TextSpan]
    """The answer, including its end token."""


class _AnswerParts(NamedTuple):
    """Text that the template or its generation prompt adds around the parts of an answer."""

    before_content: str = ""
    before_reasoning: str = ""
    between: str = ""


@dataclass(frozen=True)
class ChatFormat:
    """A chat template and its properties, found by running it."""

    encoder: SpanEncoder
    template: TemplateSource
    renderer: TemplateRenderer
    reads_reasoning_key: bool = False
    """True if the template writes reasoning from a separate key of the message."""
    after_answer: str = ""
    """Text that the template writes after an answer."""
    end_text: str = ""
    """``after_answer`` up to and including its first control token; empty if it has none."""
    end_id: int = -1
    """Id of the token that ends an answer: the last one of ``end_text``, or the tokenizer's EOS."""
    parts: _AnswerParts = field(default_factory=_AnswerParts)
    """Text that the template adds around the parts of a generated answer."""

    @classmethod
    def from_template(
        cls, encoder: SpanEncoder, template: TemplateSource, renderer: TemplateRenderer = RENDERER
    ) -> ChatFormat:
        """Run the template on a question and an answer to find its properties.

        Raises:
            UsageError: the template cannot render an answer or changes its text, no token ends an
                answer, or the template runs too long or prints too much.
        """
        untested = cls(encoder, template, renderer)
        question = Message("user", _TEST_QUESTION)
        try:
            before, prompted, after = untested._render(
                [question, Message("assistant", _TEST_ANSWER)], [(1, False), (1, True), (2, False)]
            )
        except TemplateLimitError as error:
            raise UsageError(
                f"chat template: {error.message.partition(', ')[2]}, so it is not used",
                hint="set another template with technique.chat_template.source, or use another "
                "base model",
            ) from error
        except DataError as error:
            raise UsageError(
                f"chat template: the template cannot render a question and its answer: {error}",
                hint="set another template with technique.chat_template.source, or use another "
                "base model",
            ) from error
        if after.count(_TEST_ANSWER) != 1:
            raise UsageError(
                "chat template: the template changes the text of an answer; set another one with "
                "technique.chat_template.source"
            )
        header, _, after_answer = after.partition(_TEST_ANSWER)
        header = header.removeprefix(before)
        if prompted == before and after.startswith(before) and header.strip():
            template = template.with_generation_prompt(header)
        end_text, end_id = _find_end(encoder, after_answer)
        chat = cls(encoder, template, renderer, False, after_answer, end_text, end_id)
        chat = replace(chat, reads_reasoning_key=chat._has_reasoning_key(question))
        return replace(chat, parts=chat._find_parts(question))

    # ----------------------------------------------------------------- rendering

    def render(
        self, conversations: Sequence[Sequence[Message]], *, generation: bool = False
    ) -> list[RenderedConversation | DataError]:
        """Render those prefixes of each conversation that its spans are computed from.

        With ``generation``, also render the prompt that asks the model to continue. A conversation
        that the template rejects, or cannot render within limits (:class:`TemplateLimitError`),
        becomes an error in the list.
        """
        prepared = [
            prepare_conversation(
                self.encoder.control_pattern, messages, generation, self.reads_reasoning_key
            )
            for messages in conversations
        ]
        results = self.renderer.render(self.template, [request for _, request in prepared])
        rendered: list[RenderedConversation | DataError] = []
        for (conversation, request), result in zip(prepared, results, strict=True):
            if isinstance(result, Failure):
                rendered.append(build_render_error(result))
            else:
                texts = dict(zip(request.prefixes, result, strict=True))
                rendered.append(replace(conversation, texts=texts))
        return rendered

    def _render(
        self, messages: Sequence[Message], prefixes: Sequence[tuple[int, bool]]
    ) -> list[str]:
        """Return the rendered prefixes of a conversation whose texts contain no control tokens.

        Raises:
            DataError: the template rejects the conversation.
        """
        fields = []
        for message in messages:
            answer = parse_answer(message) if message.role == "assistant" else None
            fields.append(build_message_fields(message, answer, self.reads_reasoning_key))
        (result,) = self.renderer.render(self.template, [Conversation(fields, prefixes)])
        if isinstance(result, Failure):
            raise build_render_error(result)
        return result

    def _has_reasoning_key(self, question: Message) -> bool:
        """Return True if the template writes the reasoning key once, before the content."""
        answer = Message("assistant", join_answer(_TEST_REASONING, _TEST_ANSWER))
        try:
            (text,) = replace(self, reads_reasoning_key=True)._render(
                [question, answer], [(2, False)]
            )
        except DataError:
            return False
        counts = text.count(_TEST_REASONING), text.count(_TEST_ANSWER)
        return counts == (1, 1) and text.index(_TEST_REASONING) < text.index(_TEST_ANSWER)

    def _find_parts(self, question: Message) -> _AnswerParts:
        """Return the text that precedes each part of an answer when the model generates it."""
        parts = _AnswerParts()
        for text in (_TEST_ANSWER, join_answer(_TEST_REASONING, _TEST_ANSWER)):
            (conversation,) = self.render([[question, Message("assistant", text)]])
            if isinstance(conversation, DataError):
                continue
            try:
                answer = self._answer(conversation, 1)
            except DataError:  # the prompt has already closed the reasoning
                continue
            before, _, _ = answer.partition(_TEST_ANSWER)
            if text == _TEST_ANSWER:
                parts = parts._replace(before_content=before)
            else:
                start, _, between = before.partition(_TEST_REASONING)
                parts = parts._replace(before_reasoning=start, between=between)
        return parts

    # ----------------------------------------------------------------- spans

    def prompt_spans(self, conversation: RenderedConversation) -> list[TextSpan]:
        """Return the spans of the prompt that asks the model to continue the conversation."""
        return self._prompt_spans(conversation, len(conversation.messages))

    def exchange_spans(self, conversation: RenderedConversation) -> Exchange:
        """Return the last message, which is an answer, and the prompt before it, as spans.

        The answer includes its end token.
        """
        return self._exchange(conversation, len(conversation.messages) - 1)

    def trained_exchanges(self, conversation: RenderedConversation) -> list[Exchange]:
        """Return an exchange for each answer that the model is trained on.

        Raises:
            DataError: the conversation has no assistant turn to train on, or a prompt contradicts
                an answer.
        """
        turns = [turn for turn in conversation.turns if conversation.originals[turn].is_trained]
        if not turns:
            raise DataError("conversation", NO_ANSWER)
        return [self._exchange(conversation, turn) for turn in turns]

    @property
    def end_mark(self) -> str:
        """Text between an answer's content and its end token; often empty."""
        if not self.end_text:
            return self.after_answer.rstrip()
        return self.encoder.control_pattern.sub("", self.end_text)

    def content_of(self, text: str) -> str:
        """Return a generated answer without the text that the template adds.

        Reasoning is kept, in the form used in records.
        """
        parts, text = self.parts, text.removesuffix(self.end_mark)
        if parts.between.strip() and text.startswith(parts.before_reasoning):
            reasoning, between, content = text[len(parts.before_reasoning) :].partition(
                parts.between
            )
            if between and reasoning.strip():
                return join_answer(reasoning, content)
        if parts.before_content.strip():
            return text.removeprefix(parts.before_content)
        return text

    @property
    def has_marks(self) -> bool:
        """True if the template adds text directly before the content of an answer."""
        return bool(self.parts.between.strip() or self.parts.before_content.strip())

    def has_settled(self, text: str) -> bool:
        """Return True if more text can only extend the content of a partly generated answer.

        Before reasoning has ended, or the marks in front of an answer are complete, more text could
        still change it.
        """
        parts = self.parts
        if parts.between.strip():
            if text.startswith(parts.before_reasoning):
                return parts.between in text
            if parts.before_reasoning.startswith(text):
                return False
        is_begun = parts.before_content.startswith(text) and text != parts.before_content
        return not (parts.before_content.strip() and is_begun)

    @property
    def has_control_tokens_in_answers(self) -> bool:
        """True if the text that the template adds to an answer contains control tokens."""
        return self.encoder.control_pattern.search("".join(self.parts)) is not None

    def _exchange(self, conversation: RenderedConversation, turn: int) -> Exchange:
        answer = self._answer_spans(conversation, turn, self._answer(conversation, turn))
        return Exchange(self._prompt_spans(conversation, turn), answer)

    def _prompt_spans(self, conversation: RenderedConversation, length: int) -> list[TextSpan]:
        """Return the prompt of the first ``length`` messages, as transformers renders it."""
        text = conversation.texts[length, True]
        require_all_texts(conversation, length, text)
        return conversation.marks.spans(text, trained=False, at_start=True)

    def _answer(self, conversation: RenderedConversation, turn: int) -> str:
        """Return the text that the model must generate for a turn, including the end token.

        If the template opens an answer differently in a prompt than in a conversation, the answer
        continues the prompt, because the model will be given the prompt.

        Raises:
            DataError: the answer has reasoning, but the prompt has already closed it.
        """
        answer = conversation.answers[turn]
        end = PromptEnd.of_prompt(conversation.texts[turn, True])
        if end is not None and not end.is_open and answer.has_reasoning:
            raise DataError(
                "conversation",
                f"{HAS_REASONING}, but the prompt ends with {end.tag}",
                hint="turn reasoning on with technique.chat_template.kwargs, or remove it from the "
                "rows",
            )
        found = self._rendered_answer(conversation, turn)
        if found is not None:
            return found
        message = conversation.messages[turn]
        if message.tool_calls:
            raise drops_tools_error(f"the call of {message.tool_calls[0].name}")
        if end is not None and end.is_open:
            return end.close(answer) + self.end_text
        return answer.text + self.end_text

    def _rendered_answer(self, conversation: RenderedConversation, turn: int) -> str | None:
        """Return the answer as rendered in the conversation; None if the template changed it."""
        prompt, text = conversation.texts[turn, True], conversation.texts[turn + 1, False]
        if not text.startswith(prompt):
            return None
        found = self._until_end(text[len(prompt) :])
        answer, end = conversation.answers[turn], PromptEnd.of_prompt(prompt)
        if found is None or answer.content.strip() not in found:
            return None
        if answer.has_reasoning and answer.reasoning.strip() not in found:
            return None
        if find_missing_calls(conversation.messages[turn], found):
            return None
        if end is not None and end.is_open:
            before, closing, _ = found.partition(end.tag)
            if not closing or end.tag.replace("/", "", 1) in before:
                return None
        return found

    def _until_end(self, answer: str) -> str | None:
        if not self.end_text:
            # Without an end token, drop the whitespace that the template adds after the answer.
            blank = len(self.after_answer) - len(self.after_answer.rstrip())
            return answer[: len(answer) - blank] if answer.endswith(self.after_answer) else answer
        index = answer.rfind(self.end_text)
        return answer[: index + len(self.end_text)] if index >= 0 else None

    def _answer_spans(
        self, conversation: RenderedConversation, turn: int, text: str
    ) -> list[TextSpan]:
        """Return the spans of an answer, each with the weight of its tokens.

        A part with its own weight is a separate span, so it starts with a new token.
        """
        message, marks = conversation.originals[turn], conversation.marks
        spans: list[TextSpan] = []
        for piece, weight in weighted_pieces(message, text, marks):
            piece_spans = marks.spans(piece, trained=True, at_start=False)
            spans += [span._replace(weight=weight) for span in piece_spans]
        following_ids = () if self.end_text else (self.end_id,)
        return [*spans[:-1], spans[-1]._replace(following_ids=following_ids)]


def _find_end(encoder: SpanEncoder, after_answer: str) -> tuple[str, int]:
    """Return the text that ends an answer and the id of its last token.

    If no control token ends an answer, the text is empty and the token is the tokenizer's EOS.
    """
    control_token = encoder.control_pattern.search(after_answer)
    if control_token:
        return after_answer[: control_token.end()], int(
            encoder.tokenizer.convert_tokens_to_ids(control_token.group())
        )
    if encoder.tokenizer.eos_token_id is None:
        raise UsageError(
            "chat template: no token ends an answer, and the tokenizer has no EOS token",
            hint="add an end token to the template, or the trained model would never stop",
        )
    return "", int(encoder.tokenizer.eos_token_id)
