"""Conversations on their way through a chat template: masked, rendered, and checked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tunesmith.errors import DataError
from tunesmith.records import Message
from tunesmith_torch.data.message_fields import (
    answer_of,
    find_missing_calls,
    find_missing_tool,
    mask_message,
    message_fields,
    texts_of,
    tool_fields,
)
from tunesmith_torch.data.reasoning import Answer
from tunesmith_torch.data.refusals import DROPS_MESSAGE, REFUSED
from tunesmith_torch.data.tokenization import ControlTokenMarks
from tunesmith_torch.untrusted.template_renderer import Conversation, Failure


class TemplateLimitError(DataError):
    """The template ran too long, or made too much text, for a conversation."""


@dataclass(frozen=True)
class RenderedConversation:
    """A conversation whose prefixes have been rendered; control tokens that people wrote are marks.

    An answer's mark is in its parts, so that a tag of reasoning remains the tag that it is.
    """

    originals: Sequence[Message]
    """The messages of the record, with weights."""
    messages: Sequence[Message]
    """The messages as they are rendered."""
    answers: Mapping[int, Answer]
    """The assistant's turns, by their index."""
    marks: ControlTokenMarks
    texts: Mapping[tuple[int, bool], str]
    """Rendered prefixes: the number of messages, and True with the generation prompt."""

    @property
    def turns(self) -> list[int]:
        """Indices of the assistant's turns."""
        return sorted(self.answers)


def prepare_conversation(
    control_pattern: re.Pattern[str],
    messages: Sequence[Message],
    generation: bool,
    reads_reasoning_key: bool,
) -> tuple[RenderedConversation, Conversation]:
    """Mask control tokens; return the conversation, without texts yet, and what to render for it.

    ``generation``: also render its own prompt, in which the model continues it.
    """
    texts = [text for message in messages for text in texts_of(message)]
    marks = ControlTokenMarks(control_pattern, texts)
    answers = {
        turn: _mask_answer(answer_of(message), marks)
        for turn, message in enumerate(messages)
        if message.role == "assistant"
    }
    masked = [
        mask_message(m, answers[turn].text if turn in answers else marks.mask(m.text), marks.mask)
        for turn, m in enumerate(messages)
    ]
    prefixes = [(turn + after, not after) for turn in answers for after in (False, True)]
    if generation:
        prefixes.append((len(messages), True))
    fields = [
        message_fields(m, answers.get(turn), reads_reasoning_key) for turn, m in enumerate(masked)
    ]
    conversation = RenderedConversation(messages, masked, answers, marks, {})
    return conversation, Conversation(fields, prefixes, tool_fields(masked))


def _mask_answer(answer: Answer, marks: ControlTokenMarks) -> Answer:
    return answer._replace(
        content=marks.mask(answer.content), reasoning=marks.mask(answer.reasoning)
    )


def error_of(failure: Failure) -> DataError:
    """Return the error for a conversation that was not rendered."""
    if failure.over_limit:
        return TemplateLimitError("conversation", f"the chat template is stopped, {failure.reason}")
    return DataError("conversation", f"{REFUSED}, {failure.reason:.80}")


def require_all_texts(conversation: RenderedConversation, length: int, text: str) -> None:
    """Check that the prompt contains every message; of an answer, its content.

    Raises:
        DataError: the template drops or changes one.
    """
    messages = conversation.messages[:length]
    for turn, message in enumerate(messages):
        answer = conversation.answers.get(turn)
        content = (answer.content if answer else message.text).strip()
        # Templates write results of tools as JSON.
        if content not in text and json.dumps(content, ensure_ascii=False)[1:-1] not in text:
            raise DataError(
                "conversation",
                f"{DROPS_MESSAGE}, the text of a {message.role} turn",
                hint="give another template (technique.chat_template.source), or change the rows",
            )
        if call := find_missing_calls(message, text):
            raise drops_tools_error(f"the call of {call}")
    if tool := find_missing_tool(messages, text):
        raise drops_tools_error(f"the definition of {tool}")


def weighted_pieces(
    message: Message, text: str, marks: ControlTokenMarks
) -> Iterator[tuple[str, float]]:
    """Yield the pieces of a rendered answer, each with the weight of its tokens.

    Raises:
        DataError: the template changes a part that has a weight of its own.
    """
    position, found = 0, _content_start(message, text, marks)
    for part in message.text_parts:
        masked = marks.mask(part.text)
        start = text.find(masked, max(position, found))
        if start < 0:
            hint = "write the answer as one text, without weights of its parts"
            what = f"{DROPS_MESSAGE}, a part of an answer that has a weight"
            raise DataError("conversation", what, hint=hint)
        if start > position:
            yield text[position:start], message.weight
        position = start + len(masked)
        yield masked, message.weight * part.weight
    yield text[position:], message.weight


def _content_start(message: Message, text: str, marks: ControlTokenMarks) -> int:
    """Return where the content begins in a rendered answer, or may begin at the earliest.

    The reasoning before it, and marks of the template, may have the text of a part too.
    """
    reasoning = marks.mask(message.reasoning.strip())
    before, found, _ = text.partition(reasoning) if reasoning else ("", "", text)
    behind = len(before) + len(found) if found else 0
    return max(behind, text.find(marks.mask(message.text), behind))


def drops_tools_error(what: str) -> DataError:
    """Return the error for a conversation with tools that the template does not write."""
    hint = 'give a template that writes tools, such as technique.chat_template.source = "chatml"'
    return DataError("conversation", f"{DROPS_MESSAGE}, {what}", hint=hint)
