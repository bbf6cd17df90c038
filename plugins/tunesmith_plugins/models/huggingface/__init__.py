"""Find base models in local folders and on the Hugging Face Hub.

``HF_HUB_OFFLINE=1`` or ``TUNESMITH_OFFLINE=1`` turns off all network access.
"""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.contracts import Finding, FoundModel
from tunesmith.plan import Plan


def find_model(reference: str, revision: str | None) -> FoundModel | None:
    """Return the model in a folder, or of a Hub id, ``organization/name[@revision]``."""
    from tunesmith_plugins.models.huggingface.find import find_folder, find_on_hub

    return find_folder(reference) or find_on_hub(reference, revision)


def review_plan(plan: Plan) -> Sequence[Finding]:
    """Return errors if the base model cannot be trained, or lacks modules listed for adapters."""
    from tunesmith_plugins.models.huggingface.adapter_review import review_adapters
    from tunesmith_plugins.models.huggingface.review import review_plan

    return [*review_plan(plan), *review_adapters(plan)]
