"""Build the job file of each launcher as a dict, which is written as YAML."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import UsageError
from tunesmith_cloud.options import CloudOptions


@dataclass(frozen=True)
class Work:
    """The run that a job executes, with its paths inside the job."""

    name: str
    """Name of the run, valid as a host name."""
    run_file: str
    """Path of the run file inside the job."""
    folder: str
    """Path of the run folder on the volume."""
    sets: Sequence[str] = ()

    def command(self, options: CloudOptions) -> list[str]:
        """Return the job's command line as a list of words."""
        words = ["python", "-P", "-m", "tunesmith_cloud.job"]
        words += ["--processes", str(max(1, options.gpu_count))]
        for value in self.sets:
            words += ["--set", value]
        return [*words, self.run_file, self.folder]


@dataclass(frozen=True)
class Launcher:
    """A launcher, with the function that builds its job file, and the command to submit it."""

    build: Callable[[Work, CloudOptions], dict[str, Any]]
    start: str
    """Command that submits a job file, which is its last argument."""


def name_job(text: str) -> str:
    """Return a job name that every launcher accepts: up to 40 of a-z, digits and hyphens."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-")
    return plain if plain[:1].isalpha() else f"run-{plain}".strip("-")


def build_kubernetes(work: Work, options: CloudOptions) -> dict[str, Any]:
    """Return a PyTorchJob for the Kubeflow training operator, on one machine.

    ``restartPolicy: ExitCode`` restarts a container that a signal killed (exit code 128 or higher),
    and treats an error of the run (exit code 1 to 127) as final.

    Raises:
        UsageError: the image or the volume is not set.
    """
    if options.image is None:
        raise UsageError(
            "cloud.image: Kubernetes needs a container image", hint="add --image REGISTRY/NAME:TAG"
        )
    if options.volume is None:
        raise UsageError(
            (
                "cloud.volume: Kubernetes needs a volume, because a restarted container loses "
                "its files"
            ),
            hint="name a persistent volume claim with --volume NAME",
        )
    resources: dict[str, Any] = {"cpu": str(options.cpus), "memory": f"{options.memory}Gi"}
    if options.gpu_count:
        resources["nvidia.com/gpu"] = str(options.gpu_count)
    container = {
        "name": "pytorch",  # The operator looks for this name.
        "image": options.image,
        "command": work.command(options),
        "resources": {"requests": resources, "limits": resources},
        "volumeMounts": [
            {"name": "runs", "mountPath": options.mount},
            {"name": "memory", "mountPath": "/dev/shm"},  # noqa: S108 - inside the container
        ],
    }
    pod: dict[str, Any] = {
        "containers": [container],
        "terminationGracePeriodSeconds": options.grace_seconds,
        "volumes": [
            {"name": "runs", "persistentVolumeClaim": {"claimName": options.volume}},
            {"name": "memory", "emptyDir": {"medium": "Memory"}},
        ],
    }
    if options.gpu_type:
        pod["nodeSelector"] = {"nvidia.com/gpu.product": options.gpu_type}
    replica = {
        "replicas": 1,
        "restartPolicy": "ExitCode" if options.max_restarts else "Never",
        "template": {"spec": pod},
    }
    metadata = {"name": work.name}
    if options.namespace:
        metadata["namespace"] = options.namespace
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": metadata,
        "spec": {
            "runPolicy": {"backoffLimit": options.max_restarts, "cleanPodPolicy": "None"},
            "pytorchReplicaSpecs": {"Master": replica},
        },
    }


def build_skypilot(work: Work, options: CloudOptions) -> dict[str, Any]:
    """Return a SkyPilot task for ``sky jobs launch``. SkyPilot syncs the run file's folder."""
    resources: dict[str, Any] = {
        "cpus": f"{options.cpus}+",
        "memory": f"{options.memory}+",
        "disk_size": options.disk,
        "use_spot": options.spot,
        # Exit codes after SIGTERM (143) and SIGKILL (137), when a machine is preempted.
        "job_recovery": {
            "max_restarts_on_errors": 0,
            **({"recover_on_exit_codes": [137, 143]} if options.max_restarts else {}),
        },
    }
    if options.gpu_count:
        if not options.gpu_type:
            raise UsageError(
                (f"cloud.gpus: SkyPilot needs a GPU type, such as A100:2, but got {options.gpus}"),
                hint="add --gpus A100:2",
            )
        resources["accelerators"] = f"{options.gpu_type}:{options.gpu_count}"
    if options.image:
        resources["image_id"] = f"docker:{options.image}"
    task: dict[str, Any] = {
        "name": work.name,
        "workdir": ".",
        "resources": resources,
        "run": shlex.join(work.command(options)),
    }
    if options.volume:
        task["volumes"] = {options.mount: options.volume}
    if options.setup:
        task["setup"] = "\n".join(options.setup)
    return task


def build_dstack(work: Work, options: CloudOptions) -> dict[str, Any]:
    """Return a dstack task. dstack copies the files in the run file's folder."""
    resources: dict[str, Any] = {
        "cpu": f"{options.cpus}..",
        "memory": f"{options.memory}GB..",
        "disk": f"{options.disk}GB..",
    }
    if options.gpu_count:
        gpu: dict[str, Any] = {"count": options.gpu_count}
        if options.gpu_type:
            gpu["name"] = options.gpu_type
        resources["gpu"] = gpu
    task: dict[str, Any] = {
        "type": "task",
        "name": work.name,
        **({"image": options.image} if options.image else {"python": "3.12"}),
        "files": ["."],
        "commands": [*options.setup, shlex.join(work.command(options))],
        "resources": resources,
        "spot_policy": "auto" if options.spot else "on-demand",
    }
    if options.volume:
        task["volumes"] = [{"name": options.volume, "path": options.mount}]
    if options.max_restarts:
        task["retry"] = {"on_events": ["interruption", "no-capacity"], "duration": "1d"}
    return task


LAUNCHERS: Mapping[str, Launcher] = {
    "kubernetes": Launcher(build_kubernetes, "kubectl apply -f"),
    "skypilot": Launcher(build_skypilot, "sky jobs launch"),
    "dstack": Launcher(build_dstack, "dstack apply -f"),
}
