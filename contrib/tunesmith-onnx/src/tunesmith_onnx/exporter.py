"""Write model folders as ONNX graphs, quantize them, and read facts from the written files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tunesmith.errors import EnvironmentProblem, IntegrityError
from tunesmith_onnx.engine import open_engine
from tunesmith_onnx.offer import OnnxOptions
from tunesmith_torch.export.contract import Engine
from tunesmith_torch.export.folder_facts import read_added_tokens

GRAPH, CONFIG = "model.onnx", "genai_config.json"
HEAD_SIZES = 16
"""The attention operator only supports head sizes that are multiples of this."""
BLOCK = 32
"""Number of weights that share a scale."""
_COPIED = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
"""Files of the model folder that programs need next to the graph."""


class OnnxExporter:
    """Writes ONNX graphs with ONNX Runtime GenAI's builder, and opens them in ONNX Runtime."""

    def __init__(self, options: OnnxOptions) -> None:
        self.quantize = options.quantize

    def export(self, model: Path, out: Path) -> None:
        """Write the model to ``out``.

        Raises:
            EnvironmentProblem: the builder or ONNX Runtime does not support the architecture.
        """
        if self.quantize == "f32":
            build_graph(model, out)
        else:
            with TemporaryDirectory(prefix=".onnx-", dir=out.parent) as temporary:
                build_graph(model, Path(temporary))
                quantize_graph(Path(temporary) / GRAPH, out / GRAPH, int(self.quantize[3:]))
                for file in Path(temporary).iterdir():
                    if not file.name.startswith(GRAPH):
                        shutil.copyfile(file, out / file.name)
        for name in _COPIED:
            if (model / name).is_file():
                shutil.copyfile(model / name, out / name)

    def facts(self, out: Path) -> dict[str, Any]:
        """Return facts from the files, which the export compares with the model.

        Raises:
            IntegrityError: a file is missing or incomplete.
        """
        check_graph(out / GRAPH)
        ids = json.loads((out / CONFIG).read_text(encoding="utf-8"))["model"]["eos_token_id"]
        return {
            "end_ids": frozenset(ids if isinstance(ids, list) else [ids]),
            "tokens": read_added_tokens(out),
        }

    def open(self, out: Path) -> AbstractContextManager[Engine]:
        """Load the graph into ONNX Runtime."""
        return open_engine(out)


def build_graph(model: Path, out: Path) -> None:
    """Run the builder in a separate process, because it changes the import path.

    Raises:
        EnvironmentProblem: the builder failed, or ONNX Runtime cannot run the graph.
    """
    with TemporaryDirectory(prefix="tunesmith-onnx-") as cache:
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-p", "fp32"]
        done = subprocess.run(
            [*command, "-e", "cpu", "-i", str(model), "-o", str(out), "-c", cache],
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0 or not (out / GRAPH).is_file():
        reason = (done.stderr.strip().splitlines() or ["no error message"])[-1]
        raise EnvironmentProblem(
            f"onnx: ONNX Runtime GenAI's builder failed: {reason:.300}",
            hint="the builder may not support this architecture: export to safetensors instead",
        )
    config = json.loads((out / CONFIG).read_text(encoding="utf-8"))
    size = config["model"]["decoder"]["head_size"]
    if size % HEAD_SIZES:
        raise EnvironmentProblem(
            f"onnx: the model's head size is {size}, but ONNX Runtime needs a multiple of "
            f"{HEAD_SIZES}",
            hint="export to safetensors instead",
        )


def quantize_graph(source: Path, target: Path, bits: int) -> None:
    """Write a graph whose constant matrices have 4 or 8 bits, and which computes in float32."""
    import onnx
    from onnxruntime.quantization import matmul_nbits_quantizer as nbits

    config = nbits.DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=True, bits=bits)
    quantizer = nbits.MatMulNBitsQuantizer(onnx.load(source), algo_config=config)
    quantizer.process()
    quantizer.model.save_model_to_file(str(target), True)


def check_graph(file: Path) -> None:
    """Check that a graph can be read, and that its weight file is complete.

    Raises:
        IntegrityError: the graph cannot be read, or its weights are incomplete.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(file, load_external_data=False).graph
    except (DecodeError, OSError) as error:
        raise IntegrityError(
            f"{file}: the ONNX graph cannot be read: {error!s:.120}", hint="export the model again"
        ) from error
    for tensor in graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if not place:
            continue
        weights = file.parent / place["location"]
        end = int(place.get("offset", 0)) + int(place["length"])
        if not weights.is_file() or weights.stat().st_size < end:
            raise IntegrityError(
                f"{weights}: missing or truncated at the tensor {tensor.name}, which needs {end:,} "
                "bytes",
                hint="check the free disk space and export again",
            )
