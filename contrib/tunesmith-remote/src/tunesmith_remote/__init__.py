"""The ``[remote]`` table and the ``remote`` commands: mirror runs to a bucket."""

from tunesmith.hookspecs import lazy_plugin
from tunesmith.offers import CommandOffer

PLUGIN = lazy_plugin(
    __name__,
    tunesmith_commands=[
        CommandOffer(
            name="remote push",
            summary="Copy new files of a run to a bucket.",
            load="tunesmith_remote.commands.push:command",
        ),
        CommandOffer(
            name="remote pull",
            summary="Download a run from a bucket to continue it.",
            load="tunesmith_remote.commands.pull:command",
        ),
    ],
    tunesmith_tables=".options:REMOTE",
    tunesmith_reporters=".reporter:REMOTE_REPORTER",
)
