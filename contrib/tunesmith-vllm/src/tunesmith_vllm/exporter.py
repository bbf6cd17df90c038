"""Write a merged folder or an adapter for vLLM, and open it in vLLM."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from tunesmith.storage.manifest import MANIFEST
from tunesmith_torch.export.checks import require
from tunesmith_torch.export.contract import Engine, NotVerifiedError
from tunesmith_torch.export.folder_facts import read_adapter_facts, read_folder_facts
from tunesmith_torch.export.folder_tokenizer import open_tokenizer
from tunesmith_torch.export.plain_folder import (
    TransformersEngine,
    copy_model,
    open_transformers_engine,
)
from tunesmith_torch.models.artifacts import ADAPTER_WEIGHTS_FILE, attach_adapter
from tunesmith_torch.models.loading import load_base
from tunesmith_torch.models.model_folder import check_safetensors
from tunesmith_torch.untrusted.foreign_code import read_json_object
from tunesmith_vllm.adapter import check_adapter, read_max_rank
from tunesmith_vllm.engine import VllmModel, open_engine
from tunesmith_vllm.installed import find_python
from tunesmith_vllm.options import VllmOptions

CONTEXT = 4096
"""Maximum tokens in a prompt and its answer together, in the checks."""
GREEDY = {"temperature": 0}
"""Default sampling parameters: greedy answers, as in the run's evaluation."""
_ADAPTER_FILES = (ADAPTER_WEIGHTS_FILE, "adapter_config.json")
_NOT_COPIED = (*_ADAPTER_FILES, "README.md", MANIFEST)


class _VllmExporter:
    """Opens an export in vLLM, or in transformers if vLLM is missing."""

    def __init__(self, options: VllmOptions) -> None:
        self.options = options
        self.python = find_python(options.python)

    def own_checks(self, out: Path) -> Iterator[tuple[str, Callable[[], str]]]:
        """Check both formats of the RoPE config, and report whether vLLM verifies the export."""
        is_asked = self.python is not None
        yield "rope, both forms", lambda: check_rope_forms(self._config(out), is_asked=is_asked)
        yield "vLLM", self._find_vllm

    @contextmanager
    def open(self, out: Path) -> Iterator[Engine]:
        """Load the export into vLLM, or into transformers if vLLM is missing."""
        if self.python is None:
            yield self._open_plain(out)
            return
        with self._open_vllm(out, self.python) as engine:
            yield engine

    @contextmanager
    def _open_vllm(self, out: Path, python: str) -> Iterator[VllmModel]:
        config = self._config(out)
        longest = config.get("text_config", config).get("max_position_embeddings")
        engine = {
            "dtype": self.options.dtype,
            "enforce_eager": True,
            "max_logprobs": -1,
            "max_model_len": min(CONTEXT, longest) if isinstance(longest, int) else None,
            "override_generation_config": GREEDY,
            "trust_remote_code": False,
            **self._engine_arguments(out),
        }
        with open_engine(python, engine, self._adapter(out)) as model:
            yield model

    def _find_vllm(self) -> str:
        if self.python is None:
            raise NotVerifiedError(
                "vLLM is not installed in this environment, so the checks below ran in "
                "transformers; run `pip install vllm`, or pass `--set python=PATH`, the "
                "interpreter of an environment that has vLLM"
            )
        return f"the checks below ran in vLLM, in {self.options.dtype}"

    def _serve(self, model: str, *more: str) -> str:
        words = ["vllm", "serve", model, "--dtype", self.options.dtype]
        words += ["--override-generation-config", json.dumps(GREEDY), *more]
        return shlex.join(words)

    def _config(self, out: Path) -> dict[str, Any]:
        return read_json_object(out / "config.json")

    def _engine_arguments(self, out: Path) -> dict[str, Any]:
        return {"model": str(out)}

    def _adapter(self, out: Path) -> Path | None:
        return None

    def _open_plain(self, out: Path) -> TransformersEngine:
        return open_transformers_engine(out)


class VllmExporter(_VllmExporter):
    """Writes a model folder, with adapters merged."""

    def export(self, model: Path, out: Path) -> None:
        """Copy all files of the model, converting the weights one file at a time."""
        copy_model(model, out, self.options.dtype)

    def facts(self, out: Path) -> dict[str, Any]:
        """Return facts from the folder, which the export compares with the model."""
        return read_folder_facts(out)

    def serve_command(self, out: Path | None) -> str:
        """Return the command that serves the folder."""
        return self._serve("." if out is None else str(out))


class VllmAdapterExporter(_VllmExporter):
    """Writes an adapter, with the tokenizer and end tokens that it was trained with."""

    base = Path()
    """Base model of the last export."""
    _max_rank = 0

    def check_adapter(self, adapter: Path) -> None:
        """Raise an error for an adapter that vLLM computes differently from PEFT."""
        check_adapter(adapter)

    def export_adapter(self, base: Path, adapter: Path, out: Path) -> None:
        """Copy the adapter to a subfolder, and the tokenizer files next to it."""
        self.base, self._max_rank = base, read_max_rank(adapter)
        (out / "adapter").mkdir()
        for file in sorted(adapter.iterdir()):
            if file.name in _ADAPTER_FILES:
                shutil.copyfile(file, out / "adapter" / file.name)
            elif file.is_file() and file.name not in _NOT_COPIED:
                shutil.copyfile(file, out / file.name)

    def facts(self, out: Path) -> dict[str, Any]:
        """Return facts from the adapter's files and its base model's config.

        Raises:
            IntegrityError: a file is missing or incomplete.
        """
        check_safetensors(out / "adapter" / ADAPTER_WEIGHTS_FILE)
        check_adapter(out / "adapter")
        return read_adapter_facts(out, self._config(out))

    def serve_command(self, out: Path | None) -> str:
        """Return the command that serves the base model, and the adapter as ``tuned``."""
        base, folder = ("BASE", ".") if out is None else (str(self.base), str(out))
        files = ["--tokenizer", folder, "--generation-config", folder]
        adapter = ["--enable-lora", "--max-lora-rank", str(self._max_rank)]
        return self._serve(base, *files, *adapter, "--lora-modules", f"tuned={folder}/adapter")

    def _config(self, out: Path) -> dict[str, Any]:
        return read_json_object(self.base / "config.json")

    def _engine_arguments(self, out: Path) -> dict[str, Any]:
        return {
            "model": str(self.base),
            "tokenizer": str(out),
            "generation_config": str(out),
            "enable_lora": True,
            "max_lora_rank": self._max_rank,
        }

    def _adapter(self, out: Path) -> Path:
        return out / "adapter"

    def _open_plain(self, out: Path) -> TransformersEngine:
        base = load_base(self.base, device=torch.device("cpu"), dtype=torch.float32)
        model = attach_adapter(base, out / "adapter")
        model.generation_config = GenerationConfig.from_pretrained(out)
        return TransformersEngine(model, open_tokenizer(out))


def check_rope_forms(config: Mapping[str, Any], *, is_asked: bool) -> str:
    """Check that a config has the same RoPE base in the transformers 5 format and the older format.

    ``is_asked`` is True if the export will also be verified with log-probabilities from vLLM.

    Raises:
        NotVerifiedError: the config has only one of the formats, which some vLLM versions ignore.
    """
    text_config = config.get("text_config", config)
    parameters = text_config.get("rope_parameters")
    if not isinstance(parameters, Mapping) or "rope_theta" not in parameters:
        return "not used" if not parameters else "one per kind of layer"
    if "rope_theta" not in text_config:
        text = (
            "the config has only rope_parameters, which vLLM versions before transformers 5 ignore"
        )
        if is_asked:
            return f"{text}; the checks below show whether this version reads the config"
        raise NotVerifiedError(text)
    found, expected = text_config["rope_theta"], parameters["rope_theta"]
    require(
        found == expected, f"rope_theta is {found}, but its value in rope_parameters is {expected}"
    )
    kind = parameters.get("rope_type", "default")
    if kind == "default":
        return f"theta {expected:g}"
    scaling = text_config.get("rope_scaling") or {}
    require(
        kind in (scaling.get("rope_type"), scaling.get("type")),
        f"rope_scaling is {scaling.get('rope_type')}, but the type in rope_parameters is {kind}",
    )
    return f"theta {expected:g}, {kind}"
