"""Options of one technique are carried over to another one, at every depth."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from tunesmith.estimates import Estimate
from tunesmith.offers import Offered, Plugin, TechniqueOffer
from tunesmith.options import Options, from_table
from tunesmith.records import Completion
from tunesmith_plugins.estimate.calibration import Calibration, CalibrationEntry, device_key
from tunesmith_plugins.estimate.hardware import load_hardware
from tunesmith_plugins.estimate.request import (
    SHARE_OF_MEASURED,
    estimate_throughput,
    measure_layer,
    transfer_options,
)
from tunesmith_torch.memory_estimate.speed import Speed
from tunesmith_torch.runtime.machine import Device


class Adapter(Options):
    rank: int = Field(16, ge=1, description="The rank.")
    alpha: float = Field(32.0, description="The scale.")
    targets: list[str] = Field([], description="The layers.")


class SmallAdapter(Options):
    rank: int = Field(4, ge=1, le=8, description="The rank.")
    alpha: float = Field(8.0, description="The scale.")


class Schedule(Options):
    type: Literal["cosine", "linear"] = Field("cosine", description="The shape.")
    warmup_ratio: float = Field(0.0, ge=0, description="The share of the first steps.")


class Optimizer(Options):
    name: str = Field("adamw", description="The name.")
    betas: tuple[float, float] = Field((0.9, 0.95), description="Its momentum.")
    schedule: Schedule = Field(Schedule(), description="A table in the table.")


class Stage(Options):
    steps: int = Field(3, ge=1, description="The steps.")


class Chosen(Options):
    """The options of the technique in the run file."""

    learning_rate: float = Field(1e-4, alias="lr", gt=0, description="The learning rate.")
    epochs: float = Field(1.0, description="The passes.")
    batch_size: int | str = Field(8, description="The rows.")
    adapter: Adapter = Field(Adapter(), description="The adapter.")
    optimizer: Optimizer = Field(Optimizer(), description="The optimizer.")
    stages: list[Stage] = Field([], description="The stages.")
    bounds: dict[str, float] = Field({}, description="Bounds by name.")


def technique(options: type[Options]) -> Offered[TechniqueOffer[Any]]:
    """Return a technique with these options."""
    offer = TechniqueOffer(
        name="other",
        summary="another technique",
        config=options,
        build=lambda options: None,  # type: ignore[arg-type,return-value]
        accepts=frozenset({Completion}),
    )
    return Offered(Plugin(name="p", distribution="d", version="1", module="m"), offer)


def transferred(options: type[Options], **table: Any) -> Any:
    return transfer_options(technique(options), from_table(Chosen, table))


def test_the_same_options_are_the_same() -> None:
    chosen = from_table(
        Chosen,
        {
            "lr": 1e-3,
            "adapter": {"rank": 8, "targets": ["q", "v"]},
            "optimizer": {"betas": [0.8, 0.9], "schedule": {"type": "linear"}},
            "stages": [{"steps": 2}],
            "bounds": {"loss": 0.5},
            "batch_size": "auto",
        },
    )
    assert transfer_options(technique(Chosen), chosen) == chosen


def test_keys_that_both_have_are_carried_over_at_every_depth() -> None:
    class Other(Options):
        learning_rate: float = Field(9.0, alias="lr", description="The learning rate.")
        optimizer: Optimizer = Field(
            Optimizer(betas=(0.1, 0.2), schedule=Schedule(warmup_ratio=0.5)), description="O."
        )

    found = transferred(
        Other,
        lr=1e-3,
        epochs=3.0,
        adapter={"rank": 8},
        optimizer={"name": "sgd", "schedule": {"type": "linear"}},
    )
    assert found.learning_rate == 1e-3
    assert found.optimizer == Optimizer(name="sgd", schedule=Schedule(type="linear"))


def test_options_that_the_run_file_does_not_set_have_the_defaults_of_the_other() -> None:
    class Other(Options):
        epochs: float = Field(7.0, description="The passes.")
        adapter: SmallAdapter = Field(SmallAdapter(rank=2), description="The adapter.")

    assert transferred(Other) == Other()
    assert transferred(Other, adapter={"targets": ["q"]}) == Other()
    assert transferred(Other, adapter={"alpha": 1.0}).adapter == SmallAdapter(alpha=1.0)


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [
        ({"rank": 8, "alpha": 1.0}, SmallAdapter(rank=8, alpha=1.0)),
        ({"rank": 16, "alpha": 1.0}, SmallAdapter(alpha=1.0)),
        ({"rank": 16, "targets": ["q"]}, SmallAdapter(rank=2)),
    ],
)
def test_a_refused_value_is_skipped_alone(adapter: dict[str, Any], expected: SmallAdapter) -> None:
    class Other(Options):
        epochs: float = Field(7.0, description="The passes.")
        adapter: SmallAdapter = Field(SmallAdapter(rank=2), description="The adapter.")

    found = transferred(Other, adapter=adapter, epochs=2.0)
    assert found.adapter == expected and found.epochs == 2.0


def test_a_refused_value_below_a_refused_key() -> None:
    class OtherSchedule(Options):
        type: Literal["linear"] = Field("linear", description="The shape.")

    class OtherOptimizer(Options):
        schedule: OtherSchedule = Field(OtherSchedule(), description="The schedule.")
        name: str = Field("x", description="The name.")

    class Other(Options):
        optimizer: OtherOptimizer = Field(OtherOptimizer(), description="The optimizer.")

    schedule = {"type": "cosine", "warmup_ratio": 0.5}
    found = transferred(Other, optimizer={"name": "sgd", "schedule": schedule})
    assert found.optimizer == OtherOptimizer(name="sgd")


@pytest.mark.parametrize("batch_size", [16, "auto"])
def test_a_value_that_fits_no_branch_of_a_union_is_skipped(batch_size: int | str) -> None:
    class Other(Options):
        batch_size: int | None = Field(5, ge=1, le=8, description="The rows.")

    assert transferred(Other, batch_size=batch_size).batch_size == 5


def test_a_table_in_place_of_a_value_and_a_value_in_place_of_a_table_are_skipped() -> None:
    class Other(Options):
        adapter: int = Field(3, description="A number here.")
        epochs: Schedule = Field(Schedule(), description="A table here.")

    assert transferred(Other, adapter={"rank": 4}, epochs=2.0) == Other()


def test_a_list_of_tables_is_carried_over_as_a_whole() -> None:
    class OtherStage(Options):
        steps: int = Field(1, le=5, description="The steps.")

    class Other(Options):
        stages: list[OtherStage] = Field([OtherStage()], description="The stages.")

    assert transferred(Other, stages=[{"steps": 2}]).stages == [OtherStage(steps=2)]
    assert transferred(Other, stages=[{"steps": 2}, {"steps": 9}]).stages == [OtherStage()]


def test_a_table_whose_keys_contradict_each_other_is_skipped() -> None:
    class EvenAdapter(SmallAdapter):
        @model_validator(mode="after")
        def check(self) -> EvenAdapter:
            if self.alpha < self.rank:
                raise ValueError("alpha must not be less than rank")
            return self

    class Other(Options):
        adapter: EvenAdapter = Field(EvenAdapter(), description="The adapter.")

    assert transferred(Other, adapter={"alpha": 4.0}).adapter == EvenAdapter(alpha=4.0)
    assert transferred(Other, adapter={"alpha": 1.0}) == Other()


def test_a_table_that_lacks_a_required_option_is_skipped() -> None:
    class Named(Options):
        rank: int = Field(4, description="The rank.")
        kind: str = Field(description="The kind.")

    class Other(Options):
        adapter: Named | None = Field(None, description="The adapter.")
        epochs: float = Field(1.0, description="The passes.")

    assert transferred(Other, adapter={"rank": 2, "alpha": 1.0}, epochs=2.0) == Other(epochs=2.0)


def test_a_refused_value_is_skipped_before_a_table_that_lacks_an_option() -> None:
    """One branch of the union refuses the rank, the other one lacks the kind."""

    class Kind(Adapter):
        kind: str = Field(description="The kind.")

    class Other(Options):
        adapter: SmallAdapter | Kind = Field(SmallAdapter(), description="The adapter.")

    found = transferred(Other, adapter={"rank": 99, "alpha": 1.0})
    assert found.adapter == SmallAdapter(alpha=1.0)


def test_a_required_option_that_the_run_file_lacks_is_an_error() -> None:
    class Required(Options):
        kind: str = Field(description="The kind.")

    class Other(Options):
        adapter: Required = Field(description="The adapter.")

    with pytest.raises(ValidationError) as caught:
        transferred(Other, adapter={"rank": 4}, epochs=2.0)
    assert [item["loc"] for item in caught.value.errors()] == [("adapter",)]


CPU = Device(type="cpu", name="core", memory=None, cores=2)
ESTIMATE = Estimate(
    method="analytic", memory={}, flops=3e9, steps=10, tokens=1000, longest_row=9,
    micro_batch_tokens=9, compute_bytes=4,
)  # fmt: skip


def test_a_measured_speed_comes_after_earlier_runs_and_before_the_table() -> None:
    hardware, speed = load_hardware(environment={}), Speed(1e9, 2e9, 5.0)
    table = estimate_throughput(CPU, "lora", ESTIMATE, hardware, Calibration())
    found = estimate_throughput(CPU, "lora", ESTIMATE, hardware, Calibration(), speed)
    assert found == tuple(share * 1e9 for share in SHARE_OF_MEASURED) != table
    run = CalibrationEntry(
        time="t", device=device_key(CPU), technique="lora", method="analytic", expected=1, peak=1,
        flops=3e9, steps=10, seconds=10.0, compute_bytes=4,
    )  # fmt: skip
    low, high = estimate_throughput(
        CPU, "lora", ESTIMATE, hardware, Calibration((run,)), speed
    ) or (0, 0)
    assert low < 3e8 < high


def test_only_models_that_a_processor_can_build_are_measured() -> None:
    gpu = Device(type="cuda", name="gpu", memory=None, cores=2)
    assert measure_layer({"model_type": "llama"}, ESTIMATE, gpu) is None
    assert measure_layer({"model_type": "unknown"}, ESTIMATE, CPU) is None
