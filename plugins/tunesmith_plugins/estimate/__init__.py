"""The ``estimate`` plugin: predict memory, time and cost of a run before it starts.

The plugin offers the command ``tunesmith plan``, a review that refuses runs that cannot fit in
memory, a reporter that records finished runs to calibrate predictions, and the ``[estimate]``
table.

Techniques predict memory and operation counts (``TechniqueOffer.estimate``). This plugin compares
these predictions with a table of hardware and with this machine. It imports no tensor library.
"""

from tunesmith.command_offers import CommandOffer
from tunesmith.hookspecs import lazy_plugin

ESTIMATE = lazy_plugin(
    __name__,
    tunesmith_commands=CommandOffer(
        name="plan",
        summary="Estimate memory, time and cost, and list the GPUs the run fits on.",
        load="tunesmith_plugins.estimate.command:command",
        section="Decide",
        position=0,
    ),
    tunesmith_tables=".offer:ESTIMATE",
    tunesmith_reporters=".offer:CALIBRATION",
    tunesmith_review_model=".review:review_memory",
)
