"""Families of vision-language models, compared with plain transformers in fp32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pictures import picture_bytes, question
from safetensors.torch import load_file
from tiny_vlm import FAMILIES, Plain
from training import options, rows, split_folder, train, two_turns, vlm_folder
from transformers import AutoModelForImageTextToText

from tunesmith.errors import EnvironmentProblem, UsageError
from tunesmith.records import Message, last_exchange
from tunesmith_vision.families import REFUSED
from tunesmith_vision.images import ImageReader, open_picture
from tunesmith_vision.merge import merge_artifact
from tunesmith_vision.technique import Vision
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
    image_id = plain.model.config.image_token_id
    for prompt in prompts:
        expected = plain.inputs(prompt).input_ids[0].tolist()
        (signed,) = model._signed([prompt])
        (ids,) = model.model.template.encode_prompts([signed])
        found = [image_id if number >= model.table.vocabulary else number for number in ids]
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
    end = [*model.model.template.end_ids]
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
def test_a_trained_model_joins_to_one_that_plain_transformers_loads(
    family: str, tmp_path: Path
) -> None:
    base = split_folder(family)
    artifact = train(tmp_path / "run", model=base)
    merge_artifact(artifact, base, tmp_path / "joined")
    joined = Plain(tmp_path / "joined", family)
    compare(joined, open_model(family, artifact))
    before = AutoModelForImageTextToText.from_pretrained(vlm_folder(family)).state_dict()
    after = joined.model.state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("q_proj" in name for name in changed)
    assert any("project" in name for name in changed)
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
        ModelTower(tmp_path / "model")


def test_the_digest_of_a_tower_contains_its_config(tmp_path: Path) -> None:
    """Other layers give other features, which must not come from the cache of these."""
    import shutil

    shutil.copytree(split_folder(), tmp_path / "model")
    before = ModelTower(tmp_path / "model")
    file = tmp_path / "model/vision/config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "vision_feature_layer": -1}))
    after = ModelTower(tmp_path / "model")
    picture = open_picture(wide(tmp_path)[0])
    assert not torch.equal(before.encode(picture), after.encode(picture))
    assert before.digest != after.digest


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


def test_the_tokens_of_tiles_follow_the_size(tmp_path: Path) -> None:
    tower = ModelTower(split_folder("idefics3"))
    for image in wide(tmp_path):
        from tunesmith_vision.towers import FEATURE

        layout = tower.layout(image)
        assert [*layout].count(FEATURE) == len(tower.encode(open_picture(image)))
    assert len({len(tower.layout(image)) for image in wide(tmp_path)}) > 1
