"""Define the options of the ``existing`` technique."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from tunesmith.options import DataPath
from tunesmith_evidence.endpoint.address import check_endpoint, is_endpoint
from tunesmith_torch.options.training import TrainingOptions


class ExistingOptions(TrainingOptions):
    """Options of ``existing``: the fine-tuned model, and how to open it."""

    UNUSED: ClassVar[frozenset[str]] = frozenset(TrainingOptions.model_fields) - {
        "precision",
        "fused_kernels",
        "chat_template",
    }

    tuned: DataPath = Field(
        description=(
            "The fine-tuned model: an adapter or model folder, a GGUF file, or the address of an "
            "OpenAI-compatible endpoint, such as https://host/v1, which receives the prompts."
        ),
    )
    endpoint_model: str = Field("", description="Name of the model at the endpoint.")
    token_variable: str | None = Field(
        None, description="Environment variable with the endpoint's API token."
    )

    @model_validator(mode="after")
    def _check_address(self) -> Self:
        if self.is_endpoint:
            check_endpoint(self.tuned, self.token_variable)
            if not self.endpoint_model:
                raise ValueError("endpoint_model: set the name of the model at the endpoint")
        return self

    @property
    def is_endpoint(self) -> bool:
        """True if `tuned` is the address of an endpoint."""
        return is_endpoint(self.tuned)
