"""How far the emulation is from a machine that was measured: the same policies, on the same routing, side by side."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from actors.scheduler import Scheduler
from cluster.build import build_machine
from cluster.config.load import load_hardware, load_precision, sentence
from emulation.engine.choose import make_engine
from emulation.engine.contract import Engine
from emulation.errors import InputError
from emulation.machine import Machine
from emulation.model import Model
from emulation.reading import read_json
from emulation.units import seconds
from emulation.view import Routing, Setting, Step
from moe.fields import LARGEST_COUNT
from schedulers.registry import load_policy
from studies.counted import model_of

Ints = NDArray[np.int64]
Part = TypeVar("Part", bound=BaseModel)
COLUMNS = ("experts", "forecast", "step", "sequence", "phase")
COUNTS = ("hits", "misses", "copied_bytes", "cpu_experts", "substituted")
Whole = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
Counted = Annotated[int, Field(ge=0)]


class Read(BaseModel):
    """A part of a reference file; what it holds besides is left alone."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


class Case(Read):
    """What is emulated of one row: nothing that was measured."""

    policy: str
    batch: Whole
    slots: Whole
    trace: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=255)]
    skip_steps: Counted


class Measured(Read):
    """What one row says was measured; each may be absent."""

    measured_step_s: Annotated[float, Field(gt=0, strict=False)] | None = None
    steady: bool | None = None
    hits: Counted | None = None
    misses: Counted | None = None
    copied_bytes: Counted | None = None
    cpu_experts: Counted | None = None
    substituted: Counted | None = None


class Head(Read):
    """The model's shape, its precision and context, and the host's hardware file."""

    model: str
    layers: Whole
    d_model: Whole
    d_ff: Whole
    experts: Whole
    top_k: Whole
    heads: Whole
    kv_heads: Whole
    head_dim: Whole
    dtype: str
    context: Whole
    host: str


class Rows(Read):
    """The rows, each read twice: as a case, and as what was measured."""

    rows: tuple[dict[str, Any], ...] = Field(min_length=1, max_length=100_000, strict=False)


@dataclass(frozen=True)
class Reference:
    """A file of measured rows: the model's shape, the host, the cases, and beside them what was measured."""

    path: Path
    head: Head
    cases: tuple[Case, ...]
    measured: tuple[Measured, ...]


@dataclass(frozen=True)
class Emulated:
    """One case, emulated: the median step in seconds after the skipped ones, and counts over all steps."""

    step_s: float
    hits: int
    misses: int
    copied_bytes: int
    cpu_experts: int
    substituted: int


@dataclass(frozen=True)
class Row:
    """One case with what was measured beside it. error: emulated over measured, less one; None without a measure."""

    policy: str
    batch: int
    slots: int
    measured_s: float | None
    emulated_s: float
    error: float | None
    steady: bool | None
    hits: int
    misses: int
    copied_bytes: int
    cpu_experts: int
    substituted: int
    counts_equal: bool | None


def read_reference(path: Path) -> Reference:
    """Reads and checks a reference file; what is wrong is told with its place."""
    data = read_json(path, "reference")
    head, rows = _checked(Head, data, str(path)), _checked(Rows, data, str(path)).rows
    cases = tuple(_checked(Case, row, f"{path}: rows[{i}]") for i, row in enumerate(rows))
    measured = tuple(_checked(Measured, row, f"{path}: rows[{i}]") for i, row in enumerate(rows))
    return Reference(path, head, cases, measured)


def _checked(part: type[Part], data: object, where: str) -> Part:
    try:
        return part.model_validate(data)
    except ValidationError as error:
        raise InputError(sentence(error, where)) from None


class Emulation:
    """Emulates the cases of one reference on a machine file."""

    def __init__(self, reference: Reference, machine: str | Path, engine: Callable[..., Engine]) -> None:
        head, self.reference, self._engine = reference.head, reference, engine
        precision = load_precision(head.dtype)
        self.machine: Machine = build_machine(load_hardware(str(machine)), {}, precision.compute, str(machine))
        self.model: Model = model_of(head, head.dtype)
        self._traces: dict[str, dict[str, Ints]] = {}

    def emulate(self, case: Case) -> Emulated:
        """One case, from a cold start to the trace's last step."""
        trace = self._trace(case.trace)
        machine, experts = self.machine, trace["experts"]
        popularity = np.stack([np.bincount(ids.ravel(), minlength=self.model.experts)
                               for ids in experts.swapaxes(0, 1)])
        policy = load_policy(case.policy, {} if case.policy == "resident" else {"slots": case.slots})
        room = np.array([device.memory_bytes for device in machine.devices], np.int64)
        run = Scheduler(Setting(machine, self.model, room, popularity), policy, self._engine)
        for now, routed, guessed in self._steps(trace):
            run.begin(now)
            for moe, routing in enumerate(routed):
                run.decide(routing, guessed[moe + 1] if moe + 1 < len(guessed) else None)
            run.end()
        run.finish()
        took = [seconds(times.end_ps - times.begin_ps) for times in run.steps][case.skip_steps:]
        if not took:
            raise InputError(f"{self.reference.path}: a row skips {case.skip_steps} steps, and {case.trace} has only "
                             f"{len(run.steps)}")
        tally = run.counts.phases["decode"]
        beside = sum(int(tally.runs[number]) for number in machine.units)
        return Emulated(float(np.median(took)), tally.hits, tally.misses, tally.loaded_bytes, beside,
                        tally.substituted_experts)

    def _trace(self, name: str) -> dict[str, Ints]:
        if name in self._traces:
            return self._traces[name]
        path = self.reference.path.parent / name
        try:
            with np.load(path, allow_pickle=False) as file:
                trace = {key: file[key].astype(np.int64) for key in COLUMNS}
        except FileNotFoundError:
            raise InputError(f"{self.reference.path}: there is no trace {path}") from None
        except (KeyError, ValueError, OSError) as error:
            raise InputError(f"{path} is no trace with experts, forecast, step, sequence and phase: {error}") from None
        head, rows = self.reference.head, len(trace["step"])
        for key, shape in (("experts", (rows, head.layers, head.top_k)), ("forecast", (rows, head.layers, head.top_k)),
                           ("sequence", (rows,)), ("phase", (rows,))):
            if trace[key].shape != shape or not rows:
                raise InputError(f"{path}: {key} has the shape {trace[key].shape}, and {head.model} with {head.layers} "
                                 f"layers and top-{head.top_k} needs {shape}")
        for key in ("experts", "forecast"):
            used = trace[key][:, 1:] if key == "forecast" else trace[key]
            if used.size and not 0 <= used.min() <= used.max() < head.experts:
                raise InputError(f"{path}: {key} names expert {used.max()}, and {head.model} has {head.experts}")
        return self._traces.setdefault(name, trace)

    def _steps(self, trace: dict[str, Ints]) -> Iterator[tuple[Step, list[Routing], list[Routing]]]:
        weights = np.full((1, self.model.top_k), 1 / self.model.top_k)
        layers = len(self.model.moe_layers)
        for number in np.unique(trace["step"]).tolist():
            rows = trace["step"] == number
            n = int(rows.sum())
            step = Step(number, trace["sequence"][rows], np.full(n, self.reference.head.context),
                        trace["phase"][rows], np.zeros(n, np.int64), np.ones(n, np.bool_))
            each = weights.repeat(n, 0)
            yield (step, [Routing(trace["experts"][rows, layer], each) for layer in range(layers)],
                   [Routing(trace["forecast"][rows, layer], each) for layer in range(layers)])


def compare(case: Case, emulated: Emulated, measured: Measured) -> Row:
    """What was emulated beside what was measured, where anything was."""
    step_s = measured.measured_step_s
    known = [name for name in COUNTS if getattr(measured, name) is not None]
    return Row(
        case.policy, case.batch, case.slots, step_s, emulated.step_s, emulated.step_s / step_s - 1 if step_s else None,
        measured.steady, **{name: value for name, value in asdict(emulated).items() if name in COUNTS},
        counts_equal=all(getattr(measured, n) == getattr(emulated, n) for n in known) if known else None)


def compare_all(reference: Reference, machine: str, progress: Callable[[int, int, str], None]) -> list[Row]:
    """Every case of a reference, emulated on a hardware file and compared."""
    emulation, rows = Emulation(reference, machine, partial(make_engine, "compiled")), []
    for done, (case, measured) in enumerate(zip(reference.cases, reference.measured, strict=True)):
        progress(done, len(reference.cases), f"emulating {case.policy}, batch {case.batch}, {case.slots} slots")
        rows.append(compare(case, emulation.emulate(case), measured))
    return rows


def summary(rows: list[Row]) -> dict[str, float | int | None]:
    """p50, p90 and max of the size of the errors, over the rows that are steady (all, where none says)."""
    judged = [abs(row.error) for row in rows if row.error is not None and row.steady is not False]
    if not judged:
        return {"p50": None, "p90": None, "max": None, "judged": 0, "cases": len(rows)}
    p50, p90 = (float(np.percentile(judged, q)) for q in (50, 90))
    return {"p50": p50, "p90": p90, "max": max(judged), "judged": len(judged), "cases": len(rows)}
