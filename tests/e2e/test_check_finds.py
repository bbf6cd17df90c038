"""`check` finds what `run` would refuse: both name the same cause, and nothing was trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

Tunesmith = Callable[..., Any]
LONG = "word " * 480
"""With an answer it does not fit in the context of the tiny model, 512 tokens."""


def write_run(
    folder: Path, base: object, *, long_row: bool = False, long_train: bool = False, **tables: Any
) -> Path:
    rows = [{"prompt": f"Number {n}?", "completion": "no" if n % 3 else "yes"} for n in range(30)]
    words = ["oak", "elm", "ash", "fir", "yew", "bay", "box", "fig", "tea"]
    if long_train:  # then as many training rows are measured as there are
        rows[7]["prompt"] = LONG * 2
        words = [f"{word} or {other}" for word in words for other in words]
    test = [{"prompt": f"Is {word} a tree?", "completion": "yes"} for word in words]
    test.append({"prompt": LONG if long_row else "Who?", "completion": "no"})
    for name, written in (("rows", rows), ("test", test)):
        text = "".join(json.dumps(row) + "\n" for row in written)
        (folder / f"{name}.jsonl").write_text(text)
    table = {
        "model": {"base": str(base)},
        "data": {"use": "jsonl", "train": "rows.jsonl", "test": "test.jsonl"},
        "technique": {"use": "lora", "max_steps": 1, "precision": "fp32"},
        "baselines": {"use": []},
    }
    for name, changes in tables.items():
        table[name] = table.get(name, {}) | changes if isinstance(changes, dict) else changes
    (folder / "run.toml").write_text(tomli_w.dumps(table))
    return folder / "run.toml"


MATCH = {"use": "exact-match", "max_new_tokens": 60}
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "no room for an answer": (
        {"long_row": True, "evaluators": [MATCH]},
        "test.jsonl:10: 1 test row cannot be evaluated",
    ),
    "no room for an automatic answer": (
        {"long_row": True, "evaluators": [{"use": "numeric"}, MATCH | {"max_new_tokens": "auto"}]},
        "test.jsonl:10: 1 test row cannot be evaluated",
    ),
    "a module that is not there": (
        {"technique": {"adapter": {"modules_to_save": ["lm_heads"]}}},
        'technique.adapter.modules_to_save: no module is named "lm_heads"',
    ),
    "a target that is not there": (
        {"technique": {"adapter": {"target_modules": ["q_proj", "v_prj"]}}},
        'technique.adapter.target_modules: no module is named "v_prj"',
    ),
    "a quantized module": (
        {
            "technique": {
                "use": "qlora",
                "adapter": {"modules_to_save": ["v_proj"], "target_modules": ["q_proj"]},
            }
        },
        "cannot be trained fully: its weights are quantized",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_check_names_what_run_would_refuse(
    tunesmith: Tunesmith, tmp_path: Path, tiny_folder: Path, case: str
) -> None:
    changes, message = CASES[case]
    run_file = write_run(tmp_path, tiny_folder, **changes)
    for command in (("check", run_file), ("run", run_file, "--out", tmp_path / "run")):
        done = tunesmith(*command)
        assert done.code == 2 and message in " ".join(done.err.split()), command
    events = (tmp_path / "run" / "events.jsonl").read_text()
    assert '"training-started"' not in events


def test_check_accepts_names_that_the_model_has(
    tunesmith: Tunesmith, tmp_path: Path, tiny_folder: Path
) -> None:
    adapter = {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}
    run_file = write_run(tmp_path, tiny_folder, technique={"adapter": adapter})
    assert tunesmith("check", run_file).code == 0


def test_check_names_a_base_that_cannot_be_read_without_a_network(
    tunesmith: Tunesmith, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    run_file = write_run(tmp_path, "organisation/absent")
    for name, code in (("check", 2), ("run", 4)):
        done = tunesmith(name, run_file)
        assert done.code == code, name
        text = " ".join(done.err.split())
        assert "model.base: organisation/absent: not on this machine, and offline mode is" in text
        assert "tunesmith pull organisation/absent" in text


def test_a_baseline_whose_prompt_is_too_long_is_named_and_the_run_goes_on(
    tunesmith: Tunesmith, tmp_path: Path, tiny_folder: Path
) -> None:
    run_file = write_run(
        tmp_path,
        tiny_folder,
        baselines={"use": ["majority", "zero-shot"], "system_prompt": "Be kind. " * 120},
        evaluators=[MATCH | {"max_new_tokens": 8}],
    )
    assert tunesmith("run", run_file, "--out", tmp_path / "run").code == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    baselines = {baseline["baseline"]: baseline for baseline in report["baselines"]}
    assert not baselines["majority"]["skipped"]
    skipped = baselines["zero-shot"]["skipped"]
    assert "jsonl:" in skipped and "longer than the model's con" in skipped


def test_training_rows_that_are_skipped_are_not_measured_either(
    tunesmith: Tunesmith, tmp_path: Path, tiny_folder: Path
) -> None:
    run_file = write_run(
        tmp_path,
        tiny_folder,
        long_train=True,
        technique={"max_skipped": 0.05},
        evaluators=[{"use": "loss"}],
    )
    assert tunesmith("run", run_file, "--out", tmp_path / "run").code == 0
    measured = (tmp_path / "run" / "evaluations" / "training-rows.loss.jsonl").read_text()
    assert measured and "rows.jsonl:8" not in measured
    skipped = (tmp_path / "run" / "skipped-in-training.jsonl").read_text()
    assert len(skipped.splitlines()) == 1 and "rows.jsonl:8" in skipped
