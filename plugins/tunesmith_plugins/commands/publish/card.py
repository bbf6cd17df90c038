"""Model card of an upload: base model and license, evidence, and how to load the model."""

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
    """Return the license in a folder's model card, or None if there is none."""
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
    """Render the card of an uploaded model, which contains no data rows and no paths.

    Args:
        view: report of the run.
        name: name of the repository.
        base: Hub name of the base model, if known.
        license: license of the base model, if known.
        form: ``adapter``, ``model``, or the name of an exporter.
    """
    loading = LOADING.get(form, "").format(name=name)
    parts = [
        "\n".join(_front_matter(base, license, form)),
        f"# {name.partition('/')[2]}",
        "Trained and measured with tunesmith, on test rows that were not used in training.",
        render_card_markdown(view).strip(),
        "## Limits",
        "The results hold for rows similar to the test rows. Other topics, languages and "
        "instructions were not measured, and nothing here shows that answers are safe. "
        + (
            f"The base model's license, {license}, also applies to this model."
            if license
            else "The base model's license also applies to this model."
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
