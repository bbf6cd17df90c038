"""Convert model folders to GGUF, quantize them, and read facts from the written file."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tunesmith.errors import EnvironmentProblem, IntegrityError
from tunesmith_gguf import libllama
from tunesmith_gguf.engine import open_engine
from tunesmith_gguf.options import GgufOptions
from tunesmith_torch.export.contract import Engine

CONTROL, USER_DEFINED = 3, 4
"""GGUF token types that are always tokenized as a whole."""
_UNKNOWN_TOKENIZER = "pre-tokenizer was not recognized"


class GgufExporter:
    """Writes GGUF files with llama.cpp's converter, and opens them in llama.cpp."""

    def __init__(self, options: GgufOptions) -> None:
        self.options = options

    def export(self, model: Path, out: Path) -> None:
        """Write the model to a file in ``out``.

        Raises:
            EnvironmentProblem: the converter does not support the architecture or the tokenizer.
        """
        target = out / f"model-{self.options.quantize}.gguf"
        if self.options.quantize in ("f32", "f16"):
            convert_to_gguf(model, target, self.options.quantize, self.options.pre_tokenizer)
            return
        full = out / "model-f32.gguf"
        convert_to_gguf(model, full, "f32", self.options.pre_tokenizer)
        libllama.quantize(full, target, self.options.quantize)
        full.unlink()

    def facts(self, out: Path) -> dict[str, Any]:
        """Return facts from the file, which the export compares with the model.

        Raises:
            IntegrityError: the file is missing or incomplete.
        """
        return read_facts(find_file(out))

    def open(self, out: Path) -> AbstractContextManager[Engine]:
        """Load the file into llama.cpp."""
        return open_engine(find_file(out), exact=self.options.quantize == "f32")


def convert_to_gguf(
    folder: Path, target: Path, format_name: str, pre_tokenizer: str | None
) -> None:
    """Run the converter in a separate process, because it changes global state of its libraries.

    Raises:
        EnvironmentProblem: the converter failed.
    """
    command = [sys.executable, "-m", "tunesmith_gguf.convert_process", str(folder), str(target)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    done = subprocess.run(
        [*command, format_name, pre_tokenizer or ""],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return
    reason = (done.stderr.strip().splitlines() or ["the converter ended without an error message"])[
        -1
    ]
    hint = "llama.cpp may not support this architecture: export to safetensors instead"
    if _UNKNOWN_TOKENIZER in done.stderr:
        reason = "llama.cpp does not recognize how the tokenizer splits text"
        hint = "pass llama.cpp's name for the pre-tokenizer, such as --set pre_tokenizer=qwen2"
    raise EnvironmentProblem(f"gguf: llama.cpp's converter failed: {reason:.300}", hint=hint)


def find_file(out: Path) -> Path:
    """Return the GGUF file of an export.

    Raises:
        IntegrityError: the export contains no GGUF file.
    """
    files = sorted(out.glob("*.gguf"))
    if not files:
        raise IntegrityError(f"{out}: contains no GGUF file", hint="export the model again")
    return files[0]


def read_facts(file: Path) -> dict[str, Any]:
    """Return facts about the model from a GGUF file.

    Raises:
        IntegrityError: the file is incomplete.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise IntegrityError(
            f"{file}: the GGUF file cannot be read: {error!s:.120}", hint="export the model again"
        ) from error
    end = max(int(t.data_offset) + int(t.n_bytes) for t in reader.tensors)
    size = file.stat().st_size
    if end > size:
        raise IntegrityError(
            f"{file}: the GGUF file is truncated (expected at least {end:,} bytes, got {size:,})",
            hint="check the free disk space and export again",
        )
    names = {tensor.name for tensor in reader.tensors}
    architecture = reader.fields["general.architecture"].contents()
    theta = reader.fields.get(f"{architecture}.rope.freq_base")
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    types = reader.fields["tokenizer.ggml.token_type"].contents()
    return {
        "end_ids": libllama.list_end_ids(file),
        "rope_theta": None if theta is None else float(theta.contents()),
        "tied": "output.weight" not in names,
        "tokens": {
            text: number
            for number, (text, kind) in enumerate(zip(tokens, types, strict=True))
            if kind in (CONTROL, USER_DEFINED)
        },
    }
