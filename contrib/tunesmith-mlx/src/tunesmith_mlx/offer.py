"""The offer of the exporter ``mlx``."""

from __future__ import annotations

from tunesmith.offers import ExporterOffer
from tunesmith_mlx.options import TOLERANCES, MlxOptions
from tunesmith_torch.export.contract import Exporter


def build(options: MlxOptions) -> Exporter:
    """Return the exporter."""
    from tunesmith_mlx.exporter import MlxExporter

    return MlxExporter(options)


MLX = ExporterOffer(
    name="mlx",
    summary="A model folder for mlx-lm on Apple silicon, in 32, 16, 8 or 4 bits",
    config=MlxOptions,
    build=build,
    tolerance=lambda options: TOLERANCES.get(options.quantize),
)
