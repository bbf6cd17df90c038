"""Model and adapter folders from strangers: each is refused with a message, and does no harm."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign
import pytest
from foreign import edit, edit_tokenizer, edited, linked, replaced, safetensors, special

Build = Callable[[Path], object]
KERNEL = "someone/kernel"
WEIGHTS = "model.safetensors"
DEEP = '{"a":' * 5_000 + "1" + "}" * 5_000
TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
RUN = """
reporters = []
[run]
device = "cpu"
folder = "runs"
[model]
base = "model"
[data]
use = "jsonl"
train = "rows.jsonl"
test_size = 4
[technique]
use = "lora"
max_steps = 1
precision = "fp32"
packing = false
FROM
[[evaluators]]
use = "loss"
[baselines]
use = []
"""


FAST = {
    "attention kernel of a part",
    "auto_map in tokenizer_config.json",
    "pickled weights, training_args.bin",
    "a header without end",
    "tensors that overlap",
    "an index that leads out",
    "a chat template that is a link to a private file",
    "config.json as a pipe",
    "vocab.json as a device",
    "tokenizer.json nested 5,000 times",
    "10^9 labels",
    "heads that need 4 TB",
    "a table that ends the process",
    "a template that asks for globals",
    "an unknown kind",
    "a rank of 10^9",
    "weights that are not finite",
    "its weights as a pipe",
}
"""One case of each class, which run in the quick lane."""


def lanes(cases: list[str]) -> list[Any]:
    """Return the cases as parameters, those that are not fast for the long lane."""
    return [
        pytest.param(case, marks=() if case in FAST else pytest.mark.long, id=case)
        for case in cases
    ]


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


def weights(change: Callable[[dict[str, Any]], object]) -> Build:
    """Return a function that changes the header of the real weights."""

    def build(folder: Path) -> None:
        raw = (folder / WEIGHTS).read_bytes()
        length = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + length])
        change(header)
        (folder / WEIGHTS).write_bytes(safetensors(header, raw[8 + length :]))

    return build


def overlap(header: dict[str, Any]) -> None:
    entries = sorted(
        (entry for name, entry in header.items() if name != "__metadata__"),
        key=lambda entry: (entry["data_offsets"][1] - entry["data_offsets"][0], str(entry)),
    )
    entries[0]["data_offsets"] = entries[1]["data_offsets"]  # the smallest two have one size


def giant_shape(header: dict[str, Any]) -> None:
    next(entry for name, entry in header.items() if name[:2] != "__")["shape"] = [10**15]


def index(names: dict[str, Any]) -> Build:
    return edited("model.safetensors.index.json", metadata={}, weight_map=names)


def pickled_only(name: str) -> Build:
    def build(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / name).write_bytes(foreign.pickled(folder.parent / foreign.CANARY))

    return build


def code_with_auto_map(name: str) -> Build:
    def build(folder: Path) -> None:
        code = foreign.python_code(folder.parent / foreign.CANARY)
        for module in ("evil.py", "modeling_evil.py"):
            (folder / module).write_text(code)
        keys = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer", "AutoProcessor")
        edit(folder / name, auto_map=dict.fromkeys(keys, "evil.X"))

    return build


def vocabulary(**ids: int) -> Build:
    def build(folder: Path) -> None:
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text())
        content["model"]["vocab"].update(ids)
        path.write_text(json.dumps(content))

    return build


def template(source: str) -> Build:
    return replaced("chat_template.jinja", source)


def replacements(kind: str, item: dict[str, Any]) -> Build:
    """Sixty rules, each of which doubles a text."""
    plural = f"{kind}s"
    return edit_tokenizer(**{kind: {"type": "Sequence", plural: [item] * 60}})


def replace_rule(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


MODELS: dict[str, tuple[Build, int, str]] = {
    # code and downloads
    "attention kernel": (edited("config.json", attn_implementation=KERNEL), 4, "kernel"),
    "attention kernel, internal key": (
        edited("config.json", _attn_implementation_internal=KERNEL), 4, "kernel"
    ),
    "attention kernel of a part": (
        edited("config.json", text_config={"attn_implementation": KERNEL}), 4, "kernel"
    ),
    "experts kernel deep inside": (
        edited("config.json", a=[{"b": {"experts_implementation": KERNEL}}]), 4, "kernel"
    ),
    **{
        f"auto_map in {name}": (code_with_auto_map(name), 4, f"{name}: auto_map")
        for name in (
            "config.json",
            "generation_config.json",
            "tokenizer_config.json",
            "processor_config.json",
            "preprocessor_config.json",
            "video_preprocessor_config.json",
        )
    },
    "custom_generate": (edited("generation_config.json", custom_generate="x/y"), 4, "custom_gen"),
    "foreign quantization": (
        edited("config.json", quantization_config={"quant_method": "gptq"}), 4, "quantization"
    ),
    "tokenizer class of a hub": (
        edited("tokenizer_config.json", tokenizer_class="x/y--z.T"), 4, "tokenizer_class"
    ),
    "tokenizer class that is no class of tokenizers": (
        edited("tokenizer_config.json", tokenizer_class="AutoTokenizer"), 4, "no usable tokenizer"
    ),
    # pickles
    **{
        f"pickled weights, {name}": (pickled_only(name), 4, "can run code when read")
        for name in ("pytorch_model.bin", "model.pt", "training_args.bin")
    },
    "a pickle named safetensors": (
        lambda folder: (folder / WEIGHTS).write_bytes(
            foreign.pickled(folder.parent / foreign.CANARY)
        ), 7, WEIGHTS
    ),
    # safetensors whose header lies
    "a header of 2^63 bytes": (replaced(WEIGHTS, safetensors({}, length=2**63)), 7, "not a compl"),
    "a header longer than the file": (
        replaced(WEIGHTS, safetensors({}, length=99_000_000)), 7, "not a complete safetensors"
    ),
    "a header without end": (replaced(WEIGHTS, safetensors(b"[" * 10**5)), 7, "header cannot be"),
    "offsets that are texts": (
        replaced(WEIGHTS, safetensors({"a": {**TENSOR, "data_offsets": ["0", "8"]}}, b"x" * 8)),
        7, "header cannot be read"
    ),
    "offsets beyond the file": (
        replaced(WEIGHTS, safetensors({"a": {**TENSOR, "shape": [2**38], "data_offsets": [0, 2**40]
        }})), 7, "not a complete safetensors"
    ),
    "offsets below zero": (
        replaced(WEIGHTS, safetensors({"a": {**TENSOR, "data_offsets": [-8, 0]}})),
        7, "header cannot be read"
    ),
    "tensors that overlap": (weights(overlap), 7, "overlap"),
    "a shape that its bytes do not hold": (weights(giant_shape), 7, "header cannot be read"),
    # indices
    "an index that leads out": (
        index({"a": "../../etc/x.safetensors"}), 7, "a plain name in the same folder"
    ),
    "an index with an absolute path": (
        index({"a": "/etc/x.safetensors"}), 7, "a plain name in the same folder"
    ),
    "an index with a name of 5,000 characters": (
        index({"a": "a" * 5_000 + ".safetensors"}), 7, "missing"
    ),
    "a shard that is a link to a private file": (
        lambda folder: (
            index({"a": "x.safetensors"})(folder), linked("x.safetensors", "../private")(folder)
        ), 7, "symbolic link"
    ),
    # special files
    "config.json as a pipe": (special("config.json", os.mkfifo), 4, "config.json"),
    "config.json as a folder": (special("config.json", Path.mkdir), 4, "config.json"),
    "config.json as a device": (linked("config.json", "/dev/zero"), 4, "config.json"),
    "config.json as a loop": (linked("config.json", "config.json"), 4, "config.json"),
    "tokenizer.json as a pipe": (special("tokenizer.json", os.mkfifo), 7, "is a pipe"),
    "vocab.json as a device": (linked("vocab.json", "/dev/zero"), 7, "is a pipe, socket or dev"),
    "weights as a pipe": (special(WEIGHTS, os.mkfifo), 7, "model.safetensors"),
    "a chat template that is a link to a private file": (
        linked("chat_template.jinja", "../private"), 7, "symbolic link"
    ),
    # JSON
    "config.json nested 5,000 times": (replaced("config.json", DEEP), 7, "config.json"),
    "config.json nested 300 times": (edited("config.json", x=nested(300)), 7, "nested deeper"),
    "tokenizer.json nested 5,000 times": (replaced("tokenizer.json", DEEP), 7, "tokenizer.json"),
    "tokenizer.json without content": (replaced("tokenizer.json", "null"), 7, "JSON object"),
    "added_tokens.json is a list": (replaced("added_tokens.json", "[1]"), 7, "added_tokens.json"),
    "weights that are quantized in the config alone": (
        edited("config.json", quantization_config={"quant_method": "bitsandbytes"}),
        7,
        "none of the weights is quantized",
    ),
    "a number of 5,000 digits": (
        replaced("config.json", '{"hidden_size": ' + "9" * 5_000 + "}"), 7, "config.json"
    ),
    # sizes
    "10,000 layers": (edited("config.json", num_hidden_layers=10_000), 7, "num_hidden_layers"),
    "hidden_size of 10^9": (edited("config.json", hidden_size=10**9), 7, "hidden_size"),
    "a negative size": (edited("config.json", hidden_size=-4), 7, "hidden_size"),
    "a size in quotes": (edited("config.json", hidden_size="32"), 7, "hidden_size"),
    "10^9 labels": (edited("config.json", num_labels=10**9), 7, "num_labels"),
    "heads that need 4 TB": (
        edited("config.json", num_attention_heads=8192, num_key_value_heads=8192,
               head_dim=100_000, hidden_size=8192), 7, "but the files"
    ),
    "experts that the files do not hold": (
        edited("config.json", model_type="mixtral", num_local_experts=10_000), 7, "but the files"
    ),
    # values that no architecture expects
    "hidden_act is a list": (edited("config.json", hidden_act=["x"]), 7, "hidden_act"),
    "layer_types has other layers": (
        edited("config.json", layer_types=["x"] * 2), 7, "layer_types"
    ),
    "text_config is a number": (edited("config.json", text_config=5), 7, "config"),
    "pad_token_id is 10^9": (edited("config.json", pad_token_id=10**9), 7, "model"),
    "an end token that is a text": (
        edited("generation_config.json", eos_token_id="x"), 7, "eos_token_id"
    ),
    # tokenizers
    "token ids beyond the model": (vocabulary(a=600_000, e=5_000_000), 7, "the tokenizer has"),
    "an expression that is none": (
        edit_tokenizer(normalizer=replace_rule({"Regex": "((("}, "b")), 4, "not used"
    ),
    "an expression that backtracks": (
        edit_tokenizer(normalizer=replace_rule({"Regex": "(a+)+$"}, "b")), 4, "not used"
    ),
    "a table that makes the library panic": (
        edit_tokenizer(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        4, "not used"
    ),
    "a table that ends the process": (
        edit_tokenizer(normalizer={"type": "Precompiled", "precompiled_charsmap": "/////w=="}),
        4, "crashes"
    ),
    "a vocabulary without the unknown token": (
        edit_tokenizer(model={"type": "WordLevel", "unk_token": "nope", "vocab": {}}),
        4, "no usable tokenizer"
    ),
    "model_max_length is a text": (
        edited("tokenizer_config.json", model_max_length="x"), 4, "model_max_length"
    ),
    # chat templates
    "a template that asks for classes": (
        template("{{ ''.__class__.__mro__[1].__subclasses__() }}"), 2, "unsafe"
    ),
    "a template that asks for globals": (
        template("{{ cycler.__init__.__globals__.os.system('touch canary') }}"), 2, "unsafe"
    ),
    "a template that includes a file": (template("{% include '/etc/passwd' %}"), 2, "template"),
    "a template that calls itself": (
        template("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}"), 2, "recursion"
    ),
    "a template that raises": (template("{{ 1 / 0 }}"), 2, "division"),
}  # fmt: skip
"""The change of a folder, the exit code, and a part of the message."""

SLOW_MODELS: dict[str, tuple[Build, int, str]] = {
    "a template that loops": (
        template("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
        2, "computes longer"
    ),
    "a template that prints gigabytes": (template("{{ lipsum(10 ** 7) }}"), 2, "computes longer"),
    "a template of one long text": (template("{{ 'x' * 10 ** 11 }}"), 2, "memory"),
    "an expression that backtracks for seconds": (
        edit_tokenizer(pre_tokenizer={
            "type": "Split", "pattern": {"Regex": "(.*a){25}"}, "behavior": "Isolated",
            "invert": False,
        }), 4, "not used"
    ),
    "an expression of 40 MB": (
        edit_tokenizer(normalizer=replace_rule({"Regex": "a?" * 20_000_000}, "b")), 4, "not used"
    ),
    "a normalizer that doubles a text 60 times": (
        replacements("normalizer", replace_rule({"String": "a"}, "aa")), 4, "not used"
    ),
    "a normalizer that adds 100 MB": (
        replacements("normalizer", {"type": "Prepend", "prepend": "x" * 10**6}), 4, "not used"
    ),
    "a decoder that doubles a text 60 times": (
        replacements("decoder", replace_rule({"String": "a"}, "aa")), 4, "not used"
    ),
    "three million special tokens for each text": (
        edit_tokenizer(post_processor={
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {
                "x": {"id": "x", "ids": [1] * 3_000_000, "tokens": ["x"] * 3_000_000}
            },
        }), 4, "not used"
    ),
    "300,000 tensors": (
        replaced(WEIGHTS, safetensors({
            f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(300_000)
        })), 7, "at most"
    ),
}  # fmt: skip


@pytest.fixture
def around(tmp_path: Path, tiny_folder: Path) -> foreign.Surroundings:
    """A model of a stranger, rows, a run file, and a file that is nobody's business."""
    shutil.copytree(tiny_folder, tmp_path / "model")
    (tmp_path / "private").write_text("-----BEGIN PRIVATE KEY-----\n")
    rows = ({"prompt": f"q {n}", "completion": f"a {n % 3}"} for n in range(12))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "run.toml").write_text(RUN.replace("FROM\n", ""))
    return foreign.Surroundings(tmp_path)


@pytest.mark.parametrize("case", lanes([*MODELS, *SLOW_MODELS]))
def test_a_model_of_a_stranger_is_refused(around: foreign.Surroundings, case: str) -> None:
    build, code, text = {**MODELS, **SLOW_MODELS}[case]
    build(around.folder / "model")
    around.refused(code, text, "run", "run.toml", "--out", "runs/x")


@pytest.mark.long
def test_what_is_never_read_does_no_harm(around: foreign.Surroundings) -> None:
    """Pickles and Python files beside a good model; the run is an ordinary one."""
    model = around.folder / "model"
    (model / "custom_generate").mkdir()
    for name in ("modeling_llama.py", "__init__.py", "custom_generate/generate.py"):
        (model / name).write_text(foreign.python_code(around.canary))
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "rng_state.pth"):
        (model / name).write_bytes(foreign.pickled(around.canary))
    edit(model / "generation_config.json", num_beams=10**9, forced_eos_token_id=10**9)
    edit(model / "config.json", use_kernels=True, kernel_config={"RMSNorm": f"{KERNEL}:X"})
    done = around.run("run", "run.toml", "--out", "runs/x")
    assert done.code == 0, done.output


def test_the_pickle_of_these_tests_runs_code(tmp_path: Path) -> None:
    """The premise: whoever reads it runs it."""
    import pickle

    pickle.loads(foreign.pickled(tmp_path / foreign.CANARY)).close()
    assert (tmp_path / foreign.CANARY).exists()


# ------------------------------------------------------------ adapters

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BACKTRACKS = "(([a-z_.0-9]+)+)+!"


def adapter_of_pickles(folder: Path) -> None:
    (folder / ADAPTER_WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(foreign.pickled(folder.parent / foreign.CANARY))


def not_finite(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / ADAPTER_WEIGHTS)
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    save_file(tensors, folder / ADAPTER_WEIGHTS)


def other_shape(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / ADAPTER_WEIGHTS)
    save_file({**tensors, next(iter(tensors)): torch.ones(3, 3)}, folder / ADAPTER_WEIGHTS)


ADAPTERS: dict[str, tuple[Build, int, str]] = {
    "a module to import": (
        edited(ADAPTER_CONFIG, megatron_config={"x": 1}, megatron_core="evil"), 4, "megatron"
    ),
    "pickled tensors": (adapter_of_pickles, 7, ADAPTER_WEIGHTS),
    "an unknown kind": (edited(ADAPTER_CONFIG, peft_type="NOPE"), 4, "peft_type"),
    "a kind that is a number": (edited(ADAPTER_CONFIG, peft_type=5), 4, "peft_type"),
    "10^9 virtual tokens": (
        edited(ADAPTER_CONFIG, peft_type="PROMPT_TUNING", num_virtual_tokens=10**9),
        7, "num_virtual_tokens"
    ),
    "a rank of 10^9": (edited(ADAPTER_CONFIG, r=10**9), 7, "r: must be at most"),
    "a rank of 10^8 for a module": (
        edited(ADAPTER_CONFIG, rank_pattern={"q_proj": 10**8}), 7, "r: must be at most"
    ),
    "a negative rank": (edited(ADAPTER_CONFIG, r=-1), 7, "cannot be loaded"),
    "200,000 more layers": (
        edited(ADAPTER_CONFIG, layer_replication=[[0, 2]] * 10**5), 7, "layer_replication"
    ),
    "100,000 iterations": (
        edited(ADAPTER_CONFIG, init_lora_weights="pissa_niter_100000"), 7, "init_lora_weights"
    ),
    "an expression that is none": (
        edited(ADAPTER_CONFIG, target_modules="((("), 7, "cannot be loaded"
    ),
    "modules that the model lacks": (
        edited(ADAPTER_CONFIG, target_modules=["nope"]), 7, "cannot be loaded"
    ),
    "dropout is a text": (edited(ADAPTER_CONFIG, lora_dropout="x"), 7, "cannot be loaded"),
    "its config as a pipe": (special(ADAPTER_CONFIG, os.mkfifo), 2, "no adapter or model"),
    "its weights as a pipe": (special(ADAPTER_WEIGHTS, os.mkfifo), 7, "is a pipe"),
    "its config nested 300 times": (edited(ADAPTER_CONFIG, x=nested(300)), 7, "nested deeper"),
    "weights that are not finite": (not_finite, 7, "not finite"),
    "weights of another shape": (other_shape, 7, "cannot be loaded"),
    "a link to a private file": (linked("chat_template.jinja", "../private"), 7, "symbolic link"),
}  # fmt: skip
SLOW_ADAPTERS: dict[str, tuple[Build, int, str]] = {
    "targets by an expression that backtracks": (
        edited(ADAPTER_CONFIG, target_modules=BACKTRACKS), 7, "regular expression"
    ),
    "exclusions by an expression that backtracks": (
        edited(ADAPTER_CONFIG, exclude_modules=BACKTRACKS), 7, "regular expression"
    ),
    "ranks by an expression that backtracks": (
        edited(ADAPTER_CONFIG, rank_pattern={BACKTRACKS: 2}), 7, "regular expression"
    ),
    "layers by an expression that backtracks": (
        edited(ADAPTER_CONFIG, layers_to_transform=[0], layers_pattern=[BACKTRACKS]),
        7, "regular expression"
    ),
    "saved modules by an expression that backtracks": (
        edited(ADAPTER_CONFIG, modules_to_save=[BACKTRACKS]), 7, "regular expression"
    ),
}  # fmt: skip


@pytest.fixture(scope="session")
def adapter_folder(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """The folder of a small adapter, as PEFT writes it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapters") / "adapter"
    base = AutoModelForCausalLM.from_pretrained(tiny_folder)
    model = get_peft_model(base, LoraConfig(r=2, task_type="CAUSAL_LM"))
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.fixture
def with_adapter(around: foreign.Surroundings, adapter_folder: Path) -> foreign.Surroundings:
    shutil.copytree(adapter_folder, around.folder / "adapter")
    (around.folder / "run.toml").write_text(RUN.replace("FROM", 'from = "adapter"'))
    return around


@pytest.mark.parametrize("case", lanes([*ADAPTERS, *SLOW_ADAPTERS]))
def test_an_adapter_of_a_stranger_is_refused(with_adapter: foreign.Surroundings, case: str) -> None:
    build, code, text = {**ADAPTERS, **SLOW_ADAPTERS}[case]
    build(with_adapter.folder / "adapter")
    with_adapter.refused(code, text, "run", "run.toml", "--out", "runs/x")


@pytest.mark.long
def test_what_an_adapter_names_is_not_followed(with_adapter: foreign.Surroundings) -> None:
    """A base model elsewhere, a library to import, and pickles beside the weights."""
    adapter = with_adapter.folder / "adapter"
    (with_adapter.folder / "evil.py").write_text(foreign.python_code(with_adapter.canary))
    for name in ("adapter_model.bin", "training_args.bin"):
        (adapter / name).write_bytes(foreign.pickled(with_adapter.canary))
    edit(
        adapter / ADAPTER_CONFIG,
        auto_mapping={"base_model_class": "X", "parent_library": "evil"},
        base_model_name_or_path="../../../etc",
        revision="../../x",
    )
    done = with_adapter.run("run", "run.toml", "--out", "runs/x")
    assert done.code == 0, done.output
