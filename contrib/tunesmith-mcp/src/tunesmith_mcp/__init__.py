"""The ``mcp`` command: an MCP (Model Context Protocol) server for assistants."""

from tunesmith.hookspecs import lazy_plugin
from tunesmith.offers import CommandOffer

__all__ = ["PLUGIN"]

PLUGIN = lazy_plugin(
    __name__,
    tunesmith_commands=CommandOffer(
        name="mcp",
        summary="Let an assistant check, plan and read the runs in a folder.",
        load="tunesmith_mcp.command:command",
    ),
)
