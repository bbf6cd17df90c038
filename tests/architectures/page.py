"""Store the results of the matrix, and write them as a page."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from tests.architectures.compare import NORM_TOLERANCE, TIE, TOLERANCE, Result, Setting

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "models.md"
VERDICTS = ("exact", "refused", "wrong", "crash", "not built")

Summary = dict[str, Any]


def summarize(result: Result) -> Summary:
    """Return what is stored of a result."""
    numbers = result.numbers
    names = ("base", "zero-shot", "tuned")
    evaluations = [run[name] for run in numbers.values() for name in names if name in run]
    summary: Summary = {
        "name": result.name,
        "verdict": result.verdict,
        "reason": result.reason,
        "runs": len(numbers),
        "loss": _largest(run["loss_difference"] for run in numbers.values()),
        "norm": _largest(run["norm_difference"] for run in numbers.values()),
        "test": _largest(e["difference"] for e in evaluations),
        "answers": sum(e["answers"] for e in evaluations),
        "unequal_answers": sum(e["unequal_answers"] for e in evaluations),
        "layout": _detail(result, "layout"),
        "prefix": _detail(result, "prefix_tokens"),
        "why": next((n for n in result.findings if n.startswith("rows are ")), ""),
    }
    if any("loss_rounding" in run or "norm_rounding" in run for run in numbers.values()):
        summary["rounding"] = True
    packed, padded = (
        result.tokens_per_second.get(f"full, mixed, {layout}") for layout in ("default", "padded")
    )
    if packed and padded:
        summary["speed"] = round(packed / padded, 2)
    return summary


def _largest(values: Iterable[float]) -> float | None:
    return max((float(f"{value:.2g}") for value in values), default=None)


def _detail(result: Result, key: str) -> Any:
    """Return a detail of the first run with the default options and a common system prompt."""
    return next((d.get(key) for name, d in result.details.items() if "shared" in name), None)


def to_json(results: Sequence[Summary], setting: Setting, checked: Sequence[str]) -> dict[str, Any]:
    """Return results with the setting and the versions that they were measured with.

    ``checked``: what else has been measured, with which setting, and gave the same verdicts.
    """
    return {
        "versions": {
            "transformers": transformers.__version__,
            "peft": peft.__version__,
            "torch": torch.__version__,
        },
        "setting": {
            "seed": setting.seed,
            "lengths": list(setting.lengths),
            "sizes": asdict(setting.sizes),
        },
        "checked": list(checked),
        "results": sorted(results, key=lambda r: r["name"].lower()),
    }


def write(stored: Mapping[str, Any], page: Path = PAGE) -> None:
    """Write the page and, beside it, the stored results."""
    page.with_suffix(".json").write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    page.write_text(render(stored), encoding="utf-8")


def read(page: Path = PAGE) -> dict[str, Any]:
    """Return the stored results."""
    stored: dict[str, Any] = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    return stored


def render(stored: Mapping[str, Any]) -> str:
    """Return the page as Markdown."""
    results = stored["results"]
    counts = Counter(result["verdict"] for result in results)
    setting, sizes = stored["setting"], stored["setting"]["sizes"]
    versions = ", ".join(f"{name} {version}" for name, version in stored["versions"].items())
    text = HEAD.format(
        versions=versions,
        seed=setting["seed"],
        words=", ".join(map(str, setting["lengths"])),
        tolerance=f"{TOLERANCE:.0e}",
        norm=f"{NORM_TOLERANCE:.0e}",
        tie=f"{TIE:.0e}",
        **sizes,
    )
    lines = [text, "| verdict | architectures and variants |\n|---|---|"]
    lines[-1] += "".join(
        f"\n| {name} | {counts[name]} |"
        for name in VERDICTS
        if counts[name] or name in VERDICTS[:4]
    )
    if stored["checked"]:
        checked = "\n".join(f"- {text}" for text in stored["checked"])
        lines.append(f"Also measured, with the same verdicts:\n\n{checked}")
    lines.append(table([r for r in results if r["verdict"] == "exact"]))
    lines.append(fallbacks(results))
    for verdict in VERDICTS[1:]:
        chosen = [r for r in results if r["verdict"] == verdict]
        if chosen:
            lines.append(reasons(verdict, chosen))
    return "\n\n".join(lines) + "\n"


def table(results: Sequence[Summary]) -> str:
    """Return the table of exact architectures."""
    rows = [
        "## Exact",
        "",
        "| architecture | loss | gradient norm | test loss | equal answers | rows | "
        "shared prefix | speed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        mark = " *" if result.get("rounding") else ""
        cells = [
            f"`{result['name']}`{mark}",
            *(f"{result[name]:.1e}" for name in ("loss", "norm", "test")),
            f"{result['answers'] - result['unequal_answers']} of {result['answers']}",
            result["layout"] or "",
            "yes" if result["prefix"] else "no",
            str(result.get("speed", "")),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    rows += ["", "\\* Within five times the effect of changing each weight's last bit; see above."]
    return "\n".join(rows)


def fallbacks(results: Sequence[Summary]) -> str:
    """Return the reasons why rows are not packed, each with its architectures."""
    rows = ["## Rows that are not packed", "", "| rows | reason | architectures |", "|---|---|---|"]
    names: dict[tuple[str, str], list[str]] = {}
    for result in results:
        if result["why"]:
            layout, _, reason = " ".join(result["why"].split()).partition(": ")
            kind, text = "padded", describe(reason)
            if "one at a time" in layout:  # the reason is about padding, which was tried last
                kind, text = "alone", text.replace("packed rows", "padded rows")
            names.setdefault((kind, text), []).append(f"`{result['name']}`")
    for (kind, reason), members in sorted(names.items(), key=lambda item: -len(item[1])):
        rows.append(f"| {kind} | {reason} | {', '.join(members)} |")
    return "\n".join(rows)


REASONS = (
    ("rows of .* would change each other", "packed rows would influence each other"),
    ("would change log-probabilities of", "log-probabilities change in packed rows"),
    ("another width than its keys", "keys and values differ in width"),
    ("mask is not causal within", "the model's mask is not causal within packed rows"),
    ("`s_aux`", "attention sinks (`s_aux`) are not supported in packed rows"),
    ("its mask has sliding window", "mask and attention disagree on the window"),
    ("without `flash-linear-attention`", "linear attention needs flash-linear-attention"),
    ("LazyMask", "the model computes with its attention mask"),
    ("only a plain linear head", "the head is not a plain linear layer"),
    ("index out of range|must match the size|broadcast shape|unexpected keyword",
     "the model's code fails on packed rows"),
)  # fmt: skip
"""Patterns in the message of a run, and what they mean."""


def describe(message: str) -> str:
    """Return what a message about rows means; the message itself if that is not known."""
    return next((text for pattern, text in REASONS if re.search(pattern, message)), message)


TITLES = {
    "refused": "Refused by `tunesmith check`",
    "wrong": "Wrong",
    "crash": "Crashed",
    "not built": "Not measured",
}


def reasons(verdict: str, results: Sequence[Summary]) -> str:
    """Return a table of the reasons for a verdict."""
    rows = [f"## {TITLES[verdict]}", "", "| architecture | reason |", "|---|---|"]
    for result in results:
        reason = " ".join(result["reason"].split()).replace("|", "\\|")
        rows.append(f"| `{result['name']}` | {reason} |")
    return "\n".join(rows)


HEAD = """# Models

<!-- Written by `python -m tests.architectures --write` from models.json. -->

Every causal language model of transformers is measured with random weights: {layers} layers,
width {hidden}, a context of {context} tokens, sliding windows of {window}, chunks of {chunk}, and
scaled rotary embeddings with an original context of {original_context}. Seed {seed}; {versions}.
Each model trains for three steps on conversations of {words} words, with and without a shared
system prompt, and is then evaluated. Full fine-tuning and LoRA are measured, with the default
options and with `packing = false`.

Each number is compared with an independent computation in plain transformers and PEFT: fp32,
eager attention, one row at a time. A model is *exact* if

- losses differ by at most {tolerance} of their value
- gradient norms differ by at most {norm}
- greedy answers are equal up to the first token whose lead over the second is below {tie}

Some gradients amplify rounding. There, a difference of up to five times the effect of changing each
weight's last bit is accepted, and the architecture is marked. The columns show the largest relative
difference over all runs.

*Rows* is the layout with the default options: packed, padded, or alone (one row at a time).
*Shared prefix* shows whether the common start of several rows is computed once. *Speed* is tokens
per second with the default options, divided by tokens per second with `packing = false`. These
speeds are only indicative, because the models are tiny and the machine was busy."""
