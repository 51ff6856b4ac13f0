"""The schema of a run: one choice of machine, model, precision, policy and workload, and how to carry it out."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, model_validator

from cluster.config.faults import STORAGE, FaultChoice
from cluster.config.metrics import MetricsChoice
from cluster.config.on_ray import OnRay
from cluster.config.quantities import Bandwidth, Strict, Value, refuse
from cluster.config.serve import Serve
from cluster.config.workload import Workload

EMBEDDED = "embedded"
"""The name of the small trained model that ships with moelab."""


class Named(Strict):
    """A choice that may be written as its bare name."""

    @classmethod
    def from_short(cls, data: object) -> object:
        return {"name": data} if isinstance(data, str) else data


class MachineChoice(Named):
    """A hardware file by name or path; options: its parameters; constants: dotted path -> another value.

    A constant that a run sets is recorded as assumed, with the run as its source: for sweeps.
    """

    name: str
    options: dict[str, int] = Field(default_factory=dict)
    constants: dict[str, str] = Field(default_factory=dict)


class ModelChoice(Named):
    """A shipped shape or `embedded` by name, a config.json by path, or a checkpoint folder in hub layout.

    name: a shipped shape, or embedded. config: the path of a config.json: a shape without weights. checkpoint: the path
    of a folder with weights. layers: cut it behind so many of its MoE layers, as a trace of its first layers needs.
    """

    name: str | None = None
    config: str | None = None
    checkpoint: str | None = None
    layers: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one(self) -> "ModelChoice":
        if sum(way is not None for way in (self.name, self.config, self.checkpoint)) != 1:
            raise refuse("a model is given in exactly one way: name, config or checkpoint")
        return self

    @property
    def has_weights(self) -> bool:
        """Whether there are weights to execute."""
        return self.checkpoint is not None or self.name == EMBEDDED


class PolicyChoice(Named):
    """A policy by name, as module:Class, or as the path of a Python file, with parameters."""

    name: str
    parameters: dict[str, Value] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _apart(self) -> "PolicyChoice":
        if self.name.endswith(")"):
            raise refuse(f"{self.name!r}: in a config, parameters stand apart from the name: "
                         "{name: lru, parameters: {slots: 8}}")
        return self


class Forecast(Named):
    """Where guesses of the next MoE layer's routing come from.

    name: no guesses; those of a trace; the next layer's real gate on this layer's hidden state (execute); the experts
    visited most so far, or in the prefill of the prompt at hand; the truth (oracle). accuracy: how often the oracle is
    right.
    """

    name: Literal["none", "recorded", "next_gate", "frequency", "prefill_frequency", "oracle"] = "none"
    accuracy: float | None = Field(default=None, ge=0, le=1)

    @model_validator(mode="after")
    def _fits(self) -> "Forecast":
        if self.accuracy is not None and self.name != "oracle":
            raise refuse(f"accuracy belongs to the oracle; {self.name!r} is as good as it is")
        return self


class Timeline(Strict):
    """The part of a run that timeline.perfetto-trace holds.

    first_s, last_s: the window of emulated time, in seconds. max_bytes: the size at which writing stops. max_ops: how
    many of a run's first operations are kept for it.
    """

    first_s: float = Field(default=0.0, ge=0)
    last_s: float | None = Field(default=None, gt=0)
    max_bytes: int = Field(default=64 << 20, ge=64 << 10)
    max_ops: int = Field(default=50_000, ge=0, le=10**8)

    @model_validator(mode="after")
    def _ordered(self) -> "Timeline":
        if self.last_s is not None and self.last_s <= self.first_s:
            raise refuse(f"last_s {self.last_s} is not after first_s {self.first_s}")
        return self


class Limits(Strict):
    """Where a run is cut short. steps: after so many; a prefill is one."""

    steps: int | None = Field(default=None, ge=1)


def _dilation(value: object) -> object:
    if value != "auto" and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
        raise refuse(f"{value!r} should be auto, or a number above 0: real seconds for an emulated one, like 1500")
    return value


class WallClock(Strict):
    """How `clock: wall` plays a run. dilation: real seconds for an emulated one; auto: the least that this host manages
    well. limit_s: the longest that a run may take so."""

    dilation: Annotated[float | str, BeforeValidator(_dilation)] = "auto"
    limit_s: float = Field(default=600.0, gt=0)


class RunConfig(Strict):
    """One run: who computes what, for whom, and how that is carried out.

    title: for lists. precision: of configs/precision/, by name or path. against: policies that `compare` sets beside
    `policy`. seed: what generated routing, arrivals and sampled answers are drawn from. engine: the compiled timing
    engine, or the readable one that it is compared with; both give the same. clock: emulated time only, or played for
    real as well (docs/wall.md). transport: in this process, a process a device, or actors on Ray; the result is the
    same. devices_per_actor: devices that share a process or an actor. workers: processes at most; by default one a
    device. restarts: how many actors or worker processes that end before their time are started again. out: a folder
    or a URL; by default runs/NAME. faults: what breaks meanwhile (docs/faults.md). storage: from where experts are
    read that no device holds any more. metrics: whether they are shown or written meanwhile (docs/metrics.md). report:
    a page is written beside results.
    """

    title: str = ""
    machine: MachineChoice
    model: ModelChoice
    precision: str = "bf16"
    policy: PolicyChoice
    against: tuple[PolicyChoice, ...] = Field(default=(), strict=False)
    workload: Workload
    forecast: Forecast = Forecast()
    seed: int = Field(default=0, ge=0)
    engine: Literal["compiled", "spec"] = "compiled"
    clock: Literal["virtual", "wall"] = "virtual"
    wall: WallClock = WallClock()
    transport: Literal["local", "processes", "ray"] = "local"
    devices_per_actor: int = Field(default=1, ge=1)
    workers: int | None = Field(default=None, ge=1)
    restarts: int = Field(default=8, ge=0)
    ray: OnRay = OnRay()
    out: str | None = None
    timeline: Timeline = Timeline()
    report: bool = True
    limits: Limits = Limits()
    faults: tuple[FaultChoice, ...] = Field(default=(), strict=False)
    storage: Bandwidth = STORAGE
    serve: Serve = Serve()
    metrics: MetricsChoice = MetricsChoice()

    _name: str = PrivateAttr(default="run")
    _folder: Path = PrivateAttr(default=Path())

    @model_validator(mode="after")
    def _consistent(self) -> "RunConfig":
        if self.workload.work == "execute" and not self.model.has_weights:
            given = self.model.name or self.model.config
            raise refuse(f"work: execute needs weights, and {given!r} is a shape only: use model: embedded or "
                         f"model: {{checkpoint: folder}}, or work: replay or synthetic")
        if self.workload.work == "execute" and self.model.layers is not None:
            raise refuse("model.layers cuts the shape of a model, and work: execute runs all of its weights: use work: "
                         "replay or synthetic")
        if self.workload.work == "execute" and self.forecast.name == "oracle":
            raise refuse("forecast: oracle looks at routing that is known before the run, so it needs work: replay or "
                         "synthetic; work: execute has forecast: next_gate")
        if self.workload.work != "execute" and self.forecast.name == "next_gate":
            raise refuse("forecast: next_gate evaluates real gates, so it needs work: execute; a trace may carry a "
                         "recorded forecast (forecast: recorded)")
        if self.faults and self.clock == "wall":
            raise refuse("faults belong to clock: virtual: players at the wall clock are handed a machine that stays")
        if self.forecast.name == "recorded" and self.workload.work != "replay":
            raise refuse(f"forecast: recorded is read from a trace, and work is {self.workload.work}")
        if self.clock == "wall" and self.ray.placement != "pack":
            raise refuse(f"ray.placement: {self.ray.placement} may put actors on several hosts, and clock: wall plays "
                         "on one: its players tell each other over sockets of one host")
        return self

    @property
    def name(self) -> str:
        """The stem of the file that it was read from."""
        return self._name

    @property
    def folder(self) -> Path:
        """What paths in it are relative to: the folder of its file."""
        return self._folder

    def placed(self, name: str, folder: Path) -> "RunConfig":
        """The same run as read from a file of this name in this folder."""
        copy = self.model_copy()
        copy._name, copy._folder = name, folder
        return copy
