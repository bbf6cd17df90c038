"""Verify exports in llama.cpp: its server renders and generates, and its library scores."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from tunesmith.contracts import Generation
from tunesmith.records import Prompt
from tunesmith_gguf import libllama
from tunesmith_gguf.turns import Turns

CONTEXT = 4096
"""Maximum tokens of a prompt and its answer."""
_SECONDS = 600


class LlamaCpp:
    """A GGUF file that is loaded into llama.cpp for verification."""

    def __init__(self, server: Any, model: Any, *, exact: bool, turns: Turns | None) -> None:
        self.server = server
        self.model = model
        self.exact = exact
        self.turns = turns
        self.has_template = libllama.has_chat_template(model)

    def render(self, prompt: Prompt) -> str:
        """Return the prompt as the server renders it, from the file's template or ``turns``."""
        if isinstance(prompt, str) or not self.has_template:
            return prompt if isinstance(prompt, str) else prompt[0].text
        if self.turns is not None:
            return self.turns.render(prompt)
        turns = [{"role": message.role, "content": message.text} for message in prompt]
        return str(self._post("/apply-template", {"messages": turns})["prompt"])

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a rendered prompt, including those that the server prepends."""
        body = {"content": text, "add_special": True, "parse_special": True}
        return [int(i) for i in self._post("/tokenize", body)["tokens"]]

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Generation]:
        """Generate greedy answers, one at a time."""
        return [self._generate(self.render(prompt), max_new_tokens) for prompt in prompts]

    def logprobs(self, ids: Sequence[int], first: int) -> Any:
        """Return the log-probabilities of all tokens after each of ``ids[first:]``."""
        return libllama.compute_logprobs(self.model, ids, first, exact=self.exact)

    def _generate(self, text: str, max_new_tokens: int) -> Generation:
        body = {"prompt": text, "n_predict": max_new_tokens, "temperature": 0, "top_k": 1}
        answer = self._post("/completion", {**body, "return_tokens": True, "cache_prompt": False})
        reason = "length" if answer["stop_type"] == "limit" else "stop"
        ids = tuple(int(i) for i in answer["tokens"])
        return Generation(str(answer["content"]), len(ids), reason, ids)  # type: ignore[arg-type]

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        address = f"{self.server.listening_address}{path}"  # this process's server, on localhost
        headers = {"Content-Type": "application/json"}
        request = Request(address, json.dumps(body).encode(), headers)  # noqa: S310
        with urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
            decoded: dict[str, Any] = json.load(answer)
            return decoded


@contextmanager
def open_engine(file: Path, *, exact: bool, turns: Turns | None = None) -> Iterator[LlamaCpp]:
    """Load a GGUF file into llama.cpp. ``exact`` keeps cached keys and values in f32.

    If ``turns`` are given, they render prompts instead of the template in the file, as
    Ollama does.
    """
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(file)
    parameters.n_ctx, parameters.n_parallel, parameters.n_gpu_layers = CONTEXT, 1, 0
    parameters.cpuparams.n_threads = libllama.count_threads()
    parameters.warmup = False
    parameters.verbosity = -1
    if exact:
        parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    with libllama.load_model(file) as model:
        server = xllamacpp.Server(parameters)
        try:
            yield LlamaCpp(server, model, exact=exact, turns=turns)
        finally:
            del server
