"""Families of vision-language models, compared with plain transformers in fp32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from click.testing import CliRunner
from pictures import picture_bytes, question
from safetensors.torch import load_file
from tiny_vlm import FAMILIES, Plain
from training import (
    collect,
    make_table,
    options,
    rows,
    split_folder,
    tokenize,
    train,
    two_turns,
    vlm_folder,
)
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from tunesmith.errors import DataError, EnvironmentProblem, UsageError
from tunesmith.events import StepFinished, TrainingStarted
from tunesmith.records import Message, last_exchange
from tunesmith_cli.app import app
from tunesmith_torch.data.packing import collate
from tunesmith_torch.losses.selected_positions import get_lm_head, hidden_at_targets
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.runtime.device import Precision
from tunesmith_vision.families import REFUSED, find_family
from tunesmith_vision.images import MAX_ASPECT_RATIO, Image, ImageReader, open_picture
from tunesmith_vision.merge import merge_artifact
from tunesmith_vision.technique import Vision, add_images, new_projector
from tunesmith_vision.towers import FEATURE, blank_picture
from tunesmith_vision.vlm import ModelTower, split_model


def wide(tmp_path: Path) -> Any:
    """Return images of several shapes, which families with tiles divide differently."""
    reader = ImageReader(tmp_path, 10**6, 10**6)
    sizes = {"square": (28, 28), "wide": (80, 28), "tall": (30, 61)}
    for name, size in sizes.items():
        (tmp_path / f"{name}.png").write_bytes(picture_bytes((200, 90, 20), size))
    return [reader.read(f"{name}.png") for name in sizes]


@pytest.mark.parametrize("family", FAMILIES)
def test_token_ids_equal_those_of_the_processor(family: str, tmp_path: Path) -> None:
    plain, model = Plain(vlm_folder(family), family), open_model(family)
    images = wide(tmp_path)
    prompts = [
        (question("*Which?", images[0]),),
        (question("Which?*", images[1]),),
        (question("* and *: same?", images[2], images[1]),),
        (question("Who?"),),
        (*two_turns(), question("*", images[1])),
    ]
    image_id, vocabulary = plain.model.config.image_token_id, model.template.table.vocabulary
    for prompt in prompts:
        expected = plain.inputs(prompt).input_ids[0].tolist()
        (ids,) = model.template.encode_prompts([prompt])
        found = [image_id if number >= vocabulary else number for number in ids]
        assert found == expected


def open_model(family: str, artifact: Path | None = None) -> Any:
    return Vision(options()).open(split_folder(family), artifact, device="cpu")


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_answers_equal_plain_transformers(family: str) -> None:
    compare(Plain(vlm_folder(family), family), open_model(family))


@torch.no_grad()
def compare(plain: Plain, model: Any) -> None:
    """Compare the loss of the answers and greedy answers, row by row."""
    records = rows()
    pairs = [last_exchange(record) for record in records]
    scores = model.score([p for p, _ in pairs], [a.text for _, a in pairs])
    answers = model.generate([p for p, _ in pairs], 6)
    end = [*model.template.end_ids]
    seen = set()
    for (prompt, answer), score, generated in zip(pairs, scores, answers, strict=True):
        inputs = plain.inputs(prompt)
        out = plain.model.generate(
            **inputs, max_new_tokens=6, do_sample=False, eos_token_id=end, pad_token_id=2
        )
        start = inputs.input_ids.shape[1]
        assert tuple(out[0, start:].tolist()) == generated.ids
        seen.add(generated.ids)
        whole = plain.inputs((*prompt, Message("assistant", answer.text)), prompt=False)
        count = len(score.logprobs)
        labels = whole.input_ids.clone()
        labels[:, :start] = -100
        labels[:, start + count :] = -100
        loss = float(plain.model(**whole, labels=labels).loss)
        assert abs(loss + sum(score.logprobs) / count) < 1e-5
    assert len(seen) > 1, "all answers are the same, so the comparison shows little"


@pytest.mark.parametrize("family", FAMILIES)
def test_training_starts_with_the_loss_of_plain_transformers(family: str, tmp_path: Path) -> None:
    """All rows in one batch, packed if the family can be packed; adapters change nothing yet."""
    records, model = rows(), split_folder(family)
    events = collect(
        tmp_path / "run", records, model, max_steps=1, batch_size=len(records), packing=True
    )
    (started,) = [event for event in events if isinstance(event, TrainingStarted)]
    assert started.details["layout"] == ("padded" if family == "gemma3" else "packed")
    (step,) = [event for event in events if isinstance(event, StepFinished)]
    expected = mean_loss(Plain(vlm_folder(family), family), records, model).item()
    assert abs(step.loss - expected) < 1e-5


def mean_loss(plain: Plain, records: Any, model: Path) -> torch.Tensor:
    """Return the mean loss of all trained tokens in plain transformers, row by row."""
    found = tokenize(records, make_table(model), model=model).examples
    total, count = torch.zeros(()), 0
    for index, example in zip(found.records, found, strict=True):
        inputs = plain.inputs(records[index].messages, prompt=False)
        trained = torch.from_numpy(np.flatnonzero(np.asarray(example.trained)))
        labels = torch.full_like(inputs.input_ids, -100)
        labels[0, trained] = inputs.input_ids[0, trained]
        total = total + plain.model(**inputs, labels=labels).loss * len(trained)
        count += len(trained)
    return total / count


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3"])
def test_gradients_of_all_parts_equal_those_of_plain_transformers(family: str) -> None:
    """The gradients of the mean loss over all rows, each computed with its own images."""
    folder, records = split_folder(family), rows()
    plain = Plain(vlm_folder(family), family)
    plain.model.requires_grad_(True)
    mean_loss(plain, records, folder).backward()
    table = make_table(folder)
    examples = tokenize(records, table, model=folder).examples
    base = load_model(
        folder, torch.device("cpu"), Precision(torch.float32, "test"), packing=family != "gemma3"
    )
    table.tower.start_training(torch.device("cpu"))
    projector = new_projector(base.model, table, 0).requires_grad_(True)
    add_images(base.model, table, projector)
    batch = collate(examples, range(len(examples)), packed=family != "gemma3")
    loss = get_lm_head(base.model).loss(hidden_at_targets(base.model, batch), batch)
    (loss / len(batch.targets_N)).backward()
    names = find_family({"model_type": family}, folder)
    inner = plain.model.model
    pairs = [
        (projector, inner.get_submodule(names.projector)),
        (table.tower.module, inner.get_submodule(names.tower)),
        (base.model.model.layers, inner.get_submodule(names.language).layers),
    ]
    for ours, theirs in pairs:
        expected = dict(theirs.named_parameters())
        compared = 0
        for name, parameter in ours.named_parameters():
            if parameter.grad is not None:
                assert torch.allclose(parameter.grad, expected[name].grad, atol=1e-5), name
                compared += bool(parameter.grad.abs().max() > 1e-6)
        assert compared, "no gradient was compared"


@pytest.mark.parametrize("family", ["idefics3", "qwen2_vl", "gemma3"])
def test_a_model_whose_parts_are_all_trained_joins(family: str, tmp_path: Path) -> None:
    base = split_folder(family)
    table: Any = {"language": "full", "train_tower": True, "max_steps": 3, "learning_rate": 1e-3}
    artifact = train(tmp_path / "run", model=base, **table)
    assert AutoModelForCausalLM.from_pretrained(artifact).config == (
        AutoModelForCausalLM.from_pretrained(base).config
    ), "the language model has its own names"
    merge_artifact(artifact, base, tmp_path / "joined")
    compare(
        Plain(tmp_path / "joined", family),
        Vision(options(**table)).open(base, artifact, device="cpu"),
    )
    before = AutoModelForImageTextToText.from_pretrained(vlm_folder(family)).state_dict()
    after = AutoModelForImageTextToText.from_pretrained(tmp_path / "joined").state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    names = find_family({"model_type": family}, base)
    for part in (names.tower, names.projector, f"{names.language}.layers.0.mlp"):
        assert any(name.startswith(f"model.{part}") for name in moved), part


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trained_model_joins_to_one_that_plain_transformers_loads(
    family: str, tmp_path: Path
) -> None:
    base = split_folder(family)
    artifact = train(tmp_path / "run", model=base, learning_rate=1e-3)
    merge_artifact(artifact, base, tmp_path / "joined")
    joined = Plain(tmp_path / "joined", family)
    compare(joined, open_model(family, artifact))
    before = AutoModelForImageTextToText.from_pretrained(vlm_folder(family)).state_dict()
    after = joined.model.state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("q_proj" in name for name in changed)
    projector = find_family({"model_type": family}, base).projector
    assert any(projector in name for name in changed)
    assert not any("vision" in name or "embed_tokens" in name for name in changed)


@pytest.mark.parametrize("family", FAMILIES)
def test_dividing_and_joining_changes_no_weight(family: str, tmp_path: Path) -> None:
    artifact = train(tmp_path / "run", model=split_folder(family), max_steps=1, learning_rate=1e-30)
    merge_artifact(artifact, split_folder(family), tmp_path / "joined")
    before = AutoModelForImageTextToText.from_pretrained(vlm_folder(family)).state_dict()
    after = AutoModelForImageTextToText.from_pretrained(tmp_path / "joined").state_dict()
    assert all(torch.allclose(before[name], after[name], atol=1e-7) for name in before)


@pytest.mark.parametrize("name", [*REFUSED, "blip_2"])
def test_other_families_are_refused_by_name(name: str, tmp_path: Path) -> None:
    source = tmp_path / "model"
    source.mkdir()
    (source / "config.json").write_text(json.dumps({"model_type": name}))
    with pytest.raises(UsageError, match=f"models of type {name} are not supported: "):
        split_model(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_template_that_reorders_its_parts_is_refused(tmp_path: Path) -> None:
    import shutil

    source = tmp_path / "model"
    shutil.copytree(vlm_folder("llava"), source)
    template = (
        "{% for m in messages %}{% for p in m['content'] %}{% if p['type'] == 'text' %}"
        "{{ p['text'] }}{% endif %}{% endfor %}{% for p in m['content'] %}"
        "{% if p['type'] == 'image' %}{{ '<image>' * 2 }}{% endif %}{% endfor %}{% endfor %}"
    )
    (source / "chat_template.jinja").write_text(template)
    with pytest.raises(UsageError, match="the chat template cannot be used"):
        split_model(source, tmp_path / "out")


def test_a_damaged_tower_is_explained(tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import save_file

    shutil.copytree(split_folder(), tmp_path / "model")
    file = tmp_path / "model/vision/vision.safetensors"
    tensors = load_file(file)
    tensors.pop(next(name for name in tensors if "vision_tower" in name))
    save_file(tensors, file)
    with pytest.raises(EnvironmentProblem, match="does not fit its config"):
        ModelTower(tmp_path / "model").encode(blank_picture())


def test_the_digest_of_a_tower_contains_its_config(tmp_path: Path) -> None:
    """Other layers give other features, which must not come from the cache of these."""
    import shutil

    shutil.copytree(split_folder(), tmp_path / "model")
    picture = open_picture(wide(tmp_path)[0])
    before = ModelTower(tmp_path / "model")
    features, digest = before.encode(picture), before.digest
    file = tmp_path / "model/vision/config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "vision_feature_layer": -1}))
    after = ModelTower(tmp_path / "model")
    assert not torch.equal(features, after.encode(picture))
    assert digest != after.digest


def test_a_crash_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A language model without its tower would be trained with another one."""
    artifact = train(tmp_path / "run", max_steps=1)

    def fail(*args: Any) -> None:
        raise RuntimeError("crash")

    monkeypatch.setattr("shutil.copyfile", fail)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="crash"):
        split_model(vlm_folder("llava"), tmp_path / "split")
    with pytest.raises(RuntimeError, match="crash"):
        merge_artifact(artifact, split_folder(), tmp_path / "joined")
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_exists_is_kept(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists already"):
        split_model(vlm_folder("llava"), tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_narrowest_images_that_are_loaded_can_be_read(family: str) -> None:
    tower = ModelTower(split_folder(family))
    for size in ((1, MAX_ASPECT_RATIO), (MAX_ASPECT_RATIO, 1)):
        layout = tower.layout(Image("line.png", "", *size))
        assert [*layout].count(FEATURE) == len(tower.encode(blank_picture(*size)))


def test_an_image_that_is_too_narrow_for_the_model_is_named() -> None:
    with pytest.raises(DataError, match=r"line.png: the model cannot read this image"):
        ModelTower(split_folder("qwen2_vl")).layout(Image("line.png", "", MAX_ASPECT_RATIO + 1, 1))


def test_a_row_whose_image_is_too_narrow_does_not_end_a_run(tmp_path: Path) -> None:
    (tmp_path / "line.png").write_bytes(picture_bytes((9, 9, 9), (900, 4)))
    for n in range(8):
        (tmp_path / f"{n}.png").write_bytes(picture_bytes((200, 30 * n, 20), (28, 28)))
    names = ["line.png", *(f"{n}.png" for n in range(8))]
    rows = [{"question": "<image>Which?", "answer": "red", "images": [name]} for name in names]
    lines = [json.dumps(row) + "\n" for row in rows]
    (tmp_path / "train.jsonl").write_text("".join(lines), encoding="utf-8")
    tables: dict[str, Any] = {
        "run": {"side_effects": False},
        "model": {"base": str(split_folder("qwen2_vl"))},
        "data": {"use": "images", "train": "train.jsonl", "test_size": 2, "max_skipped": 1},
        "technique": {"use": "vision", "max_steps": 1, "precision": "fp32"},
        "baselines": {"use": ["image-majority"]},
    }
    file = tmp_path / "run.toml"
    file.write_text(tomli_w.dumps(tables), encoding="utf-8")
    shown = {}
    for arguments in (("check", file), ("plan", file), ("run", file, "--out", tmp_path / "run")):
        done = CliRunner().invoke(app, [*map(str, arguments)])
        assert done.exit_code == 0, done.output
        shown[arguments[0]] = done.output
    assert "1 row, image is too narrow" in shown["check"], shown["check"]
    assert "1 row skipped" in shown["run"], shown["run"]
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert report["data"]["skipped"] == {"image is too narrow": 1}


@pytest.mark.parametrize("family", ["idefics3", "qwen2_vl", "qwen2_5_vl"])
def test_the_tokens_of_an_image_follow_its_size(family: str, tmp_path: Path) -> None:
    tower = ModelTower(split_folder(family))
    for image in wide(tmp_path):
        layout = tower.layout(image)
        assert [*layout].count(FEATURE) == len(tower.encode(open_picture(image)))
    assert len({len(tower.layout(image)) for image in wide(tmp_path)}) > 1
