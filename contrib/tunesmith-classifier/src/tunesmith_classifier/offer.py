"""The offer of ``classifier``."""

from __future__ import annotations

from tunesmith.contracts import Technique
from tunesmith.offers import Promises, TechniqueOffer
from tunesmith.records import Chat, Completion
from tunesmith_classifier.options import ClassifierOptions
from tunesmith_torch.memory_estimate import techniques
from tunesmith_torch.runtime.environment import prepare_environment

__all__ = ["CLASSIFIER"]


def build(options: ClassifierOptions) -> Technique:
    """Create the technique, importing torch."""
    prepare_environment()
    from tunesmith_classifier.technique import ClassifierTechnique

    return ClassifierTechnique(options)


CLASSIFIER = TechniqueOffer(
    name="classifier",
    summary="a classification head for known labels, with or without LoRA adapters",
    config=ClassifierOptions,
    build=build,
    accepts=frozenset({Chat, Completion}),
    needs=("torch>=2.11", "transformers>=5.17", "peft>=0.19"),
    promises=Promises(base_weights_unchanged=True),
    estimate=techniques.estimate_supervised,
    can_score=lambda options: False,
    needs_validation=True,
    sample={
        "learning_rate": 0.02,
        "epochs": 8.0,
        "batch_size": 4,
        "precision": "fp32",
        "adapter": {"rank": 4},
    },
)
