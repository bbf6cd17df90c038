"""Measure how well training rows cover production traffic: the share that lies outside them.

::

    from tunesmith_data.coverage import measure_coverage, read_prompts
    from tunesmith_data.splits import PromptTexts

    production = read_prompts(Path("production.jsonl")).train
    found = measure_coverage(PromptTexts(train), PromptTexts(production))
    found.share.estimate, found.share.low, found.share.high
    for row in found.chosen: ...  # rows to label

Only the surface of texts is compared: a text is far if it shares few character 3- to 5-grams with
every training text. A paraphrase in other words is far, while a different question in the same
words is near. With ``encoder``, meanings are compared instead.
"""

from tunesmith_data.coverage.measure import Coverage, FarRow, measure_coverage
from tunesmith_data.coverage.prompts import is_prompt_file, read_prompts
from tunesmith_data.coverage.share import ShareEstimate

__all__ = [
    "Coverage",
    "FarRow",
    "ShareEstimate",
    "is_prompt_file",
    "measure_coverage",
    "read_prompts",
]
