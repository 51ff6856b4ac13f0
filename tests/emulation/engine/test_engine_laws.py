"""Laws that hold for every plan, whatever the plan: causality, capacity, order, conservation, no needless idling."""

import os
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from emulation.engine.spec import SpecEngine
from emulation.errors import DeadlockError
from emulation.ops import END, START, Edge, Lane, OpBuilder, Ops, Pool

NEVER = 1 << 60
SEARCH = int(os.environ.get("MOELAB_ENGINE_EXAMPLES", "0"))
"""How many fresh random plans a law is tried on; 0: the same 100 in every run."""
laws = settings(max_examples=SEARCH or 100, derandomize=not SEARCH, deadline=None, database=None)


@dataclass
class Row:
    """One operation of a random plan, and the releases that come with it (of takes of its own or earlier)."""

    holds: dict[int, int]
    waits: list[Edge]
    takes: list[tuple[int, int, int]]
    priority: int
    quantum_ps: int
    extra_ps: int
    releases: list[tuple[int, list[Edge]]] = field(default_factory=list)

    @property
    def length_ps(self) -> int:
        return max([*self.holds.values(), self.extra_ps])


@dataclass
class Plan:
    lanes: list[Lane]
    pools: list[Pool]
    rows: list[Row] = field(default_factory=list)
    decisions: list[int] = field(default_factory=list)

    def build(self, lo: int = 0, hi: int | None = None) -> Ops:
        """Rows lo to hi as operations."""
        plan = OpBuilder(lo, sum(len(row.takes) for row in self.rows[:lo]))
        for row in self.rows[lo:hi]:
            plan.op(row.holds, after=row.waits, length_ps=row.extra_ps, priority=row.priority,
                    quantum_ps=row.quantum_ps, takes=row.takes)
            for handle, edges in row.releases:
                plan.release(handle, after=edges)
        return plan.build()


def random_plan(random: Random) -> Plan:
    """Up to 14 operations that wait for edges of earlier ones; most takes are released, not always in time.

    After a decision op all that follows waits for its end, releases too.
    """
    plan = Plan([Lane(f"lane{i}", random.randint(1, 2), random.random() < 0.4) for i in range(random.randint(1, 3))],
                [Pool(f"pool{i}", random.randint(1, 3)) for i in range(random.randint(0, 2))])
    kept: list[tuple[int, int]] = []
    handles = 0
    for serial in range(random.randint(1, 14)):
        earlier = [Edge(op, edge) for op in range(serial) for edge in (START, END)]
        decided = [Edge(op) for op in plan.decisions[-1:]]
        lanes = random.sample(range(len(plan.lanes)), random.randint(0, min(2, len(plan.lanes))))
        row = Row({lane: random.randint(0, 9) for lane in lanes}, some(random, earlier) + decided, [],
                  random.choice([0, 0, 5, 10, 10]), random.choice([0, 2, 3]), random.choice([0, 0, 3, 11]))
        if plan.pools and random.random() < 0.4:
            pool = random.randrange(len(plan.pools))
            needs = random.randint(0, plan.pools[pool].capacity)
            row.takes.append((pool, needs, random.randint(0, needs)))
            kept.append((handles, serial))
            handles += 1
        for handle, taker in [take for take in kept if random.random() < 0.7]:
            used = Edge(taker, random.choice([START, END, END]))
            row.releases.append((handle, [used, *some(random, earlier), *decided]))
            kept.remove((handle, taker))
        plan.rows.append(row)
        if random.random() < 0.15:
            plan.decisions.append(serial)
    return plan


def some(random: Random, edges: list[Edge]) -> list[Edge]:
    return random.sample(edges, min(len(edges), random.choice([0, 0, 1, 1, 2])))


def plans() -> st.SearchStrategy[Plan]:
    """Dense plans by seed: drawn choice by choice they would come out too small to meet one another."""
    return st.randoms(use_true_random=True).map(random_plan)


class Story:
    """What happened to a plan: times, stretches of holding, and whether it got stuck."""

    def __init__(self, plan, engine, steps=None):
        self.plan, self.stuck = plan, False
        made = engine(plan.lanes, plan.pools)
        try:
            (steps or whole)(made, plan)
        except DeadlockError:
            self.stuck = True
        spans = made.spans()
        self.start = [ps if ps >= 0 else NEVER for ps in spans.start_ps.tolist()]
        self.end = [ps if ps >= 0 else NEVER for ps in spans.end_ps.tolist()]
        self.now_ps = made.now_ps
        self.free = [made.free(pool) for pool in range(len(plan.pools))]
        self.stretches = defaultdict(list)
        for lane, op, since, to in sorted(zip(*(column.tolist() for column in made.occupancy()), strict=True)):
            self.stretches[lane, op].append((since, to))

    def same_as(self, other):
        return (self.stuck, self.start, self.end, self.free, self.stretches) == (
            other.stuck, other.start, other.end, other.free, other.stretches)

    def happened(self, edge):
        return (self.end if edge.edge == END else self.start)[edge.op]

    def held_takes(self):
        """(pool, amount, from, to) of every take that happened."""
        given = {handle: edges for row in self.plan.rows for handle, edges in row.releases}
        takes = [(op, pool, amount) for op, row in enumerate(self.plan.rows) for pool, _, amount in row.takes]
        for handle, (op, pool, amount) in enumerate(takes):
            if self.start[op] != NEVER:
                edges = given.get(handle)
                back = NEVER if edges is None else max([self.start[op], *(self.happened(edge) for edge in edges)])
                yield pool, amount, self.start[op], back

    def instants(self):
        return sorted({ps for ps in [0, *self.start, *self.end, *(ps for rows in self.stretches.values()
                       for row in rows for ps in row)] if ps != NEVER})

    def holders(self, lane, ps):
        """Operations that hold a lane after all that happens at `ps`."""
        return [op for (held, op), rows in self.stretches.items() if held == lane
                for since, to in rows if since <= ps < to]

    def stopped(self, op, ps):
        """Whether an operation stands still after all that happens at `ps`, with a rest to do."""
        return any(before[1] <= ps < after[0] for (_, other), rows in self.stretches.items() if other == op
                   for before, after in pairwise(rows))


def whole(made, plan):
    made.submit(plan.build())
    made.run()


def in_pieces(made, plan):
    lo = 0
    for decision in plan.decisions:
        made.submit(plan.build(lo, decision + 1))
        assert made.run([decision]) == (decision,)
        lo = decision + 1
    made.submit(plan.build(lo))
    made.run()


@laws
@given(plans())
def test_causality(engine, plan):
    story = Story(plan, engine)
    for op, row in enumerate(plan.rows):
        if story.start[op] == NEVER:
            assert story.end[op] == NEVER
            continue
        assert all(story.happened(edge) <= story.start[op] for edge in row.waits)
        slowest = max(row.holds, key=lambda lane: row.holds[lane], default=None)
        stops_ps = 0
        if slowest is not None:
            stops_ps = story.stretches[slowest, op][-1][1] - story.start[op] - row.holds[slowest]
        assert story.end[op] == story.start[op] + row.length_ps + stops_ps
    assert story.stuck == (NEVER in story.end)
    if not story.stuck:
        assert story.now_ps == max(story.end)


@laws
@given(plans())
def test_work_of_an_operation_on_a_lane_is_its_hold_and_stops_at_quanta(engine, plan):
    story = Story(plan, engine)
    for op, row in enumerate(plan.rows):
        if story.end[op] == NEVER:
            continue
        for lane, hold_ps in row.holds.items():
            rows = story.stretches[lane, op]
            assert rows[0][0] == story.start[op]
            assert sum(to - since for since, to in rows) == hold_ps
            assert len(rows) == 1 or row.quantum_ps
            assert all((to - since) % row.quantum_ps == 0 for since, to in rows[:-1])


@laws
@given(plans())
def test_no_lane_serves_more_than_its_servers(engine, plan):
    story = Story(plan, engine)
    for ps in story.instants():
        for lane, served in enumerate(plan.lanes):
            assert len(story.holders(lane, ps)) <= served.servers


@laws
@given(plans())
def test_in_order_lanes_start_in_order_and_nobody_passes_one_that_stopped(engine, plan):
    story = Story(plan, engine)
    for lane, served in enumerate(plan.lanes):
        ops = [op for op, row in enumerate(plan.rows) if lane in row.holds] if served.in_order else []
        assert [story.start[op] for op in ops] == sorted(story.start[op] for op in ops)
        for op in ops:
            rows = story.stretches[lane, op]
            for (_, stopped_ps), (resumed_ps, _) in pairwise(rows):
                assert not any(stopped_ps < story.start[other] < resumed_ps for other in ops if other > op)


@laws
@given(plans())
def test_pools_are_conserved(engine, plan):
    story = Story(plan, engine)
    takes = list(story.held_takes())
    for pool, counted in enumerate(plan.pools):
        mine = [(amount, since, to) for p, amount, since, to in takes if p == pool]
        for ps in story.instants():
            assert sum(amount for amount, since, to in mine if since <= ps < to) <= counted.capacity
        for op, row in enumerate(plan.rows):
            for p, needs, _ in row.takes:
                if p == pool and story.start[op] != NEVER:
                    sure = sum(amount for amount, since, to in mine if since < story.start[op] < to)
                    assert counted.capacity - sure >= needs
        assert story.free[pool] == counted.capacity - sum(amount for amount, _, to in mine if to == NEVER)


@laws
@given(plans())
def test_nothing_idles_needlessly(engine, plan):
    """After each instant, what could start waits only for one that is more urgent and waits for a quantum."""
    story = Story(plan, engine)
    takes = list(story.held_takes())
    for ps in story.instants():
        free = [pool.capacity - sum(amount for p, amount, since, to in takes if p == i and since <= ps < to)
                for i, pool in enumerate(plan.pools)]
        waiting = [op for op in range(len(plan.rows)) if story.start[op] > ps or story.stopped(op, ps)]

        def unfinished(op, lane, ps=ps):
            rows = story.stretches.get((lane, op), [])
            return story.start[op] > ps or (bool(rows) and rows[-1][1] > ps)

        def ready(op, ps=ps, free=free, waiting=waiting, unfinished=unfinished):
            row = plan.rows[op]
            if any(plan.lanes[lane].in_order and lane in plan.rows[other].holds and unfinished(other, lane)
                   for lane in row.holds for other in waiting if other < op):
                return False
            return story.start[op] <= ps or (all(story.happened(edge) <= ps for edge in row.waits)
                                             and all(free[pool] >= needs for pool, needs, _ in row.takes))

        def rests(op, ps=ps):
            return [lane for lane in plan.rows[op].holds if story.start[op] > ps
                    or story.stretches[lane, op][-1][1] > ps]

        candidates = [op for op in waiting if ready(op)]
        full = {lane for lane, served in enumerate(plan.lanes) if len(story.holders(lane, ps)) == served.servers}
        for op in candidates:
            if full.isdisjoint(rests(op)):
                assert any(plan.rows[other].priority < plan.rows[op].priority
                           and not set(rests(other)).isdisjoint(rests(op)) and not full.isdisjoint(rests(other))
                           and all(not plan.lanes[lane].in_order and any(
                               plan.rows[holder].quantum_ps and plan.rows[holder].priority > plan.rows[other].priority
                               for holder in story.holders(lane, ps)) for lane in full.intersection(rests(other)))
                           for other in candidates)


@laws
@given(plans())
def test_every_engine_tells_the_story_of_the_specification(engine, plan):
    assert Story(plan, engine).same_as(Story(plan, SpecEngine))


@laws
@given(plans())
def test_a_plan_fed_in_pieces_gives_the_spans_of_the_whole(engine, plan):
    pieces, all_at_once = Story(plan, engine, in_pieces), Story(plan, engine)
    if not pieces.stuck:
        assert pieces.same_as(all_at_once)
    else:
        fed = len(pieces.start)
        assert all_at_once.stuck
        assert (pieces.start, pieces.end) == (all_at_once.start[:fed], all_at_once.end[:fed])
        assert set(all_at_once.start[fed:]) <= {NEVER}


@laws
@given(plans(), st.lists(st.integers(0, 40), max_size=5))
def test_stopping_on_the_way_changes_nothing(engine, plan, stops_ps):
    def by_steps(made, plan):
        made.submit(plan.build())
        for ps in sorted(stops_ps):
            made.advance(ps)
        made.run()

    stepped, straight = Story(plan, engine, by_steps), Story(plan, engine)
    assert stepped.same_as(straight)
