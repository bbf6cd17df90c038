"""The text of examples with the trained tokens marked, to be compared with what people expect."""

from __future__ import annotations

from tunesmith.records import Record
from tunesmith_torch.data.packing import Example
from tunesmith_torch.data.templates import Template

OPEN, CLOSE = "⟦", "⟧"


def mark_trained(template: Template, record: Record) -> str:
    """Return the text of a record's examples, with ⟦ and ⟧ around the trained tokens."""
    examples = template.tokenize_record(record, 10_000)
    return "\n---\n".join(mark_example(template, example) for example in examples)


def mark_example(template: Template, example: Example) -> str:
    """Return the text of an example; a run of trained tokens has one pair of marks per weight."""
    ids = [int(token) for token in example.ids]
    weights = [1.0] * len(ids) if example.weights is None else [float(w) for w in example.weights]
    keys = [w if trained else 0.0 for w, trained in zip(weights, example.trained, strict=True)]
    text, start = "", 0
    for stop in range(1, len(ids) + 1):
        if stop == len(ids) or keys[stop] != keys[start]:
            piece = template.tokenizer.decode(ids[start:stop])
            mark = "" if keys[start] in (0.0, 1.0) else f"×{keys[start]:g} "
            text += f"{OPEN}{mark}{piece}{CLOSE}" if keys[start] else piece
            start = stop
    return text
