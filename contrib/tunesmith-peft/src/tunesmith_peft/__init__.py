"""Technique ``peft``, table ``peft-adapter``: any adapter of PEFT; exporter ``lora``."""

from tunesmith.hookspecs import lazy_plugin
from tunesmith.offers import CommandOffer

PLUGIN = lazy_plugin(
    __name__,
    tunesmith_techniques=".offer:PEFT",
    tunesmith_review_plan=".offer:review_plan",
    tunesmith_review_model=".offer:review_model",
    tunesmith_exporters=".offer:LORA",
    tunesmith_tables=".table:TABLE",
    tunesmith_commands=CommandOffer(
        name="peft methods",
        summary="List the methods of the installed PEFT, or the options of one method.",
        load="tunesmith_peft.methods_command:command",
    ),
)
