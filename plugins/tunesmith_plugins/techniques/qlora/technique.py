"""QLoRA: next tokens, low-rank adapters, a quantised base."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tunesmith.contracts import Artifact, Job, TextModel
from tunesmith_torch.generation.text_model import open_text_model
from tunesmith_torch.models.adapters import Adapted, adapt_lora
from tunesmith_torch.models.loading import Base
from tunesmith_torch.models.quantization import Quantization, weight_bytes
from tunesmith_torch.options.training import QloraOptions
from tunesmith_torch.runtime.device import Precision
from tunesmith_torch.training.sft import supervise


class Qlora:
    """Low-rank updates move, in fp32; the base is quantised as it is read, and stays as it is."""

    def __init__(self, options: QloraOptions) -> None:
        self.options = options
        self.quantization = Quantization.of(options)

    def train(self, job: Job[Any]) -> Artifact:
        """Train on next tokens and commit an adapter folder."""

        def adapt(base: Base, precision: Precision) -> Adapted:
            stored = {"bits": self.options.bits, "base_bytes": weight_bytes(base.model)}
            adapted = adapt_lora(base, precision, self.options, job.seed)
            return replace(adapted, details={**adapted.details, **stored})

        return supervise(job, adapt, self.quantization)

    def open(self, model: Path, artifact: Path | None, *, device: str) -> TextModel:
        """The quantised base with the trained adapter, as it was trained; or without."""
        return open_text_model(
            model, artifact, device=device, options=self.options, quantization=self.quantization
        )
