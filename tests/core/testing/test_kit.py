"""The conformance kit, held to its own promise: a broken plugin fails exactly the right check."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tunesmith_echo
from bench import LEDGER, ROWS, Ledger, Rows, plugin, rows
from pydantic import BaseModel, ConfigDict, Field
from tunesmith_echo.offer import BREVITY, ECHO
from tunesmith_echo.technique import Echo

from tunesmith.contracts import (
    Artifact,
    Dataset,
    Economy,
    Estimate,
    EstimateRequest,
    Measurement,
    Memory,
)
from tunesmith.errors import DataError, PluginError
from tunesmith.events import RunFinished, Stepped, Trained
from tunesmith.offers import EvaluatorOffer, Metric, Promises, TechniqueOffer
from tunesmith.options import Options
from tunesmith.records import Completion, last_exchange
from tunesmith.testing import Result, parametrize_checks, run_checks
from tunesmith.testing.checks import REGISTERED, demand
from tunesmith.testing.kit import trials


def module(**offers: object) -> ModuleType:
    """A plugin module with these offers, by hook."""
    made = ModuleType("kit_specimen")
    made.__file__ = __file__.replace("test_kit.py", "specimen/kit_specimen.py")
    hooks = {name: (lambda offer=offer: [offer]) for name, offer in offers.items()}
    vars(made).update(vars(plugin(**hooks)))
    return made


def broken(results: list[Result]) -> dict[str, str]:
    """Promises that are not kept, with what the kit says."""
    return {r.check: r.detail for r in results if r.state == "broken"}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "echo.json").write_text("{}", encoding="utf-8")
    return folder


# --------------------------------------------------------------------------- what is right


def test_a_plugin_without_fault(base: Path) -> None:
    results = run_checks(tunesmith_echo, model=base)
    assert broken(results) == {}
    assert {r.check for r in results if r.state == "not applicable"} == {
        "base_weights_unchanged",
        "estimates_are_intervals",
        "estimates_follow_the_work",
        "estimates_follow_the_options",
        "economies_save_memory",
    }
    assert {r.offer for r in results} == {"", "echo", "brevity"}
    assert len(results) > 30


def test_every_check_has_a_sentence_and_a_name_of_its_own() -> None:
    names = [check.name for check in REGISTERED]
    assert len(set(names)) == len(names) >= 30
    for check in REGISTERED:
        assert check.function.__doc__, check.name


def test_what_cannot_be_checked_says_why() -> None:
    results = {r.check: r for r in run_checks(tunesmith_echo)}
    assert results["learns_eight_examples"].state == "not applicable"
    assert "model folder" in results["learns_eight_examples"].detail
    loader = {r.check: r for r in run_checks(module(data_loaders=ROWS))}
    assert loader["same_order_twice"].detail == "needs sample options for rows: ['file']"


def test_a_plugin_that_does_not_load_is_an_error() -> None:
    with pytest.raises(PluginError, match="implements no hook"):
        run_checks(ModuleType("empty"))


# --------------------------------------------------------------------------- every offer


class OpenOptions(BaseModel):
    model_config = ConfigDict(frozen=True)
    epochs: int = Field(2, description="Passes over the data.")


class ThawedOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    epochs: int = Field(2, description="Passes over the data.")


class MuteOptions(Options):
    epochs: int = 2


class NestedOptions(Options):
    inner: OpenOptions = Field(OpenOptions(), description="A table in the table.")


class BadDefaultOptions(Options):
    epochs: int = Field("two", description="Passes over the data.")  # type: ignore[assignment]


class LossyOptions(Options):
    """Dumps something else than it reads."""

    epochs: int = Field(2, ge=1, description="Passes over the data.")

    def model_dump(self, **how: Any) -> dict[str, Any]:
        return {"epochs": 1} if how.get("mode") == "json" else super().model_dump(**how)


def offered(**changes: Any) -> ModuleType:
    """A reporter that is fine, but for the changes."""
    return module(reporters=replace(LEDGER, **changes))


def plain(options: object, folder: object) -> Ledger:
    return Ledger()


def environment(options: object, folder: object) -> Ledger:
    os.environ["KIT_TRACE"] = "1"
    return Ledger()


def root_logger(options: object, folder: object) -> Ledger:
    logging.getLogger().addHandler(logging.NullHandler())
    return Ledger()


def generator(options: object, folder: object) -> Ledger:
    import random

    random.random()
    return Ledger()


def folder_change(options: object, folder: object) -> Ledger:
    os.chdir("/")
    return Ledger()


def patched(options: object, folder: object) -> Ledger:
    import safetensors

    safetensors.safe_open = lambda *arguments: None
    return Ledger()


@pytest.mark.parametrize(
    ("specimen", "promise"),
    [
        (offered(name="led-ger-"), None),
        (offered(summary=""), "summary_is_one_line"),
        (offered(summary="two\nlines"), "summary_is_one_line"),
        (offered(summary="A sentence."), "summary_is_one_line"),
        (offered(config=OpenOptions, build=plain), "unknown_keys_are_refused"),
        (offered(config=ThawedOptions, build=plain), "config_is_frozen"),
        (offered(config=MuteOptions, build=plain), "every_option_has_help"),
        (offered(config=NestedOptions, build=plain), "unknown_keys_are_refused"),
        (offered(config=LossyOptions, build=plain), "config_round_trips_toml"),
        (offered(needs=("not a requirement",)), None),
        (offered(build=environment), "leaves_environment_untouched"),
        (offered(build=root_logger), "leaves_environment_untouched"),
        (offered(build=generator), "leaves_environment_untouched"),
        (offered(build=folder_change), "leaves_environment_untouched"),
        (offered(build=patched), "leaves_libraries_untouched"),
    ],
)
def test_what_an_offer_can_do_wrong(
    specimen: ModuleType, promise: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    safetensors = pytest.importorskip("safetensors")
    monkeypatch.setattr(safetensors, "safe_open", safetensors.safe_open)
    monkeypatch.setenv("KIT_TRACE", "0")
    monkeypatch.chdir(os.getcwd())
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    found = broken(run_checks(specimen))
    found.pop("import_is_light")  # it was made here, and is no file
    if promise is not None:
        assert list(found) == [promise]
    else:
        assert found


def test_defaults_are_held_to_their_own_rules() -> None:
    found = broken(run_checks(offered(config=BadDefaultOptions, build=plain)))
    assert "defaults_are_valid" in found and "config_round_trips_toml" in found


def test_a_heavy_import_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path(tunesmith_echo.__file__ or "").read_text(encoding="utf-8") + "\nimport pydantic\n"
    specimen = _written(tmp_path, "kit_heavy", text, monkeypatch)
    found = broken(run_checks(specimen))
    assert found == {"import_is_light": "importing kit_heavy also imports pydantic"}


def test_claiming_every_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "from tunesmith.contracts import FoundModel\n"
        "from tunesmith.hookspecs import hookimpl\n"
        "@hookimpl\n"
        "def tunesmith_find_model(reference):\n"
        "    return FoundModel(reference=reference, description='d', fetch=lambda: None)\n"
    )
    found = broken(run_checks(_written(tmp_path, "kit_greedy", text, monkeypatch)))
    assert list(found) == ["foreign_models_are_declined"]


def _written(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    return __import__(name)


# --------------------------------------------------------------------------- techniques

Edit = Callable[[Any, Any], Any]


def technique(tmp: Path, change: str) -> type[Echo]:  # noqa: C901 - a line for each fault
    """The echo technique with one fault."""

    class Faulty(Echo):
        def train(self, job: Any) -> Artifact:  # noqa: C901
            emit = job.emit

            def tell(event: Any) -> None:
                match change, event:
                    case "no trained", Trained():
                        return
                    case "twice trained", Trained():
                        emit(event)
                    case "wrong name", Trained():
                        event = replace(event, artifact="elsewhere")
                    case "skips steps", Stepped():
                        event = replace(event, step=event.step * 2)
                    case "not finite", Stepped():
                        event = replace(event, gradient_norm=float("nan"))
                    case "other losses", Stepped():
                        event = replace(event, loss=event.loss + len(os.listdir(job.out.parent)))
                emit(event)

            if change == "does not resume":
                job.checkpoints.newest = lambda: None
            if change == "resumes elsewhere" and job.checkpoints.newest():
                job = replace(job, train=[*job.train[4:], *job.train[4:]])
            if change == "takes anything":
                job = replace(
                    job, train=[r for r in job.train if isinstance(r, Completion)] or job.heldout
                )
            if change == "swallows":
                tell = _swallowing(tell)
            if change == "writes beside":
                (tmp / "beside.txt").write_text("x", encoding="utf-8")
            if change == "writes to the base":
                (job.model / "note.txt").write_text(str(job.out), encoding="utf-8")
            artifact = super().train(replace(job, emit=tell))
            if change == "leaves a mark":
                os.environ["KIT_MARK"] = str(job.out)
            if change == "not self-contained":
                (tmp / "weights.json").write_bytes((artifact.path / "echo.json").read_bytes())
                (artifact.path / "where").write_text(str(artifact.path), encoding="utf-8")
            return artifact

        def open(self, model: Path, artifact: Path | None, *, device: str) -> Any:
            if change == "opens the base":
                artifact = None
            if change == "not self-contained" and artifact is not None:
                here = (artifact / "where").read_text(encoding="utf-8") == str(artifact)
                return super().open(model, artifact if here else None, device=device)
            return super().open(model, artifact, device=device)

    return Faulty


def _swallowing(emit: Callable[[Any], None]) -> Callable[[Any], None]:
    def tell(event: Any) -> None:
        try:
            emit(event)
        except Exception:
            return

    return tell


def faulty(tmp: Path, change: str, **offer: Any) -> ModuleType:
    build = technique(tmp, change)
    return module(techniques=replace(ECHO, build=build, **offer))


@pytest.mark.parametrize(
    ("change", "promises"),
    [
        ("nothing", []),
        ("no trained", ["ends_with_one_trained"]),
        ("twice trained", ["ends_with_one_trained"]),
        ("wrong name", ["ends_with_one_trained"]),
        ("skips steps", ["steps_count_up"]),
        ("not finite", ["losses_are_finite"]),
        ("opens the base", ["learns_eight_examples"]),
        ("writes to the base", ["writes_only_below_out"]),
        ("not self-contained", ["writes_only_below_out", "artifact_reopens"]),
        ("writes beside", ["writes_only_below_out"]),
        ("other losses", ["same_seed_same_losses", "resumes_where_it_stopped"]),
        ("does not resume", ["resumes_where_it_stopped"]),
        ("resumes elsewhere", ["resumes_where_it_stopped"]),
        ("swallows", ["resumes_where_it_stopped"]),
        ("takes anything", ["refuses_wrong_records"]),
        ("leaves a mark", ["training_is_a_good_guest"]),
    ],
)
def test_what_a_technique_can_do_wrong(
    tmp_path: Path, base: Path, change: str, promises: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIT_MARK", "")
    found = broken(run_checks(faulty(tmp_path, change), model=base))
    found.pop("import_is_light")
    assert list(found) == promises


def test_an_adapter_must_leave_the_base_alone(tmp_path: Path, base: Path) -> None:
    specimen = faulty(tmp_path, "nothing", promises=Promises(base_weights_unchanged=True))
    found = broken(run_checks(specimen, model=base))
    assert found["base_weights_unchanged"] == "the artifact is a model"


def test_what_is_not_promised_is_not_checked(tmp_path: Path, base: Path) -> None:
    specimen = faulty(
        tmp_path, "resumes elsewhere", promises=Promises(resumable=False, deterministic=False)
    )
    found = broken(run_checks(specimen, model=base))
    assert list(found) == ["import_is_light"]


# --------------------------------------------------------------------------- estimates


def foretelling(change: str) -> TechniqueOffer[Any]:
    """The technique with an estimate that is wrong in one way."""
    wide = 3 if change == "no interval" else 1
    missing = 7 if change == "parts" else 0

    def estimate(options: Any, request: EstimateRequest) -> Iterator[Estimate]:
        assumed = request.assumed
        assert assumed is not None and assumed.rows and assumed.sequence
        size = 1000 * (1 if change == "deaf" else options.epochs)
        length = -assumed.sequence if change == "shrinks" else assumed.sequence
        expected = int(size) + length
        rows = 10_000 - assumed.rows if change == "idle" else assumed.rows
        memory = Memory(
            low=expected // 2 * wide,
            expected=expected,
            high=expected * 2,
            components={"all": expected - missing},
        )
        yield Estimate(
            method="traced" if change == "late" else "analytic",
            memory={} if change == "empty" else {"train": memory},
            flops=1e6 * rows,
            steps=0 if change == "no work" else rows,
            tokens=rows,
            longest=assumed.sequence,
            micro_batch_tokens=assumed.sequence,
        )

    def economies(options: Any) -> list[Economy[Any]]:
        epochs = options.epochs + (1 if change == "spends" else 0)
        config = options.model_copy(update={"epochs": epochs})
        return [Economy(changes=("technique.epochs = 1",), price="less learned", config=config)]

    return replace(ECHO, estimate=estimate, economies=economies)


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        ("nothing", None),
        ("no interval", "estimates_are_intervals"),
        ("parts", "estimates_are_intervals"),
        ("no work", "estimates_are_intervals"),
        ("late", "estimates_are_intervals"),
        ("idle", "estimates_follow_the_work"),
        ("shrinks", "estimates_follow_the_work"),
        ("deaf", "estimates_follow_the_options"),
        ("spends", "economies_save_memory"),
        ("empty", "estimates_are_intervals"),
    ],
)
def test_what_an_estimate_can_get_wrong(tmp_path: Path, change: str, promise: str | None) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    made = module(techniques=foretelling(change))
    tried = [t for t in trials(made, model=tmp_path) if t.check.name.startswith(("esti", "econ"))]
    assert len(tried) == 4
    found = list(broken([trial.result() for trial in tried]))
    assert found[:1] == ([promise] if promise else [])


# --------------------------------------------------------------------------- loaders


def loader(change: str) -> type[Rows]:
    loads = []

    class Faulty(Rows):
        def load(self) -> Dataset:
            dataset = super().load()
            loads.append(1)
            match change:
                case "once only":
                    return replace(dataset, train=iter(dataset.train))
                case "shuffled":
                    return replace(dataset, train=dataset.train[:: (-1) ** len(loads)])
                case "dictionaries":
                    return replace(dataset, train=[vars_of(r) for r in dataset.train])
                case "leaky":
                    return replace(dataset, heldout=dataset.train[:3])
                case "anonymous":
                    return replace(dataset, train=[replace(r, source="") for r in dataset.train])
            return dataset

    return Faulty


def vars_of(record: Completion) -> dict[str, str]:
    return {"source": record.source, "prompt": record.prompt}


@pytest.mark.parametrize(
    ("change", "promises"),
    [
        ("nothing", []),
        ("once only", ["is_sized_and_rereadable"]),
        ("shuffled", ["same_order_twice"]),
        ("dictionaries", ["yields_what_it_says"]),
        ("anonymous", ["yields_what_it_says"]),
        ("leaky", ["splits_are_disjoint"]),
    ],
)
def test_what_a_loader_can_do_wrong(tmp_path: Path, change: str, promises: list[str]) -> None:
    sample = _sample(tmp_path)
    specimen = module(data_loaders=replace(ROWS, build=loader(change)))
    found = broken(run_checks(specimen, samples={"rows": sample}))
    found.pop("import_is_light")
    assert [
        name for name in found if name != "splits_are_disjoint" or change == "leaky"
    ] == promises


def _sample(folder: Path, text: str | None = None) -> dict[str, Any]:
    path = folder / "rows.jsonl"
    good = "".join(json.dumps(row) + "\n" for row in rows(8))
    path.write_text(good if text is None else text, encoding="utf-8")
    return {"file": str(path)}


@pytest.mark.parametrize(
    ("text", "kept", "says"),
    [
        ('{"prompt": "x"', False, "JSONDecodeError"),
        ('{"prompt": "p", "completion": ""}\n', False, "names no file and line"),
        (None, False, "without a word"),
    ],
)
def test_broken_data_must_be_refused_with_its_place(
    tmp_path: Path, text: str | None, kept: bool, says: str
) -> None:
    specimen = module(data_loaders=ROWS)
    found = broken(run_checks(specimen, broken={"rows": _sample(tmp_path, text)}))
    assert says in found["names_file_and_line_in_errors"]


def test_an_error_with_its_place_is_what_is_wanted(tmp_path: Path) -> None:
    class Careful(Rows):
        def load(self) -> Dataset:
            raise DataError(f"{self.options.file}:3", "is no JSON")

    specimen = module(data_loaders=replace(ROWS, build=Careful))
    results = {r.check: r for r in run_checks(specimen, broken={"rows": _sample(tmp_path)})}
    assert results["names_file_and_line_in_errors"].state == "kept"


# --------------------------------------------------------------------------- evaluators


def evaluator(change: str) -> type:
    calls = []

    class Faulty:
        def __init__(self, options: object) -> None:
            pass

        def measure(self, model: Any, records: Any) -> list[Measurement]:
            calls.append(1)
            asked = [last_exchange(record) for record in records]
            if change == "needs records" and not asked:
                raise ZeroDivisionError
            said = model.generate([prompt for prompt, _ in asked], 8)
            pairs = zip(said, asked, strict=True)
            values = [float(s.text == answer) for s, (_, answer) in pairs]
            match change:
                case "moody":
                    values = [value + len(calls) for value in values]
                case "relative":
                    values = [value - sum(values) / len(values) for value in values]
                case "upside down":
                    values = [1 - value for value in values]
                case "blind":
                    values = [0.5 for _ in values]
                case "short":
                    values = values[:-1] if len(values) > 2 else values
                case "not finite":
                    values = [float("nan") if v else v for v in values]
            name = "beauty" if change == "another metric" else "right"
            return [Measurement(metric=name, values=tuple(values))]

    return Faulty


@pytest.mark.parametrize(
    ("change", "promises"),
    [
        ("nothing", set()),
        (
            "moody",
            {"same_result_twice", "does_not_depend_on_batching", "perfect_model_scores_best"},
        ),
        ("relative", {"does_not_depend_on_batching", "perfect_model_scores_best"}),
        ("upside down", {"perfect_model_scores_best"}),
        ("blind", {"perfect_model_scores_best"}),
        ("needs records", {"handles_empty"}),
    ],
)
def test_what_an_evaluator_can_do_wrong(change: str, promises: set[str]) -> None:
    found = broken(run_checks(module(evaluators=_evaluator_offer(change))))
    found.pop("import_is_light")
    assert set(found) <= promises or set(found) == promises
    assert bool(found) == bool(promises)


@pytest.mark.parametrize("change", ["short", "not finite", "another metric"])
def test_metrics_must_be_what_the_offer_says(change: str) -> None:
    found = broken(run_checks(module(evaluators=_evaluator_offer(change))))
    assert "metrics_are_declared" in found


def _evaluator_offer(change: str) -> EvaluatorOffer[Any]:
    return replace(
        BREVITY, build=evaluator(change), metrics=(Metric(name="right", higher_is_better=True),)
    )


# --------------------------------------------------------------------------- reporters


def reporter(change: str, files: list[Any]) -> Callable[..., Ledger]:
    class Faulty(Ledger):
        def __enter__(self) -> Faulty:
            if change == "leaves open":
                files.append(open(__file__, encoding="utf-8"))
            return self

        def __exit__(self, *error: object) -> Any:
            return change == "swallows"

        def report(self, event: Any) -> None:
            if change == "needs a start" and isinstance(event, RunFinished):
                assert self.events
            super().report(event)
            if change == "formats":
                event.to_json()["name"].format()  # the event without a name raises

    return lambda options, folder: Faulty()


@pytest.mark.parametrize(
    ("change", "promises"),
    [
        ("nothing", []),
        ("swallows", ["closes_after_failure"]),
        ("leaves open", ["closes_after_failure"]),
        ("formats", ["accepts_every_event"]),
    ],
)
def test_what_a_reporter_can_do_wrong(change: str, promises: list[str]) -> None:
    files: list[Any] = []
    try:
        found = broken(run_checks(offered(build=reporter(change, files))))
    finally:
        for file in files:
            file.close()
    found.pop("import_is_light")
    assert list(found) == promises


# --------------------------------------------------------------------------- for pytest


def cases(**arguments: Any) -> Mapping[str, Any]:
    decorate = parametrize_checks(tunesmith_echo, **arguments)
    return {case.id: case for case in decorate.args[1]}  # type: ignore[attr-defined]


def test_one_case_for_each_promise() -> None:
    found = cases()
    assert "import_is_light" in found
    assert "same_seed_same_losses[echo]" in found
    found["import_is_light"].values[0]()
    with pytest.raises(pytest.skip.Exception, match="model folder"):
        found["steps_count_up[echo]"].values[0]()


def test_an_expected_failure_is_strict_and_has_a_reason() -> None:
    for name in ("steps_count_up", "steps_count_up[echo]"):
        case = cases(expected_failures={name: "it counts down"})["steps_count_up[echo]"]
        (mark,) = case.marks
        assert (mark.name, mark.kwargs) == ("xfail", {"reason": "it counts down", "strict": True})
    with pytest.raises(ValueError, match="needs a reason"):
        cases(expected_failures={"steps_count_up": " "})
    with pytest.raises(ValueError, match=r"do not exist.*no_such_check"):
        cases(expected_failures={"no_such_check": "why not"})


def test_demand() -> None:
    demand(True, "fine")
    with pytest.raises(AssertionError, match="not fine"):
        demand(False, "not fine")
