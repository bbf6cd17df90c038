"""Command ``data card``: describe the files of a dataset in Croissant."""

from tunesmith.hookspecs import lazy_plugin
from tunesmith.offers import CommandOffer

__all__ = ["PLUGIN"]

PLUGIN = lazy_plugin(
    __name__,
    tunesmith_commands=[
        CommandOffer(
            name="data card",
            summary="Describe the files of a dataset in Croissant, for machines.",
            load="tunesmith_croissant.command:command",
        )
    ],
)
