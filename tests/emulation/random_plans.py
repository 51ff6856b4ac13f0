"""Plans that mix everything an engine knows, drawn from a source of randomness, and given to engines side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from emulation.engine.contract import Engine
from emulation.errors import DeadlockError, PlanError
from emulation.ops import END, START, Edge, Lane, OpBuilder, Ops, Pool

Makes = Callable[[Sequence[Lane], Sequence[Pool]], Engine]


@dataclass
class World:
    """Lanes and pools, and what accepted plans left behind."""

    random: Random
    lanes: list[Lane]
    pools: list[Pool]
    scale: int
    next_serial: int = 0
    next_take: int = 0
    unreleased: list[int] = field(default_factory=list)


def world(random: Random) -> World:
    lanes = [Lane(f"lane{i}", servers=random.choice([1, 1, 1, 2, 3]), in_order=random.random() < 0.25)
             for i in range(random.randint(1, 6))]
    pools = [Pool(f"pool{i}", random.randint(1, 5)) for i in range(random.randint(0, 2))]
    return World(random, lanes, pools, scale=random.choice([2, 6, 40, 1000]))


def plan(at: World, most: int) -> tuple[Ops, list[int]]:
    """A plan of up to `most` operations, and the takes that nobody releases yet."""
    random = at.random
    build = OpBuilder(at.next_serial, at.next_take)
    unreleased = list(at.unreleased)
    forward = random.random() < 0.1
    for _ in range(random.randint(1, most)):
        takes = []
        for pool in random.sample(range(len(at.pools)), random.randint(0, len(at.pools))):
            if random.random() < 0.3:
                needs = random.randint(0, at.pools[pool].capacity)
                takes.append((pool, needs, random.randint(0, needs)))
        after = edges(at, build.next_serial)
        if forward and random.random() < 0.1:
            after.append(Edge(build.next_serial + random.randint(0, 2), random.choice([START, END])))
        op = build.op(holds(at), after=after, length_ps=random.choice([0, 0, 0, 3, at.scale]),
                      priority=random.choice([0, 0, 1, 5, 5, 9]), takes=takes,
                      quantum_ps=random.choice([0, 0, 1, 2, 5, at.scale]))
        unreleased.extend(build.take_handle(op, index) for index in range(len(takes)))
    for handle in list(unreleased):
        if random.random() < 0.7:
            if random.random() < 0.99:
                unreleased.remove(handle)
            build.release(handle, after=edges(at, build.next_serial))
    return build.build(), unreleased


def holds(at: World) -> dict[int, int]:
    random = at.random
    count = random.choice([0, 1, 1, 1, 2, 2, 3])
    lanes = random.sample(range(len(at.lanes)), min(count, len(at.lanes)))
    one = random.randint(0, at.scale)
    alike = random.random() < 0.5
    return {lane: one if alike else random.randint(0, at.scale) for lane in lanes}


def edges(at: World, below: int) -> list[Edge]:
    """Up to three edges of earlier operations, mostly of late ones."""
    random = at.random
    found = []
    for _ in range(random.choice([0, 0, 1, 1, 2, 3])):
        if below:
            low = 0 if random.random() < 0.2 else max(0, below - 6)
            found.append(Edge(random.randint(low, below - 1), random.choice([START, END, END])))
    return found


def drive(makes: Sequence[Makes], random: Random, most: int, plans: int) -> int:
    """Give the same plans, in pieces, to an engine of each kind, and compare all there is; how many operations."""
    at = world(random)
    engines = [make(at.lanes, at.pools) for make in makes]
    for _ in range(random.randint(1, plans)):
        ops, unreleased = plan(at, most)
        if not all_same([refusal(engine, ops) for engine in engines]):
            at.next_serial += len(ops)
            at.next_take += ops.takes
            at.unreleased = unreleased
        all_same([seen(engine) for engine in engines])
        step = random.random()
        if step < 0.5 and at.next_serial:
            until = random.sample(range(at.next_serial), min(at.next_serial, random.randint(1, 3)))
            if isinstance(all_same([outcome(engine, until) for engine in engines]), str):
                return at.next_serial
        elif step < 0.8:
            to_ps = engines[0].now_ps + random.randint(0, 2 * at.scale)
            for engine in engines:
                engine.advance(to_ps)
        all_same([seen(engine) for engine in engines])
        if random.random() < 0.3:
            retired = [engine.retire() for engine in engines]
            all_same([(first, flat(spans), flat(occupancy)) for first, spans, occupancy in retired])
    all_same([outcome(engine, ()) for engine in engines])
    all_same([seen(engine) for engine in engines])
    return at.next_serial


def refusal(engine: Engine, ops: Ops) -> str:
    try:
        engine.submit(ops)
    except PlanError as refused:
        return str(refused)
    return ""


def outcome(engine: Engine, until: Sequence[int]) -> tuple[int, ...] | str:
    try:
        return engine.run(until)
    except DeadlockError as stuck:
        return str(stuck)


def seen(engine: Engine) -> dict[str, Any]:
    return {"now": engine.now_ps, "next": (engine.first_serial, engine.next_serial, engine.next_take),
            "spans": flat(engine.spans()), "occupancy": flat(engine.occupancy()),
            "free": [engine.free(pool) for pool in range(len(engine.pools))],
            "backlog": [engine.backlog_ps(lane) for lane in range(len(engine.lanes))]}


def flat(columns: Sequence[Any]) -> list[list[int]]:
    return [column.tolist() for column in columns]


def all_same(values: list[Any]) -> Any:
    for other in values[1:]:
        assert other == values[0]
    return values[0]
