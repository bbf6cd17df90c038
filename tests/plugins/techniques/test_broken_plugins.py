"""Plugins that change torch or the plan: the adapter has the bits of a run without them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import tomli_w
import torch
from trials import count_trials

from tunesmith import api
from tunesmith.execution import execute

HEADER = """
import os, random
import numpy, torch
from tunesmith.hookspecs import hookimpl
from tunesmith.offers import ReporterOffer
from tunesmith.options import Options

def change():
    {change}
"""
HOOKS = """
@hookimpl
def tunesmith_review_plan(plan):
    {review}
    return []

class Odd:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def report(self, event):
        {report}

@hookimpl
def tunesmith_reporters():
    return [ReporterOffer(name="odd", summary="odd", config=Options, always=True,
                          build=lambda options, folder: Odd())]
"""
CHANGES = {
    "default dtype": "torch.set_default_dtype(torch.float64)",
    "default device": "torch.set_default_device('meta')",
    "gradient mode": "torch.set_grad_enabled(False)",
    "autocast": "torch.set_autocast_enabled('cpu', True)",
    "number of threads": "torch.set_num_threads(3)",
    "random": "torch.manual_seed(1), numpy.random.seed(1), random.seed(1)",
}
"""Changes of global state, by what the run says about them."""


def train(folder: Path, model: Path, plugin: str) -> tuple[bytes, str]:
    """Train an adapter with dropout for a few steps; return its weights and the log."""
    rows = [{"prompt": f"What is {n}?", "completion": "ten " * (1 + n % 3)} for n in range(12)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    (folder / "odd.py").write_text(plugin or "from tunesmith.hookspecs import hookimpl\n")
    tables = {
        "run": {"seed": 3, "device": "cpu"},
        "model": {"base": str(model)},
        "data": {"use": "jsonl", "train": "rows.jsonl", "test_size": 2},
        "technique": {"use": "lora", "batch_size": 5, "max_steps": 2, "adapter": {"dropout": 0.1}},
        "evaluators": [{"use": "loss"}],
        "baselines": {"use": []},
        "reporters": [],
        "plugins": {"files": ["odd.py"]} if plugin else {},
    }
    (folder / "run.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
    plan, catalog = api.load_plan(folder / "run.toml")
    run_folder = api.create_run_folder(plan, folder / "out")
    report = execute.run(plan, catalog, run_folder)
    (weights,) = (folder / "out" / report.training_finished[""].artifact).glob("*.safetensors")
    return weights.read_bytes(), run_folder.events.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> bytes:
    """Return the weights of a run without such a plugin."""
    return train(tmp_path_factory.mktemp("whole"), tiny_folder, "")[0]


@pytest.fixture(autouse=True)
def threads() -> int:
    torch.set_num_threads(1)
    return torch.get_num_threads()


PLACES = ("import", "hook", "reporter")
QUICK = [("import", "default dtype"), ("reporter", "default dtype")]
CASES = [
    pytest.param(*case, marks=() if case in QUICK else pytest.mark.processes)
    for case in itertools.product(PLACES, CHANGES)
]


@pytest.mark.parametrize(("place", "name"), CASES)
def test_global_state_changes_no_weight_and_is_named(
    place: str,
    name: str,
    tmp_path: Path,
    tiny_folder: Path,
    expected: bytes,
) -> None:
    call = {place: "change()"}
    source = HEADER.format(change=CHANGES[name]) + call.get("import", "") + "\n"
    source += HOOKS.format(review=call.get("hook", "pass"), report=call.get("reporter", "pass"))
    weights, log = train(tmp_path, tiny_folder, source)
    assert weights == expected
    assert (name == "random") is (f"torch's {name}; the change was undone" not in log)
    assert name == "random" or "file:odd" in log
    count_trials("a plugin changes global state of torch, and no weight")


def test_a_plan_that_a_hook_changes_is_not_trained_with(
    tmp_path: Path,
    tiny_folder: Path,
    expected: bytes,
) -> None:
    """Not even past the protection of its fields."""
    change = "object.__setattr__(plan.technique.config, 'learning_rate', 0.5)"
    source = HEADER.format(change="pass") + HOOKS.format(review=change, report="pass")
    weights, log = train(tmp_path, tiny_folder, source)
    assert weights == expected
    assert "tunesmith_review_plan changed its copy of the plan" in log
