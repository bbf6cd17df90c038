"""Options of ``sparse``."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from tunesmith_torch.options.adaptation import Adaptation, AdapterOptions
from tunesmith_torch.options.training import SupervisedOptions

Mask = Literal["random", "magnitude", "gradient"]


class SparseOptions(SupervisedOptions):
    """Options of ``sparse``: those of supervised training, and the choice of weights."""

    STARTS_FROM_BASE: ClassVar[bool] = True

    learning_rate: float = Field(
        5e-4, gt=0, le=1, description="Peak learning rate, reached after warm-up."
    )
    density: float = Field(
        0.01, gt=0, le=0.5, description="Share of each layer's weights that train."
    )
    mask: Mask = Field(
        "random",
        description=(
            "Which weights train: at random, so that the artifact stores only a seed instead of "
            "positions; those of largest magnitude; or those with the largest gradient on up to 64 "
            "training rows."
        ),
    )
    modules: list[str] = Field(
        [],
        description=(
            "Last parts of the names of linear layers, such as q_proj. Empty: all linear layers "
            "except the output head."
        ),
    )

    @property
    def adaptation(self) -> Adaptation:
        """Weights of an unquantized base model."""
        return Adaptation("lora", AdapterOptions(rank=8), None, self._build)

    def _build(self, base: Any, precision: Any) -> Any:
        """Add trained values to a model without weights; torch is imported here."""
        from tunesmith_sparse.layers import add_values

        return add_values(base, precision, self.density, self.modules, None, seed=0)
