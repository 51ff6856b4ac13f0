"""Plans that mix everything an engine knows, drawn from a source of randomness, for comparing two engines."""

from dataclasses import dataclass, field
from random import Random

from emulation.engine.contract import Engine
from emulation.errors import DeadlockError
from emulation.ops import END, START, Edge, Lane, OpBuilder, Ops, Pool


@dataclass
class World:
    """Lanes and pools, and what plans have submitted to them so far."""

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


def plan(at: World, most: int) -> Ops:
    """A plan of up to `most` operations; waits go backwards, so that it has no cycle."""
    random = at.random
    build = OpBuilder(at.next_serial, at.next_take)
    for _ in range(random.randint(1, most)):
        takes = []
        for pool in random.sample(range(len(at.pools)), random.randint(0, len(at.pools))):
            if random.random() < 0.3:
                needs = random.randint(0, at.pools[pool].capacity)
                takes.append((pool, needs, random.randint(0, needs)))
        op = build.op(holds(at), after=edges(at, build.next_serial), length_ps=random.choice([0, 0, 0, 3, at.scale]),
                      priority=random.choice([0, 0, 1, 5, 5, 9]), takes=takes,
                      quantum_ps=random.choice([0, 0, 1, 2, 5, at.scale]))
        at.unreleased.extend(build.take_handle(op, index) for index in range(len(takes)))
    for handle in list(at.unreleased):
        if random.random() < 0.7:
            at.unreleased.remove(handle)
            build.release(handle, after=edges(at, build.next_serial))
    ops = build.build()
    at.next_serial += len(ops)
    at.next_take += ops.takes
    return ops


def holds(at: World) -> dict[int, int]:
    random = at.random
    count = random.choice([0, 1, 1, 1, 2, 2, 3])
    lanes = random.sample(range(len(at.lanes)), min(count, len(at.lanes)))
    same = random.randint(0, at.scale)
    alike = random.random() < 0.5
    return {lane: same if alike else random.randint(0, at.scale) for lane in lanes}


def edges(at: World, below: int) -> list[Edge]:
    """Up to three edges of earlier operations, mostly of late ones."""
    random = at.random
    found = []
    for _ in range(random.choice([0, 0, 1, 1, 2, 3])):
        if below:
            low = 0 if random.random() < 0.2 else max(0, below - 6)
            found.append(Edge(random.randint(low, below - 1), random.choice([START, END, END])))
    return found


def drive(engines: list[Engine], seed: Random, most: int, plans: int, retires: bool) -> int:
    """Give the same plans to all engines, in pieces, and compare all that can be seen; how many instants were seen."""
    at = world(seed)
    engines = [engine(at.lanes, at.pools) for engine in engines]
    for _ in range(seed.randint(1, plans)):
        ops = plan(at, most)
        for engine in engines:
            engine.submit(ops)
        same(engines, at)
        step = seed.random()
        if step < 0.5:
            until = seed.sample(range(at.next_serial), min(at.next_serial, seed.randint(1, 3)))
            if not agree([outcome(engine, until) for engine in engines]):
                return at.next_serial
        elif step < 0.8:
            to_ps = engines[0].now_ps + seed.randint(0, 2 * at.scale)
            for engine in engines:
                engine.advance(to_ps)
        same(engines, at)
        if retires and seed.random() < 0.5:
            retired = [engine.retire() for engine in engines]
            assert [flat(each.spans) + flat(each.occupancy) + [each.first] for each in retired[1:]] == [
                flat(each.spans) + flat(each.occupancy) + [each.first] for each in retired[:-1]]
    agree([outcome(engine, ()) for engine in engines])
    same(engines, at)
    return at.next_serial


def outcome(engine: Engine, until: list[int] | tuple[int, ...]) -> tuple[int, ...] | str:
    try:
        return engine.run(until)
    except DeadlockError as stuck:
        return str(stuck)


def agree(outcomes: list[tuple[int, ...] | str]) -> bool:
    """All the same; False if they are stuck."""
    assert outcomes[1:] == outcomes[:-1]
    return not isinstance(outcomes[0], str)


def flat(columns: tuple) -> list[list[int]]:
    return [column.tolist() for column in columns]


def same(engines: list[Engine], at: World) -> None:
    seen = [{"now": engine.now_ps, "next": (engine.first_serial, engine.next_serial, engine.next_take),
             "spans": flat(engine.spans()), "occupancy": flat(engine.occupancy()),
             "free": [engine.free(pool) for pool in range(len(at.pools))],
             "backlog": [engine.backlog_ps(lane) for lane in range(len(at.lanes))]} for engine in engines]
    assert seen[1:] == seen[:-1]
