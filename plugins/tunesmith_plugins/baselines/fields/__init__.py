"""The ``fields`` baseline: predict JSON answers field by field, by classifying or copying."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tunesmith.contracts import BaselineTask, BaselineVariant
from tunesmith.offers import BaselineOffer
from tunesmith.options import Options
from tunesmith.records import Record
from tunesmith_evidence.tasks.kinds import detect_record_task


class FieldsOptions(Options):
    """``fields`` has no options."""


class FieldsBaseline:
    """Predicts each field of a JSON answer with a classifier or by copying from the prompt."""

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        """Yield the only variant, or nothing if the answers are not JSON objects.

        Cross-validation on the training rows chooses the method for each field.
        """
        from tunesmith_evidence.classify.function_model import FunctionModel
        from tunesmith_evidence.tasks.examples import read_examples
        from tunesmith_evidence.tasks.json_answers import parse_json_object
        from tunesmith_plugins.baselines.fields.predict import FieldsModel

        examples = [e for e in read_examples(task.train, task.seed) if parse_json_object(e.answer)]
        if examples:
            model = FieldsModel([e.text for e in examples], [e.answer for e in examples])
            yield BaselineVariant(name="", model=FunctionModel(model.answer))


def has_objects(records: Sequence[Record]) -> bool:
    """Return True if the answers are JSON objects."""
    return detect_record_task(records) == "objects"


FIELDS = BaselineOffer(
    name="fields",
    summary="JSON answers field by field, classified or copied from the prompt, without a model",
    config=FieldsOptions,
    build=lambda options: FieldsBaseline(),
    needs=("numpy>=1.26", "scikit-learn>=1.5", "scipy>=1.13"),
    solution="classifier",
    cost=30,
    suits=has_objects,
)
