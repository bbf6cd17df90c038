"""80 broken plugins: each is blamed, and a run that ends well has the weights of one without it.

A case breaks one call of a plugin in one way. The runs train the ``echo`` technique, without
tensors; ``tests/plugins/techniques/test_broken_plugins.py`` has the cases that need some.
"""

from __future__ import annotations

import itertools
import locale
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bench import (
    RECORDER,
    RIGHT,
    ROWS,
    ZERO_SHOT,
    Asking,
    Bench,
    Right,
    Rows,
    catalog_of,
    echo_plugin,
    offering,
    plugin,
    rows,
)
from trials import count_trials

from tunesmith.catalog import Catalog
from tunesmith.contracts import Artifact, Finding, FoundModel, Measurement, ReviewResult
from tunesmith.errors import RunStopped, TunesmithError
from tunesmith.fence import SECONDS_VARIABLE
from tunesmith.offers import FILE_DISTRIBUTION, Metric, Plugin
from tunesmith.plugins import load_plugin
from tunesmith_plugins.splitters.grouped import GROUPED

NUMBERS = {
    "NaN": float("nan"),
    "infinite": float("inf"),
    "huge": 1e300,
    "a huge integer": 10**400,
}


# --------------------------------------------------------------------------- what goes wrong


class Odd(BaseException):
    """Neither an exception nor the end of the process."""


def fail(*given: object) -> Any:
    raise ValueError("odd")


def leave(*given: object) -> Any:
    sys.exit(0)


def leave_at_once(*given: object) -> Any:
    os._exit(0)


def fail_oddly(*given: object) -> Any:
    raise Odd


def stop(*given: object) -> Any:
    raise RunStopped("all is well", exit_code=0)


def hang(*given: object) -> Any:
    while True:
        with suppress(Exception):
            time.sleep(0.02)


def spin(*given: object) -> Any:
    return sum(1 for _ in itertools.count())


def change_state(*given: object) -> Any:
    os.chdir("/")
    os.umask(0)
    os.environ["KEPT"] = "2"
    random.seed(3)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    locale.setlocale(locale.LC_ALL, "C")
    sys.setrecursionlimit(5_000)
    sys.stdout = sys.stderr = None  # type: ignore[assignment]


def change_plan(holder: Any) -> Any:
    plan = holder.plan if hasattr(holder, "plan") else holder
    object.__setattr__(plan.technique.config, "batch_size", 1)
    object.__setattr__(plan.technique.config, "epochs", 3)
    object.__setattr__(plan.run, "seed", 1)


def change_record(holder: Any) -> Any:
    records = holder.train if hasattr(holder, "train") else holder
    object.__setattr__(records[0], "completion", "Atlantis")
    return ()


FAULTS: dict[str, Callable[..., Any]] = {
    "raises": fail,
    "exits": leave,
    "exits at once": leave_at_once,
    "raises no Exception": fail_oddly,
    "ends with exit code 0": stop,
}
HANGS: dict[str, Callable[..., Any]] = {"hangs": hang, "spins": spin}


# --------------------------------------------------------------------------- where


def import_of(fault: Callable[[], object]) -> Catalog:
    """Return the usual catalog with a plugin whose import has a fault."""

    def load() -> object:
        fault()
        return offering("techniques")

    catalog = catalog_of()
    changes: list[str] = []
    odd = Plugin(name="odd", distribution=FILE_DISTRIBUTION, version="", module="odd")
    loaded = load_plugin(catalog.plugins.manager, odd, load, changes)
    catalog.plugins.found.append(loaded)
    if changes:
        catalog.plugins.note(
            loaded, f"its import changed {', '.join(changes)}; the change was undone"
        )
    return catalog


def offers(fault: Callable[[], Any]) -> Catalog:
    return catalog_of(odd=plugin(techniques=lambda: fault()))


def evaluator(measure: Callable[..., Any], **offer: Any) -> Catalog:
    """Return the usual catalog with an evaluator ``odd``, whose ``measure`` is replaced."""
    built = type("Odd", (Right,), {"measure": lambda self, *given: measure(*given)})
    odd = replace(RIGHT, name="odd", build=built, default_for=lambda records: False, **offer)
    return catalog_of(odd=offering("evaluators", odd))


def values(value: float, **more: Any) -> Callable[..., Any]:
    def measure(model: object, records: Sequence[object]) -> list[Measurement]:
        return [Measurement(metric="right", values=(value,) * len(records), **more)]

    return measure


def loader(load: Callable[..., Any]) -> Catalog:
    odd = replace(ROWS, name="odd", build=type("Odd", (Rows,), {"load": load}))
    return catalog_of(odd=offering("data_loaders", odd))


def splitter(split: Callable[..., Any]) -> Catalog:
    built = type("Odd", (), {"split": lambda self, *given: split(*given)})
    odd = replace(GROUPED, name="odd", by_default=False, build=lambda options: built())
    return catalog_of(odd=offering("splitters", odd))


def reporter(**methods: Callable[..., Any]) -> Catalog:
    built = {
        "__enter__": lambda self: self,
        "__exit__": lambda self, *error: None,
        "report": lambda self, event: None,
        **{name: lambda self, *given, m=method: m(*given) for name, method in methods.items()},
    }
    build = methods.get("build", lambda options, folder: type("Odd", (), built)())
    odd = replace(RECORDER, name="odd", by_default=False, build=build)
    return catalog_of(odd=offering("reporters", odd))


def technique(**methods: Callable[..., Any]) -> Catalog:
    return catalog_of(echo=plugin(), odd=echo_plugin(**methods))


def baseline(variants: Callable[..., Any]) -> Catalog:
    built = type("Odd", (Asking,), {"variants": lambda self, task: variants(task)})
    odd = replace(ZERO_SHOT, name="odd", build=built)
    return catalog_of(odd=offering("baselines", odd))


@dataclass(frozen=True)
class Case:
    """A catalog with a broken plugin, the run that uses it, and what must come of that."""

    catalog: Callable[[], Catalog]
    text: str = "odd"
    """What the error, or a finding, must say beside the name of the plugin."""
    exit_code: int = 0
    tables: Mapping[str, Any] = field(default_factory=dict)


def good(catalog: Callable[[], Catalog], text: str = "odd", **tables: Any) -> Case:
    return Case(catalog, text, 0, tables)


def bad(catalog: Callable[[], Catalog], text: str = "odd", **tables: Any) -> Case:
    return Case(catalog, text, 8, tables)


ODD = {"use": "odd"}
LOADER = {**ODD, "file": "rows.jsonl"}
FINDING = Finding(level="warning", where="run", message="odd")
FOUND = FoundModel(reference="base", description="base", fetch=lambda: Path("/nowhere/at/all"))
SHARE = Metric(name="right", higher_is_better=True, bounds=(0.0, 1.0))
NOWHERE = Artifact(path=Path("/nowhere/at/all"), format="model")


def reviewing(fault: Callable[..., Any]) -> Catalog:
    return catalog_of(odd=plugin(review_plan=lambda plan: fault(plan)))


def reviewing_data(fault: Callable[..., Any]) -> Catalog:
    return catalog_of(odd=plugin(review_data=lambda train: fault(train)))


def reviewing_model(fault: Callable[..., Any]) -> Catalog:
    return catalog_of(odd=plugin(review_model=lambda review: fault(review)))


def judging(fault: Callable[..., Any]) -> Catalog:
    return catalog_of(odd=plugin(verdict=lambda evidence: fault(evidence)))


def finding(fault: Callable[..., Any]) -> Catalog:
    return catalog_of(odd=plugin(find_model=lambda reference: fault(reference)))


def reporting(fault: Callable[..., Any]) -> Catalog:
    return reporter(report=fault)


def training(fault: Callable[..., Any]) -> Catalog:
    return technique(train=fault)


def returning(value: object) -> Callable[..., Any]:
    return lambda *given: value


def failures() -> Iterator[tuple[str, Case]]:
    for name, fault in FAULTS.items():
        yield f"import {name}", good(partial(import_of, fault), "broken")
        yield f"review {name}", good(partial(reviewing, fault))
        yield f"verdict {name}", bad(partial(judging, fault), "tunesmith_verdict")
        yield f"loader {name}", bad(partial(loader, fault), "load", data=LOADER)
        yield f"evaluator {name}", bad(partial(evaluator, fault), evaluators=[ODD])
        yield f"reporter {name}", good(partial(reporting, fault), "muted", reporters=[ODD])
        yield f"technique {name}", bad(partial(training, fault))
    for name, fault in HANGS.items():
        yield f"import {name}", good(partial(import_of, fault), "did not finish within")
        yield f"offers {name}", good(partial(offers, fault), "did not finish within")
        yield f"finder {name}", bad(partial(finding, fault), "did not finish within")
        yield f"review {name}", good(partial(reviewing, fault), "did not finish within")
        yield (
            f"reporter {name}",
            good(partial(reporting, fault), "did not finish within", reporters=[ODD]),
        )
    yield "build of a reporter raises", bad(partial(reporter, build=fail), reporters=[ODD])
    yield (
        "end of a reporter exits",
        good(partial(reporter, __exit__=leave), "could not be closed", reporters=[ODD]),
    )
    yield "splitter raises", bad(partial(splitter, fail), "split", split=ODD)


def changes() -> Iterator[tuple[str, Case]]:
    folder, plan, record = "changed the current folder", "changed its copy", "changed the record"
    yield "import changes state", good(partial(import_of, change_state), folder)
    yield "review changes state", good(partial(reviewing, change_state), folder)
    yield "verdict changes state", good(partial(judging, change_state), folder)
    yield "reporter changes state", good(partial(reporting, change_state), folder, reporters=[ODD])
    yield "review changes the plan", good(partial(reviewing, change_plan), plan)
    yield "review of a model changes the plan", good(partial(reviewing_model, change_plan), plan)
    yield "verdict changes the plan", good(partial(judging, change_plan), plan)
    yield "review changes a record", bad(partial(reviewing_data, change_record), record)
    yield "review of a model changes a record", bad(partial(reviewing_model, change_record), record)
    yield "verdict changes a record", bad(partial(judging, change_record), record)
    yield (
        "baseline changes a record",
        bad(partial(baseline, change_record), record, baselines={"use": ["odd"]}),
    )


def results() -> Iterator[tuple[str, Case]]:
    for name, number in NUMBERS.items():
        yield f"value is {name}", bad(partial(evaluator, values(number)), evaluators=[ODD])
    measured = {
        "value is out of bounds": (values(7.0), SHARE, "the bounds 0 to 1"),
        "bounds are reversed": (
            values(1.0),
            replace(SHARE, bounds=(1.0, 0.0)),
            "bounds [1.0, 0.0], in the wrong order",
        ),
        "details are not JSON": (values(1.0, details={"model": object()}), SHARE, "not JSON"),
        "details are huge": (values(1.0, details={"text": "x" * 2_000_000}), SHARE, "at most"),
    }
    for name, (measure, metric, text) in measured.items():
        catalog = partial(evaluator, measure, metrics=(metric,))
        yield name, bad(catalog, text, evaluators=[ODD])
    for name, verdict, text in (
        ("verdict is not JSON", {"by": object()}, "not JSON"),
        ("verdict is huge", {"by": "x" * 2_000_000}, "at most"),
    ):
        yield name, bad(partial(judging, returning(verdict)), text)
    for name, found, text in (
        ("finding has no level", [replace(FINDING, level="fatal")], "level"),  # type: ignore[arg-type]
        ("finding has no text", [replace(FINDING, message=7)], "message"),  # type: ignore[arg-type]
        ("finding is a text", ["odd"], "type str instead of a Finding"),
    ):
        yield name, good(partial(reviewing, returning(found)), text)
    forecast = ReviewResult(forecast="it fits")  # type: ignore[arg-type]
    yield "forecast is a text", good(partial(reviewing_model, returning(forecast)), "Forecast")
    for name, model, text in (
        ("model is nowhere", FOUND, "not a folder"),
        ("model is a text", "base", "wrong type str"),
        ("description is a number", replace(FOUND, description=7), "description"),  # type: ignore[arg-type]
    ):
        yield name, bad(partial(finding, returning(model)), text)
    yield "splitter returns nothing", bad(partial(splitter, returning(None)), "Split", split=ODD)
    yield "loader returns a list", bad(partial(loader, returning([])), "Dataset", data=LOADER)
    yield "artifact is nowhere", bad(partial(training, returning(NOWHERE)), "not a folder")
    yield "technique returns nothing", bad(partial(training, returning(None)), "Artifact")
    for name, offer, text in (
        ("options are no model", replace(RIGHT, config=dict), "not a pydantic model"),
        ("name is a number", replace(RIGHT, name=7), "int as a name"),  # type: ignore[arg-type]
        ("offer is of another kind", ROWS, "DataLoaderOffer"),
    ):
        yield name, good(partial(catalog_of, odd=offering("evaluators", offer)), text)


CASES = {**dict(failures()), **dict(changes()), **dict(results())}


# --------------------------------------------------------------------------- what comes of it


def run_once(bench: Bench, tables: Mapping[str, Any]) -> bytes:
    """Run, and return the weights."""
    bench.write_rows(rows(24))
    (bench.root / "base" / "config.json").write_text('{"model_type": "table"}', encoding="utf-8")
    bench.run(**{"technique": {"epochs": 1}, "baselines": {"use": []}, **tables})
    return (bench.root / "out" / "model" / "echo.json").read_bytes()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the weights of a run without a broken plugin."""
    return run_once(Bench(tmp_path_factory.mktemp("whole")), {})


def collect_texts(bench: Bench) -> Iterator[str]:
    """Yield what the run says about plugins: its findings, and the list of plugins."""
    for event in bench.events():
        if event["event"] == "finding":
            yield f"{event['source']} {event['message']}"
    for found in bench.catalog.plugins.found:
        yield f"{found.full_name} is {found.state}: {found.reason}"


@pytest.mark.parametrize("name", CASES)
def test_a_broken_plugin_is_blamed_and_changes_no_weight(
    name: str, bench: Bench, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    monkeypatch.setenv(SECONDS_VARIABLE, "0.3" if name.split()[-1] in HANGS else "60")
    monkeypatch.setenv("KEPT", "1")
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # no power is lost here
    monkeypatch.chdir(bench.root)
    texts, exit_code = [], 0
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        bench.catalog = case.catalog()
        try:
            assert run_once(bench, case.tables) == weights
            texts += collect_texts(bench)
        except TunesmithError as error:
            texts, exit_code = [error.message], error.exit_code
    texts += [str(one.message) for one in warned]
    assert any("file:odd" in text and case.text in text for text in texts), texts
    assert exit_code == case.exit_code
    # A run that has not begun has no events.
    events = bench.events() if (bench.root / "out" / "events.jsonl").exists() else []
    ends = [event for event in events if event["event"] == "run-finished"]
    assert len(ends) == bool(events) and all(e["exit_code"] == case.exit_code for e in ends)
    count_trials("a broken plugin is blamed, and the weights are those without it")


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 60
