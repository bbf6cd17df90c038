"""The offers of the technique, the splitter and the evaluator, and the review of plans."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tunesmith.contracts import Evaluator, Finding, Technique
from tunesmith.offers import EvaluatorOffer, Metric, Promises, SplitterOffer, TechniqueOffer
from tunesmith.plan import Plan
from tunesmith.records import Chat, Completion
from tunesmith_personal.options import (
    EvidenceOptions,
    PersonalOptions,
    PerUserOptions,
    UserMatchOptions,
)
from tunesmith_personal.splitter import PerUser, find_users
from tunesmith_torch.memory_estimate import techniques
from tunesmith_torch.options import checks
from tunesmith_torch.runtime.environment import prepare_environment


def build_technique(options: PersonalOptions) -> Technique:
    """Create the technique, importing torch."""
    prepare_environment()
    from tunesmith_personal.technique import Personal

    return Personal(options)


def build_match(options: UserMatchOptions) -> Evaluator:
    """Create the evaluator of answers, importing torch."""
    prepare_environment()
    from tunesmith_personal.match import UserMatch

    return UserMatch(options, options.max_new_tokens)


def build_evaluator(options: EvidenceOptions) -> Evaluator:
    """Create the evaluator, importing torch."""
    prepare_environment()
    from tunesmith_personal.evaluator import PersonalEvaluator

    return PersonalEvaluator(options)


PERSONAL = TechniqueOffer(
    name="personal",
    summary="an own LoRA adapter for each user or tenant, beside a shared one",
    config=PersonalOptions,
    build=build_technique,
    accepts=frozenset({Chat, Completion}),
    trains_on=frozenset({"tools", "reasoning", "weights"}),
    needs=("torch>=2.11", "transformers>=5.17", "peft>=0.19"),
    promises=Promises(base_weights_unchanged=True),
    divides_groups=True,
    estimate=techniques.estimate_supervised,
    memory_savings=techniques.memory_savings,
    sample={
        "learning_rate": 0.01,
        "epochs": 8.0,
        "batch_size": 4,
        "precision": "fp32",
        "adapter": {"rank": 16, "target_modules": "all-linear"},
    },
)
PER_USER: SplitterOffer[PerUserOptions] = SplitterOffer(
    name="per-user",
    summary="every user (group) has training, validation and test rows",
    config=PerUserOptions,
    build=PerUser,
    find_clusters=find_users,
    divides_groups=True,
)
MATCH = EvaluatorOffer(
    name="user-exact-match",
    summary="share of right answers if each user's own adapter answers the user's rows",
    config=UserMatchOptions,
    build=build_match,
    metrics=(Metric(name="user-exact-match", higher_is_better=True, bounds=(0, 1)),),
    accepts=frozenset({Chat, Completion}),
    generates=True,
    answer_limit=UserMatchOptions.answer_limit,
)
EVALUATOR = EvaluatorOffer(
    name="user-gain",
    summary="whether each user's own adapter beats the best baseline on the user's test rows",
    config=EvidenceOptions,
    build=build_evaluator,
    metrics=(
        Metric(name="served", higher_is_better=True, bounds=(0, 1), is_optional=True),
        Metric(name="own", higher_is_better=True, bounds=(0, 1), is_optional=True),
    ),
    model_count=lambda config: 2,
    needs_run=True,
    needs=("numpy>=1.26", "scikit-learn>=1.5", "scipy>=1.13"),
    generates=True,
)


def review_plan(plan: Plan) -> Sequence[Finding]:
    """Check that a run of users' adapters splits each user's rows, and can judge them."""
    return [*_review(plan)]


def _review(plan: Plan) -> Iterator[Finding]:
    options: Any = plan.technique.config
    is_personal = isinstance(options, PersonalOptions)
    if is_personal:
        yield from checks.check_optimizer(options, plan.run.device)
        if not isinstance(plan.split.config, PerUserOptions):
            yield Finding(
                level="warning",
                where="split.use",
                message="no user's adapter can be judged: all rows of a user are in one split",
                hint='set [split] use = "per-user"',
            )
        deciding = [used.config for used in plan.evaluators[:1]]
        if not any(isinstance(config, UserMatchOptions) for config in deciding):
            yield Finding(
                level="info",
                where="evaluators",
                message="the verdict is about the shared adapter alone",
                hint='make this the first evaluator: [[evaluators]] use = "user-exact-match"',
            )
    for number, used in enumerate(plan.evaluators):
        where = f"evaluators.{used.id}"
        if isinstance(used.config, EvidenceOptions | UserMatchOptions) and not is_personal:
            yield Finding(
                level="error", where=where, message="needs the technique personal", hint="remove it"
            )
        if not isinstance(used.config, EvidenceOptions):
            continue
        first = plan.evaluators[0].offer
        metric = first.metrics[0]
        rates = first.generates and metric.is_row_mean and metric.higher_is_better
        if not number or not rates:
            yield Finding(
                level="error",
                where=where,
                message="the first evaluator must rate each generated answer from 0 to 1",
                hint='put one before it, such as [[evaluators]] use = "exact-match"',
            )
