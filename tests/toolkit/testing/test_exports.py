"""Helpers for tests of exporters: a correct export passes them, and a damaged one does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from export_cases import as_export

from tunesmith.errors import GateError
from tunesmith_plugins.exporters.safetensors.exporter import SafetensorsExporter
from tunesmith_plugins.exporters.safetensors.offer import SafetensorsOptions
from tunesmith_torch.testing.exports import (
    check_answers_end,
    check_damage_is_found,
    check_export,
    damage_export,
    make_json_damage,
    run_readme,
    train_tiny,
)

EXPORT = as_export(SafetensorsExporter(SafetensorsOptions(dtype="float32")))
ROUNDED = as_export(SafetensorsExporter(SafetensorsOptions(dtype="bfloat16")), tolerance=None)
DAMAGE = make_json_damage("config.json", lambda config: config.update(rope_theta=5000.0))


def test_an_export_is_checked(tiny_folder: Path, tmp_path: Path) -> None:
    trained = train_tiny("lora", tiny_folder, tmp_path / "run", epochs=2.0)
    certificate = check_export(trained, EXPORT, tmp_path / "exact")
    assert certificate["exporter"] == "test"
    check_export(trained, ROUNDED, tmp_path / "rounded")
    with pytest.raises(GateError, match="log-probabilities"):
        check_export(trained, replace(ROUNDED, tolerance=0.0), tmp_path / "not exact")
    (tmp_path / "empty").mkdir()
    check_damage_is_found(trained, damage_export(EXPORT, DAMAGE), tmp_path / "empty", "rope")
    with pytest.raises(AssertionError):
        check_damage_is_found(trained, damage_export(EXPORT, DAMAGE), tmp_path / "empty", "files")
    with pytest.raises(GateError, match="rope"):
        check_export(trained, damage_export(EXPORT, DAMAGE), tmp_path / "damaged")


def test_answers_that_end_are_checked(tiny_folder: Path, tmp_path: Path) -> None:
    check_answers_end(tiny_folder, EXPORT, tmp_path, "some/place")
    assert (tmp_path / "some" / "place" / "model.safetensors").is_file()


def test_the_program_of_a_readme_is_run(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("```python\nopen('here', 'w').write('x')\nprint('one')\n```\n")
    assert run_readme(readme, tmp_path) == "one" and (tmp_path / "here").exists()
    readme.write_text("```python\nraise SystemExit(3)\n```\n")
    with pytest.raises(AssertionError):
        run_readme(readme, tmp_path)
