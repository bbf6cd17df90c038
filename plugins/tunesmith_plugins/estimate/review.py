"""Predict the memory of a run, refuse a run that cannot fit, and warn about one that may not fit.

An analytic estimate is usually decisive. The training step is only traced if it is not.
"""

from __future__ import annotations

from dataclasses import replace

from tunesmith import distributed
from tunesmith.contracts import Finding, ReviewResult
from tunesmith.errors import TunesmithError
from tunesmith.estimates import Estimate, EstimateRequest
from tunesmith.events import Forecast
from tunesmith.plan import ModelReview, Plan
from tunesmith.text import format_bytes
from tunesmith_plugins.estimate.calibration import Calibration, device_key, read_calibration
from tunesmith_plugins.estimate.hardware import Hardware, load_hardware_of_run
from tunesmith_plugins.estimate.memory_peak import (
    MemoryFit,
    MemoryPeak,
    check_fit,
    compute_peak,
    get_process_memory,
)
from tunesmith_plugins.estimate.offer import EstimateOptions
from tunesmith_plugins.estimate.request import (
    build_request,
    count_all_flops,
    estimate_seconds,
    estimate_throughput,
    first_estimate,
    iterate_estimates,
    measure_layer,
    transfer_options,
)
from tunesmith_plugins.estimate.run_time import ForwardSpeed, predict_run_time
from tunesmith_plugins.estimate.savings import Saving, find_savings
from tunesmith_torch.runtime import machine
from tunesmith_torch.runtime.machine import Device

AUTO_CHOICE = 'parallel = "auto"'
"""Start of an estimate's note on how it chose to distribute training over processes."""
UNTRACKED_COMPONENTS = ("framework", "fragmentation")
"""Components of an estimate that the GPU allocator's counter does not include."""


def review_memory(review: ModelReview) -> ReviewResult:
    """Return the forecast of a run, with an error if it cannot fit, or a warning if it may not.

    Return nothing if the technique has no estimate, and a note if the estimate fails.
    """
    plan = review.plan
    if plan.technique.offer.estimate is None:
        return ReviewResult()
    device = machine.detect_machine().select_device(plan.run.device)
    processes = distributed.world_size()
    hardware, notes = load_hardware_of_run(plan.table(EstimateOptions).prices)
    try:
        request = build_request(
            plan, device, processes, review.train, review.test, config=review.config
        )
        share = get_process_memory(device, machine.count_local_ranks(processes))
        request = replace(request, process_memory=share)
        device = replace(device, memory=share)
        decision = _decide_fit(plan, request, device)
        if decision is None:
            return ReviewResult()
        estimate, peak, fit = decision
        forecast = _build_forecast(review, estimate, peak, device, hardware)
    except TunesmithError as error:  # A failed estimate must not stop a run that may well fit.
        text = f"the memory of the run could not be predicted: {error.message}"
        return ReviewResult(findings=[Finding(level="info", where="forecast", message=text)])
    findings = []
    if fit != "yes":
        need = _describe_need(peak, device, request.processes, fit)
        warning = Finding(level="warning", where="memory", message=need)
        refusal = _refusal(review, request, decision, device, warning) if fit == "no" else warning
        findings.append(refusal)
    findings += [Finding(level="warning", where="estimate.prices", message=n) for n in notes]
    return ReviewResult(findings=findings, forecast=forecast)


def _decide_fit(
    plan: Plan, request: EstimateRequest, device: Device
) -> tuple[Estimate, MemoryPeak, MemoryFit] | None:
    """Return the decisive estimate, its calibrated peak, and whether the peak fits the device.

    Better estimates are requested while the answer is "maybe". Guessed row lengths are never
    decisive, because the forecast of the time needs exact ones.
    """
    component = plan.technique
    calibration = read_calibration(device)
    decision: tuple[Estimate, MemoryPeak, MemoryFit] | None = None
    for estimate in iterate_estimates(component.offered, component.config, request):
        peak = compute_peak(calibration.correct(estimate, component.offer.name))
        fit: MemoryFit = "yes" if device.memory is None else check_fit(peak, device.memory)
        decision = estimate, peak, fit
        if fit != "maybe" and not estimate.has_guessed_lengths:
            break
    return decision


def _build_forecast(
    review: ModelReview, estimate: Estimate, peak: MemoryPeak, device: Device, hardware: Hardware
) -> Forecast:
    name = review.plan.technique.offer.name
    calibration = read_calibration(device)
    correction = calibration.correction(estimate, name)
    is_first = calibration.throughput(name, estimate) is None
    speed = measure_layer(review.config, estimate, device) if is_first else None
    throughput = estimate_throughput(device, name, estimate, hardware, calibration, speed)
    listed = estimate_throughput(device, name, estimate, hardware, Calibration())
    training = estimate_seconds(count_all_flops(estimate), throughput) if throughput else None
    time = predict_run_time(
        review,
        estimate,
        training,
        ForwardSpeed(listed) if listed else None,
        calibration,
        device,
        ForwardSpeed.from_measured(speed) if speed else None,
    )
    return Forecast(
        technique=name,
        method=estimate.method,
        device=device_key(device),
        device_type=device.type,
        available=device.memory,
        memory={**peak.to_json()},
        phase=peak.phase,
        uncalibrated_peak=compute_peak(estimate).expected,
        untracked_bytes=_untracked_bytes(estimate, device),
        calibration_runs=correction.runs if correction else 0,
        seconds=list(training) if training else [],
        parts={part: list(seconds) for part, seconds in time.parts.items()},
        uncalibrated_parts=time.uncalibrated,
        flops=estimate.flops,
        steps=estimate.steps,
        tokens=estimate.tokens,
        compute_bytes=estimate.compute_bytes,
        notes=list(estimate.notes),
    )


def _refusal(
    review: ModelReview,
    request: EstimateRequest,
    decision: tuple[Estimate, MemoryPeak, MemoryFit],
    device: Device,
    if_forced: Finding,
) -> Finding:
    """Build an error for a run that cannot fit, listing the changes that would help."""
    estimate, peak, _ = decision
    limit = device.memory or 0
    choices = [note for note in estimate.notes if note.startswith(AUTO_CHOICE)]
    component = review.plan.technique
    savings = find_savings(component.offered, component.config, request, peak, limit)
    changes = [_describe_saving(saving) for saving in savings]
    changes += _other_techniques_that_fit(review, request, limit)
    title = "no change to the run file is known to help"
    if changes:
        title = "changes to the run file that would help:"
        if savings and not any(saving.enough for saving in savings):
            title = "changes to the run file that would help, but are not enough even together:"
    return Finding(
        level="error",
        where="",
        message=f"not enough memory: {_who(request.processes)} needs at least {_size(peak.low)}, "
        f"probably {_size(peak.expected)}; {_free(device, request.processes)}",
        hint="\n  ".join(
            [
                *choices,
                title,
                *changes,
                "`tunesmith plan RUN.toml` shows which GPUs the run fits on; `tunesmith run "
                "--force` or `tunesmith resume --force` starts the run anyway",
            ]
        ),
        if_forced=if_forced,
    )


def _other_techniques_that_fit(
    review: ModelReview, request: EstimateRequest, limit: int
) -> list[str]:
    """Return a line for each other technique that accepts the data and needs at most ``limit``."""
    chosen = review.plan.technique
    found = []
    for technique in review.techniques:
        if technique.full_name == chosen.offered.full_name:
            continue
        if not {type(record) for record in request.train} <= technique.offer.accepts:
            continue
        try:
            config = transfer_options(technique, chosen.config)
            estimate = first_estimate(technique, config, request)
        except (TunesmithError, ValueError):  # Without an estimate, it cannot be suggested.
            continue
        if estimate is not None and compute_peak(estimate).high <= limit:
            size = _size(compute_peak(estimate).expected)
            found.append(f'technique.use = "{technique.offer.name}" needs about {size}')
    return found


def _untracked_bytes(estimate: Estimate, device: Device) -> int:
    """Return the number of estimated bytes that the measured peak will not include.

    On a GPU, the allocator's counter omits some components. On a CPU, the resident memory of the
    process includes all of them.
    """
    if device.type == "cpu":
        return 0
    components = estimate.memory[compute_peak(estimate).phase].components
    return sum(components.get(name, 0) for name in UNTRACKED_COMPONENTS)


def _describe_need(peak: MemoryPeak, device: Device, processes: int, fit: MemoryFit) -> str:
    free, who = _free(device, processes), _who(processes)
    if fit == "no":
        need = f"needs at least {_size(peak.low)}"
        need = need if processes == 1 else f"{who} {need}"
        return f"not enough memory, but the run was started with --force: {need}; {free}"
    return (
        f"memory may run out: {who} needs {_size(peak.low)} to {_size(peak.high)}, probably "
        f"{_size(peak.expected)}; {free}"
    )


def _who(processes: int) -> str:
    return "the run" if processes == 1 else f"each of {processes} processes"


def _free(device: Device, processes: int) -> str:
    each = "" if processes == 1 else " for each"
    return f"{device.name} has {_size(device.memory or 0)} free{each}"


def _describe_saving(saving: Saving) -> str:
    changes = ", ".join(saving.changes)
    enough = "" if saving.enough else ", which is not enough on its own"
    return f"{changes} saves {_size(saving.saves)}{enough} ({', '.join(saving.costs)})"


def _size(size: int) -> str:
    return format_bytes(size)
