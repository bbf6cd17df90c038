"""The bill of materials follows the schema, and has the hashes and results of the run."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

import tunesmith
from tunesmith.errors import UsageError
from tunesmith.statistics import mean_interval
from tunesmith_bom.bom import validate
from tunesmith_bom.command import command

JSON = dict[str, Any]


def run_command(*words: str | Path) -> Any:
    return CliRunner().invoke(command, [*map(str, words)])


@pytest.fixture
def run(readme_run_file: Path, tmp_path: Path) -> Any:
    """The run of the README, with rows that have slices."""
    rows = [
        {"prompt": f"{word} {n}", "completion": word, "team": "ab"[n % 2]}
        for n in range(15)
        for word in ("network", "hardware")
    ]
    (tmp_path / "tickets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {
        "technique.max_steps": 2,
        "baselines.use": ["majority"],
        "data.slices": ["team"],
        "data.test_size": 14,
    }
    return tunesmith.run(readme_run_file, set=changes)


def check_results(run: Any, tmp_path: Path) -> None:
    out = tmp_path / "bom.json"
    done = run_command(run.path, "--out", out)
    assert done.exit_code == 0, done.output
    text = out.read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bom: JSON = json.loads(text)
    parsed = Bom.from_json(bom)  # type: ignore[attr-defined]
    assert parsed.metadata.component.name == run.report.name
    model = bom["metadata"]["component"]
    files = {c["name"]: c["hashes"][0]["content"] for c in model["components"]}
    weights = run.path / "adapter" / "adapter_model.safetensors"
    assert files["adapter_model.safetensors"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    for event in run.report.tuned:
        found = next(m for m in metrics if m["type"] == event.metric and "all" in m["slice"])
        ends = found["confidenceInterval"]
        values = float(found["value"]), float(ends["lowerBound"]), float(ends["upperBound"])
        assert values == (event.value, event.low, event.high)
        rows = "test rows" if event.evaluator in ("exact-match", "perplexity") else (
            f"rows of {event.evaluator}")  # fmt: skip
        assert found["slice"] == f"all {event.n} {rows}"
    assert str(tmp_path) not in text and "network 1" not in text


def check_slices(run: Any) -> None:
    bom: JSON = json.loads(run_command(run.path).stdout)
    analysis = bom["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]
    exact = [m for m in analysis["performanceMetrics"] if m["type"] == "exact-match"]
    (event,) = [e for e in run.report.tuned if e.metric == "exact-match"]
    rows = [json.loads(line) for line in (run.path / event.records).read_text().splitlines()]
    sliced = {m["slice"].partition(",")[0]: m for m in exact if "=" in m["slice"]}
    assert sliced
    for name, metric in sliced.items():
        own = [row for row in rows if row["slices"]["team"] == name.partition("=")[2]]
        values, units = [r["exact-match"]["value"] for r in own], [r.get("group") for r in own]
        mean = mean_interval(values, groups=units, bounds=(0, 1))
        ends = metric["confidenceInterval"]
        assert (float(metric["value"]), float(ends["lowerBound"])) == (mean.value, mean.low)


def test_a_bill_that_breaks_the_schema_is_refused() -> None:
    with pytest.raises(UsageError, match="does not follow"):
        validate('{"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [{"name": "x"}]}')


def check_refusals(run: Any, tmp_path: Path) -> None:
    out = tmp_path / "other.json"
    out.touch()
    assert "already exists" in str(run_command(run.path, "--out", out).exception)
    shutil.copytree(run.path, tmp_path / "started")
    events = tmp_path / "started" / "events.jsonl"
    events.write_text(events.read_text().splitlines()[0] + "\n")
    refused = run_command(tmp_path / "started")
    assert "no trained model" in str(refused.exception)


def test_the_bill_of_a_run(run: Any, tmp_path: Path) -> None:
    check_results(run, tmp_path)
    check_slices(run)
    check_refusals(run, tmp_path)
