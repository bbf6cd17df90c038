"""Offer the ``[estimate]`` table and the ``calibration`` reporter."""

from __future__ import annotations

from pydantic import Field

from tunesmith.offers import ReporterOffer, TableOffer
from tunesmith.options import DataPath, Options
from tunesmith_plugins.estimate.recorder import CalibrationRecorder


class EstimateOptions(Options):
    """The ``[estimate]`` table: settings of the planner, which do not affect the run."""

    prices: DataPath | None = Field(
        None,
        description=(
            "TOML file with GPUs and prices that override the packaged table. Unset: "
            "prices.toml in the configuration directory, if it exists."
        ),
    )


class CalibrationOptions(Options):
    """``calibration`` has no options. ``TUNESMITH_CALIBRATION=0`` turns it off."""


ESTIMATE = TableOffer(
    name="estimate",
    summary="settings of the planner",
    config=EstimateOptions,
)
CALIBRATION = ReporterOffer(
    name="calibration",
    summary="stores predicted and measured memory and time to correct later predictions",
    config=CalibrationOptions,
    build=lambda options, folder: CalibrationRecorder(folder),
    always=True,
)
