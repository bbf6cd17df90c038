"""Columns that a format does not read: those that would change what is learned are refused.

A column that is not read may be a number of the row, and then it does not matter. It may also be
the image that a question is about, the label of a bad answer, or a weight. Rows with such a value
are refused, with the way out: the user says that the column is to be ignored.
"""

from __future__ import annotations

from collections.abc import Mapping

from tunesmith.records import Chat, Record
from tunesmith_data.conversation import without_system
from tunesmith_data.row import RowError
from tunesmith_data.row_view import RowView
from tunesmith_data.text import content_key

_MEDIA = "only text can be trained: remove these rows"
_INSIDE = "write it into the messages it belongs to"
_UNUSED_HERE = "this format has no place for it"

_FIELDS = ("label", "kto_tag", "tools", "functions", "history", "system", "system_prompt")

CHANGES_TRAINING: Mapping[str, str] = {
    **dict.fromkeys(("image", "images", "video", "videos", "audio", "audios"), _MEDIA),
    **dict.fromkeys(("reasoning_content", "reasoning", "thinking"), _INSIDE),
    **dict.fromkeys(("weight", "weights", "loss_weight", "sample_weight", "train"), _INSIDE),
    **dict.fromkeys(("mask", "loss_mask", "train_mask"), _INSIDE),
    **dict.fromkeys(_FIELDS, _UNUSED_HERE),
}
"""Names of columns that change what is learned, and what to do with them."""

_WITHOUT_EFFECT: Mapping[str, tuple[object, ...]] = {
    **dict.fromkeys(("weight", "weights", "loss_weight", "sample_weight", "train"), (1, "1")),
    **dict.fromkeys(("loss_mask", "train_mask"), (1, "1")),
    "mask": (0, "0"),
}
"""Values of columns, beside empty ones, that change nothing. True equals 1, False equals 0.

What a loss mask covers with 1 is trained; what a plain mask covers is not.
"""


def refuse_ignored_columns(view: RowView) -> None:
    """Check that no column that changes what is learned is left unread.

    Raises:
        RowError: a column has a value; the hint states what to do.
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
    """Check that the record has the texts of all columns that may be a part of it.

    Some datasets repeat the prompt, or have the row once more as one text; that is no loss.

    Raises:
        RowError: a text is in no part of the record.
    """
    content = content_key(record)
    for column, text in view.unread_texts():
        if text.strip() in content or _repeats(text, record, view):
            continue
        used = ", ".join(f"`{name}`" for name in view.columns.values())
        hint = (
            f'name the columns to use, such as columns = {{ prompt = "...", completion = "..." }}, '
            f'or train without it: ignore = ["{column}"]'
        )
        raise RowError(f"`{column}` would be lost: only {used} would be used", hint=hint)


def _repeats(text: str, record: Record, view: RowView) -> bool:
    """Return True if a text repeats all texts of the record."""
    if isinstance(record, Chat):
        return all(m.text.strip() in text for m in without_system(record.messages))
    texts = [view.row.get(column) for column in view.columns.values()]
    return all(isinstance(part, str) and part.strip() in text for part in texts)
