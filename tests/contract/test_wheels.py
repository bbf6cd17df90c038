"""Wheels of tunesmith and of three plugins, installed with pip, and a run that uses them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from environment import Environment
from wheels import build_wheels, copy_sources

from tunesmith_torch.testing.tiny_model import save_tiny_model

KINDS = ("loader", "technique", "evaluator")


@pytest.mark.environment
def test_a_run_uses_plugins_from_wheels(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    environment = Environment.create(tmp_path / "venv")
    new = tmp_path / "new"
    new.mkdir()
    for kind in KINDS:
        made = environment.tunesmith("plugins", "new", f"my-{kind}", "--kind", kind, cwd=new)
        assert made.returncode == 0, made.stderr
    (tmp_path / "tunesmith").mkdir()
    projects = [copy_sources(tmp_path / "tunesmith"), *sorted(new.iterdir())]
    wheels = build_wheels(projects, tmp_path / "wheels")
    assert len(wheels) == 1 + len(KINDS)
    environment.install(*wheels)

    place = tmp_path / "place"
    place.mkdir()
    where = environment.run(["-c", "import tunesmith; print(tunesmith.__file__)"], cwd=place)
    assert where.stdout.startswith(str(environment.folder)), "the wheel, not the sources"
    save_tiny_model(place / "model")
    rows = "".join(f"question {n}\tanswer {n % 3}\n" for n in range(24))
    (place / "rows.txt").write_text(rows, encoding="utf-8")
    (place / "run.toml").write_text(
        '[model]\nbase = "model"\n[data]\nuse = "my-loader"\ntrain = "rows.txt"\ntest_size = 4\n'
        '[baselines]\nuse = []\n[technique]\nuse = "my-technique"\nepochs = 1\n'
        '[[evaluators]]\nuse = "my-evaluator"\n',
        encoding="utf-8",
    )
    done = environment.tunesmith("run", "run.toml", "--out", "done", cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((place / "done" / "report.json").read_text(encoding="utf-8"))
    for kind in KINDS:
        assert f"my-{kind}" in json.dumps(report), kind
