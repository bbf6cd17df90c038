"""Write model folders for mlx-lm, optionally with quantized weights."""

from __future__ import annotations

from contextlib import AbstractContextManager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from tunesmith.errors import EnvironmentProblem
from tunesmith_mlx.engine import open_engine
from tunesmith_mlx.options import MlxOptions
from tunesmith_torch.export.contract import Engine
from tunesmith_torch.export.folder_facts import read_folder_facts
from tunesmith_torch.export.plain_folder import copy_files

DTYPES = {"f32": "float32", "f16": "float16"}
"""Formats for weights that are not quantized; the default bfloat16 has the range of float32."""
_NOT_COPIED = (".safetensors", ".py", ".index.json")


class MlxExporter:
    """Writes folders with mlx-lm's converter, and opens them in mlx-lm."""

    def __init__(self, options: MlxOptions) -> None:
        self.options = options

    def export(self, model: Path, out: Path) -> None:
        """Write the model to ``out``, with one weight file at a time in memory.

        Raises:
            EnvironmentProblem: mlx-lm does not support the architecture, or some of its weights.
        """
        from mlx_lm.utils import save_config, save_model

        weights, config = self._load(model)
        copy_files(model, out, _NOT_COPIED)
        save_model(out, weights, donate_model=True)
        save_config(config, out / "config.json")

    def facts(self, out: Path) -> dict[str, Any]:
        """Return facts from the folder, which the export compares with the model.

        Raises:
            IntegrityError: a file is missing or incomplete.
        """
        return read_folder_facts(out)

    def open(self, out: Path) -> AbstractContextManager[Engine]:
        """Load the folder into mlx-lm."""
        return open_engine(out)

    def _load(self, model: Path) -> tuple[Any, dict[str, Any]]:
        """Return a model with its config. Its weights are only loaded when they are written."""
        import mlx.core as mx
        from mlx_lm.utils import load_model, quantize_model

        try:
            with redirect_stdout(StringIO()) as printed:  # mlx-lm prints what is missing.
                weights, config = load_model(model, lazy=True)
        except (ValueError, TypeError, KeyError, IndexError, SystemExit) as error:
            text = printed.getvalue() if isinstance(error, SystemExit) else str(error)
            reason = (text.strip().splitlines() or ["the process ended without a message"])[0]
            raise EnvironmentProblem(
                f"mlx: mlx-lm cannot load this model: {reason:.200}",
                hint="mlx-lm may not support this architecture: export to safetensors instead",
            ) from error
        name = DTYPES.get(self.options.quantize, "bfloat16")
        _convert(weights, getattr(mx, name))
        config.update(dtype=name, torch_dtype=name)
        if self.options.quantize.startswith("int"):
            bits = int(self.options.quantize[3:])
            with redirect_stdout(StringIO()):  # mlx-lm prints the bits per weight.
                weights, config = quantize_model(weights, config, self.options.group_size, bits)
        return weights, config


def _convert(model: Any, dtype: Any) -> None:
    """Convert the weights of a model, except those that its architecture keeps unchanged."""
    import mlx.core as mx
    from mlx.utils import tree_map_with_path

    is_converted = getattr(model, "cast_predicate", lambda path: True)

    def convert(path: str, weight: Any) -> Any:
        chosen = mx.issubdtype(weight.dtype, mx.floating) and is_converted(path)
        return weight.astype(dtype) if chosen else weight

    model.update(tree_map_with_path(convert, model.parameters()))
