"""Reject rows with unread columns that would change what is learned.

An unread column may be harmless, such as a row number. It may also be the image that a question is
about, the label of a bad answer, or a weight. Rows with such a value are rejected, and the hint
shows how to ignore the column.
"""

from __future__ import annotations

from collections.abc import Mapping

from tunesmith.records import Chat, Record
from tunesmith_data.conversation import remove_system
from tunesmith_data.row import RowError
from tunesmith_data.row_view import RowView
from tunesmith_data.text import content_key

_MEDIA = "only text can be trained on: remove these rows"
_INSIDE = "move it into the messages that it belongs to"
_UNUSED_HERE = "this format cannot use it"

_FIELDS = ("label", "kto_tag", "tools", "functions", "history", "system", "system_prompt")

CHANGES_TRAINING: Mapping[str, str] = {
    **dict.fromkeys(("image", "images", "video", "videos", "audio", "audios"), _MEDIA),
    **dict.fromkeys(("reasoning_content", "reasoning", "thinking"), _INSIDE),
    **dict.fromkeys(("weight", "weights", "loss_weight", "sample_weight", "train"), _INSIDE),
    **dict.fromkeys(("mask", "loss_mask", "train_mask"), _INSIDE),
    **dict.fromkeys(_FIELDS, _UNUSED_HERE),
}
"""Columns that change what is learned, and what to do about them."""

_WITHOUT_EFFECT: Mapping[str, tuple[object, ...]] = {
    **dict.fromkeys(("weight", "weights", "loss_weight", "sample_weight", "train"), (1, "1")),
    **dict.fromkeys(("loss_mask", "train_mask"), (1, "1")),
    "mask": (0, "0"),
}
"""Non-empty column values that have no effect; True equals 1 and False equals 0.

In a loss mask, 1 means trained on; in a plain mask, 1 means not trained on.
"""


def refuse_ignored_columns(view: RowView) -> None:
    """Check that all columns that change what is learned are read.

    Raises:
        RowError: an unread column has a value; the hint states what to do.
    """
    if CHANGES_TRAINING.keys().isdisjoint(view.row):
        return
    used = set(view.columns.values())
    for column, remedy in CHANGES_TRAINING.items():
        value = view.row.get(column)
        if column in used or value in (None, "", [], {}, *_WITHOUT_EFFECT.get(column, ())):
            continue
        hint = f'{remedy}, or train without it: ignore = ["{column}"]'
        raise RowError(f"`{column}` changes what is learned and cannot be used", hint=hint)


def refuse_lost_text(view: RowView, record: Record) -> None:
    """Check that the record contains the texts of all columns that may belong to it.

    Columns that only repeat the prompt, or the whole row as one text, are not lost.

    Raises:
        RowError: the text of a column is missing from the record.
    """
    content = content_key(record)
    for column, text in view.unread_texts():
        if text.strip() in content or _repeats(text, record, view):
            continue
        used = ", ".join(f"`{name}`" for name in view.columns.values())
        hint = (
            f'set the columns to use, such as columns = {{ prompt = "...", completion = "..." }}, '
            f'or train without it: ignore = ["{column}"]'
        )
        raise RowError(f"`{column}` would be lost, because only {used} would be used", hint=hint)


def _repeats(text: str, record: Record, view: RowView) -> bool:
    """Return True if a text contains every text that the record was built from."""
    if isinstance(record, Chat):
        return all(m.text.strip() in text for m in remove_system(record.messages))
    texts = [view.row.get(column) for column in view.columns.values()]
    return all(isinstance(part, str) and part.strip() in text for part in texts)
