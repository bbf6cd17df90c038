"""Verify exports in vLLM: a process in its environment renders, generates and scores.

Shapes: N scored positions, V vocabulary.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import numpy as np

from tunesmith.contracts import Generation
from tunesmith.errors import IntegrityError
from tunesmith.records import Prompt
from tunesmith_vllm import worker

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # vLLM compiles small functions even in eager mode.
    "TORCHDYNAMO_DISABLE": "1",
}
CPU_CACHE_GIB = "1"
"""Memory in GiB for keys and values on a CPU, unless vLLM's own variable is set."""
_SECONDS_TO_END = 60


class VllmModel:
    """A model in a vLLM process."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self._log = process, log
        self._ids: dict[str, list[int]] = {}
        about = self._read()
        self.version, self.device = str(about["version"]), str(about["device"])
        self.has_template = bool(about["has_template"])

    def render(self, prompt: Prompt) -> str:
        """Return the prompt, rendered by vLLM with the export's chat template."""
        found = self._ask("render", prompt=self._convert(prompt))
        text = str(found["text"])
        self._ids[text] = [int(i) for i in found["ids"]]
        return text

    def tokenize(self, text: str) -> Sequence[int]:
        """Return the token ids of a rendered prompt, as vLLM passes them to the model."""
        if text not in self._ids:
            self._ids[text] = [int(i) for i in self._ask("render", prompt=text)["ids"]]
        return self._ids[text]

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Generation]:
        """Generate greedy answers to all prompts at once."""
        asked = [self._convert(prompt) for prompt in prompts]
        found = self._ask("generate", prompts=asked, max_new_tokens=max_new_tokens)
        return [Generation(a["text"], len(a["ids"]), a["reason"], tuple(a["ids"])) for a in found]

    def logprobs(self, ids: Sequence[int], first: int) -> Any:
        """Return the log-probabilities of all tokens after each of ``ids[first:]``."""
        file = self._log.with_name("logprobs.npy")
        self._ask("logprobs", ids=list(ids), first=first, file=str(file))
        return np.load(file, allow_pickle=False)

    def _convert(self, prompt: Prompt) -> str | list[dict[str, str]]:
        if isinstance(prompt, str):
            return prompt
        if not self.has_template:
            return prompt[0].text
        return [{"role": message.role, "content": message.text} for message in prompt]

    def _ask(self, name: str, **values: Any) -> Any:
        _pipe(self._process.stdin).write(json.dumps({"do": name, **values}) + "\n")
        _pipe(self._process.stdin).flush()
        return self._read()

    def _read(self) -> Any:
        """Return the next answer.

        Raises:
            IntegrityError: the process has ended.
        """
        line = _pipe(self._process.stdout).readline()
        if not line:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_SECONDS_TO_END)  # The reason is logged after the last answer.
            reason = find_failure_reason(self._log.read_text(encoding="utf-8", errors="replace"))
            raise IntegrityError(f"vLLM cannot serve the export: {reason:.300}")
        return json.loads(line)


@contextmanager
def open_engine(python: str, engine: dict[str, Any], adapter: Path | None) -> Iterator[VllmModel]:
    """Load a model into vLLM with the arguments ``engine``, optionally with an adapter.

    Raises:
        IntegrityError: vLLM cannot load the model.
    """
    settings = {"engine": engine, "adapter": None if adapter is None else str(adapter)}
    environment = {"VLLM_CPU_KVCACHE_SPACE": CPU_CACHE_GIB, **os.environ, **ENVIRONMENT}
    with TemporaryDirectory(prefix="tunesmith-vllm-") as folder:
        log = Path(folder) / "vllm.log"
        with log.open("w", encoding="utf-8") as errors:
            process = subprocess.Popen(
                # -P, because the worker must not import this package's modules, which are next to
                # it.
                [python, "-P", worker.__file__, json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                text=True,
            )
        try:
            yield VllmModel(process, log)
        finally:
            process.kill()
            process.communicate()


def find_failure_reason(log: str) -> str:
    """Return the log line that explains why vLLM ended."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    named = [line for line in lines if "Error: " in line]
    return (
        (named or lines or ["the vLLM process ended without an error message"])[-1]
        .removeprefix("[rank0]:")
        .strip()
    )


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream
