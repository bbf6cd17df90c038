"""The conformance kit: a plugin with a fault fails exactly the right check."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import tunesmith_echo
from bench import RECORDER, ROWS, RecordingReporter, Rows, plugin, rows
from pydantic import BaseModel, ConfigDict, Field
from tunesmith_echo.offer import BREVITY, ECHO
from tunesmith_echo.technique import Echo

from tunesmith.additions import Addition
from tunesmith.contracts import Artifact, Dataset, Measurement, Split, SplitRequest
from tunesmith.errors import DataError, PluginError
from tunesmith.estimates import Estimate, EstimateRequest, MemorySaving, PhaseMemory
from tunesmith.events import RunFinished, StepFinished, TrainingFinished
from tunesmith.offers import (
    CommandOffer,
    EvaluatorOffer,
    Metric,
    Promises,
    TableOffer,
    TechniqueOffer,
)
from tunesmith.options import Options
from tunesmith.records import Completion, Record, last_exchange
from tunesmith.testing import Result, parametrize_checks, run_checks
from tunesmith.testing.checks import REGISTERED_CHECKS, require
from tunesmith.testing.kit import collect_checks
from tunesmith_plugins.splitters.grouped import GROUPED, Grouped


def plugin_module(**offers: object) -> ModuleType:
    """Return a plugin module with these offers, by hook."""
    module = ModuleType("kit_specimen")
    module.__file__ = __file__.replace("test_kit.py", "specimen/kit_specimen.py")
    hooks = {name: (lambda offer=offer: [offer]) for name, offer in offers.items()}
    vars(module).update(vars(plugin(**hooks)))
    return module


def broken(results: list[Result]) -> dict[str, str]:
    """Return the details of the broken promises, by check."""
    return {r.check: r.detail for r in results if r.state == "failed"}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "echo.json").write_text("{}", encoding="utf-8")
    return folder


# --------------------------------------------------------------------------- without fault


def test_a_correct_plugin_passes_all_checks(base: Path) -> None:
    results = run_checks(tunesmith_echo, model=base)
    assert broken(results) == {}
    assert {r.check for r in results if r.state == "not run"} == {"measures_its_examples"}
    assert {r.check for r in results if r.state == "skipped"} == {
        "base_weights_unchanged",
        "estimates_are_intervals",
        "estimates_follow_the_work",
        "estimates_follow_the_options",
        "memory_savings_save_memory",
        "uses_the_seed",
        "saves_what_it_trained",
        "micro_batches_change_nothing",
        "applies_added_terms",
        "applies_changes_of_updates",
        "packing_changes_nothing",
        "known_metrics_have_their_values",
        "sample_records_can_be_measured",
    }
    assert {r.offer for r in results} == {"", "echo", "brevity"}
    assert len(results) > 30


def test_every_check_has_a_docstring_and_a_unique_name() -> None:
    names = [check.name for check in REGISTERED_CHECKS]
    assert len(set(names)) == len(names) >= 30
    for check in REGISTERED_CHECKS:
        assert check.function.__doc__, check.name


def test_a_check_that_is_not_applicable_names_the_reason() -> None:
    results = {r.check: r for r in run_checks(tunesmith_echo)}
    assert results["learns_eight_examples"].state == "not run"
    assert "small model" in results["learns_eight_examples"].detail
    loader = {r.check: r for r in run_checks(plugin_module(data_loaders=ROWS))}
    detail = loader["same_order_twice"].detail
    assert detail.startswith("needs sample options for rows: file ")
    assert "`--set rows.file=VALUE` of `tunesmith plugins check`" in detail


def test_a_plugin_that_cannot_be_loaded_is_an_error() -> None:
    with pytest.raises(PluginError, match="does not implement any"):
        run_checks(ModuleType("empty"))


# --------------------------------------------------------------------------- every offer


class ExtraKeysOptions(BaseModel):
    model_config = ConfigDict(frozen=True)
    epochs: int = Field(2, description="Passes over the data.")


class MutableOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    epochs: int = Field(2, description="Passes over the data.")


class UndescribedOptions(Options):
    epochs: int = 2


class NestedOptions(Options):
    inner: ExtraKeysOptions = Field(ExtraKeysOptions(), description="A table in the table.")


class NestedListOptions(Options):
    inner: list[ExtraKeysOptions] = Field([], description="Tables in the table.")


class UndescribedInnerOptions(Options):
    inner: UndescribedOptions | None = Field(None, description="A table in the table.")


class BadDefaultOptions(Options):
    epochs: int = Field("two", description="Passes over the data.")  # type: ignore[assignment]


class LossyOptions(Options):
    """Options that dump other values than they read."""

    epochs: int = Field(2, ge=1, description="Passes over the data.")

    def model_dump(self, **arguments: Any) -> dict[str, Any]:
        if arguments.get("mode") == "json":
            return {"epochs": 1}
        return super().model_dump(**arguments)


def reporter_module(**changes: Any) -> ModuleType:
    """Return a plugin with a correct reporter that has the changes."""
    return plugin_module(reporters=replace(RECORDER, **changes))


PROMISE = "leaves_environment_untouched"


def build(options: object, folder: object) -> RecordingReporter:
    return RecordingReporter()


def change_environment(options: object, folder: object) -> RecordingReporter:
    os.environ["KIT_TRACE"] = "1"
    return RecordingReporter()


def add_log_handler(options: object, folder: object) -> RecordingReporter:
    logging.getLogger().addHandler(logging.NullHandler())
    return RecordingReporter()


def use_generator(options: object, folder: object) -> RecordingReporter:
    import random

    random.random()
    return RecordingReporter()


def change_folder(options: object, folder: object) -> RecordingReporter:
    os.chdir("/")
    return RecordingReporter()


def patch_library(options: object, folder: object) -> RecordingReporter:
    import safetensors

    safetensors.safe_open = lambda *arguments: None
    return RecordingReporter()


def command_module(name: str) -> ModuleType:
    """Return a plugin with a command of this name."""
    return plugin_module(
        commands=CommandOffer(name=name, summary="Waves.", load=partial(click.Command, name))
    )


@pytest.mark.parametrize("name", ["wave", "wave-3", "sea wave", "deep-sea wave-3"])
def test_a_command_has_one_or_two_words(name: str) -> None:
    results = run_checks(command_module(name))
    assert set(broken(results)) <= {"import_is_light"}
    assert {r.check for r in results if r.offer == name} == {
        "imports_are_found",
        "names_are_well_formed",
        "summary_is_one_line",
    }


@pytest.mark.parametrize("name", ["sea--wave", "sea wave-", "sea- wave", "sea wave--3"])
def test_a_word_of_a_command_has_single_hyphens(name: str) -> None:
    assert "names_are_well_formed" in broken(run_checks(command_module(name)))


@pytest.mark.parametrize("name", ["a b c", "sea  wave", "sea wave ", "Sea wave", "sea_wave"])
def test_a_command_with_a_badly_formed_name_is_refused(name: str) -> None:
    with pytest.raises(PluginError, match="in one or two words"):
        run_checks(command_module(name))


@pytest.mark.parametrize(
    ("specimen", "promise"),
    [
        (reporter_module(name="record-er-"), None),
        (reporter_module(summary=""), "summary_is_one_line"),
        (reporter_module(summary="two\nlines"), "summary_is_one_line"),
        (reporter_module(summary="A sentence."), "summary_is_one_line"),
        (reporter_module(config=ExtraKeysOptions, build=build), "unknown_keys_are_refused"),
        (reporter_module(config=MutableOptions, build=build), "config_is_frozen"),
        (reporter_module(config=UndescribedOptions, build=build), "every_option_has_help"),
        (reporter_module(config=NestedOptions, build=build), "unknown_keys_are_refused"),
        (reporter_module(config=NestedListOptions, build=build), "unknown_keys_are_refused"),
        (reporter_module(config=UndescribedInnerOptions, build=build), "every_option_has_help"),
        (reporter_module(config=LossyOptions, build=build), "config_round_trips_toml"),
        (reporter_module(needs=("not a requirement",)), None),
        (reporter_module(build=change_environment), "leaves_environment_untouched"),
        (reporter_module(build=add_log_handler), "leaves_environment_untouched"),
        (reporter_module(build=use_generator), "leaves_environment_untouched"),
        (reporter_module(build=change_folder), "leaves_environment_untouched"),
        (reporter_module(build=patch_library), "leaves_libraries_untouched"),
    ],
)
def test_a_faulty_offer_fails_the_right_check(
    specimen: ModuleType, promise: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    safetensors = pytest.importorskip("safetensors")
    monkeypatch.setattr(safetensors, "safe_open", safetensors.safe_open)
    monkeypatch.setenv("KIT_TRACE", "0")
    monkeypatch.chdir(os.getcwd())
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    found = broken(run_checks(specimen))
    found.pop("import_is_light")  # the module has no file
    if promise is not None:
        assert list(found) == [promise]
    else:
        assert found


def test_an_import_string_that_names_nothing_fails_its_check() -> None:
    results = run_checks(reporter_module(build="tunesmith.testing.kit:NoSuchReporter"))
    (failed,) = [result for result in results if result.check == "imports_are_found"]
    assert 'has no "NoSuchReporter"' in failed.detail and "test_kit.py" not in failed.where


def test_a_command_that_is_no_command_fails_its_check() -> None:
    offer = CommandOffer(name="late", summary="Late.", load="os.path:join")
    found = broken(run_checks(plugin_module(commands=offer)))
    assert found["imports_are_found"].startswith("`load` returns <function join")


@pytest.mark.parametrize(("set_by_user", "failed"), [(None, []), ("64", [PROMISE])])
def test_building_may_set_what_torch_reads_at_load_and_keeps_what_the_user_set(
    set_by_user: str | None, failed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.setenv(variable, set_by_user or "0")
    if set_by_user is None:
        monkeypatch.delenv(variable)

    def set_capacity(options: object, folder: object) -> RecordingReporter:
        os.environ[variable] = "256"
        return RecordingReporter()

    found = broken(run_checks(reporter_module(build=set_capacity)))
    found.pop("import_is_light")  # the module has no file
    assert list(found) == failed


def test_variables_that_a_build_changes_are_named_but_for_those_of_libraries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MINE", "0")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)

    def import_torch(options: object, folder: object) -> RecordingReporter:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/nowhere")
        return RecordingReporter()

    def set_mine(options: object, folder: object) -> RecordingReporter:
        monkeypatch.setenv("MINE", "1")
        return RecordingReporter()

    assert PROMISE not in broken(run_checks(reporter_module(build=import_torch)))
    found = broken(run_checks(reporter_module(build=set_mine)))
    assert found[PROMISE] == "the plugin changes the environment variable MINE"


def test_an_invalid_default_fails() -> None:
    found = broken(run_checks(reporter_module(config=BadDefaultOptions, build=build)))
    assert "defaults_are_valid" in found and "config_round_trips_toml" in found


def test_a_heavy_import_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path(tunesmith_echo.__file__ or "").read_text(encoding="utf-8") + "\nimport pydantic\n"
    specimen = _import_plugin(tmp_path, "kit_heavy", text, monkeypatch)
    found = broken(run_checks(specimen))
    assert found == {"import_is_light": "importing kit_heavy also imports pydantic"}


def test_finding_a_model_for_every_reference_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "from tunesmith.contracts import FoundModel\n"
        "from tunesmith.hookspecs import hookimpl\n"
        "@hookimpl\n"
        "def tunesmith_find_model(reference):\n"
        "    return FoundModel(reference=reference, description='d', fetch=lambda: None)\n"
    )
    found = broken(run_checks(_import_plugin(tmp_path, "kit_greedy", text, monkeypatch)))
    assert list(found) == ["unknown_models_are_declined"]


def _import_plugin(
    folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> ModuleType:
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    return __import__(name)


# --------------------------------------------------------------------------- techniques

Edit = Callable[[Any, Any], Any]


def technique(tmp: Path, change: str) -> type[Echo]:  # noqa: C901 - a line for each fault
    """Return the echo technique with one fault."""

    class Faulty(Echo):
        def train(self, job: Any) -> Artifact:  # noqa: C901
            emit = job.emit

            def emit_changed(event: Any) -> None:
                match change, event:
                    case "no end", TrainingFinished():
                        return
                    case "two ends", TrainingFinished():
                        emit(event)
                    case "wrong name", TrainingFinished():
                        event = replace(event, artifact="elsewhere")
                    case "skips steps", StepFinished():
                        event = replace(event, step=event.step * 2)
                    case "not finite", StepFinished():
                        event = replace(event, gradient_norm=float("nan"))
                    case "other losses", StepFinished():
                        event = replace(event, loss=event.loss + len(os.listdir(job.out.parent)))
                emit(event)

            if change == "does not resume":
                job.checkpoints.newest = lambda: None
            if change == "resumes elsewhere" and job.checkpoints.newest():
                job = replace(job, train=[*job.train[4:], *job.train[4:]])
            if change == "accepts any record":
                job = replace(
                    job, train=[r for r in job.train if isinstance(r, Completion)] or job.validation
                )
            if change == "swallows":
                emit_changed = _swallow_exceptions(emit_changed)
            if change == "writes outside":
                (tmp / "outside.txt").write_text("x", encoding="utf-8")
            if change == "writes to the base":
                (job.model / "note.txt").write_text(str(job.out), encoding="utf-8")
            artifact = super().train(replace(job, emit=emit_changed))
            if change == "changes the environment":
                os.environ["KIT_CHANGE"] = str(job.out)
            if change == "not self-contained":
                (tmp / "weights.json").write_bytes((artifact.path / "echo.json").read_bytes())
                (artifact.path / "where").write_text(str(artifact.path), encoding="utf-8")
            return artifact

        def open(self, model: Path, artifact: Path | None, *, device: str) -> Any:
            if change == "opens the base":
                artifact = None
            if change == "not self-contained" and artifact is not None:
                unmoved = (artifact / "where").read_text(encoding="utf-8") == str(artifact)
                return super().open(model, artifact if unmoved else None, device=device)
            return super().open(model, artifact, device=device)

    return Faulty


def _swallow_exceptions(emit: Callable[[Any], None]) -> Callable[[Any], None]:
    def emit_safely(event: Any) -> None:
        try:
            emit(event)
        except Exception:
            return

    return emit_safely


def faulty_technique(tmp: Path, change: str, **offer: Any) -> ModuleType:
    build = technique(tmp, change)
    return plugin_module(techniques=replace(ECHO, build=build, **offer))


@pytest.mark.parametrize(
    ("change", "promises"),
    [
        ("nothing", []),
        ("no end", ["ends_with_training_finished"]),
        ("two ends", ["ends_with_training_finished"]),
        ("wrong name", ["ends_with_training_finished"]),
        ("skips steps", ["steps_count_up"]),
        ("not finite", ["losses_are_finite"]),
        ("opens the base", ["learns_eight_examples"]),
        ("writes to the base", ["writes_only_below_out"]),
        ("not self-contained", ["writes_only_below_out", "artifact_reopens"]),
        ("writes outside", ["writes_only_below_out"]),
        ("other losses", ["same_seed_same_losses", "resumes_where_it_stopped"]),
        ("does not resume", ["resumes_where_it_stopped"]),
        ("resumes elsewhere", ["resumes_where_it_stopped"]),
        ("swallows", ["resumes_where_it_stopped"]),
        ("accepts any record", ["refuses_wrong_records"]),
        ("changes the environment", ["training_leaves_no_global_changes"]),
    ],
)
def test_a_faulty_technique_fails_the_right_checks(
    tmp_path: Path, base: Path, change: str, promises: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIT_CHANGE", "")
    found = broken(run_checks(faulty_technique(tmp_path, change), model=base))
    found.pop("import_is_light")
    assert list(found) == promises


def test_a_technique_that_promises_an_unchanged_base_must_save_an_adapter(
    tmp_path: Path, base: Path
) -> None:
    specimen = faulty_technique(tmp_path, "nothing", promises=Promises(base_weights_unchanged=True))
    found = broken(run_checks(specimen, model=base))
    assert found["base_weights_unchanged"] == "the artifact is a model, not an adapter"


def test_what_is_not_promised_is_not_checked(tmp_path: Path, base: Path) -> None:
    specimen = faulty_technique(
        tmp_path, "resumes elsewhere", promises=Promises(resumable=False, deterministic=False)
    )
    found = broken(run_checks(specimen, model=base))
    assert list(found) == ["import_is_light"]


# --------------------------------------------------------------------------- estimates


def faulty_estimate(change: str) -> TechniqueOffer[Any]:
    """Return the echo technique with an estimate that has one fault."""
    factor = 3 if change == "no interval" else 1
    missing = 7 if change == "parts" else 0

    def estimate(options: Any, request: EstimateRequest) -> Iterator[Estimate]:
        assumed = request.assumed
        assert assumed is not None and assumed.rows and assumed.sequence
        size = 1000 * (1 if change == "ignores options" else options.epochs)
        length = -assumed.sequence if change == "shrinks" else assumed.sequence
        expected = int(size) + length
        rows = 10_000 - assumed.rows if change == "less work" else assumed.rows
        memory = PhaseMemory(
            low=expected // 2 * factor,
            expected=expected,
            high=expected * 2,
            components={"all": expected - missing},
        )
        yield Estimate(
            method="traced" if change == "traced first" else "analytic",
            memory={} if change == "empty" else {"train": memory},
            flops=1e6 * rows,
            steps=0 if change == "no work" else rows,
            tokens=rows,
            longest_row=assumed.sequence,
            micro_batch_tokens=assumed.sequence,
        )

    def memory_savings(options: Any) -> list[MemorySaving[Any]]:
        epochs = options.epochs + (1 if change == "takes more" else 0)
        config = options.model_copy(update={"epochs": epochs})
        return [MemorySaving(changes=("technique.epochs = 1",), cost="less learned", config=config)]

    return replace(ECHO, estimate=estimate, memory_savings=memory_savings)


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        ("nothing", None),
        ("no interval", "estimates_are_intervals"),
        ("parts", "estimates_are_intervals"),
        ("no work", "estimates_are_intervals"),
        ("traced first", "estimates_are_intervals"),
        ("less work", "estimates_follow_the_work"),
        ("shrinks", "estimates_follow_the_work"),
        ("ignores options", "estimates_follow_the_options"),
        ("takes more", "memory_savings_save_memory"),
        ("empty", "estimates_are_intervals"),
    ],
)
def test_a_faulty_estimate_fails_the_right_check(
    tmp_path: Path, change: str, promise: str | None
) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    module = plugin_module(techniques=faulty_estimate(change))
    checks = [
        c
        for c in collect_checks(module, model=tmp_path)
        if c.check.name.startswith(("estimates_", "memory_savings_"))
    ]
    assert len(checks) == 4
    found = list(broken([check.result() for check in checks]))
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
                    return replace(dataset, train=[as_dictionary(r) for r in dataset.train])
                case "leaky":
                    return replace(dataset, test=dataset.train[:3])
                case "anonymous":
                    return replace(dataset, train=[replace(r, source="") for r in dataset.train])
            return dataset

    return Faulty


def splitter(change: str) -> type[Grouped]:
    class Faulty(Grouped):
        calls = 0

        def split(self, records: Iterable[Record], request: SplitRequest) -> Split:
            split = super().split(records, request)
            type(self).calls += 1
            match change:
                case "loses a row":
                    return replace(split, train=split.train[1:])
                case "empty part":
                    return replace(
                        split, train=sorted([*split.train, *split.validation]), validation=()
                    )
                case "other seed":
                    other = replace(request, seed=request.seed + self.calls)
                    return super().split(request.records, other)
                case "not asked for":
                    return super().split(
                        request.records, replace(request, validation=True, test=True)
                    )
            return split

    return Faulty


@pytest.mark.parametrize(
    ("change", "promises"),
    [
        ("nothing", []),
        ("loses a row", ["puts_each_row_into_one_part", "leaves_out_parts_that_are_not_asked_for"]),
        ("empty part", ["puts_each_row_into_one_part"]),
        ("other seed", ["splits_the_same_way_twice"]),
        ("not asked for", ["leaves_out_parts_that_are_not_asked_for"]),
    ],
)
def test_a_faulty_splitter_fails_the_right_checks(change: str, promises: list[str]) -> None:
    specimen = plugin_module(splitters=replace(GROUPED, build=splitter(change)))
    found = broken(run_checks(specimen))
    found.pop("import_is_light")  # the module has no file
    assert sorted(found) == sorted(promises)


def as_dictionary(record: Completion) -> dict[str, str]:
    return {"source": record.source, "prompt": record.prompt}


@pytest.mark.parametrize(
    ("change", "promises"),
    [
        ("nothing", []),
        ("once only", ["is_sized_and_rereadable"]),
        ("shuffled", ["same_order_twice"]),
        ("dictionaries", ["yields_valid_dataset"]),
        ("anonymous", ["yields_valid_dataset"]),
        ("leaky", ["splits_are_disjoint", "accounts_for_every_row"]),
    ],
)
def test_a_faulty_loader_fails_the_right_checks(
    tmp_path: Path, change: str, promises: list[str]
) -> None:
    sample = _sample(tmp_path)
    specimen = plugin_module(data_loaders=replace(ROWS, build=loader(change)))
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
    ("text", "detail"),
    [
        ('{"prompt": "x"', "JSONDecodeError"),
        ('{"prompt": "p", "completion": ""}\n', "does not name file and line"),
        (None, "without an error"),
    ],
)
def test_broken_data_must_be_refused_with_file_and_line(
    tmp_path: Path, text: str | None, detail: str
) -> None:
    specimen = plugin_module(data_loaders=ROWS)
    found = broken(run_checks(specimen, broken={"rows": _sample(tmp_path, text)}))
    assert detail in found["names_file_and_line_in_errors"]


def test_an_error_with_file_and_line_passes(tmp_path: Path) -> None:
    class Careful(Rows):
        def load(self) -> Dataset:
            raise DataError(f"{self.options.file}:3", "is no JSON")

    specimen = plugin_module(data_loaders=replace(ROWS, build=Careful))
    results = {r.check: r for r in run_checks(specimen, broken={"rows": _sample(tmp_path)})}
    assert results["names_file_and_line_in_errors"].state == "passed"


# --------------------------------------------------------------------------- evaluators


def evaluator(change: str) -> type:
    calls = []

    class Faulty:
        def __init__(self, options: object) -> None:
            pass

        def measure(self, model: Any, records: Any) -> list[Measurement]:
            calls.append(1)
            exchanges = [last_exchange(record) for record in records]
            if change == "needs records" and not exchanges:
                raise ZeroDivisionError
            answers = model.generate([prompt for prompt, _ in exchanges], 8)
            pairs = zip(answers, exchanges, strict=True)
            values = [float(answer.text == reference.text) for answer, (_, reference) in pairs]
            match change:
                case "depends on calls":
                    values = [value + len(calls) for value in values]
                case "depends on the batch":
                    values = [value - sum(values) / len(values) for value in values]
                case "inverted":
                    values = [1 - value for value in values]
                case "constant":
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
            "depends on calls",
            {"same_result_twice", "does_not_depend_on_batching", "perfect_model_scores_best"},
        ),
        ("depends on the batch", {"does_not_depend_on_batching", "perfect_model_scores_best"}),
        ("inverted", {"perfect_model_scores_best"}),
        ("constant", {"perfect_model_scores_best"}),
        ("needs records", {"handles_empty"}),
    ],
)
def test_a_faulty_evaluator_fails_the_right_checks(change: str, promises: set[str]) -> None:
    found = broken(run_checks(plugin_module(evaluators=_evaluator_offer(change))))
    found.pop("import_is_light")
    assert set(found) <= promises or set(found) == promises
    assert bool(found) == bool(promises)


def test_an_evaluator_of_runs_is_not_measured() -> None:
    offer = replace(_evaluator_offer("another metric"), needs_run=True)
    assert set(broken(run_checks(plugin_module(evaluators=offer)))) == {"import_is_light"}


def test_options_of_the_offer_and_the_caller_are_joined() -> None:
    """Options without a default are missing otherwise, and the checks do not run."""

    class TwoOptions(Options):
        limit: int = Field(description="A number.")
        factor: float = Field(description="A number.")

    def build(options: TwoOptions) -> Any:
        assert (options.limit, options.factor) == (3, 0.5)
        return evaluator("nothing")(Options())

    offer = replace(_evaluator_offer("nothing"), config=TwoOptions, build=build)
    module = plugin_module(evaluators=replace(offer, sample={"limit": 2, "factor": 0.5}))
    results = run_checks(module, samples={offer.name: {"limit": 3}})
    assert set(broken(results)) == {"import_is_light"}
    assert "same_result_twice" in {r.check for r in results if r.state == "passed"}


@pytest.mark.parametrize("change", ["short", "not finite", "another metric"])
def test_undeclared_or_invalid_metrics_fail(change: str) -> None:
    found = broken(run_checks(plugin_module(evaluators=_evaluator_offer(change))))
    assert "metrics_are_declared" in found


def _evaluator_offer(change: str) -> EvaluatorOffer[Any]:
    return replace(
        BREVITY, build=evaluator(change), metrics=(Metric(name="right", higher_is_better=True),)
    )


# --------------------------------------------------------------------------- reporters


def reporter(change: str, files: list[Any]) -> Callable[..., RecordingReporter]:
    class Faulty(RecordingReporter):
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
                event.to_json()["name"].format()  # raises for an event without a name

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
def test_a_faulty_reporter_fails_the_right_check(change: str, promises: list[str]) -> None:
    files: list[Any] = []
    try:
        found = broken(run_checks(reporter_module(build=reporter(change, files))))
    finally:
        for file in files:
            file.close()
    found.pop("import_is_light")
    assert list(found) == promises


def test_reporters_write_no_sample_runs_into_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    class Tracker(RecordingReporter):
        def report(self, event: Any) -> None:
            super().report(event)
            with open("tracked.txt", "a", encoding="utf-8") as file:
                file.write("event")

    found = broken(run_checks(reporter_module(build=lambda options, folder: Tracker())))
    assert not {"accepts_every_event", "closes_after_failure"} & found.keys()
    assert Path.cwd() == tmp_path and not [*tmp_path.iterdir()]


@pytest.mark.parametrize("change", ["nothing", "prints", "requires an option"])
def test_a_reporter_of_every_run_is_silent(change: str) -> None:
    class Noisy(RecordingReporter):
        def report(self, event: Any) -> None:
            if change == "prints":
                print(event)

    class NeedyOptions(Options):
        folder: str = Field(description="Folder to write to.")

    module = plugin_module(
        reporters=replace(
            RECORDER,
            always=True,
            config=NeedyOptions if change == "requires an option" else RECORDER.config,
            build=lambda options, folder: Noisy(),
        )
    )
    samples = {"recorder": {"folder": "here"}} if change == "requires an option" else {}
    found = broken(run_checks(module, samples=samples))
    found.pop("import_is_light")
    expected = [] if change == "nothing" else ["reporters_of_every_run_are_silent"]
    assert list(found) == expected


# --------------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("default", "adds", "promises"),
    [
        (True, False, []),
        (False, False, ["tables_have_defaults"]),
        (True, True, ["tables_have_defaults"]),
    ],
)
def test_a_table_has_defaults(default: bool, adds: bool, promises: list[str]) -> None:
    class TableOptions(Options):
        hue: int = Field(7, description="The hue.")
        size: int = Field(*([3] if default else []), description="The size.")

    def addition(options: TableOptions) -> Addition | None:
        return Addition(build=lambda context: None) if adds or options.hue != 7 else None

    table = TableOffer(name="color", summary="colors", config=TableOptions, addition=addition)
    results = run_checks(plugin_module(tables=table), samples={"color": {"size": 2}})
    found = broken(results)
    found.pop("import_is_light")
    assert list(found) == promises
    checks = {result.check for result in results}
    assert "every_option_has_help" in checks and "needs_are_requirements" not in checks


# --------------------------------------------------------------------------- for pytest


def cases(**arguments: Any) -> Mapping[str, Any]:
    decorate = parametrize_checks(tunesmith_echo, **arguments)
    return {case.id: case for case in decorate.args[1]}  # type: ignore[attr-defined]


def test_each_promise_is_a_pytest_case() -> None:
    found = cases()
    assert "import_is_light" in found
    assert "same_seed_same_losses[echo]" in found
    found["import_is_light"].values[0]()
    with pytest.raises(pytest.skip.Exception, match="small model"):
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


def test_require() -> None:
    require(True, "fine")
    with pytest.raises(AssertionError, match="not fine"):
        require(False, "not fine")
