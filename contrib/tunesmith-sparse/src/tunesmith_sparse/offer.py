"""The offer of ``sparse``."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.contracts import Technique
from tunesmith.estimates import MemorySaving
from tunesmith.offers import Promises, TechniqueOffer
from tunesmith.records import Chat, Completion, Text
from tunesmith_sparse.options import SparseOptions
from tunesmith_torch.memory_estimate import techniques
from tunesmith_torch.runtime.environment import prepare_environment

__all__ = ["SPARSE"]


def build(options: SparseOptions) -> Technique:
    """Create the technique, importing torch."""
    prepare_environment()
    from tunesmith_sparse.technique import Sparse

    return Sparse(options)


def memory_savings(options: SparseOptions) -> Sequence[MemorySaving[SparseOptions]]:
    """Return option changes that save memory, except those of LoRA's own table."""
    savings = techniques.memory_savings(options)
    return [each for each in savings if not any("adapter." in line for line in each.changes)]


SPARSE = TechniqueOffer(
    name="sparse",
    summary="a few weights of each linear layer; the artifact is a small file of changes",
    config=SparseOptions,
    build=build,
    accepts=frozenset({Chat, Completion, Text}),
    trains_on=frozenset({"tools", "reasoning", "weights"}),
    needs=("torch>=2.11", "transformers>=5.17", "numpy>=1.26"),
    promises=Promises(base_weights_unchanged=True),
    accepts_additions=True,
    estimate=techniques.estimate_supervised,
    memory_savings=memory_savings,
)
