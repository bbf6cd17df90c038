"""Technique ``vision``, data loader ``images``, and what shows whether a model looks at images."""

from tunesmith.hookspecs import lazy_plugin
from tunesmith.offers import CommandOffer

PLUGIN = lazy_plugin(
    __name__,
    tunesmith_data_loaders=".loader:IMAGES",
    tunesmith_techniques=".offer:VISION",
    tunesmith_baselines=[
        ".offer:IMAGE_MAJORITY",
        ".offer:IMAGE_PIXELS",
        ".offer:IMAGE_PROBE",
        ".offer:IMAGE_NEAREST",
        ".offer:IMAGE_OCR",
        ".offer:IMAGE_ZERO_SHOT",
    ],
    tunesmith_evaluators=".control:IMAGE_CONTROL",
    tunesmith_review_plan=".offer:review_plan",
    tunesmith_verdict=".control:give_verdict",
    tunesmith_commands=[
        CommandOffer(
            name="vision split",
            summary="Divide a vision-language model into a language model and its tower.",
            load="tunesmith_vision.commands:split",
        ),
        CommandOffer(
            name="vision join",
            summary="Write a trained model as one folder for plain transformers.",
            load="tunesmith_vision.commands:join",
        ),
    ],
)
