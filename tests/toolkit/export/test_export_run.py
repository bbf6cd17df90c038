"""An export is kept if the engine computes what the trained model does, and only then."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from export_cases import as_export, train_tiny
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tests.benchmarks.export_faults import MERGE_FAULTS, copy_adapter, edit

from tunesmith.contracts import Measurement
from tunesmith.errors import EnvironmentProblem, GateError, IntegrityError, UsageError
from tunesmith.records import Chat, Completion, Message, Record, ToolCall
from tunesmith.storage import verify_folder
from tunesmith.storage.manifest import MANIFEST
from tunesmith_plugins.exporters.safetensors.exporter import SafetensorsExporter
from tunesmith_plugins.exporters.safetensors.offer import SafetensorsOptions
from tunesmith_torch.export import checks, engine_model
from tunesmith_torch.export.contract import NotVerifiedError
from tunesmith_torch.export.export_run import CERTIFICATE_FILE, TrainedModel, export_run
from tunesmith_torch.export.folder_facts import read_added_tokens
from tunesmith_torch.export.plain_folder import TransformersEngine
from tunesmith_torch.export.reference import is_text_only
from tunesmith_torch.models.artifacts import attach_adapter
from tunesmith_torch.models.loading import load_base, load_tokenizer
from tunesmith_torch.testing.exports import damage_exporter, make_template_damage
from tunesmith_torch.testing.tiny_model import CHATML, save_tiny_model

PROMPT = (Message("user", "Who is 3?"),)
EXPORTER = SafetensorsExporter(SafetensorsOptions(dtype="float32"))


@pytest.fixture(scope="module")
def trained(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return train_tiny(tmp_path_factory.mktemp("lora"), tiny_folder)


@pytest.fixture(scope="module")
def dora(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return train_tiny(tmp_path_factory.mktemp("dora"), tiny_folder, adapter__use_dora=True)


@pytest.mark.parametrize("kind", ["lora", "dora", "full"])
def test_a_correct_export_passes_every_check(
    kind: str, trained: TrainedModel, dora: TrainedModel, tiny_folder: Path, tmp_path: Path
) -> None:
    model = {"lora": trained, "dora": dora}.get(kind) or train_tiny(
        tmp_path / "full", tiny_folder, full=True
    )
    certificate = export_run(model, as_export(EXPORTER), tmp_path / "out", results="## Limits")
    expected = [
        "files", "rope", "tied weights", "end tokens", "added tokens", "rendered prompt",
        "rendered system prompt", "BOS", "token ids", "stop", "log-probabilities",
    ]  # fmt: skip
    assert list(certificate["checks"]) == [
        *([] if kind == "full" else ["merge", "changed tensors"]),
        *expected,
    ]
    assert certificate["max_logprob_difference_nats"] < 1e-5
    if kind == "full":  # it has learned to end its answers
        assert certificate["checks"]["stop"] == "4 of 4 answers end at the same token"
    assert json.loads((tmp_path / "out" / CERTIFICATE_FILE).read_text()) == certificate
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.endswith("\n## Limits\n")
    assert "log-probabilities" in card and str(tmp_path) not in card
    assert verify_folder(tmp_path / "out") == []
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 10_000.0
    assert not list(tmp_path.glob(".export-*"))


def truncate(out: Path) -> None:
    path = out / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def lose_token(out: Path) -> None:
    path = out / "tokenizer.json"
    tokens = json.loads(path.read_text())["added_tokens"]
    edit(path, added_tokens=tokens[:-1])


def split_like_gpt2(out: Path) -> None:
    whole = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    edit(out / "tokenizer.json", pre_tokenizer=whole)


def change_weight(out: Path, factor: float = 1.02) -> None:
    path = out / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.down_proj.weight"] *= factor
    save_file(tensors, path, metadata={"format": "pt"})


SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ 'Be brief. ' }}{% endif %}"
FAULTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "rope": ("rope", lambda out: edit(out / "config.json", rope_theta=5000.0)),
    "template": ("rendered prompt", make_template_damage("'<|im_end|>' + '\n'", "'<|im_end|>'")),
    "text": ("rendered prompt", make_template_damage("assistant\n'", "assistant\nGo'")),
    "system prompt": (
        "rendered system prompt",
        make_template_damage("{% for message", SYSTEM + "{% for message"),
    ),
    "end": ("end tokens", lambda out: edit(out / "generation_config.json", eos_token_id=0)),
    "tie": ("tied weights", lambda out: edit(out / "config.json", tie_word_embeddings=False)),
    "lost token": ("added tokens", lose_token),
    "truncated": ("files", truncate),
    "pre-tokenizer": ("token ids", split_like_gpt2),
    "weights": ("log-probabilities", change_weight),
}


MESSAGES = {
    "tie": "embeddings and output head are not tied, but tied in the trained model",
    "text": "the engine renders a prompt as 'Go', expected '', at character",
    "pre-tokenizer": r"token \d+ of a prompt is \[",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_check_of_its_name_finds_a_fault_in_the_files(
    fault: str, trained: TrainedModel, tmp_path: Path
) -> None:
    name, damage = FAULTS[fault]
    export = as_export(damage_exporter(EXPORTER, damage))
    with pytest.raises(GateError, match=f"export, {name}: {MESSAGES.get(fault, '')}") as caught:
        export_run(trained, export, tmp_path / "out")
    assert caught.value.exit_code == 6
    assert list(tmp_path.iterdir()) == [], "something half-made was kept"


@pytest.mark.parametrize("fault", MERGE_FAULTS)
def test_an_adapter_that_is_merged_wrongly_is_found(
    fault: str, trained: TrainedModel, dora: TrainedModel, tmp_path: Path
) -> None:
    model = dora if fault == "DoRA as LoRA" else trained
    with pytest.raises(GateError, match="export, merge: log-probabilities of the merged model"):
        export_run(model, as_export(EXPORTER), tmp_path / "out", MERGE_FAULTS[fault])
    assert list(tmp_path.iterdir()) == []


class WrongStop(SafetensorsExporter):
    """An exporter whose engine stops at another token than the files say."""

    def __init__(self, stop: int) -> None:
        super().__init__(SafetensorsOptions(dtype="float32"))
        self.stop = stop

    @contextmanager
    def open(self, out: Path) -> Iterator[TransformersEngine]:
        with super().open(out) as engine:
            engine.model.generation_config.eos_token_id = self.stop
            yield engine


class AdapterAlone:
    """An exporter of adapters, whose engine is transformers with PEFT."""

    base = Path()

    def check_adapter(self, adapter: Path) -> None:
        if json.loads((adapter / "adapter_config.json").read_text())["use_dora"]:
            raise UsageError("no DoRA here")

    def export_adapter(self, base: Path, adapter: Path, out: Path) -> None:
        self.base = base
        for file in adapter.iterdir():
            if file.name not in ("README.md", MANIFEST):
                shutil.copyfile(file, out / file.name)

    def facts(self, out: Path) -> dict[str, Any]:
        tokens = read_added_tokens(out)
        return {"end_ids": {2}, "rope_theta": 10_000.0, "tied": True, "tokens": tokens}

    @contextmanager
    def open(self, out: Path) -> Iterator[TransformersEngine]:
        base = load_base(self.base, device=torch.device("cpu"), dtype=torch.float32)
        yield TransformersEngine(attach_adapter(base, out), load_tokenizer(out))


def refuse_to_merge(*_: object) -> None:
    raise AssertionError("nothing is merged")


def test_an_adapter_alone_is_compared_without_merging(
    trained: TrainedModel, tmp_path: Path
) -> None:
    certificate = export_run(trained, as_export(AdapterAlone()), tmp_path / "out", refuse_to_merge)
    assert "merge" not in certificate["checks"] and "serve" not in certificate
    assert certificate["max_logprob_difference_nats"] < 1e-5
    assert not (tmp_path / "out" / "config.json").exists()


def test_another_scale_of_an_adapter_alone_is_found(trained: TrainedModel, tmp_path: Path) -> None:
    damaged = damage_exporter(
        AdapterAlone(), lambda out: edit(out / "adapter_config.json", lora_alpha=1)
    )
    with pytest.raises(GateError, match="export, log-probabilities: the largest difference"):
        export_run(trained, as_export(damaged), tmp_path / "out")


def test_an_adapter_that_the_engine_lacks_is_refused_first(
    dora: TrainedModel, tmp_path: Path
) -> None:
    steps: list[str] = []
    with pytest.raises(UsageError, match="no DoRA here"):
        export_run(dora, as_export(AdapterAlone()), tmp_path / "out", announce=steps.append)
    assert steps == []


def test_all_weights_are_no_adapter(ending: TrainedModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="test: the run trained all weights"):
        export_run(ending, as_export(AdapterAlone()), tmp_path / "out")


class UnverifiedExporter(SafetensorsExporter):
    """An exporter whose engine is not there."""

    def own_checks(self, out: Path) -> Iterator[tuple[str, Callable[[], str]]]:
        def find() -> str:
            raise NotVerifiedError("it is not installed here")

        yield "engine", find

    def serve_command(self, out: Path | None) -> str:
        return f"serve {out or '.'}"


def test_an_engine_that_is_missing_is_not_verified(trained: TrainedModel, tmp_path: Path) -> None:
    certificate = export_run(
        trained,
        as_export(UnverifiedExporter(SafetensorsOptions(dtype="float32"))),
        tmp_path / "out",
    )
    assert certificate["checks"]["engine"] == "not verified: it is not installed here"
    assert "engine" in certificate["not_verified"] and certificate["serve"] == "serve ."


@pytest.mark.parametrize("error", [IndexError("list index out of range"), SystemExit(1)])
def test_a_library_that_fails_is_named(
    trained: TrainedModel, tmp_path: Path, error: BaseException
) -> None:
    def fail(out: Path) -> None:
        raise error

    export = as_export(damage_exporter(EXPORTER, fail), name="engine")
    with pytest.raises(EnvironmentProblem, match=r"engine: the exporter failed: \w+: (list|1)"):
        export_run(trained, export, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_while_merging_is_named(trained: TrainedModel, tmp_path: Path) -> None:
    def fill(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with pytest.raises(EnvironmentProblem, match=f"{tmp_path}: the disk is full"):
        export_run(trained, as_export(EXPORTER), tmp_path / "out", fill)
    assert list(tmp_path.iterdir()) == []


LONG = "abcdefghijklmnopqrstuvwxyz0123456789"


@pytest.fixture(scope="module")
def ending(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    """A model that has learned where a long answer ends."""
    return train_tiny(tmp_path_factory.mktemp("ending"), tiny_folder, full=True, completion=LONG)


def test_long_answers_must_end_alike(ending: TrainedModel, tmp_path: Path) -> None:
    certificate = export_run(ending, as_export(EXPORTER), tmp_path / "out")
    assert certificate["checks"]["stop"] == "4 of 4 answers end at the same token"
    assert certificate["not_verified"] == []


def test_an_engine_that_goes_on_is_found(ending: TrainedModel, tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"export, stop: the engine continues after \d\d"):
        export_run(ending, as_export(WrongStop(0)), tmp_path / "out")


def test_an_engine_that_stops_within_answers_is_found(ending: TrainedModel, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(ending.artifact)
    word = tokenizer(LONG)["input_ids"][10]
    with pytest.raises(GateError, match="export, stop: the engine stops after"):
        export_run(ending, as_export(WrongStop(word)), tmp_path / "out")


def test_a_rounded_engine_must_end_one_answer(ending: TrainedModel, tmp_path: Path) -> None:
    """Its answers have other words, so that where they should end is not known."""
    exporter = damage_exporter(WrongStop(0), lambda out: change_weight(out, -8.0))
    with pytest.raises(
        GateError, match=r"none of the engine's answers ends .* 4 of the trained model"
    ):
        export_run(ending, as_export(exporter, tolerance=None), tmp_path / "out")


def test_a_model_that_ends_no_answer_verifies_no_stop(
    trained: TrainedModel, tmp_path: Path
) -> None:
    certificate = export_run(trained, as_export(EXPORTER), tmp_path / "out")
    assert certificate["checks"]["stop"] == "not verified: no answer ended within 128 tokens"
    assert certificate["not_verified"] == ["stop"]


class DoublesBos(SafetensorsExporter):
    """An exporter whose engine puts a BOS in front of the template's own."""

    @contextmanager
    def open(self, out: Path) -> Iterator[TransformersEngine]:
        with super().open(out) as engine:
            plain = engine.tokenize
            bos_id = engine.tokenizer.bos_token_id
            engine.tokenize = lambda text: [bos_id, *plain(text)]  # type: ignore[method-assign]
            yield engine


def test_prompts_with_tools_are_skipped() -> None:
    assert is_text_only(PROMPT) and is_text_only("text")
    assert not is_text_only((*PROMPT, Message("tool", "42")))


TOOL_TURNS = (
    Message("user", "What is 6 times 7?"),
    Message("assistant", "", tool_calls=(ToolCall("multiply", '{"a": 6, "b": 7}'),)),
    Message("tool", "42"),
    Message("assistant", "It is 42."),
)


@pytest.mark.parametrize(
    "record",
    [
        Chat(source="a:1", messages=TOOL_TURNS),
        Completion(source="a:1", prompt="Read this. " * 3000, completion="yes"),
    ],
    ids=["tools", "too long"],
)
def test_of_rows_that_no_engine_takes_the_last_messages_are_compared(
    trained: TrainedModel, tmp_path: Path, record: Record
) -> None:
    other = replace(trained, test=[record] * 3)
    certificate = export_run(other, as_export(EXPORTER), tmp_path / "out")
    assert certificate["rows"] == 3 and "nats at most" in certificate["checks"]["log-probabilities"]


def test_without_a_row_to_compare_nothing_is_exported(
    trained: TrainedModel, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="no test rows can be compared"):
        export_run(replace(trained, test=[]), as_export(EXPORTER), tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_there_is_exactly_one_bos(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model", template="{{ bos_token }}" + CHATML)
    edit(model / "tokenizer_config.json", bos_token="<|endoftext|>")
    trained = train_tiny(tmp_path / "run", model, epochs=1.0)
    certificate = export_run(trained, as_export(EXPORTER), tmp_path / "out")
    assert certificate["checks"]["BOS"] == "1 at the start"
    with pytest.raises(
        GateError, match="export, BOS: the engine adds 2 BOS tokens, but training used 1"
    ):
        export_run(
            trained, as_export(DoublesBos(SafetensorsOptions(dtype="float32"))), tmp_path / "wrong"
        )


def test_an_adapter_whose_files_changed_is_not_exported(
    trained: TrainedModel, tmp_path: Path
) -> None:
    changed = copy_adapter(trained.artifact, tmp_path / "adapter", lora_alpha=1.0)
    with pytest.raises(IntegrityError, match="adapter_config"):
        export_run(replace(trained, artifact=changed), as_export(EXPORTER), tmp_path / "out")


@pytest.mark.parametrize(("loss", "passes"), [(0.0, True), (0.9, False)])
def test_rounding_must_not_make_the_metric_worse(
    trained: TrainedModel, tmp_path: Path, loss: float, passes: bool
) -> None:
    def measure(model: Any) -> list[Measurement]:
        is_engine = isinstance(model, engine_model.EngineModel)
        values = [1.0 - n / 1000 - (loss if is_engine else 0.0) for n in range(24)]
        assert len(model.generate([PROMPT], 8)[0].ids) <= 8
        assert len(model.score([PROMPT], ["one two three"])[0].logprobs) > 3
        return [Measurement(metric="share", values=tuple(values))]

    rounded = replace(trained, measure=measure, test=[*trained.test] * 6)
    exporter = as_export(SafetensorsExporter(SafetensorsOptions(dtype="bfloat16")), None)
    if not passes:
        with pytest.raises(
            GateError, match=r"export, metric: share gets worse: it changes by -0\.900"
        ):
            export_run(rounded, exporter, tmp_path / "out")
        return
    certificate = export_run(rounded, exporter, tmp_path / "out")
    metric = certificate["metric"]
    assert metric["difference"] == pytest.approx(0.0)
    assert metric["before"] == metric["after"] == pytest.approx(0.9885)
    assert "share 0.989, exported 0.989, difference 0.000" in certificate["checks"]["metric"]
    assert 0 < certificate["mean_kl_nats"] < checks.MAX_KL["rounded"]
