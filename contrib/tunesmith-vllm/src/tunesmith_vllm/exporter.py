"""Write what vLLM serves, a merged folder or an adapter alone, and open it in vLLM."""

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
from tunesmith_torch.export.folder_facts import read_added_tokens, read_folder_facts
from tunesmith_torch.export.folder_tokenizer import open_tokenizer
from tunesmith_torch.export.plain_folder import PlainTransformers, copy_model, open_plain
from tunesmith_torch.models.artifacts import ADAPTER_WEIGHTS, attach_adapter
from tunesmith_torch.models.loading import load_base
from tunesmith_torch.models.model_folder import check_safetensors
from tunesmith_torch.untrusted.foreign_code import read_object
from tunesmith_vllm.adapter import check_adapter, read_max_rank
from tunesmith_vllm.engine import VllmModel, open_engine
from tunesmith_vllm.installed import find_python
from tunesmith_vllm.options import VllmOptions

CONTEXT = 4096
"""Tokens of a prompt and its answer in the checks, at most."""
GREEDY = {"temperature": 0}
"""Defaults of sampling: answers as the run's evaluation has measured them."""
_ADAPTER_FILES = (ADAPTER_WEIGHTS, "adapter_config.json")
_NOT_COPIED = (*_ADAPTER_FILES, "README.md", MANIFEST)


class _VllmExporter:
    """Opens an export in vLLM, or in transformers where there is no vLLM."""

    def __init__(self, options: VllmOptions) -> None:
        self.options = options
        self.python = find_python(options.python)

    def own_checks(self, out: Path) -> Iterator[tuple[str, Callable[[], str]]]:
        """Check the two forms of the rope, and say whether vLLM is asked."""
        is_asked = self.python is not None
        yield "rope, both forms", lambda: check_rope_forms(self._config(out), is_asked=is_asked)
        yield "vLLM", self._find_vllm

    @contextmanager
    def open(self, out: Path) -> Iterator[Engine]:
        """Load the export into vLLM; without vLLM into transformers."""
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
                "it is not installed here, so what follows was checked in transformers; "
                "pip install vllm, or --set python=PYTHON of an environment that has it"
            )
        return f"what follows was checked in vLLM, in {self.options.dtype}"

    def _serve(self, model: str, *more: str) -> str:
        words = ["vllm", "serve", model, "--dtype", self.options.dtype]
        words += ["--override-generation-config", json.dumps(GREEDY), *more]
        return shlex.join(words)

    def _config(self, out: Path) -> dict[str, Any]:
        return read_object(out / "config.json")

    def _engine_arguments(self, out: Path) -> dict[str, Any]:
        return {"model": str(out)}

    def _adapter(self, out: Path) -> Path | None:
        return None

    def _open_plain(self, out: Path) -> PlainTransformers:
        return open_plain(out)


class VllmExporter(_VllmExporter):
    """Writes a model folder, with adapters merged."""

    def export(self, model: Path, out: Path) -> None:
        """Copy all files of the model; the weights file by file, in the format."""
        copy_model(model, out, self.options.dtype)

    def facts(self, out: Path) -> dict[str, Any]:
        """Return what the folder says."""
        return read_folder_facts(out)

    def serve_command(self, out: Path | None) -> str:
        """Return the command that serves the folder."""
        return self._serve("." if out is None else str(out))


class VllmAdapterExporter(_VllmExporter):
    """Writes an adapter, with the tokenizer and the end tokens that it was trained with."""

    base = Path()
    """The base model of the export that was written last."""
    _max_rank = 0

    def check_adapter(self, adapter: Path) -> None:
        """Refuse an adapter that vLLM does not compute as PEFT does."""
        check_adapter(adapter)

    def export_adapter(self, base: Path, adapter: Path, out: Path) -> None:
        """Copy the adapter into a folder of its own, and beside it the files of the tokenizer."""
        self.base, self._max_rank = base, read_max_rank(adapter)
        (out / "adapter").mkdir()
        for file in sorted(adapter.iterdir()):
            if file.name in _ADAPTER_FILES:
                shutil.copyfile(file, out / "adapter" / file.name)
            elif file.is_file() and file.name not in _NOT_COPIED:
                shutil.copyfile(file, out / file.name)

    def facts(self, out: Path) -> dict[str, Any]:
        """Return what the adapter's files and the config of its base model say.

        Raises:
            IntegrityError: a file is missing or incomplete.
        """
        check_safetensors(out / "adapter" / ADAPTER_WEIGHTS)
        check_adapter(out / "adapter")
        config = self._config(out)
        text_config = config.get("text_config", config)
        ends = read_object(out / "generation_config.json").get("eos_token_id")
        rope = text_config.get("rope_parameters") or {}
        return {
            "end_ids": frozenset(ends if isinstance(ends, list) else [ends]),
            "rope_theta": text_config.get("rope_theta", rope.get("rope_theta")),
            "tied": bool(text_config.get("tie_word_embeddings")),
            "tokens": read_added_tokens(out),
        }

    def serve_command(self, out: Path | None) -> str:
        """Return the command that serves the base model, and the adapter as ``tuned``."""
        base, folder = ("BASE", ".") if out is None else (str(self.base), str(out))
        files = ["--tokenizer", folder, "--generation-config", folder]
        adapter = ["--enable-lora", "--max-lora-rank", str(self._max_rank)]
        return self._serve(base, *files, *adapter, "--lora-modules", f"tuned={folder}/adapter")

    def _config(self, out: Path) -> dict[str, Any]:
        return read_object(self.base / "config.json")

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

    def _open_plain(self, out: Path) -> PlainTransformers:
        base = load_base(self.base, device=torch.device("cpu"), dtype=torch.float32)
        model = attach_adapter(base, out / "adapter")
        model.generation_config = GenerationConfig.from_pretrained(out)
        return PlainTransformers(model, open_tokenizer(out))


def check_rope_forms(config: Mapping[str, Any], *, is_asked: bool) -> str:
    """Check that a config says the same of the rope in the form of transformers 5 and before it.

    ``is_asked``: vLLM itself computes log-probabilities after this.

    Raises:
        NotVerifiedError: it has one form only, which some versions of vLLM do not read.
    """
    text_config = config.get("text_config", config)
    parameters = text_config.get("rope_parameters")
    if not isinstance(parameters, Mapping) or "rope_theta" not in parameters:
        return "not used" if not parameters else "one for each kind of layer"
    if "rope_theta" not in text_config:
        text = "rope_parameters alone, which vLLM before transformers 5 ignores"
        if is_asked:
            return f"{text}; this version is asked below"
        raise NotVerifiedError(text)
    found, expected = text_config["rope_theta"], parameters["rope_theta"]
    require(found == expected, f"rope_theta is {found}, in rope_parameters {expected}")
    kind = parameters.get("rope_type", "default")
    if kind == "default":
        return f"theta {expected:g}"
    scaling = text_config.get("rope_scaling") or {}
    require(
        kind in (scaling.get("rope_type"), scaling.get("type")),
        f"rope_scaling is {scaling.get('rope_type')}, in rope_parameters {kind}",
    )
    return f"theta {expected:g}, {kind}"
