"""Leakage-free splits; see :mod:`tunesmith_data.splits.split`."""

from tunesmith_data.splits.assignments import PARTS
from tunesmith_data.splits.cluster_records import cluster_records
from tunesmith_data.splits.exchanges import has_earlier_exchanges, read_exchanges
from tunesmith_data.splits.normalize import PromptTexts, normalize_text, prompt_text
from tunesmith_data.splits.rows import MAX_CLASS_LABELS
from tunesmith_data.splits.split import split_records

__all__ = [
    "MAX_CLASS_LABELS",
    "PARTS",
    "PromptTexts",
    "cluster_records",
    "has_earlier_exchanges",
    "normalize_text",
    "prompt_text",
    "read_exchanges",
    "split_records",
]
