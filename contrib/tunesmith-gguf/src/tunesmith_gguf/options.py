"""Options of the exporter ``gguf``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from tunesmith.options import Options

TOLERANCES = {"f32": 1e-4, "f16": 0.05}
"""Largest difference of a log-probability, in nats, of formats that hardly round.

With f32, keys and values are kept in f32 too; with f16, as llama.cpp does by default.
"""


class GgufOptions(Options):
    """Options of the exporter ``gguf``."""

    quantize: Literal["f32", "f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k"] = Field(
        "f16",
        description=(
            "Format of the weights: f32 and f16 change answers hardly or not at all, q8_0 halves "
            "the file, q4_k_m is a good choice for little memory."
        ),
    )
    pre_tokenizer: str | None = Field(
        None,
        min_length=1,
        max_length=40,
        description=(
            "Name in llama.cpp of the way in which the tokenizer splits text, such as smollm, if "
            "the converter does not recognize it. A wrong name is found by the checks."
        ),
    )


class OllamaOptions(GgufOptions):
    """Options of the exporter ``ollama``."""

    system: str | None = Field(
        None,
        min_length=1,
        max_length=20_000,
        description="System prompt of the Modelfile: that of the training rows, if they have one.",
    )

    @field_validator("system")
    @classmethod
    def _refuse_three_quotes(cls, text: str | None) -> str | None:
        if text is not None and '"""' in text:
            raise ValueError("three quotation marks in a row end the text in a Modelfile")
        return text

    temperature: float = Field(
        0.0, ge=0, le=2, description="Temperature of the Modelfile. 0 answers as it was measured."
    )
    num_ctx: int = Field(
        4096, ge=256, le=10_000_000, description="Tokens of a prompt and its answer, at most."
    )
