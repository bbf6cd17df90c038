"""Training over images: packing, the cache of features, resuming, and what is saved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import read_images
from safetensors.torch import load_file
from training import (
    collect,
    make_job,
    make_table,
    options,
    pictures,
    rows,
    split_folder,
    tokenize,
    train,
)
from transformers import AutoModelForCausalLM

from tunesmith.errors import IntegrityError, RunStopped, UsageError
from tunesmith.events import StepFinished, TrainingStarted
from tunesmith.plugins import cache_folder
from tunesmith.records import last_exchange
from tunesmith_torch.data.packing import collate
from tunesmith_torch.losses.selected_positions import get_lm_head, hidden_at_targets
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.runtime.device import Precision
from tunesmith_vision.technique import Vision, add_images, new_projector
from tunesmith_vision.towers import LiteTower

CPU = torch.device("cpu")
CACHE_FILES = "vision/*/*.safetensors"


def losses(out: Path, **table: Any) -> list[float]:
    return [event.loss for event in collect(out, **table) if isinstance(event, StepFinished)]


def test_packed_and_unpacked_rows_have_the_same_losses(tmp_path: Path) -> None:
    # A small rate, because AdamW turns rounding of tiny gradients into whole steps.
    packed = losses(tmp_path / "packed", learning_rate=1e-5)
    unpacked = losses(tmp_path / "unpacked", learning_rate=1e-5, packing=False)
    assert len(packed) == len(unpacked) == 12
    assert max(abs(a - b) for a, b in zip(packed, unpacked, strict=True)) < 1e-5


@torch.no_grad()
def test_the_loss_is_that_of_embeddings_in_plain_transformers(tmp_path: Path) -> None:
    """Rows packed by the toolkit, against each row alone with ``inputs_embeds``."""
    table = make_table()
    examples = tokenize(rows(), table).examples
    base = load_model(split_folder(), CPU, Precision(torch.float32, "test"), packing=True)
    projector = new_projector(base.model, table, 0)
    add_images(base.model, table, projector)
    batch = collate(examples, range(len(examples)))
    hidden_ND = hidden_at_targets(base.model, batch)
    found_N = get_lm_head(base.model).logprobs(hidden_ND, batch)
    plain = AutoModelForCausalLM.from_pretrained(split_folder(), dtype=torch.float32)
    expected = []
    for example in examples:
        ids_T = torch.tensor(np.asarray(example.ids)).long()
        is_image = ids_T >= table.vocabulary
        embeddings_TD = plain.get_input_embeddings()(ids_T.masked_fill(is_image, 0))
        features = [f for n in range(table.count) for f in table.features(n)]
        for place in is_image.nonzero()[:, 0].tolist():
            feature = features[int(ids_T[place]) - table.vocabulary]
            embeddings_TD[place] = projector(feature[None])[0]
        logits_TV = plain(inputs_embeds=embeddings_TD[None]).logits[0].log_softmax(-1)
        trained = np.flatnonzero(np.asarray(example.trained))
        expected += [logits_TV[t - 1, ids_T[t]] for t in trained]
    assert (found_N - torch.stack(expected)).abs().max() < 1e-5


def test_cached_features_are_those_of_the_tower_bitwise() -> None:
    images = read_images(pictures())
    shutil.rmtree(cache_folder() / "vision", ignore_errors=True)
    computed, again, alone = make_table(), make_table(), make_table()
    for name in sorted(images):
        computed.number(images[name])
    first = [computed.features(number) for number in range(len(images))]
    files = sorted(cache_folder().glob(CACHE_FILES))
    assert len(files) == len(images)
    again.tower.encode = None  # type: ignore[assignment]  # must not be called
    for name in sorted(images):
        again.number(images[name])
    for number, features in enumerate(first):
        assert torch.equal(again.features(number), features)
    shutil.rmtree(cache_folder() / "vision")
    for number, name in reversed([*enumerate(sorted(images))]):
        assert torch.equal(alone.features(alone.number(images[name])), first[number])
    assert len({tuple(f.flatten().tolist()) for f in first}) == len(images)


def test_a_damaged_cache_is_computed_again_and_a_wrong_count_is_an_error() -> None:
    image = read_images(pictures())["red"]
    table = make_table()
    right = table.features(table.number(image))
    (file,) = cache_folder().glob(f"vision/*/{image.sha256}.safetensors")
    file.write_bytes(b"damaged")
    table = make_table()
    assert torch.equal(table.features(table.number(image)), right)
    table = make_table()
    table.tower.layout = lambda image: [-1] * 15  # type: ignore[method-assign]
    with pytest.raises(IntegrityError, match="expected"):
        table.features(table.number(image))


def test_lookup_finds_each_row_of_each_image() -> None:
    table = make_table()
    for image in read_images(pictures()).values():
        table.keep(image)
    everything = torch.cat([table.features(n) for n in range(table.count)])
    assert len(everything) == table.rows
    order = torch.randperm(table.rows, generator=torch.Generator().manual_seed(0))[:40]
    assert torch.equal(table.lookup(order + table.vocabulary), everything[order])


class Interrupted(RunStopped):
    """The signal of the test."""


def test_a_resumed_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    expected = train(tmp_path / "whole")
    config, out = options(checkpoints={"every": 2}), tmp_path / "resumed"
    out.mkdir()

    def stop(event: Any) -> None:
        if isinstance(event, StepFinished) and event.step == 5:
            raise Interrupted("test")

    with pytest.raises(Interrupted):
        Vision(config).train(make_job(config, out, emit=stop))
    events: list[Any] = []
    artifact = Vision(config).train(make_job(config, out, emit=events.append)).path
    (started,) = [event for event in events if isinstance(event, TrainingStarted)]
    assert started.first_step > 0, "it starts at the first step"
    for name in ("adapter_model.safetensors", "projector.safetensors"):
        first, second = load_file(expected / name), load_file(artifact / name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first), name


def test_parts_that_do_not_train_keep_their_weights(tmp_path: Path) -> None:
    table = make_table()
    base = load_model(split_folder(), CPU, Precision(torch.float32, "test"), packing=False)
    before = new_projector(base.model, table, 3).state_dict()
    kept = load_file(train(tmp_path / "kept", train_projector=False) / "projector.safetensors")
    assert all(torch.equal(kept[name], before[name]) for name in before)
    alone = train(tmp_path / "alone", language="frozen")
    assert not (alone / "adapter_model.safetensors").exists()
    moved = load_file(alone / "projector.safetensors")
    assert not any(torch.equal(moved[name], before[name]) for name in before)
    model = Vision(options(language="frozen")).open(split_folder(), alone, device="cpu")
    assert model.generate([last_exchange(rows()[0])[0]], 4)


def test_the_projector_has_its_own_rate(tmp_path: Path) -> None:
    """One step of AdamW moves each weight by the rate, so the ratio is exact."""
    table = {"max_steps": 1, "schedule": {"type": "constant", "warmup_ratio": 0.0}}
    base = load_model(split_folder(), CPU, Precision(torch.float32, "test"), packing=False)
    before = new_projector(base.model, make_table(), 3).state_dict()
    moved = {}
    for ratio in (1.0, 4.0):
        folder = train(tmp_path / f"{ratio}", projector_rate=ratio, **table)
        after = load_file(folder / "projector.safetensors")
        moved[ratio] = after["linear_2.weight"] - before["linear_2.weight"]
    assert moved[1.0].abs().max() > 0
    assert torch.allclose(moved[4.0], 4 * moved[1.0], atol=1e-6)


def test_a_trained_tower_has_its_own_rate_and_is_not_cached(tmp_path: Path) -> None:
    """One step of AdamW moves each weight by the rate, so the ratio is exact."""
    shutil.rmtree(cache_folder() / "vision", ignore_errors=True)
    before = make_table().tower.module.state_dict()
    moved, table = {}, {"schedule": {"type": "constant", "warmup_ratio": 0.0}, "max_steps": 1}
    for ratio in (0.5, 2.0):
        out = tmp_path / f"{ratio}"
        after = load_file(
            train(out, train_tower=True, tower_rate=ratio, **table) / "tower.safetensors"
        )
        name = next(n for n in after if n.endswith("layers.0.mlp.fc1.weight"))
        moved[ratio] = after[name] - before[name]
    assert moved[0.5].abs().max() > 0
    assert torch.allclose(moved[2.0], 4 * moved[0.5], atol=1e-6)
    assert not [*cache_folder().glob(CACHE_FILES)]


def test_the_features_of_a_trained_tower_have_their_own_cache(tmp_path: Path) -> None:
    artifact = train(tmp_path / "run", train_tower=True, tower_rate=1.0, max_steps=2)
    image = read_images(pictures())["red"]
    tuned: Any = Vision(options()).open(split_folder(), artifact, device="cpu")
    base = make_table()
    found = [table.features(table.number(image)) for table in (tuned.template.table, base)]
    assert not torch.allclose(*found) and tuned.template.table.tower.digest != base.tower.digest


def test_the_small_tower_can_be_trained(tiny_model: Path, tmp_path: Path) -> None:
    artifact = train(
        tmp_path / "run", rows()[:2], tiny_model, train_tower=True, max_steps=1, language="frozen"
    )
    before = LiteTower().module.state_dict()
    after = load_file(artifact / "tower.safetensors")
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert any("_blocks.0" in name for name in moved), "the first layers"
    assert not any("running" in name or name.startswith("_fc") for name in moved)


def test_all_weights_of_the_language_model(tmp_path: Path) -> None:
    events = collect(tmp_path / "full", language="full", learning_rate=3e-3)
    found = [event.loss for event in events if isinstance(event, StepFinished)]
    assert found[-1] < 0.5 * found[0], "it learns"
    with pytest.raises(UsageError, match="a tower that is not in this folder"):
        make_table(tmp_path / "full/model")


def test_bare_peft_and_transformers_load_the_artifact(tmp_path: Path) -> None:
    from peft import PeftModel

    artifact = train(tmp_path / "run")
    table = make_table()
    prompt, _ = last_exchange(rows()[1])
    model: Any = Vision(options()).open(split_folder(), artifact, device="cpu")
    (answer,) = model.generate([prompt], 6)
    ids = model.template.encode_prompts([prompt])[0]
    language = AutoModelForCausalLM.from_pretrained(split_folder(), dtype=torch.float32)
    bare = PeftModel.from_pretrained(language, str(artifact))
    projector = table.tower.build_projector(32, 1.0, 0)
    projector.load_state_dict(load_file(artifact / "projector.safetensors"))
    image = rows()[1].messages[0].media[0]  # type: ignore[attr-defined]
    features = table.features(table.number(image))
    embed = language.get_input_embeddings()
    with torch.no_grad():
        pieces = [
            projector(features[None, token - table.vocabulary])
            if token >= table.vocabulary
            else embed(torch.tensor([token]))
            for token in ids
        ]
        out = bare.generate(
            inputs_embeds=torch.cat(pieces)[None], max_new_tokens=6, do_sample=False,
            eos_token_id=[*model.template.end_ids],
        )  # fmt: skip
    assert tuple(out[0].tolist()) == answer.ids


def test_a_damaged_projector_is_explained(tmp_path: Path) -> None:
    artifact = train(tmp_path / "run", max_steps=1)
    tensors = load_file(artifact / "projector.safetensors")
    about = json.loads((artifact / "vision.json").read_text())

    def open_it() -> Any:
        return Vision(options()).open(split_folder(), artifact, device="cpu")

    from safetensors.torch import save_file

    save_file({k: t * float("nan") for k, t in tensors.items()}, artifact / "projector.safetensors")
    with pytest.raises(IntegrityError, match="not finite"):
        open_it()
    save_file(tensors, artifact / "projector.safetensors")
    (artifact / "vision.json").write_text(json.dumps({**about, "digest": "other"}))
    with pytest.raises(IntegrityError, match="trained with another tower"):
        open_it()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"truncate_prompts": True}, "could cut an image"),
        ({"language": "frozen", "train_projector": False}, "nothing trains"),
        ({"language": "full", "quantization": {"bits": 4}}, "needs a frozen language model"),
        ({"language": "full", "adapter": {"rank": 4}}, "only has an effect"),
        ({"micro_batch_tokens": "auto"}, "cannot be"),
        ({"validation": {"by": "exact-match"}}, 'must be "loss"'),
        ({"from": "runs/earlier"}, "starts from the base model"),
    ],
)
def test_options_that_cannot_work_are_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options(**table)


def test_answers_do_not_depend_on_the_other_prompts(tmp_path: Path) -> None:
    model: Any = Vision(options()).open(split_folder(), train(tmp_path / "run"), device="cpu")
    prompts = [last_exchange(record)[0] for record in rows()]
    together = model.generate(prompts, 5)
    fresh: Any = Vision(options()).open(split_folder(), tmp_path / "run/adapter", device="cpu")
    alone = [fresh.generate([prompt], 5)[0] for prompt in reversed(prompts)]
    assert [a.ids for a in together] == [a.ids for a in reversed(alone)]


def test_the_events_name_the_tower_and_the_images(tmp_path: Path) -> None:
    events = collect(tmp_path / "run", max_steps=1)
    (started,) = [event for event in events if isinstance(event, TrainingStarted)]
    assert started.details["tower"] == "llava" and started.details["images"] == 4
    assert started.details["image_tokens"] == 64


def test_a_quantized_language_model(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from tunesmith_vision.merge import merge_artifact

    table = {"quantization": {"bits": 4}}
    artifact = train(tmp_path / "run", **table)
    assert losses(tmp_path / "again", **table) != losses(tmp_path / "other")
    model = Vision(options(**table)).open(split_folder(), artifact, device="cpu")
    names = {model.generate([last_exchange(r)[0]], 4)[0].text for r in rows()[:3]}
    assert len(names) > 1, "it does not look"
    with pytest.raises(UsageError, match="trained over a model of 4 bits"):
        merge_artifact(artifact, split_folder(), tmp_path / "joined")
