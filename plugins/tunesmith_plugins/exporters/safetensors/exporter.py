"""Copy a model folder with weights in a chosen dtype, and open the copy with transformers alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunesmith_plugins.exporters.safetensors.offer import SafetensorsOptions
from tunesmith_torch.export.folder_facts import read_folder_facts
from tunesmith_torch.export.plain_folder import (
    TransformersEngine,
    copy_model,
    open_transformers_engine,
)


class SafetensorsExporter:
    """Writes a plain model folder with safetensors weights."""

    def __init__(self, options: SafetensorsOptions) -> None:
        self.dtype = options.dtype

    def export(self, model: Path, out: Path) -> None:
        """Copy all files of the model, converting the weights file by file."""
        copy_model(model, out, self.dtype)

    def facts(self, out: Path) -> dict[str, Any]:
        """Return facts about the exported folder, such as its dtype, read from its files."""
        return read_folder_facts(out)

    @contextmanager
    def open(self, out: Path) -> Iterator[TransformersEngine]:
        """Load the folder in float32, using only transformers."""
        yield open_transformers_engine(out)
