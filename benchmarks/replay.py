"""Output tokens a second of wall time when serving is replayed, each case a process of its own.

    moelab bench replay

A case is timed from the start of its process until its result.json is there, with every layer routed apart. What a
machine cannot hold, or what does not end in time, is a row with its sentence.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import MOELAB, ROOT, Folder, Spread, figure, host, refused, timed

RUN = ROOT / "benchmarks" / "replay.yaml"
MACHINES = ("edge-gpu-ndp", "h200-host")
POLICIES = ("resident", "lru", "lru_prefetch", "expert_parallel", "tensor_parallel")
ROUTINGS = ("synthetic", "recorded")
BATCHES = (1, 16, 64, 256)
TARGET = 10_000.0
FORECAST = "{name: oracle, accuracy: 0.8}"
"""What `lru_prefetch` goes by: right four times of five, as in benchmarks/reference.py; without one it were `lru`."""
SEQUENCES, TOKENS = 64, 640
"""Of the recorded routing: requests walk along its sequences, over and over where they are more or longer."""


class Case(NamedTuple):
    """A machine, a policy, and where the routing comes from."""

    machine: str
    policy: str
    routing: str

    @property
    def name(self) -> str:
        return f"{self.machine}/{self.policy}/{self.routing}"


class Size(NamedTuple):
    """How much is replayed: the target's size by default; `layers` cuts the model (None: all 48)."""

    requests: int = 300
    layers: int | None = None
    repeats: int = 3
    limit_s: float = 120.0


def cases(machines: Sequence[str] = MACHINES, policies: Sequence[str] = POLICIES,
          routings: Sequence[str] = ROUTINGS) -> list[Case]:
    """All of them, machine by machine."""
    return [Case(*each) for each in product(machines, policies, routings)]


def policy_settings(policy: str) -> list[str]:
    """A policy, with the forecast that it goes by."""
    return [f"policy={policy}", *([f"forecast={FORECAST}"] if policy == "lru_prefetch" else [])]


def settings(case: Case, size: Size, trace: Path) -> list[str]:
    """What a case changes in the benchmark's run."""
    changed = [f"machine={case.machine}", *policy_settings(case.policy), f"workload.serving.requests={size.requests}"]
    if size.layers is not None:
        changed.append(f"model.layers={size.layers}")
    if case.routing == "recorded":
        changed += ["workload.work=replay", f"workload.trace={trace}", "workload.generator=null"]
    return changed


def record(path: Path, size: Size) -> None:
    """A trace of the benchmark's model: routing of SEQUENCES sequences, drawn once, as a recorder would write it."""
    from cluster.config.reading import load_run
    from cluster.resolve import resolve
    from workloads.synthetic import Request, Router, static_steps, synthetic_trace
    from workloads.traces import write_trace

    setup = resolve(load_run(str(RUN), settings(Case("h200-host", "expert_parallel", "synthetic"), size, path)))
    generator = setup.config.workload.generator
    assert generator is not None
    router = Router(setup.model, generator.kind(setup.config.folder), setup.config.seed)
    steps = list(static_steps([Request(TOKENS - 1, 2)] * SEQUENCES))
    write_trace(path, synthetic_trace(setup.model, router, steps))


def measure(case: Case, size: Size, trace: Path) -> dict[str, Any]:
    """One case: its figures with their spread, or the sentence with which it was refused."""
    walls: list[float] = []
    found: dict[str, Any] = {}
    for _ in range(size.repeats):
        with Folder() as folder:
            asked = [word for setting in settings(case, size, trace) for word in ("--set", setting)]
            ended = timed([*MOELAB, "run", str(RUN), *asked, "--out", str(folder / "out"), "--json"],
                          folder / "out", size.limit_s)
            if ended.code != 0:
                return {"case": case.name, **case._asdict(), "refused": ended.said}
            found = json.loads((folder / "out" / "result.json").read_text(encoding="utf-8"))
        walls.append(ended.seconds)
    tokens, steps = found["emitted_tokens"], sum(phase["steps"] for phase in found["phases"].values())
    operations = found["host"]["operations"]
    return {"case": case.name, **case._asdict(), "wall_s": Spread.of(walls).json(), "digest": found["digest"],
            "output_tokens": tokens, "steps": steps, "operations": operations,
            "output_tokens_per_wall_s": Spread.of(tokens / wall for wall in walls).json(),
            "steps_per_s": Spread.of(steps / wall for wall in walls).json(),
            "ops_per_s": Spread.of(operations / wall for wall in walls).json()}


def ops_per_token(machine: str, policy: str, batch: int, layers: int | None) -> float:
    """Operations that a further token costs when so many sequences decode together: of one decode step, measured."""
    from cluster.config.reading import load_run
    from cluster.run import run

    made = []
    for output in (2, 3):
        workload = (f"workload={{work: synthetic, generator: {{name: zipf, skew: 0.6}}, batch: {batch}, "
                    f"prompt_tokens: 1, output_tokens: {output}}}")
        cut = [] if layers is None else [f"model.layers={layers}"]
        result = run(load_run(str(RUN), [f"machine={machine}", *policy_settings(policy), workload, *cut]))
        made.append(result.host.operations)
    return (made[1] - made[0]) / batch


def growth_of_ops(machines: Sequence[str], policies: Sequence[str], layers: int | None) -> Iterator[dict[str, Any]]:
    """Operations a token at each batch, by machine and policy."""
    from emulation.errors import MoelabError

    for machine, policy in product(machines, policies):
        try:
            by_batch = {str(batch): round(ops_per_token(machine, policy, batch, layers), 1) for batch in BATCHES}
            yield {"machine": machine, "policy": policy, "ops_per_token": by_batch}
        except MoelabError as error:
            yield {"machine": machine, "policy": policy, "refused": str(error)}


def bench_replay(size: Size | None = None, chosen: Sequence[Case] | None = None,
                 heard: Callable[[int, int, str], None] | None = None) -> dict[str, Any]:
    """Every case, and operations a token; `output_tokens_per_wall_s` by case."""
    size, chosen = size or Size(), cases() if chosen is None else chosen
    with Folder() as folder:
        trace = folder / "recorded.npz"
        if any(case.routing == "recorded" for case in chosen):
            record(trace, size)
        told = []
        for done, case in enumerate(chosen):
            if heard is not None:
                heard(done, len(chosen), case.name)
            told.append(measure(case, size, trace))
    machines = tuple(dict.fromkeys(case.machine for case in chosen))
    policies = tuple(dict.fromkeys(case.policy for case in chosen))
    return {"bench": "replay", "host": host(), "size": size._asdict(), "target_tokens_per_wall_s": TARGET,
            "output_tokens_per_wall_s": {row["case"]: row["output_tokens_per_wall_s"]["median"]
                                         for row in told if "refused" not in row},
            "cases": told, "ops_per_token": list(growth_of_ops(machines, policies, size.layers))}


def rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The report as lines of the table."""
    lines = []
    for case in report["cases"]:
        if "refused" in case:
            lines.append(refused("replay", case["case"], case["refused"]))
            continue
        beside = ", ".join(f"{case[name]['median']:,.0f} {text}" for name, text in
                           (("steps_per_s", "steps/s"), ("ops_per_s", "ops/s")))
        lines.append(figure("replay", case["case"], "output_tokens_per_wall_s",
                            Spread(**case["output_tokens_per_wall_s"]), note=f"target {TARGET:,.0f}; {beside}"))
    for entry in report["ops_per_token"]:
        case = f"{entry['machine']}/{entry['policy']}"
        if "refused" in entry:
            lines.append(refused("replay", f"{case}, ops per token", entry["refused"]))
            continue
        found = entry["ops_per_token"]
        lines.append(figure("replay", case, "ops_per_token at batch 1", found["1"], note="; ".join(
            f"batch {batch}: {value:g}" for batch, value in found.items() if batch != "1")))
    return lines
