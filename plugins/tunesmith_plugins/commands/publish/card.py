"""The model card of an upload: the base model and its license, the evidence, how to load it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tunesmith_evidence.report.card import render_card_markdown
from tunesmith_evidence.report.view import ReportView

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


def find_license(base: Path | None) -> str | None:
    """Return the license that the model card in a folder names; None without a folder."""
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
    """Return the card of an uploaded model; it has no rows of the data and no paths.

    Args:
        view: the report of the run.
        name: name of the repository.
        base: name of the base model on the hub, if it is there.
        license: license of the base model, if it is known.
        form: ``adapter``, ``model``, or the name of an exporter.
    """
    loading = LOADING.get(form, "").format(name=name)
    parts = [
        "\n".join(_front_matter(base, license, form)),
        f"# {name.partition('/')[2]}",
        "Trained and measured with tunesmith, on test rows that the training never saw.",
        render_card_markdown(view).strip(),
        "## Limits",
        "The figures hold for rows like those that it was measured on. Nothing was measured on "
        "other topics, languages or instructions, and nothing here says that answers are safe. "
        + (
            f"The license of the base model is {license}, and holds for this model too."
            if license
            else "The license of the base model holds for this model too."
        ),
        f"## Use\n\n```python\n{loading}\n```" if loading else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(base: str | None, license: str | None, form: str) -> Iterator[str]:
    yield "---"
    if base:
        yield f"base_model: {base}"
    if license:
        yield f"license: {license}"
    if form in LOADING:
        yield f"library_name: {'peft' if form == 'adapter' else 'transformers'}"
    yield f"tags: [tunesmith, {form}]"
    yield "---"
