"""Every row in the reference of data formats is trained, or refused, as the page says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.toolkit.data.trained_text import mark_trained

from tunesmith.errors import DataError
from tunesmith.records import UnpairedPreference
from tunesmith_data.formats import FORMATS
from tunesmith_data.ignored_columns import CHANGES_TRAINING
from tunesmith_plugins.loaders.jsonl.offer import JSONL, JsonlOptions
from tunesmith_torch.data.named_templates import NAMED_TEMPLATES
from tunesmith_torch.data.templates import Template
from tunesmith_torch.testing.tiny_model import build_tiny_tokenizer

PAGE = (Path(__file__).parents[2] / "docs/reference/data-formats.md").read_text(encoding="utf-8")
ROWS = re.findall(r"```json\n(.*?)\n```\n\n```(text|refused)\n(.*?)\n```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def template() -> Template:
    tokenizer: Any = build_tiny_tokenizer(template=None, extra=("</s>",))
    tokenizer.eos_token = "</s>"
    return Template.from_tokenizer(tokenizer, NAMED_TEMPLATES["chatml"])


def test_every_row_has_a_result() -> None:
    assert len(ROWS) == PAGE.count("```json") >= 20


@pytest.mark.parametrize(("row", "kind", "result"), ROWS)
def test_a_row(tmp_path: Path, template: Template, row: str, kind: str, result: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(json.loads(row)), encoding="utf-8")
    loader = JSONL.build(JsonlOptions(train=str(path)))
    if kind == "text":
        (record,) = loader.load().train
        assert mark_trained(template, record) == result
    elif "UnpairedPreference" in result:
        assert type(loader.load().train[0]) is UnpairedPreference
    else:
        with pytest.raises(DataError, match=re.escape(result)):
            loader.load()


def test_every_column_is_named() -> None:
    names = {
        name
        for known in FORMATS
        for aliases in (*known.required.values(), *known.optional.values())
        for name in aliases
    }
    assert not [name for name in sorted(names) if f"`{name}`" not in PAGE]
    assert {"images", "label", "mask", "weight", "tools"} <= set(CHANGES_TRAINING)


def test_every_named_template_is_named() -> None:
    assert not [name for name in NAMED_TEMPLATES if f"`{name}`" not in PAGE]
