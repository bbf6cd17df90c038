"""Refuse a base model that does not generate text from left to right, from its config alone.

Nothing heavy is imported, so that ``tunesmith check`` stays quick: the names of the architectures
that transformers has a causal language model for are read from its source. Of a model whose config
is not on this machine yet nothing is known; the run looks at the loaded model itself.
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
"""Model types that attend in both directions unless their config says ``is_decoder``."""
_DRAFT = "a draft model for speculative decoding reads the states of another model"
UNUSUAL = {
    "gemma4_assistant": _DRAFT,
    "gemma4_unified_assistant": _DRAFT,
    "musicgen": "a musicgen generates codes of audio, no text",
    "musicgen_melody": "a musicgen generates codes of audio, no text",
    "cpmant": "the prompt of a cpmant attends in both directions",
    "prophetnet": "a prophetnet predicts several tokens at a time, and its streams see later ones",
    "reformer": "a reformer attends by random hashes, and to rows of fixed lengths only",
}
"""Model types that cannot be trained here, with the reason."""


def review_plan(plan: Plan) -> Sequence[Finding]:
    """Return an error if the base model cannot be trained, or is not here, by its config."""
    found = plan.found_model
    if found.missing:
        hint = "it can be planned, tunesmith plan RUN.toml, but not run"
        return [Finding(level="error", where="model.base", message=found.missing, hint=hint)]
    problem = find_problem(found.config)
    if not problem:
        return []
    return [Finding(level="error", where="model.base", message=f"{problem}: {_REMEDY}")]


def find_problem(config: Mapping[str, Any]) -> str:
    """Return the reason why a model with this config cannot be trained; empty if none is seen."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        return ""
    known = causal_model_types()
    if known and model_type not in known:
        return f"transformers has no causal language model of the type {model_type!r:.60}"
    if model_type in UNUSUAL:
        return UNUSUAL[model_type]
    if model_type in ENCODERS and not config.get("is_decoder"):
        return f"a {model_type} without `is_decoder` in its config attends in both directions"
    if model_type == "xlm" and not config.get("causal"):
        return "an xlm without `causal` in its config attends in both directions"
    if model_type == "falcon" and config.get("alibi"):
        return "transformers computes a falcon with `alibi` differently in sdpa and in eager mode"
    return ""


@cache
def causal_model_types() -> frozenset[str]:
    """Return the model types that the installed transformers has a causal language model for.

    Empty if they are not found, with a transformers that stores them in another way.
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
