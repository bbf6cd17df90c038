"""Options of ``existing``: where the fine-tuned model is."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from tunesmith.options import DataPath
from tunesmith_evidence.endpoint.address import check_endpoint
from tunesmith_torch.options.training import TrainingOptions


class ExistingOptions(TrainingOptions):
    """Options of ``existing``: the fine-tuned model, and how to open it."""

    tuned: DataPath | None = Field(
        None, description="The fine-tuned model: an adapter or model folder, or a GGUF file."
    )
    endpoint: str | None = Field(
        None,
        description=(
            "Address of an OpenAI-compatible endpoint that serves the fine-tuned model, such as "
            "https://host/v1, instead of `tuned`. It receives the prompts of the test rows."
        ),
    )
    endpoint_model: str = Field("", description="Name of the model at the endpoint.")
    token_variable: str | None = Field(
        None, description="Environment variable with the endpoint's API token."
    )

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if (self.tuned is None) == (self.endpoint is None):
            raise ValueError("set either `tuned` or `endpoint`")
        if self.endpoint is not None:
            check_endpoint(self.endpoint, self.token_variable)
        return self
