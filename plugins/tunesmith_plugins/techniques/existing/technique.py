"""Open a model that was fine-tuned elsewhere, as the result of a run without training."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.contracts import Artifact, Job, TextModel
from tunesmith.events import FindingReported, TrainingFinished
from tunesmith_evidence.endpoint.client import Endpoint
from tunesmith_evidence.endpoint.model import ANSWER_SECONDS, EndpointModel
from tunesmith_plugins.techniques.existing.options import ExistingOptions
from tunesmith_torch.compare.open_by_name import fetch_base
from tunesmith_torch.data.thinking import render_prompt_end
from tunesmith_torch.generation.open_model import open_text_model
from tunesmith_torch.models.artifacts import detect_artifact_format
from tunesmith_torch.models.loading import load_tokenizer

ADAPTER_CONFIG = "adapter_config.json"
SAFE_SUFFIXES = frozenset({".safetensors", ".json", ".txt", ".model", ".jinja"})


@dataclass(frozen=True)
class ExistingModel:
    """Trains nothing, and has an existing model as its artifact."""

    options: ExistingOptions

    def train(self, job: Job[Any]) -> Artifact:
        """Put the existing model, or an empty folder for an endpoint, into the run folder."""
        path = job.out / "tuned"
        path.mkdir(parents=True, exist_ok=True)
        if not self.options.is_endpoint:
            link_files(self._find_folder(Path(self.options.tuned)), path)
            if warning := self._compare_templates(job.model, path):
                job.emit(FindingReported(level="warning", source="chat template", message=warning))
        format_ = "model" if self.options.is_endpoint else detect_artifact_format(path)
        job.emit(
            TrainingFinished(
                technique=job.technique,
                steps=0,
                tokens=0,
                trained_tokens=0,
                seconds=0.0,
                peak_memory_bytes=0,
                artifact=path.name,
                format=format_,
            )
        )
        return Artifact(path=path, format=format_)

    def open(self, model: Path, artifact: Path | None, *, device: str) -> TextModel:
        """Open the existing model or endpoint, or the base model if ``artifact`` is None."""
        options = self.options
        if artifact is not None and options.is_endpoint:
            return EndpointModel(
                Endpoint(
                    options.tuned,
                    options.endpoint_model,
                    options.token_variable,
                    timeout=ANSWER_SECONDS,
                )
            )
        return open_text_model(model, artifact, device=device, options=options)

    def _compare_templates(self, base: Path, tuned: Path) -> str:
        """Return a warning if an adapter's own, unused template ends prompts differently, or ""."""
        if not ((tuned / ADAPTER_CONFIG).is_file() and (tuned / "tokenizer_config.json").is_file()):
            return ""
        used, own = (render_prompt_end(load_tokenizer(f), self.options) for f in (base, tuned))
        if used == own:
            return ""
        return (
            f"prompts end with {json.dumps(used)} here, but with {json.dumps(own)} in the tuned "
            "model's own template: set technique.chat_template.kwargs as in its training"
        )

    def _find_folder(self, tuned: Path) -> Path:
        if (tuned / ADAPTER_CONFIG).is_file():
            return tuned
        return fetch_base(str(tuned), "technique.tuned")


def link_files(source: Path, target: Path) -> None:
    """Link the files of a model folder into another folder, or copy them if links are impossible.

    Skip code and pickled weights.
    """
    for file in source.iterdir():
        if file.is_file() and file.suffix in SAFE_SUFFIXES and not (target / file.name).exists():
            try:
                os.link(file.resolve(), target / file.name)
            except OSError:
                shutil.copyfile(file, target / file.name)
