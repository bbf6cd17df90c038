"""Tensors are read back from files that hold some of their rows each, however they are cut."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from tunesmith_torch.training.stored_tensors import StoredTensors, save_local_tensors


def save_cut(folder: Path, name: str, tensor: Tensor, cuts: list[int]) -> list[Path]:
    """Write the rows between the cuts into a file each, as ranks do."""
    bounds = [0, *sorted(cuts), len(tensor)]
    paths = []
    for number, (start, stop) in enumerate(pairwise(bounds)):
        path = folder / f"part-{number}.safetensors"
        rows = json.dumps({name: [start, len(tensor)]})
        save_file({name: tensor[start:stop].contiguous()}, path, {"rows": rows})
        paths.append(path)
    return paths


@settings(max_examples=30)
@given(
    rows=st.integers(1, 9),
    cuts=st.lists(st.integers(0, 9), max_size=4),
    columns=st.sampled_from([(), (3,), (2, 2)]),
)
def test_the_complete_tensor_does_not_depend_on_the_cuts(
    tmp_path_factory: pytest.TempPathFactory, rows: int, cuts: list[int], columns: tuple[int, ...]
) -> None:
    tensor = torch.randn(rows, *columns)
    folder = tmp_path_factory.mktemp("parts")
    paths = save_cut(folder, "master.w", tensor, [min(cut, rows) for cut in cuts])
    with StoredTensors(paths[::-1], {"w": tensor}) as stored:
        assert list(stored) == ["master.w"]
        assert torch.equal(stored["master.w"], tensor)


def test_tensors_that_no_rank_has_cut_are_stored_as_they_are(tmp_path: Path) -> None:
    tensors = {"step.w": torch.tensor(3.0), "master.w": torch.randn(4, 2)}
    save_local_tensors(tmp_path / "all.safetensors", tensors)
    with StoredTensors([tmp_path / "all.safetensors"], {}) as stored:
        assert stored["step.w"].shape == () and stored["step.w"] == 3
        assert torch.equal(stored["master.w"], tensors["master.w"])


def test_missing_rows_are_an_error(tmp_path: Path) -> None:
    """As after the loss of a file."""
    first, _, last = save_cut(tmp_path, "master.w", torch.randn(9, 2), [3, 6])
    with (
        StoredTensors([first, last], {}) as stored,
        pytest.raises(ValueError, match=r"no file has rows 3 to 9 of master\.w"),
    ):
        stored["master.w"]
    with (
        StoredTensors([first], {}) as stored,
        pytest.raises(ValueError, match="rows 3 to 9"),
    ):
        stored["master.w"]


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    first, last = save_cut(tmp_path, "master.w", torch.randn(9, 2), [3])
    last.write_bytes(last.read_bytes()[:50])
    with pytest.raises(SafetensorError), StoredTensors([first, last], {}):
        pass
