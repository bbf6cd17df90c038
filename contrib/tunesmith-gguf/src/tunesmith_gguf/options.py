"""Define the options of the exporters ``gguf`` and ``ollama``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from tunesmith.options import Options

TOLERANCES = {"f32": 1e-4, "f16": 0.05}
"""Allowed difference of a log-probability in nats, for formats that barely round.

Keys and values are cached in f32 for f32, and in llama.cpp's default f16 for f16.
"""


class GgufOptions(Options):
    """Options of the ``gguf`` exporter: the format of the weights, and the pre-tokenizer."""

    quantize: Literal["f32", "f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k"] = Field(
        "f16",
        description=(
            "Format of the weights. f32 and f16 barely change answers, q8_0 halves the file, and "
            "q4_k_m is a good choice for little memory."
        ),
    )
    pre_tokenizer: str | None = Field(
        None,
        min_length=1,
        max_length=40,
        description=(
            "llama.cpp's name for the tokenizer's pre-tokenizer, such as smollm. Only needed if "
            "the converter does not recognize the tokenizer. The checks reject a wrong name."
        ),
    )


class OllamaOptions(GgufOptions):
    """Options of the ``ollama`` exporter: all options of ``gguf``, and Modelfile settings."""

    system: str | None = Field(
        None,
        min_length=1,
        max_length=20_000,
        description="System prompt in the Modelfile, usually the one in the training rows.",
    )

    @field_validator("system")
    @classmethod
    def _refuse_three_quotes(cls, text: str | None) -> str | None:
        if text is not None and '"""' in text:
            raise ValueError(
                "must not contain three quotation marks in a row, because they end a text in a "
                "Modelfile"
            )
        return text

    temperature: float = Field(
        0.0,
        ge=0,
        le=2,
        description="Temperature in the Modelfile. 0 is greedy, as in the evaluation.",
    )
    num_ctx: int = Field(
        4096,
        ge=256,
        le=10_000_000,
        description="Maximum tokens in a prompt and its answer together.",
    )
