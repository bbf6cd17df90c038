"""Every built-in plugin passes the conformance kit, like those of third parties."""

from __future__ import annotations

import atexit
import json
import shutil
import sqlite3
import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tunesmith.catalog import Catalog
from tunesmith.import_strings import load_entry_point
from tunesmith.offers import TechniqueOffer
from tunesmith.plugins import (
    COMMAND_GROUP,
    ENTRY_POINT_GROUP,
    Selection,
    find_installed,
    find_plugins,
)
from tunesmith.records import last_exchange
from tunesmith.testing.checks import NotApplicable
from tunesmith.testing.examples import CHATS, COMPLETIONS
from tunesmith.testing.kit import BoundCheck, collect_checks

ROOT = Path(__file__).parents[2]

QUICK = {"epochs": 6.0, "batch_size": 4, "learning_rate": 1e-2}
"""Options with which a technique learns eight examples in a second."""

REWARD_FUNCTION = """from tunesmith.testing.examples import CHATS, COMPLETIONS
from tunesmith.records import last_exchange

RIGHT = {last_exchange(record)[1].text for record in (*COMPLETIONS, *CHATS)}


def right(prompt, answer):
    return float(answer in RIGHT)
"""


STAGES = {
    "supervised": {**QUICK, "epochs": 3.0},
    # Two test pairs cannot show that a reward model is better than chance.
    "reward": {**QUICK, "epochs": 2.0, "gate": {"accept_weak": True}},
    "policy": {
        **QUICK,
        "epochs": 1.0,
        "generation": {"num_generations": 2, "max_new_tokens": 6},
        "monitor": {"every": 2},
    },
}
"""The same for the stages of RLHF."""


@cache
def temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tunesmith-conformance-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def tiny_model() -> Path:
    from tunesmith_torch.testing.tiny_model import save_tiny_model

    return save_tiny_model(temporary_folder() / "tiny")


@cache
def tiny_encoder() -> Path:
    from tiny_encoder import save_tiny_encoder

    return save_tiny_encoder(temporary_folder() / "encoder")


@cache
def uniform_model() -> Path:
    """Save a model with weights of almost 0, whose logits are exactly 0 for all tokens.

    On some processors, other models round a product differently with another number of rows.
    """
    from tunesmith_torch.testing.tiny_model import save_tiny_model

    return save_tiny_model(temporary_folder() / "uniform", changes={"initializer_range": 1e-30})


def write(name: str, text: str) -> str:
    path = temporary_folder() / name
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    return str(path)


QUICK_PLUGINS = tuple(
    f"{name}: " for name in ("console", "exact-match", "grouped", "jsonl", "linear", "lora", "rows")
)
"""One plugin of each kind is checked in the quick lane; all of them take two minutes."""


def samples() -> dict[str, dict[str, Any]]:
    rows = [json.dumps({"prompt": f"q{n}?", "completion": f"a{n} ü"}) + "\n" for n in range(12)]
    table = "prompt,completion\n" + "".join(f'q{n}?,"a{n}, ü"\n' for n in range(12))
    return {
        "jsonl": {
            "train": write("train.jsonl", "".join(rows[:9])),
            "test": write("test.jsonl", "".join(rows[9:])),
        },
        "table": {"train": write("train.csv", table)},
        "text": {"train": write("train.md", "A line of a text.\n\n" * 9), "max_characters": 60},
        "sql": {
            "train": "SELECT q AS prompt, a AS completion FROM rows",
            "test": "SELECT 'q' AS prompt, 'a' AS completion",
            "file": database(),
        },
        "mixture": {
            "sources": [
                {"train": write("one.jsonl", "".join(rows)), "weight": 2.0},
                {"train": write("two.csv", table), "weight": 1.0},
            ]
        },
        "win-rate": {
            "run": str(tiny_model()),
            "reward": f"{write('reward.py', REWARD_FUNCTION)}:right",
            "max_new_tokens": 16,
        },
        "code": {"execute_generated_code": True},
        "constrained-match": {"labels": kit_answers()},
        "prompt": {"files": [write("prompt.txt", "Answer with one word.")]},
        "sentence-encoder": {"model": str(tiny_encoder())},
        "reward-margin": {"run": str(uniform_model())},
        "kl": {"run": str(tiny_model()), "max_new_tokens": 16},
        "length": {"run": str(tiny_model()), "max_new_tokens": 16},
        "judge": {"run": str(tiny_model()), "model": str(tiny_model()), "max_new_tokens": 8},
        "canaries": {"run": str(tiny_model()), "file": write("canaries.json", canaries())},
        "safety": {
            "run": str(tiny_model()),
            "prompts": write("harm.jsonl", '{"prompt": "q"}\n' * 12),
            "max_new_tokens": 8,
        },
        "forgetting": {
            "run": str(tiny_model()),
            "texts": write("texts.jsonl", '{"text": "One two three."}\n' * 12),
        },
        **{name: quick_options(offer) for name, offer in techniques().items()},
        "rlhf": STAGES,
        "existing": {"tuned": str(tiny_model())},
    }


def canaries() -> str:
    """Return a file of canaries."""
    from tunesmith_evidence.side_effects.canaries import draw_canaries

    return json.dumps(draw_canaries("chat", [1, 4], 100, seed=1).to_json())


def kit_answers() -> list[str]:
    """Return the answers of the kit's sample records."""
    return [last_exchange(record)[1].text for record in (*COMPLETIONS, *CHATS)]


def database() -> str:
    path = temporary_folder() / "rows.db"
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE rows (q, a)")
        connection.executemany("INSERT INTO rows VALUES (?, ?)", [(f"q{n}", "a") for n in range(9)])
    return str(path)


def techniques() -> dict[str, TechniqueOffer[Any]]:
    """Return the built-in techniques by name."""
    catalog = Catalog(find_plugins(Selection(allowed=frozenset())))
    return {o.offer.name: o.offer for o in catalog.offers(TechniqueOffer) if o.plugin.is_builtin}


def quick_options(offer: TechniqueOffer[Any]) -> dict[str, Any]:
    """Return those of the quick options that the technique has."""
    return {key: value for key, value in QUICK.items() if key in offer.config.model_fields}


def broken() -> dict[str, dict[str, Any]]:
    return {
        "jsonl": {"train": write("broken.jsonl", '{"prompt": "p", "completion": "c"}\n{"pro\n')},
        "table": {"train": write("broken.csv", 'prompt,completion\np,c\np,"c\n')},
        "text": {"train": write("broken.md", "caf\udce9")},
        "sql": {"train": "SELECT 'q' AS prompt, NULL AS completion", "file": database()},
    }


_NO_TOKENS = "it compares models with the same tokenizer, and the kit's fake model has no tokens"
EXPECTED_FAILURES: dict[str, str] = {
    **{
        f"kl: {check}[kl]": _NO_TOKENS
        for check in ("metrics_are_declared", "same_result_twice", "does_not_depend_on_batching")
    },
    **{
        f"memorization: {check}[memorization]": (
            "it completes the training rows of a run, and the kit measures without one"
        )
        for check in (
            "metrics_are_declared",
            "same_result_twice",
            "does_not_depend_on_batching",
            "handles_empty",
        )
    },
    **{
        f"review: {check}[review]": (
            "it chooses a threshold on the validation rows of a run, and the kit has no run"
        )
        for check in (
            "metrics_are_declared",
            "same_result_twice",
            "does_not_depend_on_batching",
            "handles_empty",
            "perfect_model_scores_best",
        )
    },
    **{
        f"constrained-json: {check}[constrained-json]": (
            "the kit's fake model cannot be constrained, and the kit's answers are not JSON objects"
        )
        for check in (
            "metrics_are_declared",
            "same_result_twice",
            "does_not_depend_on_batching",
            "perfect_model_scores_best",
        )
    },
    "judge: perfect_model_scores_best[judge]": (
        "ten anchors are needed to test a judge, and the kit has fewer records"
    ),
    "constrained-match: perfect_model_scores_best[constrained-match]": (
        "the kit's fake model finds all right answers equally probable, whatever the prompt"
    ),
}
"""Reasons of checks that a built-in plugin fails, by ``entry point: check[offer]``."""


def built_ins() -> dict[str, str]:
    """Return the entry points of the built-in plugins by name."""
    return {plugin.name: plugin.module for plugin, _ in find_installed() if plugin.is_builtin}


def cases() -> list[Any]:
    parameters = []
    for name, module in built_ins().items():
        plugin = load_entry_point(module)
        for check in collect_checks(plugin, model=tiny_model, samples=samples(), broken=broken()):
            key = f"{name}: {check.name}"
            reason = EXPECTED_FAILURES.get(key)
            marks = [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True)]
            if not key.startswith(QUICK_PLUGINS):
                marks.append(pytest.mark.processes)
            parameters.append(pytest.param(check, id=key, marks=marks))
    return parameters


@pytest.mark.parametrize("check", cases())
def test_promise(check: BoundCheck) -> None:
    try:
        check()
    except NotApplicable as error:
        pytest.skip(str(error))


@pytest.mark.processes
@pytest.mark.parametrize("name", ["full", "lora"])
def test_batches_change_nothing_in_bf16(name: str) -> None:
    """The precision that a processor with AMX gets by itself."""
    plugin = load_entry_point(built_ins()[name])
    options = {name: {**QUICK, "precision": "bf16"}}
    for check in collect_checks(plugin, model=tiny_model, samples=options):
        if check.check.name.endswith(("change_nothing", "changes_nothing", "depend_on_batching")):
            check()


def test_all_declared_entry_points_are_installed() -> None:
    """The installed entry points are those that the project declares."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = project["entry-points"]
    declared = {**groups[ENTRY_POINT_GROUP], **groups[COMMAND_GROUP]}
    assert declared == built_ins(), "pip install -e . again"


def test_help_finds_the_built_in_plugins_that_offer_commands() -> None:
    offered = {
        name for name, module in built_ins().items()
        if hasattr(load_entry_point(module), "tunesmith_commands")
    }  # fmt: skip
    assert offered == {p.name for p, _ in find_installed(commands_only=True) if p.is_builtin}
