"""Options of the exporter ``mlx``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunesmith.options import Options

TOLERANCES = {"f32": 1e-4, "f16": 0.05}
"""Largest difference of a log-probability, in nats, of formats that hardly round."""


class MlxOptions(Options):
    """Options of the exporter ``mlx``."""

    quantize: Literal["f32", "f16", "bf16", "int8", "int4"] = Field(
        "f16",
        description=(
            "Format of the weights: f32 changes nothing, f16 and bf16 halve the folder, int8 and "
            "int4 have a scale and an offset for each group_size of them, and the rest in bf16."
        ),
    )
    group_size: Literal[32, 64, 128] = Field(
        64,
        description=(
            "Weights that share a scale and an offset in int8 and int4: fewer are more exact and "
            "larger. Matrices whose rows are no multiple of it stay in bf16."
        ),
    )
