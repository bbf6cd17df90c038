"""The table ``[peft-adapter]``: policies with any adapter that can be switched off."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from training import load_base, load_with_peft

from tunesmith.options import from_table
from tunesmith_peft.table import AdapterTable

DATA = """
[data]
use = "jsonl"
train = "train.jsonl"
test_size = 4

[peft-adapter]
method = "{method}"
options = {{ {options} }}
"""
PREFERENCE = """
[technique]
use = "preference"
learning_rate = 0.2
epochs = 4
precision = "fp32"
"""
RLHF = """
[technique]
use = "rlhf"
supervised.skip = true
reward.skip = true

[technique.policy]
learning_rate = 1.0
epochs = 2
precision = "fp32"
rewards = [{ function = "rules.py:short" }]
generation = { num_generations = 2, max_new_tokens = 4 }
loss = { mask_truncated_completions = false }
"""
RULES = "def short(prompt, completion, **facts):\n    return -float(len(completion))\n"


def run(folder: Path, model: Path, technique: str, method: str, options: str) -> list[Any]:
    """Return the training steps of a run."""
    rows = [{"prompt": f"Who is {n}?", "chosen": "one two", "rejected": "six"} for n in range(20)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "train.jsonl").write_text(text, encoding="utf-8")
    (folder / "rules.py").write_text(RULES, encoding="utf-8")
    table = DATA.format(method=method, options=options)
    text = f'[model]\nbase = "{model}"\n{table}{technique}'
    (folder / "run.toml").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "tunesmith", "run", "run.toml", "--out", "runs/one"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    lines = (folder / "runs/one/events.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == "step-finished"]


def check_off(model: Path, artifact: Path) -> None:
    """Require that the adapter changes the model, and that switched off, it does not."""
    ids_1T = torch.arange(3, 15)[None]
    with torch.no_grad():
        base = load_base(model)(input_ids=ids_1T).logits
        adapted = load_with_peft(model, artifact)
        assert not torch.allclose(adapted(input_ids=ids_1T).logits, base, atol=1e-3)
        with adapted.disable_adapter():
            assert torch.allclose(adapted(input_ids=ids_1T).logits, base, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "options", "term"),
    [
        ("vera", "r = 8", False),
        ("oft", "oft_block_size = 8", False),
        ("adalora", "init_r = 4, target_r = 2, total_step = 4", True),
    ],
)
def test_dpo_starts_at_its_reference(
    method: str, options: str, term: bool, tiny_model: Path, tmp_path: Path
) -> None:
    """The policy then has no margin, so the loss is log 2; the reference is the base model."""
    steps = run(tmp_path, tiny_model, PREFERENCE, method, options)
    assert math.isclose(steps[0]["loss"], math.log(2), abs_tol=1e-5)
    assert ("peft-adapter.term" in steps[0]["metrics"]) == term
    artifact = tmp_path / "runs/one/adapter"
    config = json.loads((artifact / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["peft_type"] == method.upper()
    check_off(tiny_model, artifact)


def test_a_policy_starts_at_its_reference(tiny_model: Path, tmp_path: Path) -> None:
    steps = run(tmp_path, tiny_model, RLHF, "vera", "r = 8")
    assert abs(steps[0]["metrics"]["kl"]) < 1e-4 < abs(steps[-1]["metrics"]["kl"])
    check_off(tiny_model, tmp_path / "runs/one/policy/adapter")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"options": {"r": 8}}, "`options` needs `method`"),
        ({"method": "verra"}, 'did you mean "vera"'),
        ({"method": "vera", "options": {"rr": 8}}, 'did you mean "r"'),
        ({"method": "prompt_tuning", "options": {"num_virtual_tokens": 4}}, "own forward pass"),
        ({"method": "fourierft"}, "initial values of this fourierft adapter change the model"),
        ({"method": "lora", "options": {"init_lora_weights": "pissa"}}, "change the model"),
        ({"method": "lora", "options": {"kasa_config": {}}}, "changes the base model"),
        ({"method": "pvera"}, "adds noise"),
        ({"method": "adalora"}, "needs the option total_step"),
    ],
)
def test_adapters_that_cannot_be_compared_are_refused(table: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_table(AdapterTable, table)
