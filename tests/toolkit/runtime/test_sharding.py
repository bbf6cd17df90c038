"""Sharding, gathering and what cannot be sharded, in a group of one rank."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from tunesmith.errors import UsageError
from tunesmith_torch.runtime import sharding

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def mesh() -> Iterator[DeviceMesh]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield DeviceMesh("cpu", [0])
    dist.destroy_process_group()


class Net(nn.Module):
    """Two blocks, and a head that shares the embedding's weight."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(5, 4, dtype=dtype)
        self.blocks = nn.ModuleList(nn.Linear(4, 4, dtype=dtype) for _ in range(2))
        self.head = nn.Linear(4, 5, bias=False, dtype=dtype)
        self.head.weight = self.embedding.weight

    def forward(self, ids_N: Tensor) -> Tensor:
        hidden_ND = self.embedding(ids_N)
        for block in self.blocks:
            hidden_ND = block(hidden_ND).tanh()
        logits_NV: Tensor = self.head(hidden_ND)
        return logits_NV


IDS_N = torch.arange(5)


def shard(net: Net, mesh: DeviceMesh, dtype: torch.dtype = torch.float32) -> Any:
    return sharding.shard_model(
        net, list(net.blocks), lambda ids_N: net(ids_N).float().sum(), mesh, dtype
    )


def test_gradients_are_those_of_the_whole_model(mesh: DeviceMesh) -> None:
    plain, net = Net(), Net()
    plain(IDS_N).sum().backward()
    compute = shard(net, mesh)
    for _ in range(2):  # as of two micro-batches
        compute(IDS_N).backward()
    assert sharding.is_sharded(net)
    for (name, one), other in zip(net.named_parameters(), plain.parameters(), strict=True):
        assert isinstance(one, DTensor), name
        assert one.grad is not None and other.grad is not None
        torch.testing.assert_close(sharding.get_full_tensor(one.grad), 2 * other.grad)


def test_all_weights_are_there_inside_unsharded(mesh: DeviceMesh) -> None:
    plain, net = Net(), Net()
    compute = shard(net, mesh)
    with torch.no_grad():
        compute(IDS_N)
    for _ in range(2):
        with torch.no_grad(), sharding.summon_full_params(net), sharding.summon_full_params(net):
            assert not sharding.is_sharded(net)
            assert torch.equal(net(IDS_N), plain(IDS_N))
            assert net.head.weight is net.embedding.weight
        assert sharding.is_sharded(net)


def test_passes_of_one_rank_cause_no_gather_in_the_next_backward(mesh: DeviceMesh) -> None:
    counts = []
    for own_passes in (0, 1, 3):
        net = Net()
        compute = shard(net, mesh)
        compute(IDS_N).backward()
        with torch.no_grad(), sharding.summon_full_params(net):
            for _ in range(own_passes):
                net(IDS_N)
        with torch.profiler.profile() as profile:  # every rank must gather equally often
            compute(IDS_N).backward()
        counts.append(sum("backward_prefetch" in event.name for event in profile.events() or ()))
    assert counts[0] == counts[1] == counts[2] > 0


def test_the_gathered_model_is_an_ordinary_one(mesh: DeviceMesh) -> None:
    plain, net = Net(), Net()
    shard(net, mesh)(IDS_N).backward()
    sharding.gather_full_weights(net)
    state = net.state_dict()
    assert net.head.weight is net.embedding.weight
    for name, tensor in plain.state_dict().items():
        assert type(state[name]) is Tensor and torch.equal(state[name], tensor), name
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_trained_weights_are_sharded_in_fp32_and_compute_in_bf16(mesh: DeviceMesh) -> None:
    net = Net(torch.bfloat16)
    compute = shard(net, mesh, torch.bfloat16)
    compute(IDS_N).backward()
    for parameter in net.parameters():
        assert parameter.grad is not None
        assert parameter.dtype == parameter.grad.dtype == torch.float32
    with sharding.summon_full_params(net):
        assert {parameter.dtype for parameter in net.parameters()} == {torch.bfloat16}
    sharding.gather_full_weights(net)
    assert {parameter.dtype for parameter in net.parameters()} == {torch.bfloat16}


def test_a_model_that_is_not_sharded_is_left_alone() -> None:
    net = Net()
    before = dict(net.named_parameters())
    with sharding.summon_full_params(net):
        assert all(before[name] is parameter for name, parameter in net.named_parameters())
    weight = net.head.weight
    assert sharding.get_local_part(weight) is weight is sharding.get_full_tensor(weight)
    assert sharding.find_first_local_row(weight) == 0
    assert sharding.shard_like(weight, weight) is weight


def test_layers_that_share_weights_are_refused(mesh: DeviceMesh) -> None:
    net = Net()
    net.blocks[1].weight = net.blocks[0].weight
    with pytest.raises(UsageError, match="several of its layers share weights"):
        shard(net, mesh)


def test_a_block_in_several_formats_is_refused(mesh: DeviceMesh) -> None:
    net = Net(torch.bfloat16)
    net.blocks[0].bias.data = net.blocks[0].bias.data.double()
    with pytest.raises(UsageError, match="several dtypes") as caught:
        shard(net, mesh, torch.bfloat16)
    assert caught.value.hint == 'set technique.parallel = "data"'
