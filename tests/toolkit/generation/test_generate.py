"""Generation: a batch gives the same completions as each prompt on its own."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence

import pytest
import torch
from generation_cases import END, LIMIT, VOCABULARY, generate_one, make_prompts, varied_model
from transformers import AutoModelForCausalLM, MambaConfig, PreTrainedModel

from tunesmith_torch.generation import prefix_cache
from tunesmith_torch.generation.generate import generate, group_by_length
from tunesmith_torch.generation.sampling import VOCABULARY_BLOCK, Sampler, _invert_cdf
from tunesmith_torch.generation.sequences import GeneratedSequence, PartialSequence
from tunesmith_torch.testing.tiny_model import build_tiny_model


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return varied_model()


@pytest.mark.parametrize("shared", [0, 30])
@pytest.mark.parametrize("budget", [1, 150, 600, 16_384])
def test_a_batch_gives_the_completions_of_single_prompts(
    model: PreTrainedModel, shared: int, budget: int
) -> None:
    prompts = make_prompts(24, shared)
    answers = generate(model, prompts, max_new_tokens=LIMIT, end_ids=END, token_budget=budget)
    expected = [generate_one(model, prompt) for prompt in prompts]
    assert [answer.ids for answer in answers] == expected
    assert len({len(ids) for ids in expected}) > 5, "the completions end at different times"
    assert {answer.finish_reason for answer in answers} == {"stop", "length"}
    for answer in answers:
        assert (answer.ids[-1] in END) == (answer.finish_reason == "stop")
        assert answer.logprobs == ()


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "gemma", "mistral", "gemma2", "smollm3"])
def test_other_model_families_give_the_completions_of_single_prompts(family: str) -> None:
    model = varied_model(family)
    prompts = make_prompts(8, shared=12)
    answers = generate(model, prompts, max_new_tokens=LIMIT, end_ids=END)
    assert [answer.ids for answer in answers] == [generate_one(model, prompt) for prompt in prompts]


def test_a_common_prefix_changes_no_logit(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log-probabilities show differences that greedy ids may hide."""
    prompts, sampler = make_prompts(12, shared=30), Sampler(seed=5)
    with_prefix = generate(model, prompts, max_new_tokens=LIMIT, end_ids=END, sampler=sampler)
    monkeypatch.setattr("tunesmith_torch.generation.prefix_cache.MIN_PREFIX_TOKENS", 10**6)
    without = generate(model, prompts, max_new_tokens=LIMIT, end_ids=END, sampler=sampler)
    assert_same(with_prefix, without)


def assert_same(
    left: Sequence[GeneratedSequence], right: Sequence[GeneratedSequence], tolerance: float = 1e-5
) -> None:
    assert [a.ids for a in left] == [b.ids for b in right]
    for a, b in zip(left, right, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=tolerance)


def test_the_prefix_and_each_distinct_prompt_are_computed_once(model: PreTrainedModel) -> None:
    token_counts: list[int] = []
    record = model.register_forward_pre_hook(
        lambda _, __, inputs: token_counts.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    prompts = [prompt for prompt in make_prompts(3, shared=30, longest=9) for _ in range(4)]
    try:
        generate(model, prompts, max_new_tokens=1, end_ids=END)
    finally:
        record.remove()
    suffix = max(map(len, prompts)) - 30
    assert sum(token_counts) <= 2 + 30 + 3 * suffix


def test_waiting_rows_replace_finished_rows(model: PreTrainedModel) -> None:
    """The rows of all steps together are about as many as the generated tokens."""
    batches: list[int] = []

    def record(_: object, __: object, inputs: dict[str, torch.Tensor]) -> None:
        if inputs["input_ids"].shape[1] == 1:
            batches.append(len(inputs["input_ids"]))

    hook = model.register_forward_pre_hook(record, with_kwargs=True)
    prompts = make_prompts(40, longest=30)
    try:
        answers = generate(model, prompts, max_new_tokens=LIMIT, end_ids=END, token_budget=8 * 50)
    finally:
        hook.remove()
    needed = sum(len(answer.ids) - 1 for answer in answers)
    assert needed <= sum(batches) <= needed + sum(len(p) == 1 for p in prompts)
    assert sorted(batches)[len(batches) // 2] >= 7, "free rows are filled again"


def test_samples_do_not_depend_on_the_batch(model: PreTrainedModel) -> None:
    prompts = [prompt for prompt in make_prompts(6, shared=10) for _ in range(4)]
    sampler = Sampler(temperature=0.9, top_p=0.9, seed=3)
    large_budget = generate(model, prompts, max_new_tokens=LIMIT, end_ids=END, sampler=sampler)
    small_budget = generate(
        model, prompts, max_new_tokens=LIMIT, end_ids=END, sampler=sampler, token_budget=130
    )
    assert_same(large_budget, small_budget)
    assert large_budget == generate(
        model, prompts, max_new_tokens=LIMIT, end_ids=END, sampler=sampler
    )
    assert len({answer.ids for answer in large_budget}) > 12, "samples of one prompt differ"


def test_logprobs_are_those_of_the_tempered_distribution(model: PreTrainedModel) -> None:
    prompts = make_prompts(5)
    sampler = Sampler(temperature=0.7, top_p=0.8, seed=1)
    for prompt, answer in zip(
        prompts,
        generate(model, prompts, max_new_tokens=8, end_ids=END, sampler=sampler),
        strict=True,
    ):
        ids = torch.tensor([[*prompt, *answer.ids]])
        with torch.no_grad():
            logits = model(ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
        expected = (logits / 0.7).log_softmax(-1)[range(len(answer.ids)), list(answer.ids)]
        assert answer.logprobs == pytest.approx(expected.tolist(), abs=1e-5)


def test_samples_follow_the_distribution(model: PreTrainedModel) -> None:
    """Over many samples, frequencies equal the nucleus's probabilities within five sigma."""
    prompt, count, top_p = make_prompts(1, longest=9)[0], 4000, 0.6
    answers = generate(
        model, [prompt] * count, max_new_tokens=1, end_ids=END, sampler=Sampler(top_p=top_p, seed=2)
    )
    with torch.no_grad():
        p_V = model(torch.tensor([prompt]), use_cache=False).logits[0, -1].softmax(-1)
    top_V, order_V = p_V.sort(descending=True)
    size = int((top_V.cumsum(0) < top_p).sum()) + 1
    share = (top_V[:size] / top_V[:size].sum()).tolist()
    nucleus = dict(zip(order_V[:size].tolist(), share, strict=True))
    counts = {token: 0 for token in nucleus}
    for answer in answers:
        counts[answer.ids[0]] += 1
    for token, p in nucleus.items():
        assert abs(counts[token] - count * p) <= 5 * (count * p * (1 - p)) ** 0.5 + 1


@pytest.mark.parametrize("vocabulary", [3, VOCABULARY_BLOCK, VOCABULARY_BLOCK + 1, 1000])
def test_a_sample_is_the_token_at_which_the_cumulative_sum_exceeds_the_number(
    vocabulary: int,
) -> None:
    source = torch.Generator().manual_seed(vocabulary)
    p_NV = torch.rand(500, vocabulary, generator=source) ** 8
    p_NV[p_NV < 0.3] = 0.0
    p_NV[:, vocabulary // 2] += 0.1
    uniform_N1 = torch.rand(500, 1, generator=source, dtype=torch.float64)
    uniform_N1[:20], uniform_N1[20:40] = 0.0, 1 - 2**-53
    sampled_N1 = _invert_cdf(p_NV, uniform_N1)
    sum_NV = p_NV.double().cumsum(-1)
    target_N1 = uniform_N1 * sum_NV[:, -1:]
    after_N1 = sum_NV.gather(1, sampled_N1)
    before_N1 = after_N1 - p_NV.double().gather(1, sampled_N1)
    assert bool((p_NV.gather(1, sampled_N1) > 0).all()), "tokens of probability 0 are never sampled"
    assert bool((before_N1 <= target_N1 + 1e-6 * sum_NV[:, -1:]).all())
    assert bool((target_N1 <= after_N1 + 1e-6 * sum_NV[:, -1:]).all())


def test_prefill_groups_prompts_of_similar_length() -> None:
    lengths = [400, 390, 200, 200, 199, 100, 20, 20, 20, 3]
    rows = [PartialSequence(n, [n] * length, []) for n, length in enumerate(lengths)]
    rows[4].prompt = rows[3].prompt  # occurs twice, is computed once
    runs = [list(run) for run in group_by_length(rows)]
    assert [row for run in runs for row in run] == rows
    assert [[len(row.prompt) for row in run] for run in runs[:2]] == [[400, 390], [200] * 3]
    for run in runs[:-1]:  # the last group may be short
        distinct = {tuple(row.prompt) for row in run}
        real = sum(map(len, distinct))
        assert real >= 256 and len(run[0].prompt) * len(distinct) <= 1.1 * real


@pytest.mark.parametrize("sampler", [None, Sampler(seed=4)])
def test_a_recurrent_model_is_generated_by_transformers(sampler: Sampler | None) -> None:
    config = MambaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        state_size=4,
        num_hidden_layers=2,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    model.generation_config.repetition_penalty = 3.0
    prompts = make_prompts(9, longest=5)
    options = {"max_new_tokens": 8, "end_ids": END, "sampler": sampler}
    answers = generate(model, prompts, **options)
    if sampler is None:
        assert [a.ids for a in answers] == [generate_one(model, prompt, 8) for prompt in prompts]
    assert_same(answers, generate(model, prompts, token_budget=1, **options), 1e-4)


def test_a_sliding_window_matters_only_for_longer_rows() -> None:
    prompts = make_prompts(6, longest=30)
    for window in (12, 64):
        model = varied_model("mistral", sliding_window=window)
        assert prefix_cache.has_plain_kv_cache(model, 50) == (window == 64)
        answers = generate(model, prompts, max_new_tokens=LIMIT, end_ids=END)
        assert [answer.ids for answer in answers] == [
            generate_one(model, prompt) for prompt in prompts
        ]


def test_adapters_are_applied(model: PreTrainedModel) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        tuned = get_peft_model(varied_model(), config).eval()
    prompts = make_prompts(6)
    answers = generate(tuned, prompts, max_new_tokens=LIMIT, end_ids=END)
    assert [answer.ids for answer in answers] == [generate_one(tuned, prompt) for prompt in prompts]
    assert answers != generate(model, prompts, max_new_tokens=LIMIT, end_ids=END)


def test_generation_restores_all_state(caplog: pytest.LogCaptureFixture) -> None:
    model = varied_model(attention_dropout=0.9)
    model.train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    random_state, before = torch.get_rng_state(), model.config.to_dict()
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        first = generate(model, make_prompts(5), max_new_tokens=5, end_ids=END, sampler=Sampler())
    assert [module.training for module in model.modules()] == modes
    assert model.config.to_dict() == before
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not caplog.records
    model.eval()
    assert first == generate(
        model, make_prompts(5), max_new_tokens=5, end_ids=END, sampler=Sampler()
    )
    loss = model(torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss
    loss.backward()


def test_progress_counts_finished_prompts(model: PreTrainedModel) -> None:
    counts: list[int] = []
    generate(
        model,
        make_prompts(12),
        max_new_tokens=9,
        end_ids=END,
        token_budget=150,
        progress=counts.append,
    )
    assert counts == sorted(counts)
    assert counts[-1] == 12


def test_invalid_arguments_are_refused(model: PreTrainedModel) -> None:
    assert generate(model, [], max_new_tokens=1, end_ids=END) == []
    with pytest.raises(ValueError, match="at least one token"):
        generate(model, [[1], []], max_new_tokens=1, end_ids=END)
    with pytest.raises(ValueError, match="max_new_tokens"):
        generate(model, [[1]], max_new_tokens=0, end_ids=END)
    with pytest.raises(ValueError, match="top_p"):
        Sampler(top_p=0.0)
    with pytest.raises(ValueError, match="temperature"):
        Sampler(temperature=0.0)


def test_bfloat16_stays_close_to_float32() -> None:
    """The cache has the model's dtype; this bounds the effect on log-probabilities."""
    fp32, bf16 = build_tiny_model(), build_tiny_model().to(torch.bfloat16)
    prompts = make_prompts(8, shared=20)
    for a, b in zip(
        generate(fp32, prompts, max_new_tokens=1, end_ids=END, sampler=Sampler()),
        generate(bf16, prompts, max_new_tokens=1, end_ids=END, sampler=Sampler()),
        strict=True,
    ):
        assert a.logprobs == pytest.approx(b.logprobs, abs=0.05)
