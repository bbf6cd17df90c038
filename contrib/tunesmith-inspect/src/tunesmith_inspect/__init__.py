"""Evaluator ``inspect``, and the command ``inspect-log`` that writes logs which inspect opens."""

from tunesmith.hookspecs import lazy_plugin
from tunesmith.offers import CommandOffer

__all__ = ["PLUGIN"]

PLUGIN = lazy_plugin(
    __name__,
    tunesmith_evaluators=".offer:INSPECT",
    tunesmith_commands=[
        CommandOffer(
            name="inspect-log",
            summary="Write the answers and scores of a run as logs for `inspect view`.",
            load="tunesmith_inspect.log_command:command",
        )
    ],
)
