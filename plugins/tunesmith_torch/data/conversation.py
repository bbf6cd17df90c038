"""Mask control tokens in a conversation before its template renders it; check the result."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tunesmith.errors import DataError
from tunesmith.records import Message
from tunesmith_data import MEDIA_SIGNS
from tunesmith_torch.data.message_fields import (
    build_message_fields,
    build_tool_fields,
    find_missing_calls,
    find_missing_tool,
    list_message_texts,
    mask_message,
    parse_answer,
)
from tunesmith_torch.data.reasoning import Answer
from tunesmith_torch.data.refusals import REFUSED_BY_TEMPLATE, TEMPLATE_DROPS_MESSAGE
from tunesmith_torch.data.tokenization import ControlTokenMarks
from tunesmith_torch.untrusted.template_renderer import Conversation, Failure


class TemplateLimitError(DataError):
    """A chat template ran too long or printed too much for a conversation."""


@dataclass(frozen=True)
class RenderedConversation:
    """A conversation with its rendered prefixes; marks replace control tokens in its texts.

    The parts of an answer are masked separately, which keeps the tags around its reasoning.
    """

    originals: Sequence[Message]
    """The record's messages, with their weights."""
    messages: Sequence[Message]
    """The masked messages that are rendered."""
    answers: Mapping[int, Answer]
    """The masked assistant turns by message index."""
    marks: ControlTokenMarks
    texts: Mapping[tuple[int, bool], str]
    """Rendered prefixes by number of messages and whether the generation prompt follows."""

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
    """Mask control tokens; return the conversation without texts, and the prefixes to render.

    With ``generation``, also render the prompt that asks the model to continue the conversation.
    """
    texts = [text for message in messages for text in list_message_texts(message)]
    marks = ControlTokenMarks(control_pattern, texts)
    answers = {
        turn: _mask_answer(parse_answer(message), marks)
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
        build_message_fields(m, answers.get(turn), reads_reasoning_key)
        for turn, m in enumerate(masked)
    ]
    conversation = RenderedConversation(messages, masked, answers, marks, {})
    return conversation, Conversation(fields, prefixes, build_tool_fields(masked))


def _mask_answer(answer: Answer, marks: ControlTokenMarks) -> Answer:
    return answer._replace(
        content=marks.mask(answer.content), reasoning=marks.mask(answer.reasoning)
    )


def build_render_error(failure: Failure) -> DataError:
    """Return the error for a conversation that could not be rendered."""
    if failure.over_limit:
        return TemplateLimitError(
            "conversation", f"the chat template was stopped, {failure.reason}"
        )
    return DataError("conversation", f"{REFUSED_BY_TEMPLATE}, {failure.reason:.80}")


def require_all_texts(conversation: RenderedConversation, length: int, text: str) -> None:
    """Check that a rendered prompt contains the text of every message, without reasoning.

    Raises:
        DataError: the template drops or changes a message, a tool call or a tool definition.
    """
    messages = conversation.messages[:length]
    for turn, message in enumerate(messages):
        answer = conversation.answers.get(turn)
        # Templates may write white space around media, and results of tools as JSON.
        pieces = map(str.strip, MEDIA_SIGNS.split(answer.content if answer else message.text))
        if any(
            p not in text and json.dumps(p, ensure_ascii=False)[1:-1] not in text for p in pieces
        ):
            raise DataError(
                "conversation",
                f"{TEMPLATE_DROPS_MESSAGE}, here the text of a {message.role} turn",
                hint="set another template with technique.chat_template.source, or change the rows",
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
        DataError: the template changes a part that has its own weight.
    """
    position, found = 0, _content_start(message, text, marks)
    for part in message.text_parts:
        masked = marks.mask(part.text)
        start = text.find(masked, max(position, found))
        if start < 0:
            hint = "write the answer as one text, without weights for its parts"
            what = f"{TEMPLATE_DROPS_MESSAGE}, here a weighted part of an answer"
            raise DataError("conversation", what, hint=hint)
        if start > position:
            yield text[position:start], message.weight
        position = start + len(masked)
        yield masked, message.weight * part.weight
    yield text[position:], message.weight


def _content_start(message: Message, text: str, marks: ControlTokenMarks) -> int:
    """Return a position in a rendered answer at or before the start of the content.

    Searching from there avoids matches in the reasoning and in the template's marks, which may
    contain the same text as a part.
    """
    reasoning = marks.mask(message.reasoning.strip())
    before, found, _ = text.partition(reasoning) if reasoning else ("", "", text)
    behind = len(before) + len(found) if found else 0
    return max(behind, text.find(marks.mask(message.text), behind))


def drops_tools_error(what: str) -> DataError:
    """Return the error for a template that does not write tools or tool calls."""
    hint = 'set a template that writes tools, such as technique.chat_template.source = "chatml"'
    return DataError("conversation", f"{TEMPLATE_DROPS_MESSAGE}, here {what}", hint=hint)
