"""Options of the exporter ``vllm``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunesmith.options import Options


class VllmOptions(Options):
    """Options of the exporter ``vllm``."""

    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "bfloat16",
        description=(
            "Format in which vLLM computes, and of the merged weights. bfloat16 is vLLM's own "
            "choice for most models; float32 changes nothing, takes twice the memory and is "
            "compared exactly."
        ),
    )
    adapter_only: bool = Field(
        False,
        description=(
            "Write the LoRA adapter alone, which vLLM adds to the base model while it serves, so "
            "that one server has several; false merges it."
        ),
    )
    python: str | None = Field(
        None,
        description=(
            "Python of the environment that has vLLM, such as /opt/vllm/bin/python; default: this "
            "one. Without vLLM the folder is written, checked in transformers, and not verified."
        ),
    )
