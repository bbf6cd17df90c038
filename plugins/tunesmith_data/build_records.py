"""Build records from rows, with one function per format."""

from __future__ import annotations

from dataclasses import replace

from tunesmith.records import Chat, Completion, Message, Preference, Record, Text
from tunesmith.records import UnpairedPreference as Unpaired
from tunesmith_data.conversation import (
    check_conversation,
    has_system_message,
    parse_transcript,
    remove_system,
    require_final_answer,
)
from tunesmith_data.message import is_plain_answer, parse_messages, split_answer
from tunesmith_data.row import RowError, json_type
from tunesmith_data.row_view import RowView
from tunesmith_data.text import require_not_blank, require_text


def build_text(view: RowView) -> Record:
    """Return a plain-text row as a record."""
    return Text(source=view.source, text=require_not_blank(view.text("text"), "text"))


def build_completion(view: RowView) -> Record:
    """Return a record of a prompt and its completion; each is text or a list of messages."""
    if isinstance(view.value("prompt"), list) or isinstance(view.value("completion"), list):
        answers = _answer_messages(view)
        prompt_messages = (
            replace(m, weight=0.0) if m.role == "assistant" else m for m in _prompt_messages(view)
        )
        return _conversation(view, (*prompt_messages, *answers))
    prompt = require_not_blank(view.text("prompt"), "prompt")
    return _exchange(view, (), prompt, view.text("completion"))


def build_alpaca(view: RowView) -> Record:
    """Return a record of an instruction, with its input, its output and earlier exchanges."""
    history: list[Message] = []
    for question, answer in _rounds(view):
        history += [Message("user", question), split_answer(Message("assistant", answer))]
    return _exchange(view, tuple(history), _instruction(view, "instruction"), view.text("output"))


def build_chat(view: RowView) -> Record:
    """Return a conversation as a record."""
    name = "messages" if "messages" in view.columns else "conversations"
    return _conversation(view, view.messages(name))


def build_preference(view: RowView) -> Record:
    """Return a record of two answers to the same prompt."""
    before, chosen = _split_answer(view, "chosen")
    before_rejected, rejected = _split_answer(view, "rejected")
    if before != before_rejected:
        hint = "use the same conversation before both answers"
        raise RowError("`chosen` and `rejected` differ before the last answer", hint=hint)
    prompt_column: tuple[Message, ...] = ()
    if view.value("prompt") is None:
        _refuse_unread(view, "input", "there is no prompt that it belongs to")
    else:
        prompt_column = _prompt_messages(view)
    if not prompt_column and not before:
        raise RowError("has no prompt", hint="add a prompt, or remove the row")
    if prompt_column and before and remove_system(prompt_column) != remove_system(before):
        raise RowError(
            "the prompt differs from the conversation before the chosen answer",
            hint="use the same conversation in the prompt and before both answers",
        )
    _refuse_other_system(view, prompt_column, before)
    prompt = view.open_conversation(
        before if has_system_message(before) or not prompt_column else prompt_column
    )
    if chosen == rejected:
        hint = "remove this row: it expresses no preference"
        raise RowError("the chosen and the rejected answer are the same", chosen, hint=hint)
    check_conversation((*prompt, Message("assistant", chosen)))
    return Preference(
        source=view.source,
        prompt=_untrained(prompt),
        chosen=chosen,
        rejected=require_not_blank(rejected, "answer"),
    )


def _exchange(view: RowView, history: tuple[Message, ...], prompt: str, answer: str) -> Record:
    """Return the simplest record that can represent a question and its answer."""
    require_not_blank(answer, "answer")
    if not history and view.has_texts_only and is_plain_answer(answer):
        return Completion(source=view.source, prompt=prompt, completion=answer)
    user, message = Message("user", prompt), _answer(view, answer)
    messages = view.open_conversation((*history, user, message))
    is_plain = messages == (user, message) and message == Message("assistant", answer)
    if is_plain and view.label() is None:
        return Completion(source=view.source, prompt=prompt, completion=answer)
    return _record(view, messages)


def _conversation(view: RowView, messages: tuple[Message, ...]) -> Record:
    return _record(view, view.open_conversation(messages))


def _record(view: RowView, messages: tuple[Message, ...]) -> Record:
    """Return a record of a conversation, or of its last answer with a label if the row has one."""
    check_conversation(messages)
    label = view.label()
    if label is None:
        return Chat(source=view.source, messages=messages)
    answer = _plain_answer(messages[-1], "an answer with a label")
    prompt = _untrained(messages[:-1])
    return Unpaired(source=view.source, prompt=prompt, completion=answer, label=label)


def _untrained(prompt: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return a prompt with default weights, because prompts of pairs and labels are not trained."""
    return tuple(replace(m, content=m.text, weight=1.0) for m in prompt)


def _plain_answer(message: Message, what: str) -> str:
    """Return the text of an answer that must be plain text.

    Raises:
        RowError: the answer has reasoning, tool calls or a weight.
    """
    extras = {
        "reasoning": message.reasoning,
        "tool calls": message.tool_calls,
        "a weight": message.weight != 1 or message.has_weights,
    }
    for name, is_used in extras.items():
        if is_used:
            raise RowError(f"{what} has {name}", hint=f"{what} must be plain text")
    return message.text


def _instruction(view: RowView, name: str) -> str:
    """Join an instruction and its input into one prompt."""
    instruction = require_not_blank(view.text(name), "prompt")
    context = view.optional_text("input")
    return f"{instruction}\n\n{context}" if context else instruction


def _rounds(view: RowView) -> list[tuple[str, str]]:
    """Return the earlier exchanges of an Alpaca row as (prompt, response) pairs."""
    value = view.value("history")
    if value is None or value == "":
        return []
    column = f"`{view.columns['history']}`"
    if not isinstance(value, list):
        raise RowError(
            f"{column} must be a list of [prompt, response] pairs, but it is {json_type(value)}"
        )
    for item in value:
        if not isinstance(item, list) or len(item) != 2:
            raise RowError(f"each entry of {column} must be a [prompt, response] pair")
    return [(require_text(q, column), require_text(a, column)) for q, a in value]


def _answer_messages(view: RowView) -> tuple[Message, ...]:
    value = view.value("completion")
    if isinstance(value, list):
        _refuse_unread(view, "reasoning", "the answer is a list of messages")
        return parse_messages(value, f"`{view.columns['completion']}`")
    return (_answer(view, view.text("completion")),)


def _answer(view: RowView, text: str) -> Message:
    """Return the answer as a message, with the reasoning from the row's column or from the text.

    The text of an answer with a label stays as it is.
    """
    message = Message("assistant", text, reasoning=view.optional_text("reasoning") or "")
    return split_answer(message) if view.label() is None else message


def _prompt_messages(view: RowView) -> tuple[Message, ...]:
    """Return the prompt column as messages; the column is text or a list of messages."""
    value = view.value("prompt")
    if isinstance(value, list) or (isinstance(value, dict) and "messages" in value):
        _refuse_unread(view, "input", "the prompt is a list of messages")
        return parse_messages(value, f"`{view.columns['prompt']}`")
    return (Message("user", _instruction(view, "prompt")),)


def _refuse_unread(view: RowView, name: str, reason: str) -> None:
    """Raise an error if a field has a value that the record cannot represent."""
    text = view.optional_text(name)
    if text and text.strip():
        column = view.columns[name]
        hint = f'move it into the messages, or train without it: ignore = ["{column}"]'
        raise RowError(f"`{column}` would be lost: {reason}", hint=hint)


def _refuse_other_system(
    view: RowView, prompt: tuple[Message, ...], before: tuple[Message, ...]
) -> None:
    """Raise an error if the system prompts in the prompt and before the answer differ."""
    both_have_one = has_system_message(prompt) and has_system_message(before)
    if both_have_one and prompt[0] != before[0]:
        column = view.columns["prompt"]
        hint = (
            "use the same system prompt in both, or train without the column: ignore = "
            f'["{column}"]'
        )
        reason = "the answers have a different system prompt"
        raise RowError(f"`{column}` would be lost: {reason}", prompt[0].text, hint=hint)


def _split_answer(view: RowView, name: str) -> tuple[tuple[Message, ...], str]:
    """Split a column into the messages before its last answer, possibly none, and that answer."""
    value = view.value(name)
    if isinstance(value, list | dict):
        column = f"`{view.columns[name]}`"
        messages = parse_messages(value, column, split_inline=False)
    else:
        text = view.text(name)
        transcript = parse_transcript(text) if view.value("prompt") is None else None
        if transcript is None:
            return (), text
        messages = transcript
    require_final_answer(messages, f"`{view.columns[name]}`: ")
    return messages[:-1], _plain_answer(messages[-1], "an answer of a pair")
