"""Generation: what a batch answers is what each prompt alone would be answered."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Sequence

import pytest
import torch
from transformers import AutoModelForCausalLM, MambaConfig, PreTrainedModel

from tunesmith_torch.generation import prefix_cache
from tunesmith_torch.generation.generate import _alike, generate
from tunesmith_torch.generation.sampling import BLOCK, Sampler, _invert
from tunesmith_torch.generation.sequences import Draft, Generated
from tunesmith_torch.testing.tiny_model import tiny_config, tiny_model

END = frozenset(range(5))
LIMIT = 20
WORDS = 64


def lively(family: str = "llama", **changes: object) -> PreTrainedModel:
    """A model whose answers vary: random weights ten times as wide as usual."""
    config = tiny_config(family, vocabulary=WORDS)
    config.initializer_range = 0.3
    for name, value in changes.items():
        setattr(config, name, value)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def make_prompts(count: int, shared: int = 0, longest: int = 40, seed: int = 0) -> list[list[int]]:
    draw = random.Random(seed)
    start = [draw.randrange(WORDS) for _ in range(shared)]
    lengths = [draw.randint(1, longest) for _ in range(count)]
    return [start + [draw.randrange(WORDS) for _ in range(length)] for length in lengths]


def alone(model: PreTrainedModel, prompt: Sequence[int], limit: int = LIMIT) -> tuple[int, ...]:
    """Transformers' own answer to one prompt: no cache, no batch, no mask."""
    ids = list(prompt)
    for _ in range(limit):
        with torch.no_grad():
            token = int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        ids.append(token)
        if token in END:
            break
    return tuple(ids[len(prompt) :])


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return lively()


@pytest.mark.parametrize("shared", [0, 30])
@pytest.mark.parametrize("budget", [1, 150, 600, 16_384])
def test_a_batch_answers_as_each_prompt_alone(
    model: PreTrainedModel, shared: int, budget: int
) -> None:
    prompts = make_prompts(24, shared)
    answers = generate(model, prompts, limit=LIMIT, end_ids=END, token_budget=budget)
    expected = [alone(model, prompt) for prompt in prompts]
    assert [answer.ids for answer in answers] == expected
    assert len({len(ids) for ids in expected}) > 5, "the answers end at different times"
    assert {answer.stopped for answer in answers} == {"end", "limit"}
    for answer in answers:
        assert (answer.ids[-1] in END) == (answer.stopped == "end")
        assert answer.logprobs == ()


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "gemma", "mistral", "gemma2", "smollm3"])
def test_other_families_answer_as_alone(family: str) -> None:
    model = lively(family)
    prompts = make_prompts(8, shared=12)
    answers = generate(model, prompts, limit=LIMIT, end_ids=END)
    assert [answer.ids for answer in answers] == [alone(model, prompt) for prompt in prompts]


def test_a_shared_prefix_changes_no_logit(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log-probabilities show what greedy ids may hide."""
    prompts, sampler = make_prompts(12, shared=30), Sampler(seed=5)
    with_prefix = generate(model, prompts, limit=LIMIT, end_ids=END, sampler=sampler)
    monkeypatch.setattr("tunesmith_torch.generation.prefix_cache.SHORTEST_PREFIX", 10**6)
    without = generate(model, prompts, limit=LIMIT, end_ids=END, sampler=sampler)
    same(with_prefix, without)


def same(left: Sequence[Generated], right: Sequence[Generated], tolerance: float = 1e-5) -> None:
    assert [a.ids for a in left] == [b.ids for b in right]
    for a, b in zip(left, right, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=tolerance)


def test_the_prefix_is_run_once_and_each_different_prompt_once(model: PreTrainedModel) -> None:
    seen: list[int] = []
    watch = model.register_forward_pre_hook(
        lambda _, __, inputs: seen.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    prompts = [prompt for prompt in make_prompts(3, shared=30, longest=9) for _ in range(4)]
    try:
        generate(model, prompts, limit=1, end_ids=END)
    finally:
        watch.remove()
    suffix = max(map(len, prompts)) - 30
    assert sum(seen) <= 2 + 30 + 3 * suffix


def test_finished_rows_leave_and_waiting_ones_take_their_place(model: PreTrainedModel) -> None:
    """Rows times steps stay near the tokens that were asked for."""
    batches: list[int] = []

    def watch(_: object, __: object, inputs: dict[str, torch.Tensor]) -> None:
        if inputs["input_ids"].shape[1] == 1:
            batches.append(len(inputs["input_ids"]))

    hook = model.register_forward_pre_hook(watch, with_kwargs=True)
    prompts = make_prompts(40, longest=30)
    try:
        answers = generate(model, prompts, limit=LIMIT, end_ids=END, token_budget=8 * 50)
    finally:
        hook.remove()
    wanted = sum(len(answer.ids) - 1 for answer in answers)
    assert wanted <= sum(batches) <= wanted + sum(len(p) == 1 for p in prompts)
    assert sorted(batches)[len(batches) // 2] >= 7, "places are filled again"


def test_samples_do_not_depend_on_the_batch(model: PreTrainedModel) -> None:
    prompts = [prompt for prompt in make_prompts(6, shared=10) for _ in range(4)]
    sampler = Sampler(temperature=0.9, top_p=0.9, seed=3)
    whole = generate(model, prompts, limit=LIMIT, end_ids=END, sampler=sampler)
    few = generate(model, prompts, limit=LIMIT, end_ids=END, sampler=sampler, token_budget=130)
    same(whole, few)
    assert whole == generate(model, prompts, limit=LIMIT, end_ids=END, sampler=sampler)
    assert len({answer.ids for answer in whole}) > 12, "samples of one prompt differ"


def test_logprobs_are_those_of_the_tempered_distribution(model: PreTrainedModel) -> None:
    prompts = make_prompts(5)
    sampler = Sampler(temperature=0.7, top_p=0.8, seed=1)
    for prompt, answer in zip(
        prompts, generate(model, prompts, limit=8, end_ids=END, sampler=sampler), strict=True
    ):
        ids = torch.tensor([[*prompt, *answer.ids]])
        with torch.no_grad():
            logits = model(ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
        expected = (logits / 0.7).log_softmax(-1)[range(len(answer.ids)), list(answer.ids)]
        assert answer.logprobs == pytest.approx(expected.tolist(), abs=1e-5)


def test_samples_follow_the_distribution(model: PreTrainedModel) -> None:
    """One step, many draws: frequencies are the nucleus's probabilities, within five sigma."""
    prompt, count, top_p = make_prompts(1, longest=9)[0], 4000, 0.6
    drawn = generate(
        model, [prompt] * count, limit=1, end_ids=END, sampler=Sampler(top_p=top_p, seed=2)
    )
    with torch.no_grad():
        p_V = model(torch.tensor([prompt]), use_cache=False).logits[0, -1].softmax(-1)
    top_V, order_V = p_V.sort(descending=True)
    size = int((top_V.cumsum(0) < top_p).sum()) + 1
    share = (top_V[:size] / top_V[:size].sum()).tolist()
    nucleus = dict(zip(order_V[:size].tolist(), share, strict=True))
    counts = {token: 0 for token in nucleus}
    for answer in drawn:
        counts[answer.ids[0]] += 1
    for token, p in nucleus.items():
        assert abs(counts[token] - count * p) <= 5 * (count * p * (1 - p)) ** 0.5 + 1


@pytest.mark.parametrize("vocabulary", [3, BLOCK, BLOCK + 1, 1000])
def test_a_draw_is_the_token_at_which_the_running_sum_passes(vocabulary: int) -> None:
    source = torch.Generator().manual_seed(vocabulary)
    p_NV = torch.rand(500, vocabulary, generator=source) ** 8
    p_NV[p_NV < 0.3] = 0.0
    p_NV[:, vocabulary // 2] += 0.1
    uniform_N1 = torch.rand(500, 1, generator=source, dtype=torch.float64)
    uniform_N1[:20], uniform_N1[20:40] = 0.0, 1 - 2**-53
    drawn_N1 = _invert(p_NV, uniform_N1)
    sum_NV = p_NV.double().cumsum(-1)
    wanted_N1 = uniform_N1 * sum_NV[:, -1:]
    after_N1 = sum_NV.gather(1, drawn_N1)
    before_N1 = after_N1 - p_NV.double().gather(1, drawn_N1)
    assert bool((p_NV.gather(1, drawn_N1) > 0).all()), "what cannot be is never drawn"
    assert bool((before_N1 <= wanted_N1 + 1e-6 * sum_NV[:, -1:]).all())
    assert bool((wanted_N1 <= after_N1 + 1e-6 * sum_NV[:, -1:]).all())


def test_prompts_are_read_in_runs_of_like_length() -> None:
    lengths = [400, 390, 200, 200, 199, 100, 20, 20, 20, 3]
    rows = [Draft(n, [n] * length, []) for n, length in enumerate(lengths)]
    rows[4].prompt = rows[3].prompt  # asked for twice, read once
    runs = [list(run) for run in _alike(rows)]
    assert [row for run in runs for row in run] == rows
    assert [[len(row.prompt) for row in run] for run in runs[:2]] == [[400, 390], [200] * 3]
    for run in runs[:-1]:  # the last may be too short to care
        different = {tuple(row.prompt) for row in run}
        real = sum(map(len, different))
        assert real >= 256 and len(run[0].prompt) * len(different) <= 1.1 * real


@pytest.mark.parametrize("sampler", [None, Sampler(seed=4)])
def test_a_recurrent_model_goes_through_transformers(sampler: Sampler | None) -> None:
    config = MambaConfig(
        vocab_size=WORDS, hidden_size=16, state_size=4, num_hidden_layers=2, initializer_range=0.3
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    model.generation_config.repetition_penalty = 3.0
    prompts = make_prompts(9, longest=5)
    options = {"limit": 8, "end_ids": END, "sampler": sampler}
    answers = generate(model, prompts, **options)
    if sampler is None:
        assert [a.ids for a in answers] == [alone(model, prompt, 8) for prompt in prompts]
    same(answers, generate(model, prompts, token_budget=1, **options), 1e-4)


def test_a_sliding_window_counts_once_rows_are_longer_than_it() -> None:
    prompts = make_prompts(6, longest=30)
    for window in (12, 64):
        model = lively("mistral", sliding_window=window)
        assert prefix_cache.holds_plain_cache(model, 50) == (window == 64)
        answers = generate(model, prompts, limit=LIMIT, end_ids=END)
        assert [answer.ids for answer in answers] == [alone(model, prompt) for prompt in prompts]


def test_an_adapter_is_part_of_the_model(model: PreTrainedModel) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        tuned = get_peft_model(lively(), config).eval()
    prompts = make_prompts(6)
    answers = generate(tuned, prompts, limit=LIMIT, end_ids=END)
    assert [answer.ids for answer in answers] == [alone(tuned, prompt) for prompt in prompts]
    assert answers != generate(model, prompts, limit=LIMIT, end_ids=END)


def test_nothing_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    model = lively(attention_dropout=0.9)
    model.train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    random_state, before = torch.get_rng_state(), model.config.to_dict()
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        first = generate(model, make_prompts(5), limit=5, end_ids=END, sampler=Sampler())
    assert [module.training for module in model.modules()] == modes
    assert model.config.to_dict() == before
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not caplog.records
    model.eval()
    assert first == generate(model, make_prompts(5), limit=5, end_ids=END, sampler=Sampler())
    loss = model(torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss
    loss.backward()


def test_progress_counts_finished_prompts(model: PreTrainedModel) -> None:
    told: list[int] = []
    generate(model, make_prompts(12), limit=9, end_ids=END, token_budget=150, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 12


def test_what_cannot_be_asked_is_refused(model: PreTrainedModel) -> None:
    assert generate(model, [], limit=1, end_ids=END) == []
    with pytest.raises(ValueError, match="at least one token"):
        generate(model, [[1], []], limit=1, end_ids=END)
    with pytest.raises(ValueError, match="limit"):
        generate(model, [[1]], limit=0, end_ids=END)
    with pytest.raises(ValueError, match="top_p"):
        Sampler(top_p=0.0)
    with pytest.raises(ValueError, match="temperature"):
        Sampler(temperature=0.0)


def test_bfloat16_stays_close_to_float32() -> None:
    """The cache is as narrow as the model; sampled log-probabilities say how much that costs."""
    wide, narrow = tiny_model(), tiny_model().to(torch.bfloat16)
    prompts = make_prompts(8, shared=20)
    for a, b in zip(
        generate(wide, prompts, limit=1, end_ids=END, sampler=Sampler()),
        generate(narrow, prompts, limit=1, end_ids=END, sampler=Sampler()),
        strict=True,
    ):
        assert a.logprobs == pytest.approx(b.logprobs, abs=0.05)
