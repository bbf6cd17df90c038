"""Conversations on their way through a chat template: masked, rendered, and checked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import DataError
from tunesmith.records import Message
from tunesmith_torch.data.reasoning import Answer, join_answer, split_answer
from tunesmith_torch.data.refusals import DROPS_MESSAGE, REFUSED
from tunesmith_torch.data.template_renderer import Conversation, Failure
from tunesmith_torch.data.tokenization import ControlTokenMarks


class TemplateLimitError(DataError):
    """The template ran too long, or made too much text, for a conversation."""


@dataclass(frozen=True)
class RenderedConversation:
    """A conversation whose prefixes have been rendered; control tokens that people wrote are marks.

    An answer's mark is in its parts, so that a tag of reasoning remains the tag that it is.
    """

    messages: Sequence[Message]
    answers: Mapping[int, Answer]
    """The assistant's turns, by their index."""
    marks: ControlTokenMarks
    texts: Mapping[tuple[int, bool], str]
    """Rendered prefixes: the number of messages, and True with the generation prompt."""

    @property
    def turns(self) -> list[int]:
        """Indices of the assistant's turns."""
        return sorted(self.answers)


def in_one_text(message: Message) -> Message:
    """Return the message with its parts, and its reasoning in front of them, as one text."""
    return Message(message.role, join_answer(message.reasoning, message.text))


def prepare_conversation(
    control_pattern: re.Pattern[str],
    messages: Sequence[Message],
    generation: bool,
    reads_reasoning_key: bool,
) -> tuple[RenderedConversation, Conversation]:
    """Mask control tokens; return the conversation, without texts yet, and what to render for it.

    ``generation``: also render its own prompt, in which the model continues it.
    """
    unmasked = {
        turn: split_answer(message.text)
        for turn, message in enumerate(messages)
        if message.role == "assistant"
    }
    marks = ControlTokenMarks(
        control_pattern,
        [
            *(message.text for message in messages if message.role != "assistant"),
            *(part for answer in unmasked.values() for part in (answer[0], answer[2])),
        ],
    )
    answers = {
        turn: answer._replace(
            content=marks.mask(answer.content), reasoning=marks.mask(answer.reasoning)
        )
        for turn, answer in unmasked.items()
    }
    masked = [
        Message(m.role, answers[turn].text if turn in answers else marks.mask(m.text))
        for turn, m in enumerate(messages)
    ]
    prefixes = [(turn + after, not after) for turn in answers for after in (False, True)]
    if generation:
        prefixes.append((len(messages), True))
    fields = [
        message_fields(m, answers.get(turn), reads_reasoning_key) for turn, m in enumerate(masked)
    ]
    conversation = RenderedConversation(masked, answers, marks, {})
    return conversation, Conversation(fields, prefixes)


def message_fields(
    message: Message, answer: Answer | None, reads_reasoning_key: bool
) -> dict[str, Any]:
    """Return a message as the template gets it."""
    if not reads_reasoning_key or answer is None or not answer.opening:
        return {"role": message.role, "content": message.text}
    return {
        "role": message.role,
        "content": answer.content,
        "thinking": answer.reasoning,
        "reasoning_content": answer.reasoning,
    }


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
    for turn, message in enumerate(conversation.messages[:length]):
        answer = conversation.answers.get(turn)
        content = (answer.content if answer else message.text).strip()
        # Templates write results of tools as JSON.
        escaped = json.dumps(content, ensure_ascii=False)[1:-1]
        if content not in text and escaped not in text:
            raise DataError(
                "conversation",
                f"{DROPS_MESSAGE}, the text of a {message.role} turn",
                hint="give another template (technique.chat_template), or change the rows",
            )
