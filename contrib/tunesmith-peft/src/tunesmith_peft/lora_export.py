"""Convert an adapter of another method to LoRA, and compare it with the trained model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from tunesmith.errors import UsageError
from tunesmith.storage.manifest import MANIFEST
from tunesmith_peft.export_options import LoraExportOptions
from tunesmith_torch.export.folder_facts import read_adapter_facts
from tunesmith_torch.export.folder_tokenizer import open_tokenizer
from tunesmith_torch.export.plain_folder import TransformersEngine
from tunesmith_torch.models.artifacts import ADAPTER_WEIGHTS_FILE, attach_adapter
from tunesmith_torch.models.loading import load_base
from tunesmith_torch.models.model_folder import check_safetensors
from tunesmith_torch.untrusted.foreign_code import read_json_object

# isort: split
from peft import save_as_lora

__all__ = ["LoraExporter"]

DEFAULT_ERROR = 0.001
_CONFIG = "adapter_config.json"
_NOT_PLAIN = ("use_dora", "kasa_config", "monteclora_config")
"""Options whose LoRA adapter is more than a low-rank update."""
_NOT_COPIED = (ADAPTER_WEIGHTS_FILE, _CONFIG, "README.md", MANIFEST)


class LoraExporter:
    """Writes a LoRA adapter for the unchanged base model."""

    base = Path()
    """Base model of the last export."""

    def __init__(self, options: LoraExportOptions) -> None:
        self.options = options

    def check_adapter(self, adapter: Path) -> None:
        """Reject an adapter that is LoRA already; PEFT rejects others when it converts them."""
        config = read_json_object(adapter / _CONFIG)
        if config.get("peft_type") == "LORA" and not any(map(config.get, _NOT_PLAIN)):
            raise UsageError(
                "lora: the trained adapter is a LoRA adapter already",
                hint=f"use {adapter}, or export it for an engine: --to vllm, --to gguf",
            )

    def export_adapter(self, base: Path, adapter: Path, out: Path) -> None:
        """Convert the adapter, by a singular value decomposition of each module's update.

        Raises:
            UsageError: PEFT cannot convert this method, or the rank is too large.
        """
        self.base = base
        model = attach_adapter(self._load_base(), adapter)
        options = self.options
        rank = options.rank or 1 - (options.error or DEFAULT_ERROR)
        try:
            save_as_lora(out, model, rank)
        except (TypeError, ValueError) as error:
            kind = read_json_object(adapter / _CONFIG).get("peft_type")
            raise UsageError(
                f"lora: PEFT cannot convert this adapter of type {kind}: {error!s:.200}",
                hint="merge it instead: --to safetensors",
            ) from error
        config = read_json_object(out / _CONFIG)
        trained = read_json_object(adapter / _CONFIG)
        config |= {"base_model_name_or_path": trained.get("base_model_name_or_path")}
        config |= {"task_type": "CAUSAL_LM"}
        for key, value in config.items():
            if isinstance(value, list) and all(isinstance(item, str) for item in value):
                config[key] = sorted(value)
        (out / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for file in sorted(adapter.iterdir()):
            if file.is_file() and file.name not in _NOT_COPIED:
                shutil.copyfile(file, out / file.name)

    def facts(self, out: Path) -> dict[str, Any]:
        """Return facts from the adapter's files and its base model's config."""
        check_safetensors(out / ADAPTER_WEIGHTS_FILE)
        return read_adapter_facts(out, read_json_object(self.base / "config.json"))

    @contextmanager
    def open(self, out: Path) -> Iterator[TransformersEngine]:
        """Load the base model and the LoRA adapter."""
        model = attach_adapter(self._load_base(), out)
        model.generation_config = GenerationConfig.from_pretrained(out)
        yield TransformersEngine(model, open_tokenizer(out))

    def _load_base(self) -> Any:
        return load_base(self.base, device=torch.device("cpu"), dtype=torch.float32)
