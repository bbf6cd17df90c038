"""The real schemas of the launchers, from their own packages."""

from __future__ import annotations

import re
from typing import Any

import kubernetes.client as kubernetes
from dstack._internal.core.models.configurations import parse_run_configuration
from jsonschema import Draft202012Validator
from kubeflow.training import models as kubeflow
from sky.utils import schemas as sky_schemas


class NotInSchema(ValueError):
    """A job file has what its launcher does not know."""


def validate_kubernetes(content: dict[str, Any]) -> None:
    """Compare a PyTorchJob with the models of the training operator and of Kubernetes."""
    if content["apiVersion"] != "kubeflow.org/v1" or content["kind"] != "PyTorchJob":
        raise NotInSchema(f"{content['apiVersion']} {content['kind']}")
    check_value(content, "KubeflowOrgV1PyTorchJob", "")


def check_value(value: Any, kind: str, where: str) -> None:
    """Check a value against a type of the models, such as ``list[V1Volume]``, in depth."""
    if found := re.fullmatch(r"list\[(.*)\]", kind):
        for position, item in enumerate(value):
            check_value(item, found[1], f"{where}[{position}]")
    elif found := re.fullmatch(r"dict\((?:str), (.*)\)", kind):
        for key, item in value.items():
            check_value(item, found[1], f"{where}.{key}")
    elif kind in ("str", "int", "bool"):
        if type(value).__name__ != kind:
            raise NotInSchema(f"{where}: must be {kind}, got {value!r}")
    elif kind != "object":
        check_model(value, kind, where)


def check_model(value: dict[str, Any], kind: str, where: str) -> None:
    model = getattr(kubeflow, kind, None) or getattr(kubernetes, kind)
    names = {json_name: name for name, json_name in model.attribute_map.items()}
    for key, item in value.items():
        if key not in names:
            raise NotInSchema(f"{where}.{key}: {kind} has no such field")
        check_value(item, model.openapi_types[names[key]], f"{where}.{key}")
    try:
        model(**{names[key]: item for key, item in value.items()})  # what it requires
    except ValueError as error:
        raise NotInSchema(f"{where}: {error}") from None


def validate_skypilot(content: dict[str, Any]) -> None:
    parts = [
        (sky_schemas.get_task_schema(), content),
        (sky_schemas.get_resources_schema(), content["resources"]),
    ]
    for schema, value in parts:
        for error in Draft202012Validator(schema).iter_errors(value):
            raise NotInSchema(error.message)


def validate_dstack(content: dict[str, Any]) -> None:
    try:
        parse_run_configuration(content)
    except Exception as error:  # dstack's own wraps pydantic's
        raise NotInSchema(str(error)) from None


VALIDATE = {
    "kubernetes": validate_kubernetes,
    "skypilot": validate_skypilot,
    "dstack": validate_dstack,
}
