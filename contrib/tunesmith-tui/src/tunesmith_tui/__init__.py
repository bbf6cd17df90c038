"""Command ``dashboard``: show any number of runs in the terminal, live and read-only."""

from tunesmith.hookspecs import lazy_plugin
from tunesmith.offers import CommandOffer

PLUGIN = lazy_plugin(
    __name__,
    tunesmith_commands=CommandOffer(
        name="dashboard",
        summary="Show any number of runs in the terminal, live and read-only.",
        load="tunesmith_tui.command:command",
        section="Results",
    ),
)
