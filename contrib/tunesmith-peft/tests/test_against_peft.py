"""Training equals a plain loop that calls PEFT's forward and its hook; each mutation is seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from training import ROWS, load_base, load_with_peft, options, train
from verify_methods import RATES, SMALL, verify_method

from tunesmith.errors import UsageError
from tunesmith.records import Completion
from tunesmith_peft import data_driven, hidden_terms, task
from tunesmith_peft.adapter import add_adapter, build_config
from tunesmith_peft.methods import METHODS
from tunesmith_peft.task import PeftTask
from tunesmith_peft.technique import Peft
from tunesmith_torch.data.templates import Template
from tunesmith_torch.generation.text_model import TorchTextModel
from tunesmith_torch.losses import rows_alone
from tunesmith_torch.models.loading import load_tokenizer
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.runtime.device import Precision

# isort: split
from peft import get_peft_model, get_peft_model_state_dict

CASES: dict[str, dict[str, Any]] = {
    "adalora": {"init_r": 4, "target_r": 2, "tinit": 1, "total_step": 4},
    "shadow": {"shadow_dropout": 0.0},
    "prompt_tuning": {"num_virtual_tokens": 4},
}
ASA_STEPS = {"init_warmup": 1, "final_warmup": 8, "mask_interval": 4}
Patch = Callable[[pytest.MonkeyPatch], None]


def plain_loop(method: str, model_folder: Path) -> dict[str, Tensor]:
    """Train four steps on all rows with PEFT's own forward, and return the saved tensors."""
    config = options(method, CASES[method])
    model: Any = load_base(model_folder)
    torch.manual_seed(3)
    model.requires_grad_(False)
    model = get_peft_model(model, build_config(method, config.options)).train()
    template = Template.from_options(load_tokenizer(model_folder), config)
    tokenized = template.tokenize_records(ROWS, 512).examples
    examples = [tokenized[row] for row in range(len(tokenized))]
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.0)
    total = sum(int(torch.as_tensor(e.trained)[1:].sum()) for e in examples)
    for step in range(4):
        for example in examples:
            ids_1T = torch.as_tensor(example.ids, dtype=torch.long)[None]
            labels_1T = ids_1T.masked_fill(~torch.as_tensor(example.trained)[None], -100)
            labels_1T[0, 0] = -100
            output = model(input_ids=ids_1T, labels=labels_1T, use_cache=False)
            count = int((labels_1T != -100).sum())
            (output.loss * count / total).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if hasattr(model.base_model, "update_and_allocate"):
            model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
    return {n: t.detach() for n, t in get_peft_model_state_dict(model).items()}


def difference(method: str, model: Path, folder: Path) -> float:
    """Return the largest difference of a saved number between both trainings."""
    artifact, _, _ = train(options(method, CASES[method]), model, folder / "run")
    found = get_peft_model_state_dict(load_with_peft(model, artifact))
    expected = plain_loop(method, model)
    if {n: t.shape for n, t in found.items()} != {n: t.shape for n, t in expected.items()}:
        return float("inf")
    return max(float((found[name] - tensor).abs().max()) for name, tensor in expected.items())


@pytest.mark.parametrize("method", [*CASES])
def test_training_equals_a_plain_loop(method: str, tiny_model: Path, tmp_path: Path) -> None:
    assert difference(method, tiny_model, tmp_path) < 1e-4


def drop_term(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(hidden_terms.PeftTerm, "term", lambda self, items: _zero(self.model))


def drop_term_of_rows(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(task.RowTermTask, "objective_class", task.SupervisedTask.objective_class)


def free_gradients_first(patch: pytest.MonkeyPatch) -> None:
    hook = hidden_terms.PeftHook.transform_update

    def transform(self: Any, update: Any) -> None:
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.zero_()
        hook(self, update)

    patch.setattr(hidden_terms.PeftHook, "transform_update", transform)


def skip_hook(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(hidden_terms.PeftHook, "transform_update", lambda self, update: None)


def _zero(model: Any) -> Tensor:
    return sum((p.sum() * 0.0 for p in model.parameters() if p.requires_grad), torch.zeros(()))


@pytest.mark.parametrize(
    ("method", "mutate"),
    [
        ("adalora", drop_term),
        ("adalora", free_gradients_first),
        ("adalora", skip_hook),
        ("shadow", drop_term_of_rows),
    ],
)
def test_a_mutation_is_seen(
    method: str, mutate: Patch, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    assert difference(method, tiny_model, tmp_path) > 1e-3


@pytest.mark.parametrize("method", [name for name, m in METHODS.items() if m.uses_forward])
def test_answers_are_those_of_the_trained_computation(
    method: str, tiny_model: Path, tmp_path: Path
) -> None:
    """Greedy answers follow from the logits of PEFT's forward pass, as in training."""
    config = options(method, SMALL.get(method), learning_rate=RATES.get(method, 1e-2))
    artifact, _, _ = train(config, tiny_model, tmp_path / "run")
    model = Peft(config).open(tiny_model, artifact, device="cpu")
    assert isinstance(model, TorchTextModel)
    alone = load_with_peft(tiny_model, artifact)
    for prompt in ("Who is 3?", "a prompt that is longer"):
        (answer,) = model.generate([prompt], 6)
        ids = model.template.encode_prompt(prompt)
        for token in answer.ids:
            with torch.no_grad():
                logits_V = alone(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            assert token == int(logits_V.argmax())
            ids.append(token)


def test_without_the_wrapper_prompts_have_no_effect(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss then has no gradient with respect to the virtual tokens."""
    original = rows_alone.logprobs_of_rows

    def bypass(model: Any, batch: Any) -> Tensor:
        return original(model.get_base_model(), batch)

    monkeypatch.setattr(rows_alone, "logprobs_of_rows", bypass)
    with pytest.raises(RuntimeError, match="does not require grad"):
        train(options("prompt_tuning", CASES["prompt_tuning"]), tiny_model, tmp_path / "run")


@pytest.mark.parametrize(
    ("method", "weight"), [("adalora", "orth_reg_weight"), ("shadow", "auxiliary_loss_weight")]
)
def test_hidden_terms_are_reported_apart(
    method: str, weight: str, tiny_model: Path, tmp_path: Path
) -> None:
    """The loss is that of a training without the term."""
    _, steps, _ = train(options(method, CASES[method]), tiny_model, tmp_path / "with")
    without = options(method, {**CASES[method], weight: 0.0})
    _, others, _ = train(without, tiny_model, tmp_path / "without")
    assert steps[0].metrics["peft.term"] > 0.1
    assert abs(steps[0].loss - others[0].loss) < 1e-5


def test_a_variant_with_its_default_options_has_its_term(tiny_model: Path, tmp_path: Path) -> None:
    config = options("lora", {"r": 4, "kasa_config": {}})
    _, steps, _ = train(config, tiny_model, tmp_path / "run")
    assert steps[0].metrics["peft.term"] > 0


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("adamss", {"r": 8, "use_asa": True, "asa_target_subspaces": 10, **ASA_STEPS}),
        ("lora", {"r": 4, "monteclora_config": {"num_samples": 2}}),
        ("lora", {"r": 4, "kasa_config": {}}),
    ],
)
def test_variants_resume_and_load(method: str, given: dict[str, Any], tiny_model: Path) -> None:
    """Ratings of subspaces, and random numbers that PEFT draws in advance, survive a stop."""
    results = verify_method(method, tiny_model, given).results
    assert results["resume"] == results["PEFT alone"] == "yes"


def test_an_earlier_step_has_no_ranks_chosen_later(tiny_model: Path) -> None:
    """The best checkpoint may be older than the choice of ranks that the artifact would use."""
    precision = Precision(torch.float32, "test")
    base = load_model(tiny_model, torch.device("cpu"), precision, packing=True)
    adapted = add_adapter(base, precision, "adalora", {"init_r": 4, "target_r": 2}, 0)
    hook = hidden_terms.PeftHook(SimpleNamespace(adapted=adapted))  # type: ignore[arg-type]
    earlier = hook.state_dict()
    assert not earlier
    for step in (0, 1):
        adapted.model(input_ids=torch.arange(3, 9)[None]).logits.square().mean().backward()
        hook.tuner.update_and_allocate(step)
    later = hook.state_dict()
    assert hook.config.rank_pattern and any(name.startswith("exp_avg_ipt/") for name in later)
    hook.load_state_dict(earlier)
    assert hook.config.rank_pattern is None and not hook.state_dict()
    hook.load_state_dict(later)
    restored = hook.state_dict()
    assert {*restored} == {*later}
    assert all(torch.equal(restored[name], tensor) for name, tensor in later.items())


def test_a_schedule_that_never_removes_ranks_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it would never do this"):
        train(options("adalora", {"tinit": 4}), tiny_model, tmp_path / "run")


def test_a_text_gives_a_prompt_its_initial_values(tiny_model: Path, tmp_path: Path) -> None:
    given = {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "Who?"}
    config = options("prompt_tuning", {**CASES["prompt_tuning"], **given}, learning_rate=1e-9)
    artifact, _, _ = train(config, tiny_model, tmp_path / "run")
    model = Peft(config).open(tiny_model, artifact, device="cpu")
    assert isinstance(model, TorchTextModel)
    ids = model.template.tokenizer("Who?")["input_ids"]
    embeddings = load_base(tiny_model).get_input_embeddings().weight
    (prompt,) = get_peft_model_state_dict(load_with_peft(tiny_model, artifact)).values()
    assert torch.allclose(prompt, embeddings[(ids * 4)[:4]], atol=1e-6)


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    yield
    assert before == {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


INITIAL: dict[str, dict[str, Any]] = {
    # Like PEFT, the first name does not match q_proj.
    "pissa": {"alpha_pattern": {"proj": 64, "q_proj": 16}, "rank_pattern": {"v_proj": 2}},
    "olora": {},
    "eva": {},
    "corda": {"corda_config": {"corda_method": "kpm"}},
    "lora_ga": {"lora_ga_config": {}},
}


@pytest.mark.parametrize("kind", [*INITIAL])
def test_initializations_fit_the_unchanged_base_model(
    kind: str, tiny_model: Path, tmp_path: Path
) -> None:
    """PEFT alone adds the artifact to the base model as published."""
    given = {"r": 4, "init_lora_weights": kind, **INITIAL[kind]}
    with unchanged(tiny_model):
        artifact, steps, _ = train(options("lora", given, learning_rate=1e-9), tiny_model, tmp_path)
    ids_1T = torch.arange(3, 15)[None]
    with torch.no_grad():
        base = load_base(tiny_model)(input_ids=ids_1T).logits
        tuned = load_with_peft(tiny_model, artifact)(input_ids=ids_1T).logits
    assert float((tuned - base).abs().max()) < 1e-4, "a rate of 1e-9 trains nothing"
    assert abs(steps[0].loss - steps[-1].loss) < 1e-4


@pytest.mark.parametrize("kind", [*INITIAL])
def test_the_saved_difference_computes_what_was_trained(
    kind: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids_1T, trained = torch.arange(3, 15)[None], []
    original = PeftTask.finalize

    def capture(self: Any, session: Any) -> Any:
        with torch.no_grad():
            trained.append(session.adapted.model.eval()(input_ids=ids_1T).logits)
        return original(self, session)

    monkeypatch.setattr(PeftTask, "finalize", capture)
    config = options("lora", {"r": 4, "init_lora_weights": kind, **INITIAL[kind]})
    artifact, _, _ = train(config, tiny_model, tmp_path)
    with torch.no_grad():
        found = load_with_peft(tiny_model, artifact)(input_ids=ids_1T).logits
        base = load_base(tiny_model)(input_ids=ids_1T).logits
    assert float((found - trained[0]).abs().max()) < 1e-4
    assert float((found - base).abs().max()) > 1e-2


def test_only_linear_layers_have_a_difference(tiny_model: Path, tmp_path: Path) -> None:
    given = {"init_lora_weights": "pissa", "r": 4, "target_modules": ["q_proj", "embed_tokens"]}
    with pytest.raises(UsageError, match="needs linear layers"):
        train(options("lora", given), tiny_model, tmp_path / "run")


def test_initializations_read_rows_from_all_of_the_data(tiny_model: Path, tmp_path: Path) -> None:
    precision = Precision(torch.float32, "test")
    base = load_model(tiny_model, torch.device("cpu"), precision, packing=True)
    rows = [Completion(source="r", prompt=f"{n}", completion="one") for n in range(500)]
    config = options("lora", {"init_lora_weights": "eva"})
    job: Any = SimpleNamespace(config=config, train=rows)
    examples = data_driven._sample(base, job)
    template = Template.from_options(base.tokenizer, config)
    last = template.tokenize_record(rows[-500 // 64], 512)[0]
    assert len(examples) == 64 and [*examples[-1].ids] == [*last.ids]


def test_a_changed_base_is_seen(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the difference, the artifact of LoRA-GA does not fit the unchanged base model."""

    def keep(adapted: Any, initial: Any) -> Any:
        adapted.model.peft_config["default"].init_lora_weights = True
        return adapted

    monkeypatch.setattr(task, "save_as_difference", keep)
    with pytest.raises(AssertionError, match="trains nothing"):
        test_initializations_fit_the_unchanged_base_model("lora_ga", tiny_model, tmp_path)


def test_lora_plus_multiplies_the_rate_of_b(tiny_model: Path, tmp_path: Path) -> None:
    """One step of AdamW moves each number by about the rate; B moves 16 times as far."""

    def moved(ratio: float) -> dict[str, float]:
        config = options("lora", {"r": 4}, learning_rate=1e-4, b_rate_ratio=ratio, max_steps=1)
        artifact, _, _ = train(config, tiny_model, tmp_path / f"{ratio}")
        state = get_peft_model_state_dict(load_with_peft(tiny_model, artifact))
        return {n: float(t.abs().max()) for n, t in state.items() if "lora_B" in n}

    plain, faster = moved(1.0), moved(16.0)
    assert all(abs(faster[name] / plain[name] - 16) < 0.01 for name in plain)
