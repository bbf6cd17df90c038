"""Every built-in passes the conformance kit that third parties get. No favours."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import pytest

from tunesmith.catalog import Catalog
from tunesmith.offered import BUILTIN
from tunesmith.offers import TechniqueOffer
from tunesmith.plugins import GROUP, Selection, find
from tunesmith.testing.checks import NotApplicable
from tunesmith.testing.kit import Trial, trials

ROOT = Path(__file__).parents[2]

QUICK = {"epochs": 12.0, "batch_size": 4, "learning_rate": 1e-2}
"""Options with which a technique learns eight examples in a second."""

JUDGE = """from tunesmith.testing.examples import CHATS, COMPLETIONS
from tunesmith.records import last_exchange

RIGHT = {last_exchange(record)[1] for record in (*COMPLETIONS, *CHATS)}


def right(prompt, answer):
    return float(answer in RIGHT)
"""


STAGES = {
    "supervised": {**QUICK, "epochs": 6.0},
    # Two held-out pairs cannot show that a reward model is better than chance.
    "reward": {**QUICK, "epochs": 2.0, "accept_weak": True},
    "policy": {
        **QUICK,
        "epochs": 1.0,
        "num_generations": 2,
        "max_new_tokens": 6,
        "monitor_every": 2,
    },
}
"""The same for a technique of stages."""


@cache
def place() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tunesmith-conformance-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def tiny_model() -> Path:
    from tunesmith_torch.testing.tiny_model import save_tiny_model

    return save_tiny_model(place() / "tiny")


def written(name: str, text: str) -> str:
    path = place() / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def samples() -> dict[str, dict[str, Any]]:
    rows = [json.dumps({"prompt": f"q{n}?", "completion": f"a{n} ü"}) + "\n" for n in range(12)]
    table = "prompt,completion\n" + "".join(f'q{n}?,"a{n}, ü"\n' for n in range(12))
    return {
        "jsonl": {
            "train": written("train.jsonl", "".join(rows[:9])),
            "heldout": written("heldout.jsonl", "".join(rows[9:])),
        },
        "table": {"train": written("train.csv", table)},
        "win-rate": {"run": str(tiny_model()), "reward": f"{written('judge.py', JUDGE)}:right"},
        "kl": {"run": str(tiny_model()), "tokens": 16},
        "length": {"run": str(tiny_model()), "tokens": 16},
        **{name: quick(offer) for name, offer in techniques().items()},
        "rlhf": STAGES,
    }


def techniques() -> dict[str, TechniqueOffer[Any]]:
    """The techniques that the project itself installs."""
    catalog = Catalog(find(Selection(only=frozenset())))
    return {o.offer.name: o.offer for o in catalog.offers(TechniqueOffer) if o.plugin.builtin}


def quick(offer: TechniqueOffer[Any]) -> dict[str, Any]:
    """Those of the quick options that the technique has."""
    return {key: value for key, value in QUICK.items() if key in offer.config.model_fields}


def broken() -> dict[str, dict[str, Any]]:
    return {
        "jsonl": {"train": written("broken.jsonl", '{"prompt": "p", "completion": "c"}\n{"pro\n')},
        "table": {"train": written("broken.csv", 'prompt,completion\np,c\np,"c\n')},
    }


_NO_TOKENS = "it compares models with one tokenizer, and the kit's table of answers has no tokens"
EXPECTED: dict[str, str] = {
    f"kl: {check}[kl]": _NO_TOKENS
    for check in ("metrics_are_declared", "same_result_twice", "does_not_depend_on_batching")
}
"""Promises that a built-in breaks, ``entry point: check[offer]``, each with its reason."""


def built_ins() -> list[str]:
    """Module by entry point of everything that the project itself installs."""
    found = {
        entry.name: entry.value
        for entry in metadata.entry_points(group=GROUP)
        if entry.dist is not None and entry.dist.name == BUILTIN
    }
    return [found[name] for name in sorted(found)]


def cases() -> list[Any]:
    made = []
    for name in built_ins():
        module = import_module(name)
        for trial in trials(module, model=tiny_model, samples=samples(), broken=broken()):
            key = f"{name.rpartition('.')[2]}: {trial.name}"
            reason = EXPECTED.get(key)
            marks = [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True)]
            made.append(pytest.param(trial, id=key, marks=marks))
    return made


@pytest.mark.parametrize("trial", cases())
def test_promise(trial: Trial) -> None:
    try:
        trial()
    except NotApplicable as error:
        pytest.skip(str(error))


def test_nothing_is_left_out() -> None:
    """The entry points that are installed are those that the project declares."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = project["entry-points"]["tunesmith"]
    assert sorted(declared.values()) == sorted(built_ins()), "pip install -e . again"
