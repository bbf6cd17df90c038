"""The exporter ``lora``: what PEFT converts has the trained model's log-probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training import ROWS, options, train

from tunesmith.errors import UsageError
from tunesmith.options import from_table
from tunesmith_peft.export_options import LoraExportOptions
from tunesmith_peft.lora_export import LoraExporter
from tunesmith_peft.offer import LORA
from tunesmith_torch.export.contract import AdapterExporter
from tunesmith_torch.export.export_run import Export, TrainedModel, export_run
from tunesmith_torch.models.merging import MergeOptions
from tunesmith_torch.untrusted.foreign_code import read_json_object


def train_for_export(method: str, given: dict[str, Any], model: Path, folder: Path) -> TrainedModel:
    config = options(method, given, epochs=8.0, learning_rate=0.2)
    artifact, _, _ = train(config, model, folder / "run")
    merge = MergeOptions(torch.device("cpu"), torch.float32)
    return TrainedModel(base=model, artifact=artifact, merge=merge, test=ROWS[:3])


def export(trained: TrainedModel, out: Path, **table: Any) -> dict[str, Any]:
    return export_run(trained, Export.from_offer(LORA, from_table(LoraExportOptions, table)), out)


def test_a_converted_adapter_computes_the_same(tiny_model: Path, tmp_path: Path) -> None:
    trained = train_for_export("vera", {"r": 8}, tiny_model, tmp_path)
    certificate = export(trained, tmp_path / "exact", rank=8)
    assert certificate["max_logprob_difference_nats"] < 1e-4
    config = read_json_object(tmp_path / "exact" / "adapter_config.json")
    assert config["peft_type"] == "LORA" and config["r"] == 8
    lossy = export(trained, tmp_path / "lossy", error=0.2)
    assert lossy["max_logprob_difference_nats"] > certificate["max_logprob_difference_nats"]


def test_what_cannot_be_converted_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    trained = train_for_export("ia3", {}, tiny_model, tmp_path / "ia3")
    with pytest.raises(UsageError, match="cannot convert this adapter of type IA3"):
        export(trained, tmp_path / "out")
    kasa = train_for_export("lora", {"r": 4, "kasa_config": {}}, tiny_model, tmp_path / "kasa")
    with pytest.raises(UsageError, match="cannot convert this adapter of type LORA"):
        export(kasa, tmp_path / "out")
    plain = train_for_export("lora", {"r": 4}, tiny_model, tmp_path / "lora")
    with pytest.raises(UsageError, match="is a LoRA adapter already"):
        export(plain, tmp_path / "out")


def test_it_writes_adapters_only() -> None:
    assert isinstance(LORA.build(LoraExportOptions()), LoraExporter)
    assert isinstance(LORA.build(LoraExportOptions()), AdapterExporter)
    with pytest.raises(ValueError, match="not both"):
        from_table(LoraExportOptions, {"rank": 4, "error": 0.1})
