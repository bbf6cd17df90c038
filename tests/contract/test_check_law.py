"""`check` finds what `run` would refuse: each refusal after the start of a run is in a list here.

A new ``raise`` of a reported error in code that a run executes fails this test until it is listed:
as one that a review of ``check`` finds, or with the reason why ``check`` cannot know.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[2]
ERRORS = frozenset(
    {"ConfigError", "DataError", "EnvironmentProblem", "PromptTooLongError", "UsageError"}
)
FOLDERS = (
    "core/tunesmith/execution",
    *(
        f"plugins/tunesmith_torch/{name}"
        for name in (
            "compare", "data", "generation", "losses", "models", "optim", "rlhf", "runtime",
            "training", "untrusted",
        )
    ),
    *(f"plugins/tunesmith_plugins/{name}" for name in ("evaluators", "baselines", "techniques")),
)  # fmt: skip

FOUND: Mapping[str, Sequence[str]] = {
    "`check` reads and reviews the data with the same functions": (
        "execution.check_records:_check_accepted",
        "execution.check_records:_check_media",
        "execution.check_records:check_records",
        "execution.execute:_load_and_review_data",
    ),
    "the review of options knows the evaluators of the run file": (
        "training.validation_score:ValidationScore.create",
    ),
    "the check row-lengths": (
        "execution.evaluate:_name_long_rows",
        "generation.text_model:TorchTextModel._check_context",
        "training.skipped_rows:check_skipped_share",
        "training.supervised:_check",
    ),
    "the check chat-template renders every row": (
        "data.chat_format:ChatFormat._answer",
        "data.chat_format:ChatFormat.from_template",
        "data.chat_format:ChatFormat.trained_exchanges",
        "data.chat_format:_find_end",
        "data.conversation:require_all_texts",
        "data.conversation:weighted_pieces",
        "data.templates:Template._exchanges_of_record",
        "data.templates:Template.from_tokenizer",
        "data.templates:Template.tokenize_record",
        "data.templates:_require_plain",
        "data.templates:_single_user_message",
        "data.templates:read_chat_template",
        "data.saved_template:check_saved_template",
    ),
    "the review of adapters builds the model without its weights": (
        "models.adapter_targets:AdapterTargets.resolve",
        "models.adapter_targets:_check_named",
        "models.adapter_targets:_choose_modules",
        "models.adapter_targets:_refuse_tied_targets",
        "models.adapter_targets:_resolve_modules_to_save",
        "models.adapter_targets:_resolve_parameters",
    ),
    "the model's folder is read when the run file is": (
        "untrusted.foreign_code:refuse_foreign_keys",
        "models.model_folder:_weight_map",
        "models.model_folder:check_model_folder",
        "models.model_folder:read_config",
        "models.self_check:_require_causal",
    ),
    "the review of plans finds sharded weights in the options of any technique": (
        "training.auto_parallel:resolve_parallel",
    ),
    "the review of plans reads the folder with the documents": (
        "baselines.documents.read_folder:_list_files",
        "baselines.documents.read_folder:read_folder",
    ),
    "`check` builds the technique, as a run does": ("runtime.environment:prepare_environment",),
    "the check of the `preference` technique and of the file that `from` names": (
        "techniques.preference.task:PreferenceTask.tokenize",
        "models.initial_model:InitialModel.find",
    ),
    "the review of the `answer-length` baseline": ("baselines.answer_length:LengthRule.generate",),
    "`tunesmith plan` predicts memory, and `run` does before the training": (
        "execution.model_review:ModelReviewer.review",
    ),
}
CANNOT_KNOW: Mapping[str, Sequence[str]] = {
    "it is about what changed since the run started": (
        "execution.resume_checks:ResumeCheck.require_unchanged",
        "execution.resume_checks:find_lost_events",
        "execution.worker_rank:run_worker_rank",
        "training.token_digest:check_tokens",
        "training.trainer:_check_lineage",
    ),
    "the machine that runs may be another one, with other devices, libraries and disks": (
        "optim.adamw:check_available",
        "baselines.embedding:Embedding.variants",
        "runtime.bitsandbytes:import_checked_bitsandbytes",
        "runtime.bitsandbytes:import_bitsandbytes",
        "runtime.device:_device_of_rank",
        "runtime.device:pick_device",
        "runtime.disk_space:require_free_space",
        "evaluators.json_answer:read_schema",
        "baselines.prompt.prompt_file:read_prompt",
        "evaluators.text_overlap.evaluator:load_bleu",
    ),
    "torchrun starts the processes, not `check`": (
        "runtime.sharding:_refuse_shared_weights",
        "runtime.sharding:shard_model",
        "training.parallelism:_find_blocks",
    ),
    "only the loaded model, its tokenizer and its computation show it": (
        "losses.selected_positions:get_lm_head",
        "losses.selected_positions:unwrap_peft",
        "models.adapter_config:check_adapter_config",
        "models.adapter_stack:_refuse_not_summable",
        "models.adapter_stack:reference_policy",
        "baselines.embedding:Probe._embed.embed",
        "models.loading:_check_model_type",
        "models.loading:load_tokenizer",
        "models.sentence_encoder:_check_modules",
        "models.sentence_encoder:load_sentence_encoder",
        "untrusted.tokenizer_limits:_check",
        "rlhf.policy_objective:PolicyObjective.__init__",
        "training.trainer:_open_session",
        "generation.json_constraint:compile_schema",
        "generation.text_model:TorchTextModel.score_generations",
    ),
    "it is about models of other runs, or of a stage that is trained first": (
        "compare.open_by_name:_find_base",
        "compare.other_model:_find_reward_model",
        "compare.other_model:_stage_artifact",
        "compare.other_model:load_reward_scorer",
        "compare.other_model:open_comparison_model",
    ),
    "only the values of the first evaluator show it, before training if there is a baseline": (
        "evaluators.review:score_rows",
    ),
    "it would execute code of the user": (
        "rlhf.reward_functions:FunctionReward._from_callable",
        "rlhf.reward_functions:FunctionReward.from_file",
        "rlhf.reward_functions:FunctionReward.from_package",
    ),
    "it is another command, or a fault of the caller": (
        "data.packing:_check_lengths",
        "data.packing:collate",
        "evaluators.constrained_json:ConstrainedJson.measure",
        "evaluators.review:Review.measure",
        "models.merging:refuse_other_folder",
    ),
}
NOT_YET: Sequence[str] = (
    "evaluators.canaries:Canaries.compare",
    "evaluators.classification.evaluator:Classification._read_references",
    "evaluators.code.offer:Code._read_tests",
    "evaluators.constrained_match:ConstrainedMatch.measure",
    "evaluators.exact_match:ExactMatch.measure",
    "evaluators.json_answer:JsonAnswer.measure",
    "evaluators.memorization:Memorization.compare",
    "evaluators.numeric:Numeric.measure",
    "models.loading:enable_gradient_checkpointing",
    "evaluators.preference_accuracy:_require_pair",
    "evaluators.reward_margin:_signed_answers",
    "rlhf.policy_task:PolicyTask.tokenize",
    "techniques.preference.objective:mismatched_groups",
    "techniques.rlhf.stages:StageData.split",
    "techniques.rlhf.stages:train_stages",
    "training.preference_data:tokenize_fitting_groups",
)
"""What the rows and options show, but no review of ``check`` looks for. It must not grow: write a
review, or give a reason above."""


def find_refusals() -> Iterator[str]:
    """Yield the functions that raise a reported error, as module and name."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts[2:]
            module = ".".join(part for part in parts if part != "__init__")
            for name in _list_raising(ast.parse(path.read_text(encoding="utf-8")), ""):
                yield f"{module}:{name}"


def _list_raising(node: ast.AST, name: str) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        inner = name
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            inner = f"{name}.{child.name}".lstrip(".")
        if isinstance(child, ast.Raise) and child.exc is not None:
            called = child.exc.func if isinstance(child.exc, ast.Call) else child.exc
            if isinstance(called, ast.Name) and called.id in ERRORS:
                yield name
        yield from _list_raising(child, inner)


def test_each_refusal_after_the_start_of_a_run_is_found_or_has_a_reason() -> None:
    listed = [*chain.from_iterable((*FOUND.values(), *CANNOT_KNOW.values())), *NOT_YET]
    assert sorted(listed) == sorted({*find_refusals()})


def test_what_is_not_found_yet_does_not_grow() -> None:
    assert len(NOT_YET) <= 16
