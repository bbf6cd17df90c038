"""Rows with parts that are not text: refused before the base model is read, or used as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tunesmith_echo
from bench import RIGHT, ROWS, ZERO_SHOT, Bench, RowsOptions, bench_plugin, offering
from pictures import PICTURES
from tunesmith_echo.offer import ECHO
from tunesmith_echo.technique import Echo

from tunesmith.catalog import Catalog
from tunesmith.contracts import Dataset
from tunesmith.errors import DataError
from tunesmith.execution.measure_part import prepare
from tunesmith.execution.run_data import load_data
from tunesmith.offers import EvaluatorOffer
from tunesmith.testing.fakes import perfect_model
from tunesmith.testing.modules import load_modules
from tunesmith_evidence.winner import save_winner
from tunesmith_plugins.evaluators.classification.offer import CLASSIFICATION
from tunesmith_plugins.evaluators.exact_match import EXACT_MATCH
from tunesmith_plugins.evaluators.json_answer import JSON_ANSWER
from tunesmith_plugins.evaluators.loss import LOSS
from tunesmith_plugins.evaluators.numeric import NUMERIC
from tunesmith_plugins.evaluators.text_overlap.offer import TEXT_OVERLAP


class Pictures:
    """Reads the kit's pictures, whatever the file has."""

    def __init__(self, options: RowsOptions) -> None:
        self.records = [replace(r, source=f"f:{n}") for n, r in enumerate(4 * PICTURES, 1)]

    def load(self) -> Dataset:
        return Dataset(train=self.records[:-8], test=self.records[-8:])


class Unread(Echo):
    """A technique that fails if it gets to the base model."""

    def open(self, model: Path, artifact: Path | None, *, device: str) -> Any:
        raise AssertionError("the base model was read")

    train = open  # type: ignore[assignment]


def bench_of(root: Path, *, trains_on: str = "", build: Any = Unread, **offers: Any) -> Bench:
    """Return a bench of pictures with another technique, evaluator and baselines."""
    technique = replace(ECHO, trains_on=frozenset(filter(None, [trains_on])), build=build)
    bench = bench_plugin(loader=replace(ROWS, build=Pictures))
    changed = {**vars(bench)}
    for hook, found in offers.items():
        changed |= vars(offering(hook, *found))
    echo = {**vars(tunesmith_echo), **vars(offering("techniques", technique))}
    modules = {"echo": Namespace(echo), "bench": Namespace(changed)}
    return Bench(root, Catalog(load_modules(modules)))


class Namespace:
    """Attributes of a plugin."""

    def __init__(self, attributes: dict[str, Any]) -> None:
        vars(self).update({k: v for k, v in attributes.items() if k.startswith("tunesmith_")})


READS = replace(RIGHT, reads_media=True)


@pytest.mark.parametrize(
    ("trains_on", "tables", "message"),
    [
        ("", {}, r"f:\d+: technique echo does not train on the media of this record"),
        (
            "media",
            {"evaluators": [{"use": "right"}]},
            r"f:\d+: evaluator right cannot read the media of this record",
        ),
        (
            "media",
            {"baselines": {"use": ["zero-shot"]}},
            r"f:\d+: baseline zero-shot cannot read the media of this record",
        ),
    ],
)
def test_what_would_ignore_media_is_refused_before_the_model_is_read(
    tmp_path: Path, trains_on: str, tables: dict[str, Any], message: str
) -> None:
    bench = bench_of(tmp_path, trains_on=trains_on)
    with pytest.raises(DataError, match=message):
        load_data(bench.plan(**tables))  # as `tunesmith check` does
    with pytest.raises(DataError, match=message):
        bench.run(**tables)


def test_a_run_whose_parts_read_media(tmp_path: Path) -> None:
    offers = {"evaluators": [READS, replace(RIGHT, name="left")], "baselines": [ZERO_SHOT]}
    bench = bench_of(tmp_path, trains_on="media", build=Echo, **offers)
    report = bench.run()
    assert report.status == "ok"
    assert {e["evaluator"] for e in bench.report()["evaluations"]} == {"right"}
    assert {e["model"] for e in bench.report()["evaluations"]} >= {"tuned"}
    assert "zero-shot" not in {e["model"] for e in bench.report()["evaluations"]}


def test_a_winner_whose_training_rows_have_media_is_not_saved(tmp_path: Path) -> None:
    evidence = SimpleNamespace(
        baselines=[SimpleNamespace(baseline="r")], train=PICTURES, folder=tmp_path
    )
    assert save_winner(evidence, "r") == "" and not [*tmp_path.iterdir()]  # type: ignore[arg-type]


def test_a_baseline_that_reads_media_is_measured(tmp_path: Path) -> None:
    baseline = replace(ZERO_SHOT, reads_media=True)
    offers = {"evaluators": [READS], "baselines": [baseline]}
    bench = bench_of(tmp_path, trains_on="media", build=Echo, **offers)
    bench.run()
    assert "zero-shot" in {e["model"] for e in bench.report()["evaluations"]}


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        (LOSS, "{}"),
        (EXACT_MATCH, "{}"),
        (CLASSIFICATION, "{}"),
        (TEXT_OVERLAP, "{} is the capital of this country"),
        (NUMERIC, "{} has #### 12"),
        (JSON_ANSWER, '{{"capital": "{}"}}'),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_built_in_evaluators_leave_media_to_the_model(
    offer: EvaluatorOffer[Any], answer: str
) -> None:
    records = [
        replace(record, messages=(question, replace(reply, content=answer.format(reply.content))))
        for record in PICTURES
        for question, reply in [record.messages]
    ]
    assert offer.reads_media
    built = prepare(offer.build(offer.config()), records)
    for measured in built.measure(perfect_model(records), records):
        assert len(measured.values) == len(records)
        assert offer.name == "loss" or set(measured.values) == {1.0}
