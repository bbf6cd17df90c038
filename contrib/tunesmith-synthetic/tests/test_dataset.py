"""The written rows: provenance, groups, no leaks, the card, the review, and a run with them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from conftest import make_rows, write_lines
from generation import invoke, read_lines, request_of, write_generation

from tunesmith import api
from tunesmith.execution.run_data import load_data
from tunesmith.generators import GeneratedRow
from tunesmith.records import Completion
from tunesmith_synthetic.card import CROISSANT
from tunesmith_synthetic.commands.generate import generate
from tunesmith_synthetic.dataset import read_dataset, to_row
from tunesmith_synthetic.loader import SyntheticLoader, SyntheticOptions
from tunesmith_synthetic.request import read_request
from tunesmith_synthetic.review import review

RULES = {"use": "rules", "rounds": 2}
ORIGIN = ("parent", "prompt_sha256", "model", "seed", "details")


def load(project: Path, **options: Any) -> Any:
    folder = str(project / "synthetic")
    return SyntheticLoader(SyntheticOptions(folder=folder, **options)).load()


def test_each_row_has_its_provenance(project: Path) -> None:
    request = request_of(project, RULES)
    generate(request)
    rows = read_lines(request.folder / "synthetic.jsonl")
    real = {f"rows.jsonl:{n}": row for n, row in enumerate(make_rows(0, 30), 1)}
    assert len(rows) == 30
    for row in rows:
        origin = {key: row[f"synthetic_{key}"] for key in ORIGIN}
        parent = real[origin["parent"]]
        assert row["completion"] == parent["completion"] and row["prompt"] != parent["prompt"]
        assert origin["prompt_sha256"] == hashlib.sha256(row["prompt"].encode()).hexdigest()
        assert row["synthetic"] == "rules" and origin["seed"] == 42 and origin["model"] == ""
        assert json.loads(origin["details"])["rule"] in ("typos", "casing", "punctuation")
        assert row["group"] == origin["parent"]


def test_a_child_is_in_the_group_of_its_parent(project: Path) -> None:
    """A later split of all rows therefore cannot separate them."""
    rows = [{**row, "site": f"site {n // 3}"} for n, row in enumerate(make_rows(0, 30))]
    write_lines(project / "rows.jsonl", rows)
    write_lines(project / "test.jsonl", [{**row, "site": "test"} for row in make_rows(100, 9)])
    text = (project / "run.toml").read_text().replace("[technique]", 'group = "site"\n[technique]')
    (project / "run.toml").write_text(text)
    request = request_of(project, RULES)
    generate(request)
    site = {f"rows.jsonl:{n}": row["site"] for n, row in enumerate(rows, 1)}
    for row in read_lines(request.folder / "synthetic.jsonl"):
        assert row["group"] == site[row["synthetic_parent"]]
    new = Completion(source="request 1", prompt="a new text", completion="card")
    written = to_row(request, 1, GeneratedRow(record=new, parent=4))
    assert written["group"] == rows[4]["site"] and written["synthetic_parent"] == "rows.jsonl:5"
    dataset = load(project)
    everything = project / "all.jsonl"
    lines = [
        {"prompt": r.prompt, "completion": r.completion, "site": r.group} for r in dataset.train
    ]
    write_lines(everything, lines)
    tables = {
        "model": {"base": str(project / "m")},
        "data": {"use": "jsonl", "train": str(everything), "group": "site"},
        "technique": {"use": "lora"},
    }
    (project / "m").mkdir()
    (project / "m" / "config.json").write_text('{"model_type": "llama"}')
    _, parts = load_data(api.load_plan(tables, runnable=False)[0])
    prompts = {each.prompt: each.group for each in dataset.train}
    sites = [{prompts[r.prompt] for r in part} for part in (parts.train, parts.test)]  # type: ignore[attr-defined]
    assert sites[1] and not sites[0] & sites[1]


def test_the_loader_adds_rows_to_the_training_rows_only(project: Path) -> None:
    request = request_of(project, RULES)
    generate(request)
    before = request.parts
    found = load(project)
    assert [*found.train[:30]] == [*before.train], "a real row was replaced"
    assert len(found.train) == 60
    assert [r.prompt for r in found.test] == [r.prompt for r in before.test]  # type: ignore[attr-defined]
    assert all(("synthetic", "rules") in record.slices for record in found.train[30:])
    assert not any(record.slices for record in found.train[:30])
    assert [*load(project, score="validation").test] == [*before.validation]


def test_the_split_of_the_run_is_kept(project: Path) -> None:
    """If test rows are split off, children are derived from training rows alone."""
    text = (project / "run.toml").read_text().replace('test = "test.jsonl"\n', "test_size = 10\n")
    (project / "run.toml").write_text(text)
    request = request_of(project, RULES)
    generate(request)
    found = load(project)
    test = {record.source for record in request.parts.test}
    assert len(test) == 10 == len(found.test) and {r.source for r in found.test} == test
    parents = {row["synthetic_parent"] for row in read_lines(request.folder / "synthetic.jsonl")}
    assert parents and not parents & {Path(source).name for source in test}


@pytest.mark.parametrize(
    ("word", "level"),
    [(None, "warning"), ("not shown", "warning"), ("harmed", "warning"), ("helped", "note")],
)
def test_a_run_warns_without_an_ablation(project: Path, word: str | None, level: str) -> None:
    path = write_generation(project, RULES)
    assert invoke("data", "generate", path).exit_code == 0
    card_path = project / "synthetic" / "card.json"
    card = json.loads(card_path.read_text())
    if word:
        ablation = {"word": word, "sentence": "s", "sha256": card["sha256"]}
        card_path.write_text(json.dumps({**card, "ablation": ablation}))
    done = invoke("check", project / "synthetic" / "run.toml", "--json")
    found = [f for f in json.loads(done.stdout)["findings"] if f["source"] == "data synthetic"]
    assert len(found) == 1, done.output
    assert found[0]["level"] == {"note": "info"}.get(level, level)
    assert "30 of 60 training rows are synthetic (rules)" in found[0]["message"]
    real = json.loads(invoke("check", project / "run.toml", "--json").stdout)["findings"]
    assert not [f for f in real if f["source"] == "data synthetic"]


def test_synthetic_rows_of_another_loader_are_noticed(project: Path) -> None:
    """A file that names the column as a slice."""
    plan, _ = api.load_plan(project / "run.toml", runnable=False)
    rows = [
        Completion(source="x", prompt=f"p{n}", completion="a", slices=(("synthetic", name),))
        for n, name in enumerate(("rules", "", "endpoint"))
    ]
    (finding,) = review(plan, rows)
    assert finding.level == "warning" and finding.count == 2
    assert "2 of 3 training rows are synthetic (endpoint, rules)" in finding.message
    assert review(plan, rows[1:2]) == []


def test_a_run_trains_with_the_rows(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert invoke("data", "generate", write_generation(project, RULES)).exit_code == 0
    done = invoke("run", project / "synthetic" / "run.toml", "--out", "out", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["data"]["train"] == 60 and report["data"]["test"] == 30
    assert any("nothing shows" in finding["message"] for finding in report["findings"])


def test_the_card_counts_everything_and_loads_as_croissant(project: Path) -> None:
    card_table = {
        "name": "tickets",
        "license": "CC-BY-4.0",
        "sources": ["rows: CC-BY-4.0"],
        "description": "d",
        "url": "https://example.org/tickets",
    }
    path = write_generation(project, RULES, share=0.2, card=card_table)
    assert invoke("data", "generate", path).exit_code == 0
    card = json.loads((project / "synthetic" / "card.json").read_text())
    assert card["license"] == "CC-BY-4.0" and card["generator"]["use"] == "rules"
    assert card["rows"] == 7 and card["real_rows"] == 30
    assert sum(card["rejected"].values()) == card["proposed"] - 7
    mlcroissant: Any = pytest.importorskip("mlcroissant")
    dataset = mlcroissant.Dataset(jsonld=str(project / "synthetic" / CROISSANT))
    assert not dataset.metadata.ctx.issues.errors
    rows = [*dataset.records("rows")]
    expected = read_lines(project / "synthetic" / "synthetic.jsonl")
    assert [row["rows/prompt"].decode() for row in rows] == [row["prompt"] for row in expected]
    assert {row["rows/synthetic"] for row in rows} == {b"rules"}


def test_the_rows_load_with_datasets(project: Path, tmp_path: Path) -> None:
    datasets: Any = pytest.importorskip("datasets")
    assert invoke("data", "generate", write_generation(project, RULES)).exit_code == 0
    file = str(project / "synthetic" / "synthetic.jsonl")
    found = datasets.load_dataset(
        "json", data_files=file, split="train", cache_dir=str(tmp_path / "c")
    )
    assert found.num_rows == 30 and {f"synthetic_{name}" for name in ORIGIN} <= {*found.features}


def test_reading_gives_the_rows_that_were_written(project: Path) -> None:
    request = request_of(project, RULES)
    generate(request)
    read = read_dataset(request.folder)
    rows = read_lines(request.folder / "synthetic.jsonl")
    assert [r.prompt for r in read.records] == [row["prompt"] for row in rows]  # type: ignore[attr-defined]
    assert [r.group for r in read.records] == [row["group"] for row in rows]


def test_a_generation_without_rows_says_why(project: Path) -> None:
    done = invoke("data", "generate", write_generation(project, {**RULES, "rules": ["slots"]}))
    assert done.exit_code == 2 and "no row was kept" in done.output
    assert "slots: nothing to change" in done.output


def test_a_wrong_file_is_explained(project: Path) -> None:
    path = write_generation(project, {"use": "ruels"})
    done = invoke("data", "generate", path)
    assert done.exit_code == 2 and 'did you mean "rules"?' in done.output
    done = invoke("data", "generate", write_generation(project, RULES, shere=0.3))
    assert done.exit_code == 2 and 'did you mean "share"?' in done.output
    done = invoke("data", "generate", write_generation(project, {**RULES, "round": 3}))
    assert (
        done.exit_code == 2
        and 'generator.round: unknown key (did you mean "rounds"?)' in done.output
    )


def test_rows_of_an_earlier_round_count_as_synthetic(project: Path) -> None:
    """Otherwise, the share would grow with every round."""
    generate(request_of(project, RULES))
    for share, count in ((0.5, 0), (0.6, 15)):
        path = project / "second.toml"
        again = {"run": "synthetic/run.toml", "out": "second", "share": share}
        path.write_text(tomli_w.dumps({**again, "generator": {"use": "rules", "rounds": 9}}))
        request = read_request(path)
        card = generate(request)
        assert (card["real_rows"], card["rows"]) == (30, count)
    assert card["share"] == 0.6
    found = SyntheticLoader(SyntheticOptions(folder=str(project / "second"))).load()
    assert len(found.train) == 30 + 30 + 15


def test_slices_of_the_parents_are_no_columns(project: Path) -> None:
    """A column `label` would have another meaning when the rows are read."""
    rows = [{**row, "label": row["completion"]} for row in make_rows(0, 30)]
    write_lines(project / "rows.jsonl", rows)
    write_lines(project / "test.jsonl", [{**row, "label": "x"} for row in make_rows(100, 9)])
    text = (project / "run.toml").read_text()
    (project / "run.toml").write_text(
        text.replace("[technique]", 'slices = ["label"]\n[technique]')
    )
    request = request_of(project, RULES)
    generate(request)
    assert all("label" not in row for row in read_lines(request.folder / "synthetic.jsonl"))
    assert len(read_dataset(request.folder).records) == 30
