"""JSON schemas of the custom resources, from the notation of crds.yaml and Kubernetes' own definitions."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from kubernetes_validate.utils import schema_contents
from referencing import Registry, Resource

KUBERNETES = "1.31"
"""The release whose definitions count: old enough for clusters in use."""
FOLDER = f"kubernetes-json-schema/v{KUBERNETES}.0-local-strict"

NOTATION = yaml.safe_load(Path(__file__).with_name("crds.yaml").read_text(encoding="utf-8"))
SIMPLE = ("string", "integer", "number", "boolean")
META = "k8s:io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"


@cache
def kubernetes() -> Any:
    """Kubernetes' definitions, in which no object takes a field that it does not know."""
    return schema_contents(f"{FOLDER}/_definitions.json", KUBERNETES)


def typed(kind: str | list[str]) -> dict[str, Any]:
    """The schema of a type as crds.yaml writes it."""
    if isinstance(kind, list):
        return {"enum": kind}
    if kind == "any":
        return {}
    if kind in SIMPLE:
        return {"type": kind}
    if kind.startswith("[]"):
        return {"type": "array", "items": typed(kind[2:])}
    if kind.startswith("{}"):
        return {"type": "object", "additionalProperties": typed(kind[2:])}
    if kind.startswith("k8s:"):
        assert kind[4:] in kubernetes()["$defs"], kind
        return {"$ref": f"{kubernetes()['$id']}#/$defs/{kind[4:]}"}
    return {"$ref": f"#/$defs/{kind}"}


def an_object(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False,
            "required": [name[:-1] for name in fields if name.endswith("!")],
            "properties": {name.removesuffix("!"): typed(kind) for name, kind in fields.items()}}


@cache
def validator(api: str, kind: str) -> jsonschema.Draft202012Validator:
    """What a resource is held against; KeyError or an error of kubernetes-validate's where there is no such kind."""
    registry: Registry[Any] = Resource.from_contents(kubernetes()) @ Registry()
    if api in NOTATION:
        objects = NOTATION[api]
        whole = {"apiVersion!": [api], "kind!": [kind], "metadata!": META, **objects[kind]}
        schema = {"$id": f"https://moelab.invalid/{api}/{kind}", **an_object(whole),
                  "$defs": {name: an_object(fields) for name, fields in objects.items()}}
    else:
        group, _, version = api.rpartition("/")
        file = "-".join(part for part in (kind.lower(), group.partition(".")[0], version) if part)
        schema = schema_contents(f"{FOLDER}/{file}.json", KUBERNETES)
        registry = Resource.from_contents(schema) @ registry
    return jsonschema.Draft202012Validator(schema, registry=registry)


def complaint(document: Mapping[str, Any]) -> str:
    """What is wrong with a document first: where, and what; empty where nothing is."""
    found = validator(document["apiVersion"], document["kind"])
    error = next(iter(found.iter_errors(document)), None)
    return "" if error is None else f"{error.json_path}: {error.message[:200]}"
