"""A study: one run, and what of it varies, as a grid, as a list of points, or as both."""

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from cluster.config.load import read_yaml, shown, validate
from cluster.config.names import locate, trace_path
from cluster.config.on_ray import OnRay
from cluster.config.overrides import PATHS, SUFFIXES, put_value
from cluster.config.quantities import refuse
from cluster.config.reading import load_workload
from cluster.config.run import EMBEDDED, RunConfig
from cluster.identity import HOST_KEYS
from cluster.kept import file_sha256
from cluster.observe.digest import canonical, sha256
from cluster.resolve import EMBEDDED_FOLDER
from emulation.errors import ConfigError, MoelabError, unknown
from moe import shapes
from studies.from_file import FromFile, with_lists

SETTLED: dict[str, Any] = {"transport": "local", "clock": "virtual", "against": [], "workers": None,
                           "devices_per_actor": 1, "restarts": 8, "out": None, "timeline": {}}
"""What a sweep decides itself: each point is one policy's run in one process."""


class Study(FromFile):
    """Points around one run.

    run: a run by name or path, or a whole run written here. set: dotted path -> value, for every point. grid: dotted
    path -> values; every combination is a point. points: a list of {dotted path: value}; where a grid is given too,
    each of them with every combination. limit: the most points that are meant. most, least: the column that tells the
    best point, by default the most output_tokens_per_s.
    """

    title: str = ""
    run: str | dict[str, Any]
    settings: dict[str, Any] = Field(default_factory=dict, alias="set")
    grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    points: tuple[dict[str, Any], ...] = Field(default=(), strict=False)
    limit: int = Field(default=10_000, ge=1, le=1_000_000)
    most: str | None = None
    least: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, data: object) -> object:
        return with_lists(data, "grid")

    @model_validator(mode="after")
    def _sound(self) -> "Study":
        if not self.grid and not self.points:
            raise refuse("a study needs a grid (path: [values]) or points (a list of {path: value})")
        if self.most is not None and self.least is not None:
            raise refuse("most and least are both given: one column tells which point is best")
        count = math.prod(len(values) for values in self.grid.values()) * (len(self.points) or 1)
        if count > self.limit:
            raise refuse(f"there are {count} points and the limit is {self.limit}: if so many are meant, raise limit")
        for place, paths in (("set", self.settings), ("grid", self.grid), *(("points", p) for p in self.points)):
            for path in paths:
                if path.split(".")[0] in HOST_KEYS:
                    raise refuse(f"{place}.{path}: {path.split('.')[0]} says how a run is carried out and changes no "
                                 "result, and a sweep carries its points out in its own way")
                if place == "points" and path in self.grid:
                    raise refuse(f"points.{path} is in the grid too: a point has one value of it")
        return self

    def expand(self) -> "list[Point]":
        """Every point once, in the order of the file; refuses one that is no run, with its coordinates."""
        base = self.base()
        found: dict[str, Point] = {}
        for changes in self._combinations():
            point = self.point(changes, base)
            found.setdefault(point.key, point)
        return list(found.values())

    def point(self, changes: Mapping[str, Any], base: "Base") -> "Point":
        """The run with these changes (dotted path -> value); refuses what is no run, with its coordinates."""
        at = columns(changes)
        where = f"{self._where}: {', '.join(f'{key}={value}' for key, value in at.items()) or 'its run'}"
        data: dict[str, Any] = base.data
        for path, value in sorted({**self.settings, **changes}.items(), key=lambda item: item[0].count(".")):
            mine = _rebased(path, value, self._folder, base.folder)
            if path == "workload" and isinstance(mine, str):
                mine = base.workload(mine, base.folder)
            data = put_value(RunConfig, data, path, mine, where)
        config = validate(RunConfig, data, where).placed(base.stem, base.folder)
        try:
            key = fingerprint(config)
        except MoelabError as error:
            raise type(error)(f"{where}: {error}") from None
        return Point(key, at, config)

    def on_ray(self) -> OnRay:
        """How the study's run stands on a Ray cluster."""
        return validate(OnRay, self.base().data.get("ray") or {}, f"{self._where}: ray")

    def base(self) -> "Base":
        """The run before anything is put in."""
        if isinstance(self.run, str):
            path = locate("run", "run", self.run, self._folder)
            data, folder, stem = read_yaml(path), path.parent, path.stem
        else:
            data, folder, stem = dict(self.run), self._folder, self.name
        if isinstance(data.get("workload"), str):
            data["workload"] = load_workload(data["workload"], folder)
        return Base({**data, **SETTLED}, folder, stem, cache(load_workload))

    def _combinations(self) -> Iterator[dict[str, Any]]:
        for listed in self.points or ({},):
            for values in itertools.product(*self.grid.values()):
                yield {**listed, **dict(zip(self.grid, values, strict=True))}


@dataclass(frozen=True)
class Base:
    """A study's run before anything is put in: what it holds, the folder that its paths are relative to, its name.

    workload: reads a workload that a value names, each once."""

    data: dict[str, Any]
    folder: Path
    stem: str
    workload: Callable[[str, Path], dict[str, Any]]


@dataclass(frozen=True)
class Point:
    """One run of a study. key: SHA-256 of what the run is, the files that it names included. at: its coordinates."""

    key: str
    at: dict[str, Any]
    config: RunConfig

    @property
    def work(self) -> float:
        """A guess of how long it takes beside other points: steps, times what a step's tokens add, times layers."""
        work, serving = self.config.workload, self.config.workload.serving
        if serving is not None:
            requests = serving.requests or 1
            batch = min(requests, serving.max_batch)
            prompt, output = (length.mean if length is not None else 1.0
                              for length in (serving.prompt_tokens, serving.output_tokens))
        else:
            requests, batch = work.requests or work.batch, work.batch
            prompt, output = float(work.prompt_tokens or 1), float(work.output_tokens or 1)
        steps = output * -(-requests // batch) + requests * prompt / 64
        return steps * (4 + min(batch, 64)) * (self.config.model.layers or 32)


def load_study(name: str | Path) -> Study:
    """A study by name or path."""
    path = name if isinstance(name, Path) else locate("study", "study", name)
    study = validate(Study, read_yaml(path), shown(path))
    return study.placed(path.stem, path.parent, shown(path))


def columns(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Coordinates as flat columns: what is given as a mapping by its keys, its name as the mapping's own column."""
    out: dict[str, Any] = {}
    for path, value in changes.items():
        if isinstance(value, Mapping):
            out |= {key.removesuffix(".name"): inner
                    for key, inner in columns({f"{path}.{key}": inner for key, inner in value.items()}).items()}
        else:
            out[path] = json.dumps(value) if isinstance(value, list | tuple) else value
    return out


def _rebased(path: str, value: Any, study: Path, run: Path) -> Any:
    """A value whose relative paths, given relative to the study's file, hold from where the run's file lies."""
    if isinstance(value, Mapping):
        return {key: _rebased(f"{path}.{key}", inner, study, run) for key, inner in value.items()}
    if path in PATHS and isinstance(value, str) and study.absolute() != run.absolute() and (
            "/" in value or value.endswith(SUFFIXES)):
        return str(study.absolute() / value)
    return value


def fingerprint(config: RunConfig) -> str:
    """SHA-256 of a run's config and of the small files that it names: the same run has the same one anywhere."""
    files = {name: _file_digest(path) for name, path in _files(config).items()}
    return sha256(canonical({"config": config.model_dump(mode="json", exclude=HOST_KEYS), "files": files}))


def _files(config: RunConfig) -> dict[str, Path]:
    base, model, work, policy = config.folder, config.model, config.workload, config.policy.name
    files = {"machine": locate("hardware", "machine", config.machine.name, base),
             "precision": locate("precision", "precision", config.precision, base)}
    if policy.endswith(".py"):
        files["policy"] = base / policy
    elif ":" not in policy:
        files["policy"] = locate("policy", "policy", policy, base)
    if model.has_weights:
        weights = EMBEDDED_FOLDER if model.checkpoint is None else base / model.checkpoint
        files |= {"model": weights / "config.json", "index": weights / "model.safetensors.index.json"}
    elif model.config is not None:
        files["model"] = base / model.config
    elif model.name in shapes.names():
        files["model"] = shapes.CONFIGS / f"{model.name}.json"
    else:
        raise ConfigError(unknown("model", str(model.name), (EMBEDDED, *shapes.names())))
    if work.trace is not None:
        files["trace"] = trace_path(work.trace, base)
    if work.prompts is not None:
        files["prompts"] = base / work.prompts
    if work.generator is not None and work.generator.fitted is not None:
        files["fitted"] = base / Path(work.generator.fitted).expanduser()
    if work.serving is not None and work.serving.recorded is not None:
        files["requests"] = base / work.serving.recorded
    if work.serving is not None and work.serving.batcher.name.endswith(".py"):
        files["batcher"] = base / work.serving.batcher.name
    return files


def _file_digest(path: Path) -> str:
    """SHA-256 of a file, or that there is none: what is wrong with that, the run tells."""
    return file_sha256(path).hex() if path.is_file() else "absent"
