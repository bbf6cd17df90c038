"""The divergence against probabilities in fp64, and what merging tokens may do to it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from tunesmith_distill.divergence import coarse_logprobs, divergence

N, V = 50, 40


def draw(seed: int) -> tuple[Tensor, Tensor]:
    """Return a teacher's and a student's logits."""
    generator = torch.Generator().manual_seed(seed)
    both = torch.randn(2, N, V, generator=generator).double() * 4
    return both[0], both[1]


def measure(teacher_NV: Tensor, student_NV: Tensor, k: int, direction: str) -> Tensor:
    ids_Nk = teacher_NV.topk(k).indices
    coarse = coarse_logprobs(teacher_NV, ids_Nk), coarse_logprobs(student_NV, ids_Nk)
    return divergence(*coarse, direction)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_it_is_a_lower_bound_that_becomes_exact(direction: str) -> None:
    teacher_NV, student_NV = draw(0)
    models = [Categorical(logits=x) for x in (teacher_NV, student_NV)]
    exact_N = kl_divergence(*(models if direction == "forward" else models[::-1]))
    assert torch.allclose(measure(teacher_NV, student_NV, V - 1, direction), exact_N)
    before_N = torch.zeros(N).double()
    for k in range(1, V):  # each further token can only add
        found_N = measure(teacher_NV, student_NV, k, direction)
        assert (found_N >= before_N - 1e-9).all() and (found_N <= exact_N + 1e-9).all()
        before_N = found_N
    same_N = measure(teacher_NV, teacher_NV + 3, 5, direction)
    assert torch.allclose(same_N, torch.zeros(N).double(), atol=1e-9)


def test_the_directions_differ() -> None:
    teacher_NV, student_NV = draw(1)
    forward_N, reverse_N = (
        measure(teacher_NV, student_NV, 5, direction) for direction in ("forward", "reverse")
    )
    assert not torch.allclose(forward_N, reverse_N, rtol=0.05)


def test_the_probabilities_sum_to_one_and_gradients_are_finite() -> None:
    """Also where one token has all of the probability."""
    teacher_NV, student_NV = draw(2)
    teacher_NV[0, 3] = student_NV[1, 4] = 300.0
    student_NV.requires_grad_(True)
    for direction in ("forward", "reverse"):
        for logits_NV in (teacher_NV, student_NV):
            summed_N = coarse_logprobs(logits_NV, teacher_NV.topk(5).indices).exp().sum(1)
            assert torch.allclose(summed_N, torch.ones(N).double())
        found_N = measure(teacher_NV, student_NV, 5, direction)
        (gradient_NV,) = torch.autograd.grad(found_N.sum(), student_NV)
        assert found_N.isfinite().all() and gradient_NV.isfinite().all()
