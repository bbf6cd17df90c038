"""Write model folders as OpenVINO graphs, and read facts from the written files."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tunesmith.errors import IntegrityError
from tunesmith_openvino.engine import open_engine
from tunesmith_openvino.offer import OpenvinoOptions
from tunesmith_torch.export.contract import Engine
from tunesmith_torch.export.folder_tokenizer import open_tokenizer
from tunesmith_torch.export.plain_folder import copy_files

GRAPH = "openvino_model.xml"
TOKENIZER = ("openvino_tokenizer.xml", "openvino_detokenizer.xml")
_NOT_COPIED = (".safetensors", ".py", ".index.json")


class OpenvinoExporter:
    """Writes a graph and its tokenizer with OpenVINO, and opens them in OpenVINO GenAI."""

    def __init__(self, options: OpenvinoOptions) -> None:
        self.quantize = options.quantize

    def export(self, model: Path, out: Path) -> None:
        """Write the model to ``out``.

        Raises:
            EnvironmentProblem: OpenVINO cannot convert the model.
        """
        from openvino import save_model
        from openvino_tokenizers import convert_tokenizer

        from tunesmith_openvino.graph import build_graph

        graph = build_graph(model)
        save_model(graph, out / GRAPH, compress_to_fp16=self.quantize == "f16")
        parts = convert_tokenizer(open_tokenizer(model), with_detokenizer=True)
        for part, name in zip(parts, TOKENIZER, strict=True):
            save_model(part, out / name)
        copy_files(model, out, _NOT_COPIED)

    def facts(self, out: Path) -> dict[str, Any]:
        """Return facts that OpenVINO GenAI reads from the files.

        Raises:
            IntegrityError: a file is missing or incomplete.
        """
        from openvino import Core
        from openvino_genai import GenerationConfig, Tokenizer

        core = Core()
        try:
            for name in (GRAPH, *TOKENIZER):
                core.read_model(out / name)
            generation = GenerationConfig(str(out / "generation_config.json"))
            vocabulary = Tokenizer(str(out)).get_vocab()
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise IntegrityError(
                f"{out}: OpenVINO cannot read this folder: {reason:.200}",
                hint="export again, or use safetensors instead",
            ) from error
        ids = frozenset({generation.eos_token_id, *generation.stop_token_ids})
        return {
            "end_ids": ids,
            "tokens": {text.decode("utf-8", "replace"): i for text, i in vocabulary.items()},
        }

    def open(self, out: Path) -> AbstractContextManager[Engine]:
        """Load the folder into OpenVINO GenAI."""
        return open_engine(out)
