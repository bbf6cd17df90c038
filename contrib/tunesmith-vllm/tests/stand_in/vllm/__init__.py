"""A stand-in for vLLM: the part that the worker calls, computed by transformers and PEFT.

It takes the arguments of vLLM 0.32 that the exporter gives, and no others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

__version__ = "0.0.stand-in"


@dataclass
class SamplingParams:
    """Settings of an answer."""

    temperature: float = 1.0
    max_tokens: int = 16
    logprobs: int | None = None
    flat_logprobs: bool = False
    detokenize: bool = True


@dataclass
class FlatLogprobs:
    """Log-probabilities, the most likely token first."""

    token_ids: list[int]
    logprobs: list[float]


@dataclass
class Completion:
    """One answer."""

    text: str
    token_ids: list[int]
    finish_reason: str
    logprobs: FlatLogprobs | None = None


@dataclass
class RequestOutput:
    """The answers to one prompt."""

    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[Completion] = field(default_factory=list)


class LLM:
    """A model, with its tokenizer."""

    def __init__(
        self,
        *,
        model: str,
        dtype: str,
        enforce_eager: bool,
        max_logprobs: int,
        max_model_len: int | None,
        override_generation_config: dict[str, Any],
        trust_remote_code: bool,
        tokenizer: str | None = None,
        generation_config: str | None = None,
        enable_lora: bool = False,
        max_lora_rank: int = 16,
    ) -> None:
        assert enforce_eager and max_logprobs == -1 and not trust_remote_code
        print("vLLM writes to standard output as well")
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
        self.tokenizer = AutoTokenizer.from_pretrained(tokenizer or model)
        self.ends = GenerationConfig.from_pretrained(generation_config or model).eos_token_id
        self.temperature = override_generation_config.get("temperature", 1.0)
        self.longest, self.enable_lora = max_model_len, enable_lora
        self.max_lora_rank = max_lora_rank

    def get_tokenizer(self) -> Any:
        """Return the tokenizer."""
        return self.tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """Return the settings of a request that names none."""
        return SamplingParams(temperature=self.temperature)

    def chat(
        self, messages: list[Any], params: SamplingParams, *, lora_request: Any, use_tqdm: bool
    ) -> list[RequestOutput]:
        """Answer conversations."""
        texts = [
            self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            for turns in messages
        ]
        return [
            self._answer(text, self.tokenizer.encode(text, add_special_tokens=False), params,
                         lora_request)
            for text in texts
        ]  # fmt: skip

    def generate(
        self, prompts: list[Any], params: SamplingParams, *, lora_request: Any, use_tqdm: bool
    ) -> list[RequestOutput]:
        """Continue texts, or token ids."""
        return [
            self._answer(None, p["prompt_token_ids"], params, lora_request)
            if isinstance(p, dict)
            else self._answer(p, self.tokenizer.encode(p), params, lora_request)
            for p in prompts
        ]

    @torch.inference_mode()
    def _answer(
        self, text: str | None, ids: list[int], params: SamplingParams, lora_request: Any
    ) -> RequestOutput:
        assert params.temperature == 0, "answers would be sampled"
        if self.longest is not None and len(ids) + params.max_tokens > self.longest:
            raise ValueError(f"the prompt has {len(ids)} tokens, too many for this model")
        if lora_request is not None and not isinstance(self.model, PeftModel):
            assert self.enable_lora
            self.model = PeftModel.from_pretrained(self.model, lora_request.path)
            if self.model.peft_config["default"].r > self.max_lora_rank:
                raise ValueError("LoRA rank is greater than max_lora_rank")
        new: list[int] = []
        ends = self.ends if isinstance(self.ends, list) else [self.ends]
        flat = None
        while len(new) < params.max_tokens and not (new and new[-1] in ends):
            logits_V = self.model(torch.tensor([[*ids, *new]])).logits[0, -1]
            new.append(int(logits_V.argmax()))
            if params.logprobs == -1:
                logprobs_V, ids_V = logits_V.float().log_softmax(-1).sort(descending=True)
                flat = FlatLogprobs(ids_V.tolist(), logprobs_V.tolist())
        ended = new[-1] in ends
        answer = self.tokenizer.decode(new[:-1] if ended else new, skip_special_tokens=True)
        completion = Completion(answer, new, "stop" if ended else "length", flat)
        return RequestOutput(text, ids, [completion])
