"""Define the options of the ``vllm`` exporter."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunesmith.options import Options


class VllmOptions(Options):
    """Options of the ``vllm`` exporter: what to write, and the vLLM that verifies it."""

    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "bfloat16",
        description=(
            "Dtype of vLLM's computation and of merged weights. bfloat16 is vLLM's own choice "
            "for most models. float32 changes nothing, needs twice the memory, and is compared "
            "exactly."
        ),
    )
    adapter_only: bool = Field(
        False,
        description=(
            "Only write the LoRA adapter. vLLM adds it to the base model while serving, so a "
            "server can have several. false merges the adapter."
        ),
    )
    python: str | None = Field(
        None,
        description=(
            "Python of the environment that has vLLM, such as /opt/vllm/bin/python. Default: this "
            "one. Without vLLM, the export is checked in transformers and reported as not verified."
        ),
    )
