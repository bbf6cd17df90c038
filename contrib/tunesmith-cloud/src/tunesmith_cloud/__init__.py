"""The ``submit`` command and the ``[cloud]`` table: run on Kubernetes, SkyPilot or dstack."""

from tunesmith.hookspecs import lazy_plugin
from tunesmith.offers import CommandOffer

PLUGIN = lazy_plugin(
    __name__,
    tunesmith_commands=CommandOffer(
        name="submit",
        summary="Write the job file of a run for Kubernetes, SkyPilot or dstack.",
        load="tunesmith_cloud.command:command",
    ),
    tunesmith_tables=".options:CLOUD",
)
