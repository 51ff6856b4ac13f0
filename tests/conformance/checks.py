"""What every policy keeps, checked from plans, spans and bytes; nothing here calls the validation that it doubles."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import MISSING, fields
from typing import Any, ClassVar, Literal, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np

from actors.scheduler import Scheduler
from emulation.bound import BoundInput
from emulation.engine.contract import Engine
from emulation.ledger import Start
from emulation.lowering.emit import CAUSES, KINDS
from emulation.plan import ALL_PARTS, ALL_TOKENS, EVICT, LOAD, NOBODY, RUN, Plan
from emulation.validate import Decision
from emulation.view import Routing, Setting, Step, View
from schedulers.contract import Policy
from schedulers.registry import policy_class

EXPERT, COPY = KINDS.index("expert"), KINDS.index("copy")
LOADS = [CAUSES.index("demand"), CAUSES.index("prefetch")]
Shard = tuple[int, int, int, int]
"""device, model layer, expert, part"""


def variants(name: str) -> list[dict[str, object]]:
    """Parameters worth trying: the defaults, each other choice of a Literal, and 1 and 3 for a whole number."""
    found: list[dict[str, object]] = []
    policy = policy_class(name)
    types = get_type_hints(policy)
    for field in fields(policy):
        kind = types[field.name]
        choices: tuple[object, ...] = ()
        if get_origin(kind) is Literal:
            choices = get_args(kind)
        elif kind is int:
            choices = (1, 3)
        elif kind is bool:
            choices = (False, True)
        found += [{field.name: choice} for choice in choices if choice != field.default]
    required = any(field.default is MISSING and field.default_factory is MISSING for field in fields(policy))
    return found if required else [{}, *found]


def plain(state: Any) -> Any:
    """A state as text would carry it: lists, numbers, strings, and arrays by type and shape. Refuses anything else."""
    if state is None or isinstance(state, bool | int | float | str):
        return state
    if isinstance(state, np.ndarray):
        assert state.dtype.kind in "biuf"
        return {"array": str(state.dtype), "shape": list(state.shape), "values": state.ravel().tolist()}
    if isinstance(state, dict):
        assert all(isinstance(key, str | int) for key in state)
        return {"pairs": [[key, plain(value)] for key, value in state.items()]}
    assert type(state) in (tuple, list), f"a state holds {type(state)}"
    return {type(state).__name__: [plain(item) for item in state]}


def revived(text: Any) -> Any:
    """The state that `plain` wrote."""
    if not isinstance(text, dict):
        return text
    if "array" in text:
        return np.array(text["values"], text["array"]).reshape(text["shape"])
    if "pairs" in text:
        return {key: revived(value) for key, value in text["pairs"]}
    return tuple(map(revived, text["tuple"])) if "tuple" in text else list(map(revived, text["list"]))


def streamed(plan: Plan) -> list[tuple[int, int, tuple[int, ...]]]:
    """A plan's streams: expert, part, path."""
    s = plan.streams
    if s is None:
        return []
    ends = s.path_ptr.tolist()
    return [(e, p, tuple(s.path[ends[i]:ends[i + 1]].tolist()))
            for i, (e, p) in enumerate(zip(s.expert.tolist(), s.part.tolist(), strict=True))]


def ledger_of(view: View) -> Any:
    """Everything in a ledger that a policy could spoil."""
    ledger = view.ledger
    return plain([ledger.start.rest, ledger.used_bytes, ledger.peak_bytes, ledger.budget_bytes, ledger.part_bytes,
                  {device: ledger.since(view.moe, device) for device in range(len(ledger.machine.devices))}])


class Watched:
    """A policy that is watched: it changes neither view nor state, answers alike, and its state is plain data."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.exact = policy, policy.exact

    exact: ClassVar[bool]  # type: ignore[misc]

    def __getattr__(self, name: str) -> Any:
        if name != "wake":
            raise AttributeError(name)
        return getattr(self.policy, name)

    def start(self, setting: Setting) -> tuple[Start, Any]:
        return self.policy.start(setting)

    def plan(self, view: View, state: Any) -> tuple[Plan, Any]:
        before = (plain(state), ledger_of(view), deepcopy(view.routing), deepcopy(view.forecast))
        plan, new = self.policy.plan(view, state)
        assert plain(state) == before[0], "the policy changed its state in place"
        assert ledger_of(view) == before[1], "the policy changed the ledger"
        for now, then in ((view.routing, before[2]), (view.forecast, before[3])):
            assert (now is None) == (then is None)
            if now is not None and then is not None:
                assert (now.experts == then.experts).all()
                assert (now.weights == then.weights).all()
        again, state_again = self.policy.plan(view, revived(before[0]))
        assert again.rows == plan.rows, "the policy answers otherwise when asked again"
        assert streamed(again) == streamed(plan), "the policy answers otherwise when asked again"
        assert plain(state_again) == plain(new)
        return plan, revived(plain(new))


class Seen(NamedTuple):
    """One decision: what was asked and answered, and which operations it became."""

    step: Step
    layer: int
    routing: Routing
    decision: Decision
    decided_at: int
    batch: int


class Run(NamedTuple):
    """A finished run and its decisions."""

    scheduler: Scheduler
    seen: list[Seen]

    def spans(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        spans = self.scheduler.engine.spans()
        return spans.start_ps, spans.end_ps


Feed = list[tuple[Step, list[Routing], list[Routing | None]]]


def run(setting: Setting, policy: Policy, make_engine: Callable[..., Engine], feed: Feed) -> Run:
    """All steps of a feed."""
    scheduler = Scheduler(setting, policy, make_engine)
    seen = []
    for step, layers, forecasts in feed:
        scheduler.begin(step)
        for moe, routing in enumerate(layers):
            at, batch = scheduler.engine.now_ps, len(scheduler.batches)
            guess = forecasts[moe + 1] if moe + 1 < len(layers) else None
            layer = setting.model.moe_layers[moe]
            seen.append(Seen(step, layer, routing, scheduler.decide(routing, guess), at, batch))
        scheduler.end()
    scheduler.finish()
    return Run(scheduler, seen)


def check_served(seen: list[Seen], parts: int, exact: bool) -> None:
    """Each routed pair is computed once in all its parts, or its fate is declared."""
    early: dict[tuple[int, int, int], list[int]] = {}
    number = None
    for s in seen:
        if s.step.number != number:
            assert not early, "early runs outlive their step"
            number = s.step.number
        plan = s.decision.plan
        routed = {(t, e) for t, places in enumerate(s.routing.experts.tolist()) for e in places if e >= 0}
        if exact:
            assert plan.served is None
            now, before = routed, set()
        else:
            assert plan.served is None or exact is False
            rows = [] if plan.served is None else list(zip(*(c.tolist() for c in plan.served[:2]),
                                                           plan.served.input_layer.tolist(),
                                                           plan.served.routed.tolist(), strict=True))
            now = routed if plan.served is None else {(t, e) for t, e, layer, _ in rows if layer == s.layer}
            before = {(t, e) for t, e, layer, _ in rows if layer != s.layer}
            stood_for = [(t, r) for t, _, _, r in rows]
            assert len(stood_for) == len(set(stood_for))
            assert plan.served is None or set(stood_for) <= routed
            fate = s.decision.dropped + len(stood_for) if plan.served is not None else len(routed)
            assert fate == len(routed)
            assert s.decision.substituted == sum(e != r for _, e, _, r in rows)
        got: dict[tuple[int, int], list[int]] = {}
        for row in plan.rows:
            if row.verb == RUN:
                which = list(range(parts)) if row.part == ALL_PARTS else [row.part]
                named = [t for t, e in sorted(now) if e == row.expert]
                tokens = named if row.tokens == ALL_TOKENS else plan.token_sets[row.tokens].tolist()
                for token in tokens:
                    if row.layer == s.layer:
                        got.setdefault((token, row.expert), []).extend(which)
                    else:
                        early.setdefault((row.layer, token, row.expert), []).extend(which)
        for expert, part, path in streamed(plan):
            for token in [t for t, e in now if e == expert and int(s.step.home[t]) in path]:
                got.setdefault((token, expert), []).append(part)
        assert {pair: sorted(run) for pair, run in got.items()} == {pair: list(range(parts)) for pair in now}
        ran = {(t, e): run for (layer, t, e), run in early.items() if layer == s.layer}
        assert all(sorted(ran.get(pair, [])) == list(range(parts)) for pair in before)
        early = {key: run for key, run in early.items() if key[0] != s.layer}


def _routed(s: Seen) -> set[tuple[int, int]]:
    return {(t, e) for t, places in enumerate(s.routing.experts.tolist()) for e in places if e >= 0}


def check_residency_and_time(done: Run) -> None:
    """Runs find their shards; they start behind the router and the load; a load waits for what it overwrites."""
    ledger, engine = done.scheduler.ledger, done.scheduler.engine
    machine, model, start = ledger.machine, ledger.model, ledger.start
    moe_of = {layer: moe for moe, layer in enumerate(model.moe_layers)}
    here: dict[Shard, int] = {}
    last: dict[Shard, int] = {}
    for device, mask in start.copies.items():
        for moe, expert in np.argwhere(mask).tolist():
            here.update({(device, model.moe_layers[moe], expert, p): 0 for p in range(start.parts)})
    size = dict(enumerate(ledger.part_bytes.tolist()))
    resting = [int(((start.rest == d) * ledger.part_bytes).sum()) for d in range(len(machine.devices))]
    moved = np.zeros(len(machine.links), np.int64)
    starts, ends = done.spans()
    assert (starts >= 0).all()
    assert (ends >= starts).all()
    until = [*(s.batch for s in done.seen[1:]), len(done.scheduler.batches)]
    for s, end in zip(done.seen, until, strict=True):
        labels = [np.concatenate(column) for column in zip(*done.scheduler.labels[s.batch:end], strict=True)]
        serials = done.scheduler.batches[s.batch].ops.first + np.arange(len(labels[0]))
        runs = iter(serials[labels[0] == EXPERT].tolist())
        loads = iter(serials[(labels[0] == COPY) & np.isin(labels[1], LOADS)].tolist())
        for row in s.decision.plan.rows:
            which = range(start.parts) if row.part == ALL_PARTS else range(row.part, row.part + 1)
            moe = moe_of[row.layer]
            for part in which:
                shard = (row.device, row.layer, row.expert, part)
                rests = start.rest[moe, row.expert, part] == row.device
                old = (row.device, row.layer, row.victim, part)
                if row.verb == EVICT:
                    del here[shard]
                elif row.verb == LOAD and not rests:
                    assert shard not in here
                    op = next(loads)
                    if row.victim != NOBODY:
                        del here[old]
                        assert starts[op] >= last.pop(old, 0), "a load overwrites what is still in use"
                    here[shard] = int(ends[op])
                    for link in machine.routes[int(start.rest[moe, row.expert, part]), row.device]:
                        moved[machine.link_number[link.name]] += size[part]
                    assert starts[op] >= s.decided_at
                elif row.verb == RUN:
                    assert rests or shard in here, "a run finds no shard"
            if row.verb == RUN:
                op = next(runs)
                assert starts[op] >= s.decided_at, "an expert ran before its router"
                for part in which:
                    shard = (row.device, row.layer, row.expert, part)
                    assert starts[op] >= here.get(shard, 0), "an expert ran before its load had ended"
                    last[shard] = max(last.get(shard, 0), int(ends[op]))
            for d in range(len(machine.devices)):
                held = resting[d] + sum(size[part] for (device, _, _, part) in here if device == d)
                assert held <= ledger.budget_bytes[d], "over capacity"
        for expert, part, path in streamed(s.decision.plan):
            arrived = int(ends[next(loads)])
            rest = int(start.rest[moe_of[s.layer], expert, part])
            moved[[machine.link_number[link.name] for link in machine.routes[rest, path[0]]]] += size[part]
            for device in path:
                if any(e == expert and int(s.step.home[t]) == device for t, e in _routed(s)):
                    assert starts[next(runs)] >= max(arrived, s.decided_at), "a part ran before it had come in"
        assert next(runs, None) is None
        assert next(loads, None) is None
    assert done.scheduler.emit.moved_bytes[:, LOADS].sum(axis=1).tolist() == moved.tolist()
    for d in range(len(machine.devices)):
        held = sum(size[part] for (device, _, _, part) in here if device == d)
        assert ledger.used_bytes[d] == resting[d] + held
        assert engine.free(len(machine.pools) + d) == ledger.budget_bytes[d] - resting[d] - held


def check_bound(done: Run) -> None:
    """No run ends before the lower bound of the work that it served."""
    setting = done.scheduler.setting
    moe_of = {layer: moe for moe, layer in enumerate(setting.model.moe_layers)}
    work = BoundInput(setting.machine, setting.model, setting.budget_bytes)
    for i, s in enumerate(done.seen):
        if not i or s.step.number != done.seen[i - 1].step.number:
            work.add_step(s.step)
        work.add_layer(moe_of[s.layer], s.decision.served, s.decision.early)
    found = work.bound()
    assert 0 < found.lb_ps <= int(done.spans()[1].max()), f"under the bound, which {found.binding} sets"


def parameters_text(parameters: Mapping[str, object]) -> str:
    return ",".join(f"{key}={value}" for key, value in parameters.items()) or "defaults"
