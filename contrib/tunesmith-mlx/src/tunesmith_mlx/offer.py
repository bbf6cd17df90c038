"""Offer the ``mlx`` exporter."""

from __future__ import annotations

from tunesmith.offers import ExporterOffer
from tunesmith_mlx.options import TOLERANCES, MlxOptions

MLX = ExporterOffer(
    name="mlx",
    summary="A model folder for mlx-lm on Apple silicon, in 32, 16, 8 or 4 bits",
    config=MlxOptions,
    build="tunesmith_mlx.exporter:MlxExporter",
    tolerance=lambda options: TOLERANCES.get(options.quantize),
)
