"""The commands, the review of the plan, and the parts that they use."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from training import split_folder, train, vlm_folder
from transformers import AutoModelForImageTextToText, AutoTokenizer

from tunesmith.errors import UsageError
from tunesmith_vision.commands import join, split
from tunesmith_vision.offer import VISION, review_plan
from tunesmith_vision.rows import mark_images
from tunesmith_vision.template import Placeholder, check_template, wrap_template


def invoke(command: Any, *arguments: object) -> str:
    result = CliRunner().invoke(command, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_split_and_join_from_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "split"
    assert "set base" in invoke(split, vlm_folder("llava"), out)
    assert (out / "vision/vision.safetensors").is_file()
    artifact = train(tmp_path / "run", model=out, max_steps=1)
    joined = json.loads(invoke(join, artifact, out, tmp_path / "joined", "--json"))
    assert AutoModelForImageTextToText.from_pretrained(joined["out"]).config.model_type == "llava"
    with pytest.raises(UsageError, match="was not trained by `vision`"):
        invoke(join, tmp_path / "run", out, tmp_path / "again")


def plan(model_type: str, offer: Any = VISION) -> Any:
    model = SimpleNamespace(config={"model_type": model_type}, reference="models/vlm")
    return SimpleNamespace(technique=SimpleNamespace(offer=offer), found_model=model)


def test_a_model_that_is_not_divided_is_explained_in_the_plan() -> None:
    (finding,) = review_plan(plan("smolvlm"))
    assert "must be divided" in finding.message and "vision split models/vlm" in finding.hint
    (finding,) = review_plan(plan("paligemma"))
    assert "both directions" in finding.message
    assert not review_plan(plan("llama")) and not review_plan(plan("smolvlm", offer=None))


def test_a_wrapped_template_also_takes_parts() -> None:
    """Other software passes parts, so the saved template must render them as before."""
    tokenizer = AutoTokenizer.from_pretrained(vlm_folder("idefics3"))
    parts = [{"type": "image"}, {"type": "text", "text": "Which?"}]
    turns = [{"role": "user", "content": parts}]
    wrapped = wrap_template(tokenizer.chat_template, Placeholder("<image>"))
    options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True}
    expected = tokenizer.apply_chat_template(turns, **options)
    assert tokenizer.apply_chat_template(turns, chat_template=wrapped, **options) == expected
    check_template(tokenizer, wrapped, Placeholder("<image>"))
    saved = AutoTokenizer.from_pretrained(split_folder("idefics3"))
    assert saved.apply_chat_template(turns, **options) == expected


def test_a_row_without_images_stays_as_it_is() -> None:
    row = {"prompt": "Who?", "completion": "Ann", "images": []}
    assert mark_images(row, None, column=None, first=False) == {  # type: ignore[arg-type]
        "prompt": "Who?",
        "completion": "Ann",
    }
