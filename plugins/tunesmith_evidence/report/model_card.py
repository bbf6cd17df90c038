"""Write the model card: base model and license, evidence, limits, and how to load the model.

A run folder contains the card as ``README.md``, ``tunesmith push`` uploads it, and exports include
its results. The card contains no data rows and no paths.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from tunesmith import distributed
from tunesmith.errors import EnvironmentProblem
from tunesmith.events import JSON
from tunesmith.machine import expand_home
from tunesmith.plan import Plan
from tunesmith.storage import write_atomic
from tunesmith.text import format_count, redact
from tunesmith_evidence.report.facts import describe_data
from tunesmith_evidence.report.markdown import escape_markdown
from tunesmith_evidence.report.view import ReportView

__all__ = [
    "CARD",
    "find_hub_name",
    "find_license",
    "is_hub_name",
    "render_model_card",
    "render_results",
    "write_model_card",
]

CARD = "README.md"
"""Name of the file with a model card."""
_NAME = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}", re.ASCII)

_LICENCE = re.compile(r"^license:\s*[\"']?([\w.-]{1,64})[\"']?\s*$", re.MULTILINE)
LOADING = {
    "adapter": """from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")""",
    "model": """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")""",
}
"""Code that loads a model in Python, by its form; ``{name}`` is a repository or a folder."""


RELATIONS = {
    "adapter": "adapter",
    "model": "finetune",
    "safetensors": "finetune",
    "vllm": "finetune",
}
"""Relation of a model to its base model, by form; other exports are quantized or converted."""


def is_hub_name(name: str) -> bool:
    """Return True for a name of the form ``ORG/NAME``."""
    return _NAME.fullmatch(name) is not None


def find_hub_name(plan: Plan) -> str | None:
    """Return the Hub name of the base model, or None if it is a local model."""
    name = plan.model.base
    return name if is_hub_name(name) and not expand_home(name).exists() else None


def write_model_card(view: ReportView, plan: Plan) -> None:
    """Write the model card to the run folder if it contains a trained model.

    Log only a warning if this fails, because ``tunesmith push`` writes the card again.
    """
    trained = view.report.training_finished.get("")
    if trained is None or distributed.rank() > 0:
        return
    license = find_license(plan.found_model.tokenizer())  # downloads nothing
    form = "adapter" if (view.folder / trained.artifact / "adapter_config.json").is_file() else ""
    card = render_model_card(
        view, name=trained.artifact, base=find_hub_name(plan), license=license, form=form or "model"
    )
    try:
        write_atomic(view.folder / CARD, redact(card))
    except EnvironmentProblem as problem:
        warnings.warn(f"{problem.message}; the run folder has no {CARD}", stacklevel=2)


def find_license(base: Path | None) -> str | None:
    """Return the license in the model card of a folder, or None if the card names no license."""
    if base is None:
        return None
    card = base / "README.md"
    if not card.is_file():
        return None
    head = card.read_text(encoding="utf-8", errors="replace").partition("\n---")[0]
    found = _LICENCE.search(head)
    return found[1] if found else None


def render_model_card(
    view: ReportView, *, name: str, base: str | None, license: str | None, form: str
) -> str:
    """Return the card of a model, which contains no data rows and no paths.

    Args:
        view: report of the run.
        name: name of the repository, or of the folder with the model.
        base: Hub name of the base model, if known.
        license: license of the base model, if known.
        form: ``adapter``, ``model``, or the name of an exporter.
    """
    loading = LOADING.get(form, "").format(name=name)
    parts = [
        "\n".join(_front_matter(view, name.rpartition("/")[2], base, license, form)),
        f"# {name.partition('/')[2] or escape_markdown(view.title, 200)}",
        render_results(view, license),
        f"## Use\n\n```python\n{loading}\n```" if loading else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def render_results(view: ReportView, license: str | None) -> str:
    """Return Markdown sections with the verdict, all scores, the data and the limits."""
    # The card needs MarkupSafe, which the light requirements do not have.
    from tunesmith_evidence.report.card import render_card_markdown

    data, measured = view.report.data, dict.fromkeys(e.metric for e in view.report.tuned)
    skipped = sum(data.skipped.values()) if data else 0
    metrics = ", ".join(escape_markdown(metric) for metric in measured) or "nothing"
    parts = [
        "Trained and measured with tunesmith, on test rows that were not used in training.",
        render_card_markdown(view).strip(),
        f"## Data\n\n{describe_data(data)}; {format_count(skipped, 'row')} skipped."
        if data
        else "",
        "## Limits",
        f"Measured: {metrics}. The results hold for rows similar to the test rows. Other topics, "
        "languages and instructions were not measured, and nothing here shows that answers are "
        "safe. "
        + (
            f"The base model's license, {license}, also applies to this model."
            if license
            else "The base model's license also applies to this model."
        ),
    ]
    return "\n\n".join(part for part in parts if part)


def _front_matter(
    view: ReportView, name: str, base: str | None, license: str | None, form: str
) -> Iterator[str]:
    """Yield the lines that the Hub reads: https://huggingface.co/docs/hub/model-cards.

    Values are JSON, which is also YAML.
    """
    yield "---"
    if base:
        yield f"base_model: {base}"
        yield f"base_model_relation: {RELATIONS.get(form, 'quantized')}"
    if license:
        yield f"license: {license}"
    if form in LOADING:
        yield f"library_name: {'peft' if form == 'adapter' else 'transformers'}"
    yield "pipeline_tag: text-generation"
    if dataset := _find_dataset(view):
        yield f"datasets: {json.dumps([dataset])}"
    results = [*_list_results(view, dataset)]
    if results:
        metrics = dict.fromkeys(metric["type"] for r in results for metric in r["metrics"])
        yield f"metrics: {json.dumps([*metrics])}"
        yield f"model-index: {json.dumps([{'name': name, 'results': results}])}"
    yield f"tags: [tunesmith, {form}]"
    yield "---"


def _get_data_options(view: ReportView) -> JSON:
    started = view.report.started
    options: JSON = started.plan.get("data", {}) if started else {}
    return options


def _find_dataset(view: ReportView) -> str | None:
    """Return the Hub name of the training data, or None if the data is local."""
    data = _get_data_options(view)
    name = str(data.get("train", "")).removeprefix("hf://").removeprefix("datasets/")
    return name if data.get("use") == "hub-dataset" and is_hub_name(name) else None


def _describe_test_rows(view: ReportView, dataset: str | None) -> JSON:
    """Return the test rows as the dataset of a result; its revision is a commit of the Hub."""
    options, data = _get_data_options(view), view.report.data
    source: JSON = {"type": dataset or "private", "name": dataset or "test rows", "split": "test"}
    if dataset:
        split_off = f"part of {options.get('split', 'train')}"
        source |= {"config": options.get("name"), "revision": options.get("revision")}
        source |= {"split": options.get("test_split") or split_off}
    if data and data.fingerprint:
        source |= {"args": {"fingerprint": data.fingerprint}}
    return {key: value for key, value in source.items() if value is not None}


def _list_results(view: ReportView, dataset: str | None) -> Iterator[JSON]:
    """Yield the finite scores of the tuned model on test rows, with interval and rows."""
    report, test_rows = view.report, _describe_test_rows(view, dataset)
    for event in report.tuned:
        values = {"low": event.low, "high": event.high, "n": event.n, "confidence": 0.95}
        if not math.isfinite(event.value):
            continue
        own = {"type": event.evaluator, "name": f"rows of {event.evaluator}", "split": "test"}
        metric = {
            "type": event.metric,
            "name": report.metric_label(event.evaluator, event.metric),
            "value": event.value,
            "args": {key: value for key, value in values.items() if math.isfinite(value)},
        }
        source = own if event.evaluator in view.apart else test_rows
        yield {"task": {"type": "text-generation"}, "dataset": source, "metrics": [metric]}
