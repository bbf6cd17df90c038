"""Export a GGUF file with a Modelfile for ``ollama create``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from tunesmith.errors import TunesmithWarning
from tunesmith.records import Message
from tunesmith_gguf import libllama
from tunesmith_gguf.engine import open_engine
from tunesmith_gguf.exporter import GgufExporter, find_file
from tunesmith_gguf.go_template import write_go
from tunesmith_gguf.options import OllamaOptions
from tunesmith_gguf.tool_turns import ToolsSkippedError, add_tools
from tunesmith_gguf.turns import Turns, find_turns
from tunesmith_torch.data.message_fields import build_message_fields, build_tool_fields
from tunesmith_torch.data.templates import Template
from tunesmith_torch.export.contract import Engine
from tunesmith_torch.models.loading import load_tokenizer

MODELFILE = "Modelfile"


class OllamaExporter:
    """Writes a GGUF file and a Modelfile, and verifies them in llama.cpp."""

    def __init__(self, options: OllamaOptions) -> None:
        self.options = options
        self.gguf = GgufExporter(options)
        self.turns: Turns | None = None

    def export(self, model: Path, out: Path) -> None:
        """Write the model and its Modelfile.

        Raises:
            UsageError: Ollama's templates cannot express the chat template.
            EnvironmentProblem: the converter does not support the architecture or the tokenizer.
        """
        tokenizer = load_tokenizer(model)
        self.turns, skipped = read_turns(tokenizer)
        if skipped:
            warnings.warn(f"ollama: {skipped}", TunesmithWarning, stacklevel=2)
        self.gguf.export(model, out)
        file = find_file(out)
        if self.turns is not None and libllama.adds_bos(file):
            self.turns = self.turns.without_bos(tokenizer.bos_token or "")
        stops = [tokenizer.decode([token]) for token in sorted(libllama.list_end_ids(file))]
        text = build_modelfile(file.name, self.turns, stops, self.options)
        text = f"# {skipped}\n{text}" if skipped else text
        (out / MODELFILE).write_text(text, encoding="utf-8")

    def facts(self, out: Path) -> dict[str, Any]:
        """Return facts from the GGUF file, which the export compares with the model."""
        return self.gguf.facts(out)

    def open(self, out: Path) -> AbstractContextManager[Engine]:
        """Load the file into llama.cpp, with prompts rendered as in the Modelfile."""
        exact = self.options.quantize == "f32"
        return open_engine(find_file(out), exact=exact, turns=self.turns)


def read_turns(tokenizer: PreTrainedTokenizerBase) -> tuple[Turns | None, str]:
    """Return a tokenizer's chat template as turns, with the reason why tools were skipped or "".

    If the tokenizer has no chat template, the turns are None.

    Raises:
        UsageError: Ollama's templates cannot express the chat template.
    """
    template = Template.from_tokenizer(tokenizer)
    if template.chat is None:
        return None, ""

    def render(messages: Sequence[Message]) -> str:
        text: str = tokenizer.apply_chat_template(
            [build_message_fields(message, None, False) for message in messages],
            tools=build_tool_fields(messages),
            tokenize=False,
            add_generation_prompt=True,
        )
        return text

    turns = find_turns(render)
    try:
        return add_tools(turns, render), ""
    except ToolsSkippedError as reason:
        return turns, str(reason)


def build_modelfile(
    file: str, turns: Turns | None, stops: list[str], options: OllamaOptions
) -> str:
    """Return the text of a Modelfile.

    The Modelfile makes Ollama generate answers as in the evaluation: greedily, without a repeat
    penalty. Ollama's defaults are a temperature of 0.8 and a penalty of 1.1.
    """
    template = "{{ .Prompt }}" if turns is None else write_go(turns)
    lines = [f"FROM ./{file}", f'TEMPLATE """{template}"""']
    if options.system is not None:
        lines.append(f'SYSTEM """{options.system}"""')
    # A Modelfile has no escapes: the value is everything between the first and last quote.
    lines += [f'PARAMETER stop "{stop}"' for stop in stops if stop.strip()]
    lines.append(f"PARAMETER temperature {options.temperature:g}")
    lines.append("PARAMETER repeat_penalty 1")
    lines.append(f"PARAMETER num_ctx {options.num_ctx}")
    return "\n".join(lines) + "\n"
