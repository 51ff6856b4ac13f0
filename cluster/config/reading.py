"""Reads a run, with the workload and the overrides that it names, and the constants that it changes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cluster.config.hardware import Hardware
from cluster.config.load import load, read_yaml, shown, validate
from cluster.config.names import is_path, locate
from cluster.config.overrides import from_here, override
from cluster.config.policy import PolicyFile
from cluster.config.quantities import constants
from cluster.config.run import PolicyChoice, RunConfig
from emulation.errors import ConfigError, unknown


def load_run(name: str | Path, settings: Iterable[str] = ()) -> RunConfig:
    """A run by name or path; a workload that it names is read in its place, then `--set` settings are put in.

    Paths in a file are relative to it, paths in a setting to the current folder, where there is such a file.
    """
    path = name if isinstance(name, Path) else locate("run", "run", name)
    data = read_yaml(path)
    if isinstance(data.get("workload"), str):
        data["workload"] = load_workload(data["workload"], path.parent)
    where = shown(path)
    config = validate(RunConfig, override(RunConfig, data, map(from_here, settings)), where)
    return config.placed(path.stem, path.parent)


def load_workload(name: str, base: Path) -> dict[str, Any]:
    """What a workload file holds, its relative paths made relative to where it is used from."""
    path = locate("workload", "workload", name, base)
    data = read_yaml(path)
    for key in ("trace", "prompts"):
        value = data.get(key)
        if isinstance(value, str) and is_path(value):
            data[key] = str(path.parent.absolute() / value)
    serving = data.get("serving")
    if isinstance(serving, dict):
        batcher = serving.get("batcher")
        named = batcher if isinstance(batcher, dict) else {"name": batcher}
        if isinstance(given := named.get("name"), str) and given.endswith(".py"):
            serving["batcher"] = {**named, "name": str(path.parent.absolute() / given)}
        if isinstance(serving.get("recorded"), str):
            serving["recorded"] = str(path.parent.absolute() / serving["recorded"])
    return data


def policy_target(choice: PolicyChoice, base: Path) -> tuple[str, dict[str, Any]]:
    """Where a policy's class is ("module:Class" or "/path/file.py") and its parameters, those that a run sets last."""
    if choice.name.endswith(".py"):
        path = (base / choice.name).absolute()
        if not path.is_file():
            raise ConfigError(f"policy: there is no file {path}")
        return str(path), dict(choice.parameters)
    if ":" in choice.name:
        return choice.name, dict(choice.parameters)
    file_ = load(PolicyFile, "policy", "policy", choice.name, base)
    return file_.policy, {**file_.parameters, **choice.parameters}


def with_constants(hardware: Hardware, changed: dict[str, str], where: str) -> Hardware:
    """The machine with some constants set by the run: assumed, with the run as their source."""
    if not changed:
        return hardware
    known = {path.removeprefix("hardware."): quantity for path, quantity in constants("hardware", hardware)}
    data = hardware.model_dump(by_alias=True, exclude_unset=True)
    for path, value in changed.items():
        if path not in known:
            raise ConfigError(f"{where}: {unknown('constant', path, known)}")
        old = known[path]
        place: Any = data
        for key in path.split(".")[:-1]:
            place = next(row for row in place if row["name"] == key) if isinstance(place, tuple) else place[key]
        place[path.split(".")[-1]] = {"value": value, "kind": "assumed", "range": [value, value],
                                      "source": f"set by the run (the file has {old.value}: {old.source})"}
    return validate(Hardware, data, where)
