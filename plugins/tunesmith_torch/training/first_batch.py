"""Describe the first batch of a training run as the model sees it, in an event for reports.

Shapes: N loss positions.

The description shows the layout that the model computes, not the original rows: packed rows, shared
prompts, padding, and the tokens that contribute to the loss.
"""

# ruff: noqa: N815 - tensors end in their shape, attributes too
from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tunesmith.contracts import Job
from tunesmith.text import redact
from tunesmith_evidence.report.first_batch import (
    CONTEXT,
    OMITTED,
    SCORED,
    TRAINED,
    FirstBatch,
    TokenRow,
)
from tunesmith_torch.data.packing import MicroBatch
from tunesmith_torch.kernels.tree_attention import TreeLayout
from tunesmith_torch.models.adapters import AdaptedModel

__all__ = ["TokenLayout"]

MAX_ROW_TOKENS = 160
"""Maximum number of tokens shown of a row; a longer row is shown half from each end."""
MAX_TOKENS = 400
"""Maximum number of tokens shown in total, to keep the event at a few kB."""
MAX_CHARACTER_TOKENS = 4
"""Maximum number of single-byte tokens in one character."""


class TokenLayout(NamedTuple):
    """The tokens of a micro-batch, and which of them its loss reads."""

    batch: MicroBatch
    tree_layout: TreeLayout | None = None
    titles: Sequence[str] = ()
    """Titles of the rows, not counting shared prefixes; empty: rows are numbered."""
    is_scored: bool = False
    """True if the states at ``trained_N`` become rewards instead of predicting tokens."""
    loss_weights_N: Tensor | None = None
    """Loss weights of the tokens at ``trained_N``; None if all are 1."""


@runtime_checkable
class HasTokenLayout(Protocol):
    """An objective whose micro-batches can be described."""

    def micro_batches(self, prepared: Any, budget: int) -> Sequence[Any]:
        """Split a prepared batch into micro-batches."""
        ...

    def token_layout(self, micro_batch: Any) -> TokenLayout:
        """Return the tokens of a micro-batch of this objective."""
        ...


def emit_first_batch(
    job: Job[Any], adapted: AdaptedModel, objective: object, prepared: Any, budget: int
) -> None:
    """Emit the first tokens of a prepared batch, if the objective can show them."""
    if not isinstance(objective, HasTokenLayout):
        return
    micro_batches = objective.micro_batches(prepared, budget)
    if micro_batches:
        tokenizer = adapted.base.tokenizer
        job.emit(describe_first_batch(objective, micro_batches, tokenizer, job.stage))


def describe_first_batch(
    objective: HasTokenLayout,
    micro_batches: Sequence[Any],
    tokenizer: PreTrainedTokenizerBase,
    stage: str,
) -> FirstBatch:
    """Return the event that describes the first of these micro-batches."""
    layout = objective.token_layout(micro_batches[0])
    batch = layout.batch
    kind: Literal["packed", "shared", "padded"] = "packed"
    if layout.tree_layout is not None:
        kind = "shared"
    elif batch.boundaries is None:
        kind = "padded"
    spans = list(_list_spans(layout))
    rows: list[TokenRow] = []
    room = MAX_TOKENS
    for title, start, stop in spans:
        ids, marks = _read_span(layout, start, stop)
        row = _describe_row(tokenizer, title, ids, marks)
        room -= len(row.pieces)
        if room < 0 and rows:
            break
        rows.append(row)
    return FirstBatch(
        stage=stage,
        layout=kind,
        tokens=batch.tokens,
        padding=batch.ids_BT.numel() - batch.tokens,
        micro_batches=len(micro_batches),
        rows=rows,
        hidden_rows=len(spans) - len(rows),
    )


def _list_spans(layout: TokenLayout) -> Iterator[tuple[str, int, int]]:
    """Yield title, start and stop of each row without padding; a prefix precedes its rows."""
    batch, tree = layout.batch, layout.tree_layout
    if tree is not None:
        numbers = {branch: number for number, branch in enumerate(tree.branches)}
        for place, (start, stop) in enumerate(tree.prefix_spans, 1):
            if stop > start:
                yield f"shared prefix {place}", start, stop
            for branch in tree.branches:
                if branch[:2] == (start, stop):
                    yield _title(layout, numbers[branch]), branch.start, branch.stop
        return
    count = len(batch.rows)
    if batch.boundaries is not None:
        spans = list(pairwise(batch.boundaries.tolist()))[:count]  # a row of padding may follow
    else:
        longest = batch.ids_BT.shape[1]
        mask_BT = batch.mask_BT
        lengths = [longest] * count if mask_BT is None else mask_BT.sum(1).tolist()
        spans = [(n * longest, n * longest + length) for n, length in enumerate(lengths)]
    for number, (start, stop) in enumerate(spans):
        yield _title(layout, number), start, stop


def _title(layout: TokenLayout, number: int) -> str:
    return layout.titles[number] if layout.titles else f"row {number + 1}"


def _read_span(layout: TokenLayout, start: int, stop: int) -> tuple[list[int], str]:
    """Return the tokens of a row, and one mark per token."""
    batch = layout.batch
    ids = batch.ids_BT.flatten()[start:stop].tolist()
    marks = [CONTEXT] * len(ids)
    inside_N = (batch.trained_N >= start) & (batch.trained_N < stop)
    if layout.loss_weights_N is not None:
        inside_N &= layout.loss_weights_N > 0
    places = (batch.trained_N[inside_N] - start).tolist()
    if layout.is_scored:
        for place in places:
            marks[place] = SCORED
        # Later tokens only serve to return the state at this one (see collate_final_tokens).
        end = max(places, default=len(ids) - 1) + 1
        return ids[:end], "".join(marks[:end])
    # Position t predicts token t + 1. The last token is only a target and may be missing from ids.
    for place, target in zip(places, batch.targets_N[inside_N].tolist(), strict=True):
        if place + 1 == len(ids):
            ids, marks = [*ids, target], [*marks, TRAINED]
        else:
            marks[place + 1] = TRAINED
    return ids, "".join(marks)


def _describe_row(
    tokenizer: PreTrainedTokenizerBase, title: str, ids: list[int], marks: str
) -> TokenRow:
    special = {n for n, token in tokenizer.added_tokens_decoder.items() if token.special}
    special.update(tokenizer.all_special_ids)
    shown = "".join(m.upper() if n in special else m for n, m in zip(ids, marks, strict=True))
    half = MAX_ROW_TOKENS // 2
    text = _decode(tokenizer, ids)
    if redact(text) != text:  # a secret spans several tokens; no single token looks like one
        pieces, shown = _redact_runs(tokenizer, ids, shown)
    elif len(ids) > MAX_ROW_TOKENS:
        pieces = [
            *_split_tokens(tokenizer, ids[:half]),
            f"{len(ids) - 2 * half:,} tokens",
            *_split_tokens(tokenizer, ids[-half:]),
        ]
        shown = shown[:half] + OMITTED + shown[-half:]
    else:
        pieces = _split_tokens(tokenizer, ids)
    trained = marks.count(TRAINED)
    return TokenRow(title=title, tokens=len(ids), trained=trained, pieces=pieces, marks=shown)


def _redact_runs(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], marks: str
) -> tuple[list[str], str]:
    """Return the redacted text of each run of tokens with the same mark, and the marks."""
    runs = [
        (mark, redact(_decode(tokenizer, [number for number, _ in run])))
        for mark, run in groupby(zip(ids, marks, strict=True), key=lambda pair: pair[1])
    ]
    text = redact(_decode(tokenizer, ids))
    if "".join(part for _, part in runs) != text or len(text) > 4 * MAX_ROW_TOKENS:
        # A secret spans several runs, or the text is too long. Drop the marks to avoid a leak.
        return [text[: 4 * MAX_ROW_TOKENS], "no marks: the row has a secret"], CONTEXT + OMITTED
    return [part for _, part in runs], "".join(mark for mark, _ in runs)


def _split_tokens(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Return the text of each token, with the space before it.

    If a character spans several tokens, its last token gets the text.
    """
    pieces: list[str] = []
    before: list[int] = []
    pending: list[int] = []
    for number in ids:
        pending.append(number)
        # Decoded with the preceding token, because some tokenizers drop a leading space.
        text = _decode(tokenizer, [*before, *pending])[len(_decode(tokenizer, before)) :]
        if text.endswith("\ufffd") and len(pending) < MAX_CHARACTER_TOKENS:
            pieces.append("")
            continue
        pieces.append(text)
        before, pending = pending, []
    if pending:
        pieces[-1] = _decode(tokenizer, pending)
    return pieces


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return text
