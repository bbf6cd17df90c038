"""A running batch: whoever comes and goes, a completion is the one of the prompt alone."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from generation_cases import END, VOCABULARY, generate_one, make_prompts, varied_model
from hypothesis import given, settings
from hypothesis import strategies as st
from rope_models import DYNAMIC, ORIGINAL_CONTEXT, phi3_longrope, rope_model
from transformers import AutoModelForCausalLM, MambaConfig, PreTrainedModel

from tunesmith_torch.generation.continuous import ContinuousBatch, RunningSequence
from tunesmith_torch.generation.generate import generate
from tunesmith_torch.generation.sampling import Sampler
from tunesmith_torch.kernels.rotary_lengths import reset_rotary_state


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return varied_model()


@pytest.fixture
def batch(model: PreTrainedModel) -> Iterator[ContinuousBatch]:
    with ContinuousBatch(model, end_ids=END) as opened:
        yield opened


def run_to_end(batch: ContinuousBatch) -> int:
    """Make steps until the batch is empty; return their number."""
    steps = 0
    while not batch.is_empty:
        batch.step()
        steps += 1
        assert steps < 10_000
    return steps


def sample_alone(model: PreTrainedModel, sequence: RunningSequence) -> tuple[int, ...]:
    """Return the completion of a prompt in a batch of its own."""
    assert sequence.sampler is not None
    one = generate(
        model,
        [sequence.prompt],
        max_new_tokens=sequence.max_new_tokens,
        end_ids=END,
        sampler=sequence.sampler,
    )
    return one[0].ids


@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 6), budget=st.sampled_from([1, 90, 16_384]))
def test_sequences_come_and_go(model: PreTrainedModel, seed: int, rows: int, budget: int) -> None:
    """Greedy and sampled ones, of any length and limit, some of which are cancelled."""
    rng = random.Random(seed)
    sequences = [
        RunningSequence(
            prompt,
            max_new_tokens=rng.randint(1, 25),
            sampler=None
            if rng.random() < 0.5
            else Sampler(
                temperature=rng.choice([0.7, 1.3]), top_p=rng.choice([0.8, 1.0]), seed=number
            ),
        )
        for number, prompt in enumerate(make_prompts(10, seed=seed))
    ]
    cancelled = [s for s in sequences if rng.random() < 0.2]
    waiting = list(sequences)
    with ContinuousBatch(model, end_ids=END, max_rows=rows, token_budget=budget) as batch:
        while waiting or not batch.is_empty:
            for _ in range(min(rng.randint(0, 3), len(waiting))):
                batch.add(waiting.pop())
            for sequence in batch.step():
                assert sequence.ids
            assert batch.num_running <= rows
            for sequence in cancelled:
                if rng.random() < 0.1:
                    sequence.cancel()
    for sequence in sequences:
        greedy = sequence.sampler is None
        limit = sequence.max_new_tokens
        expected = (
            generate_one(model, sequence.prompt, limit) if greedy else sample_alone(model, sequence)
        )
        if sequence.is_cancelled:
            assert tuple(sequence.ids) == expected[: len(sequence.ids)]
        else:
            assert tuple(sequence.ids) == expected
            assert sequence.has_ended == (expected[-1] in END)


def test_a_cancelled_sequence_frees_its_row(batch: ContinuousBatch) -> None:
    batch.max_rows = 1
    first, second = (RunningSequence(prompt, max_new_tokens=200) for prompt in ([9] * 5, [8] * 5))
    batch.end_ids = frozenset()
    batch.add(first)
    batch.add(second)
    batch.step()
    assert (batch.num_running, batch.num_waiting) == (1, 1)
    first.cancel()
    batch.step()
    assert (batch.num_running, batch.num_waiting) == (1, 0)
    assert len(first.ids) == 1 and len(second.ids) == 1
    second.end()
    assert batch.step() == [] and batch.is_empty


def test_a_waiting_sequence_that_is_cancelled_is_never_computed(batch: ContinuousBatch) -> None:
    sequence = RunningSequence([9] * 5, max_new_tokens=9)
    batch.add(sequence)
    sequence.cancel()
    assert batch.step() == [] and not sequence.ids and batch.is_empty


def test_prompts_and_tokens_take_turns(batch: ContinuousBatch) -> None:
    """Sequences that join in every step do not stop those that run."""
    batch.end_ids = frozenset()
    first = RunningSequence([9] * 5, max_new_tokens=50)
    batch.add(first)
    for number in range(20):
        batch.add(RunningSequence([number] * 5, max_new_tokens=50))
        batch.step()
    assert len(first.ids) >= 10
    assert batch.num_running >= 10


def test_nobody_is_overtaken_for_ever(batch: ContinuousBatch) -> None:
    """A long prompt that does not fit yet holds the shorter ones behind it."""
    batch.token_budget, batch.end_ids = 300, frozenset()
    for _ in range(3):
        batch.add(RunningSequence([9] * 5, max_new_tokens=20))
    long = RunningSequence([7] * 200, max_new_tokens=20)
    batch.add(long)
    late = RunningSequence([5] * 5, max_new_tokens=20)
    batch.add(late)
    while not long.ids:
        batch.step()
        assert not late.ids
    run_to_end(batch)
    assert len(late.ids) == 20


def test_log_probabilities_are_those_of_the_model(
    batch: ContinuousBatch, model: PreTrainedModel
) -> None:
    """Before temperature, for greedy and for sampled tokens."""
    sequences = [
        RunningSequence(prompt, max_new_tokens=12, num_top=3, sampler=sampler)
        for prompt in make_prompts(4)
        for sampler in (None, Sampler(temperature=2.0, seed=1))
    ]
    for sequence in sequences:
        batch.add(sequence)
    run_to_end(batch)
    for sequence in sequences:
        assert_scores(model, sequence)


def assert_scores(model: PreTrainedModel, sequence: RunningSequence) -> None:
    """Compare the recorded log-probabilities with a plain pass over the whole row."""
    ids = [*sequence.prompt, *sequence.ids]
    with torch.no_grad():
        logits_TV = model(torch.tensor([ids]), use_cache=False).logits[0]
    logp_TV = logits_TV[len(sequence.prompt) - 1 : -1].float().log_softmax(-1)
    assert len(sequence.scores) == len(sequence.ids)
    for token, logp_V, score in zip(sequence.ids, logp_TV, sequence.scores, strict=True):
        assert score.logprob == pytest.approx(float(logp_V[token]), abs=1e-4)
        best = logp_V.topk(sequence.num_top or 0)
        assert [i for i, _ in score.top] == best.indices.tolist()
        assert [p for _, p in score.top] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_memory_is_free_when_nothing_runs(batch: ContinuousBatch) -> None:
    batch.add(RunningSequence([9] * 100, max_new_tokens=20))
    run_to_end(batch)
    assert batch._cache._keys_LBKSD.numel() == 0


def test_a_model_that_cannot_batch_generates_one_after_the_other() -> None:
    """A recurrent model has no cache of rows that come and go."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = MambaConfig(
            vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, initializer_range=0.3
        )
        mamba = AutoModelForCausalLM.from_config(config).eval()
    prompts = make_prompts(3)
    with ContinuousBatch(mamba, end_ids=END) as batch:
        greedy = [RunningSequence(prompt, max_new_tokens=8, num_top=1) for prompt in prompts]
        sampled = [RunningSequence(p, max_new_tokens=8, sampler=Sampler(seed=4)) for p in prompts]
        for sequence in (*greedy, *sampled):
            batch.add(sequence)
        batch.step()
        assert [bool(s.ids) for s in greedy] == [True, False, False]
        run_to_end(batch)
    for sequence in greedy:
        assert tuple(sequence.ids) == generate_one(mamba, sequence.prompt, 8)
        assert_scores(mamba, sequence)
    for sequence in sampled:
        assert tuple(sequence.ids) == sample_alone(mamba, sequence)


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_rows_beyond_the_original_context_are_generated_alone(kind: str) -> None:
    """Their rotary factors are others than those of the rows that share steps."""
    dynamic = {"max_position_embeddings": ORIGINAL_CONTEXT}
    model = phi3_longrope() if kind == "longrope" else rope_model("llama", DYNAMIC, **dynamic)
    rng = random.Random(0)
    beyond = ORIGINAL_CONTEXT
    lengths = 9, beyond + 30, beyond + 2, 5, beyond - 3, 3, 8, 7
    prompts = [[rng.randrange(3, 512) for _ in range(length)] for length in lengths]
    expected = generate(model, prompts, max_new_tokens=12, end_ids=frozenset())
    sequences = [RunningSequence(prompt, max_new_tokens=12, num_top=1) for prompt in prompts]
    with ContinuousBatch(model, end_ids=frozenset()) as batch:
        for sequence in sequences:
            batch.add(sequence)
        run_to_end(batch)
    assert [tuple(s.ids) for s in sequences] == [answer.ids for answer in expected]
    for sequence in sequences:
        begins_beyond = kind == "longrope" and len(sequence.prompt) > ORIGINAL_CONTEXT
        if sequence.most_tokens <= ORIGINAL_CONTEXT or begins_beyond:
            assert_scores(model, sequence)
            reset_rotary_state(model)


def test_after_an_error_others_go_on(batch: ContinuousBatch, model: PreTrainedModel) -> None:
    broken = RunningSequence([VOCABULARY + 5], max_new_tokens=3)  # an id that the model lacks
    batch.add(broken)
    with pytest.raises(IndexError):
        batch.step()
    assert batch.clear() == [broken]
    (prompt,) = make_prompts(1)
    sequence = RunningSequence(prompt, max_new_tokens=9)
    batch.add(sequence)
    run_to_end(batch)
    assert tuple(sequence.ids) == generate_one(model, prompt, 9)


def test_unusable_sequences_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        RunningSequence([1], max_new_tokens=0)
    with pytest.raises(ValueError, match="at least one token"):
        RunningSequence([], max_new_tokens=1)


def test_the_model_is_as_before(model: PreTrainedModel) -> None:
    before = model.config._attn_implementation
    model.train()
    with ContinuousBatch(model, end_ids=END) as batch:
        assert not model.training
        batch.add(RunningSequence([9] * 5, max_new_tokens=3))
        batch.step()
        assert model.config._attn_implementation != before
    assert model.training and model.config._attn_implementation == before
    model.eval()
