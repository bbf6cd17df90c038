"""The model that ``from`` names: where it is found, what identifies it, and its base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunesmith.errors import IntegrityError, UsageError
from tunesmith.storage import commit_folder
from tunesmith_torch.models.initial_model import (
    LINEAGE_FILE,
    InitialModel,
    adapter_base_folder,
    base_folder,
    find_adapter_base,
)
from tunesmith_torch.options.training import TrainingOptions


def artifact(folder: Path, kind: str = "adapter", weights: bytes = b"weights") -> Path:
    """Write a folder with the files by which an artifact is recognized."""
    names = {"adapter": "adapter_config.json", "model": "config.json"}

    def write(path: Path) -> None:
        (path / names[kind]).write_text("{}")
        (path / "model.safetensors").write_bytes(weights)
        (path / "README.md").write_text("a card")

    folder.parent.mkdir(parents=True, exist_ok=True)
    commit_folder(folder, write)
    return folder


@pytest.mark.parametrize("kind", ["adapter", "model"])
def test_a_run_folder_and_an_artifact_folder_name_the_same_model(tmp_path: Path, kind: str) -> None:
    folder = artifact(tmp_path / "run" / kind, kind)
    found = InitialModel.find(str(tmp_path / "run"))
    assert found == InitialModel.find(str(folder)) == InitialModel(folder, kind)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stage", "expected"),
    [("", "policy"), ("reward", "reward"), ("supervised", "supervised"), ("other", "supervised")],
)
def test_a_run_with_stages_has_a_model_for_each(tmp_path: Path, stage: str, expected: str) -> None:
    for name in ("supervised", "reward", "policy"):
        artifact(tmp_path / name / "adapter")
    assert InitialModel.find(str(tmp_path), stage).path == tmp_path / expected / "adapter"


def test_options_name_the_model(tmp_path: Path) -> None:
    assert InitialModel.from_options(TrainingOptions()) is None
    artifact(tmp_path / "adapter")
    options = TrainingOptions(**{"from": str(tmp_path)})
    assert InitialModel.from_options(options) == InitialModel(tmp_path / "adapter", "adapter")
    with pytest.raises(UsageError, match=r"technique\.from: no adapter or model") as caught:
        InitialModel.find(str(tmp_path / "nothing"))
    assert "run folder" in str(caught.value.hint)


def test_a_damaged_artifact_is_refused(tmp_path: Path) -> None:
    folder = artifact(tmp_path / "adapter")
    (folder / "model.safetensors").write_bytes(b"other")
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        InitialModel.find(str(tmp_path))


def test_weights_and_configuration_identify_the_model(tmp_path: Path) -> None:
    one = InitialModel(artifact(tmp_path / "1" / "adapter"), "adapter")
    same = InitialModel(artifact(tmp_path / "2" / "adapter"), "adapter")
    other = InitialModel(artifact(tmp_path / "3" / "adapter", weights=b"others"), "adapter")
    (same.path / "README.md").write_text("another card")
    assert one.sha256() == same.sha256() != other.sha256()
    (same.path / "adapter_config.json").write_text('{"r": 4}')
    assert one.sha256() != same.sha256()
    assert one.lineage() == {
        "from": str(one.path),
        "from_format": "adapter",
        "from_sha256": one.sha256(),
    }


def test_a_full_model_takes_the_place_of_the_base(tmp_path: Path) -> None:
    base = tmp_path / "base"
    assert base_folder(base, None) == base
    assert base_folder(base, InitialModel(tmp_path / "a", "adapter")) == base
    assert base_folder(base, InitialModel(tmp_path / "m", "model")) == tmp_path / "m"


def test_the_weights_under_a_trained_adapter(tmp_path: Path) -> None:
    """An initial adapter is part of the trained one; a full initial model is below it."""
    base, trained = tmp_path / "base", tmp_path / "run" / "adapter"
    lineage = trained.parent / LINEAGE_FILE
    lineage.parent.mkdir()
    plain = TrainingOptions()
    assert adapter_base_folder(base, trained, plain) == base
    full = artifact(tmp_path / "full" / "model", "model")
    options = TrainingOptions(**{"from": str(tmp_path / "full")})
    lineage.write_text(json.dumps(InitialModel(full, "model").lineage()))
    assert adapter_base_folder(base, trained, options) == full
    (full / "config.json").unlink()
    with pytest.raises(UsageError, match="no adapter or model"):
        adapter_base_folder(base, trained, options)
    lineage.write_text(json.dumps({"from": "gone", "from_format": "adapter"}))
    assert adapter_base_folder(base, trained, options) == base


def test_the_base_of_an_adapter_is_the_one_it_names(tmp_path: Path) -> None:
    """Also below a run folder that was moved since; ``model`` if there is none."""
    base = tmp_path / "base"
    adapter = artifact(tmp_path / "run" / "policy" / "adapter")
    config = adapter / "adapter_config.json"
    assert find_adapter_base(adapter, base) == base
    config.write_text(json.dumps({"base_model_name_or_path": "/nowhere/run/supervised/model"}))
    assert find_adapter_base(adapter, base) == base
    moved = artifact(tmp_path / "run" / "supervised" / "model", "model")
    assert find_adapter_base(adapter, base) == moved
    named = artifact(tmp_path / "elsewhere", "model")
    config.write_text(json.dumps({"base_model_name_or_path": str(named)}))
    assert find_adapter_base(adapter, base) == named
