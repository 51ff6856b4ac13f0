"""The matrix: any policy on any machine, as multiples of the lower bound; what makes no sense is left out, with why."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from cluster.config.names import names
from emulation.errors import ConfigError, InputError, PlanError
from moe.shapes import load_shape
from schedulers.registry import policy_class, policy_names
from studies.sweep_rows import OK, Row
from studies.sweep_study import Study, load_study

STUDY = "matrix"
NOT_A_MACHINE = ("template",)
REFUSED = {kind.__name__ for kind in (ConfigError, InputError, PlanError)}
"""What says that a policy is not for a machine or a model. Anything else that ends a point is a fault."""


@dataclass(frozen=True)
class Cell:
    """One policy on one machine with one model. times: over the bound, where it ran; exact: whether the policy serves
    what is routed; reason: why it did not run; fault: whether that is no refusal."""

    policy: str
    machine: str
    model: str
    times: float | None
    exact: bool
    reason: str
    fault: bool

    @property
    def kind(self) -> str:
        """The reason without names and numbers, the policy's own included."""
        return kind_of(self.reason.replace(self.policy, "it"))

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def study(policies: Sequence[str] = (), machines: Sequence[str] = ()) -> Study:
    """The points of configs/study/matrix.yaml, each with every policy on every machine, or with those named."""
    base = load_study(STUDY)
    known = [name for name in names("policy") if name in policy_names()]
    places = [name for name in names("hardware") if name not in NOT_A_MACHINE]
    points = [{"model": model, "machine": machine, "policy": _choice(policy, model)}
              for model in base.grid["model"] for policy in policies or known for machine in machines or places]
    whole = base.model_copy(update={"grid": {}, "points": tuple(points)})
    return whole.placed(base.name, base._folder, base._where)


def _choice(policy: str, model: str) -> Any:
    """A policy with as many slots as the matrix gives: an eighth of a layer's experts, two at least."""
    has = {field.name for field in fields(policy_class(policy))}
    if "slots" not in has:
        return {"name": policy, "parameters": {}}
    return {"name": policy, "parameters": {"slots": max(2, load_shape(model).experts // 8)}}


def cells(rows: Sequence[Row]) -> list[Cell]:
    """The rows of a sweep of the matrix as cells, in their order."""
    return [Cell(row["policy"], row["machine"], row["model"], row.get("bound.times") if row["status"] == OK else None,
                 policy_class(row["policy"]).exact is True,
                 "" if row["status"] == OK and row.get("bound.times") is not None else row.get("error", NO_BOUND),
                 row["status"] != OK and row["error_kind"] not in REFUSED) for row in rows]


NO_BOUND = "There is no lower bound for what this policy does."


def kind_of(reason: str) -> str:
    """A reason without its names and numbers: reasons of one kind are shown once."""
    return re.sub(r"\d[\d.,]*( [kMGT]?B)?", "N", re.sub(r"'[^']*'", "'…'", reason))


def markdown(found: Sequence[Cell], title: str, command: str) -> str:
    """The page: a table a model, then what the letters stand for."""
    kinds: dict[str, tuple[str, int]] = {}
    for cell in found:
        if cell.times is None:
            told = f"{cell.policy} on {cell.machine}, {cell.model}: {cell.reason}"
            first, count = kinds.get(cell.kind, (told, 0))
            kinds[cell.kind] = first, count + 1
    letter = {kind: _letter(i) for i, kind in enumerate(kinds)}
    ran = sum(cell.times is not None for cell in found)
    lines = [f"# {title}", "", "Time over a proven lower bound of any schedule on that machine for that work: 1 is the "
             "best that there can be. Bold: the best of a machine. A star: the policy is not exact, and the bound is "
             "that of the work that it served. A letter: left out, for the reason below.", "",
             f"{ran} of {len(found)} points ran. Made by `{command}` from `configs/study/matrix.yaml`.", "",
             "![heat map](matrix.svg)", ""]
    for model in dict.fromkeys(cell.model for cell in found):
        lines += [f"## {model}", "", *_table([cell for cell in found if cell.model == model], letter), ""]
    lines += ["## Left out", "", "| | points | the first of them |", "|---|---|---|"]
    lines += [f"| {letter[kind]} | {count} | {first.replace('|', '/')} |" for kind, (first, count) in kinds.items()]
    return "\n".join(lines) + "\n"


def _letter(number: int) -> str:
    return (_letter(number // 26 - 1) if number >= 26 else "") + chr(ord("a") + number % 26)


def _table(of: Sequence[Cell], letter: dict[str, str]) -> list[str]:
    machines = list(dict.fromkeys(cell.machine for cell in of))
    at = {(cell.policy, cell.machine): cell for cell in of}
    best = {machine: min((c.times for c in of if c.machine == machine and c.times is not None), default=0.0)
            for machine in machines}
    out = ["| policy | " + " | ".join(machines) + " |", "|---" * (len(machines) + 1) + "|"]
    for policy in dict.fromkeys(cell.policy for cell in of):
        row = [_text(at.get((policy, machine)), best[machine], letter) for machine in machines]
        out.append(f"| `{policy}` | " + " | ".join(row) + " |")
    return out


def _text(cell: Cell | None, best: float, letter: dict[str, str]) -> str:
    if cell is None:
        return ""
    if cell.times is None:
        return f"_{letter[cell.kind]}_"
    told = number(cell.times) + ("" if cell.exact else "\\*")
    return f"**{told}**" if cell.times == best else told


def number(times: float) -> str:
    """A multiple of the bound in three digits."""
    return f"{times:.0f}" if times >= 100 else f"{times:.1f}" if times >= 10 else f"{times:.2f}"
