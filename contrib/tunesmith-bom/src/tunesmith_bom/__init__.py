"""Command ``bom``: describe a run as a bill of materials in CycloneDX."""

from tunesmith.hookspecs import lazy_plugin
from tunesmith.offers import CommandOffer

__all__ = ["PLUGIN"]

PLUGIN = lazy_plugin(
    __name__,
    tunesmith_commands=[
        CommandOffer(
            name="bom",
            summary="Write a run's model, data, libraries and results as a CycloneDX ML-BOM.",
            load="tunesmith_bom.command:command",
        )
    ],
)
