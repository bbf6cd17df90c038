"""Reject base models that do not generate text from left to right, using only their config.

``tunesmith check`` must be fast, so this module does not import transformers. It reads the list of
architectures with a causal language model from the source code of transformers. If the config is
not on this machine yet, the run checks the model after loading it.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tunesmith.contracts import Finding
from tunesmith.plan import Plan

_REMEDY = "choose a causal language model, such as a Llama, Qwen or Gemma"
_NAMES = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"

ENCODERS = frozenset(
    {
        "bert",
        "bert-generation",
        "big_bird",
        "camembert",
        "data2vec-text",
        "electra",
        "ernie",
        "megatron-bert",
        "rembert",
        "roberta",
        "roberta-prelayernorm",
        "roc_bert",
        "roformer",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
    }
)
"""Model types that attend in both directions unless their config sets ``is_decoder``."""
_DRAFT = "a draft model for speculative decoding reads the hidden states of another model"
UNUSUAL = {
    "gemma4_assistant": _DRAFT,
    "gemma4_unified_assistant": _DRAFT,
    "musicgen": "musicgen generates audio codes, not text",
    "musicgen_melody": "musicgen generates audio codes, not text",
    "cpmant": "cpmant attends to the prompt in both directions",
    "prophetnet": "prophetnet predicts several tokens at a time, and its streams see later tokens",
    "reformer": "reformer attends by random hashes, and only supports rows of fixed lengths",
}
"""Model types that cannot be trained here, with the reason."""


def review_plan(plan: Plan) -> Sequence[Finding]:
    """Return an error if the base model is missing, or its config makes training impossible."""
    found = plan.found_model
    if found.missing:
        hint = "`tunesmith plan RUN.toml` needs only config.json" if found.config else ""
        return [Finding(level="error", where="model.base", message=found.missing, hint=hint)]
    problem = find_problem(found.config)
    if not problem:
        return []
    return [Finding(level="error", where="model.base", message=f"{problem}: {_REMEDY}")]


def find_problem(config: Mapping[str, Any]) -> str:
    """Return the reason why a model with this config cannot be trained.

    The result is "" if the model can be trained.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        return ""
    known = causal_model_types()
    if known and model_type not in known:
        return f"transformers has no causal language model of type {model_type!r:.60}"
    if model_type in UNUSUAL:
        return UNUSUAL[model_type]
    if model_type in ENCODERS and not config.get("is_decoder"):
        return f"{model_type} without `is_decoder` in its config attends in both directions"
    if model_type == "xlm" and not config.get("causal"):
        return "xlm without `causal` in its config attends in both directions"
    if model_type == "falcon" and config.get("alibi"):
        return "transformers computes falcon with `alibi` differently in sdpa and in eager mode"
    return ""


@cache
def causal_model_types() -> frozenset[str]:
    """Return the model types for which the installed transformers has a causal language model.

    The result is empty if the list is not found, for example because another version of
    transformers stores it differently.
    """
    spec = find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        return frozenset()
    path = Path(spec.submodule_search_locations[0], "models", "auto", "modeling_auto.py")
    try:
        statements = ast.parse(path.read_text(encoding="utf-8")).body
    except (OSError, ValueError, SyntaxError):
        return frozenset()
    for statement in statements:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == _NAMES:
            pairs = [n for n in ast.walk(statement.value) if isinstance(n, ast.Tuple)]
            names = [p.elts[0] for p in pairs if len(p.elts) == 2]
            return frozenset(str(n.value) for n in names if isinstance(n, ast.Constant))
    return frozenset()
