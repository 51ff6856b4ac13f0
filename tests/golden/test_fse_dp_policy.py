"""FSE-DP through its policies on an array by hand: exact spans, orders, rings, and what each switch changes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from actors.scheduler import Scheduler
from emulation.engine.spec import SpecEngine
from emulation.errors import PlanError
from emulation.plan import LOAD, RUN, Plan
from emulation.streams import Handing
from emulation.view import View
from schedulers._rings import laid, paired_order, trajectory
from schedulers.registry import load_policy
from tests.conformance.checks import streamed
from tests.schedulers.rig import Scripted, chiplets, drive, model, moved, resting, routing, scheduler, step, timeline


def timed(name: str, experts: list[list[int]], *, of: Any = None, side: int = 2, slots: int = 2,
          latency_ps: int = 0, **parameters: object) -> tuple[Scheduler, Plan]:
    """One layer whose tokens lie on the chiplets in turn: the run and its plan."""
    machine = chiplets(side, slots=slots)
    machine = replace(machine, links=tuple(replace(link, latency_ps=latency_ps) for link in machine.links))
    run = scheduler(machine, of or model(moe_layers=1, experts=12, top_k=len(experts[0])),
                    load_policy(name, parameters), SpecEngine)
    (decision,) = drive(run, [(step(0, len(experts), machine.homes), [routing(experts)], [None])])
    return run, decision.plan


# An expert of 8 x 8, three matrices, two bytes: 384 bytes. Channel 20 GB/s: load 19200 ps. Links 100 GB/s: hop 3840 ps.
# A run reads 384 + 64 bytes for one token at 1000 GB/s: 448 ps. The ring on 2 x 2 is 0, 1, 3, 2.
def test_ring_on_2x2_by_hand():
    run, plan = timed("fse_dp", [[0], [0], [0], [0]], micro_slices=1)
    assert streamed(plan) == [(0, 0, (0, 1, 3, 2))]
    assert timeline(run) == {
        "copy demand e0 chiplet0": [(0, 19200)],
        "expert e0 chiplet0": [(19200, 19648)], "copy stream e0 chiplet1": [(19200, 23040)],
        "expert e0 chiplet1": [(23040, 23488)], "copy stream e0 chiplet3": [(23040, 26880)],
        "expert e0 chiplet3": [(26880, 27328)], "copy stream e0 chiplet2": [(26880, 30720)],
        "expert e0 chiplet2": [(30720, 31168)]}
    assert moved(run) == {("4>0", "demand"): 384, ("0>1", "stream"): 384, ("1>3", "stream"): 384,
                          ("3>2", "stream"): 384}


# Experts 0, 1, 2 of 12 rest on channel 0 and enter at chiplet 0, whose two slots must both be free: each starts when
# the one before has left. It has left at the end of its run (19648) or at an edge of its hop, which starts with the run
# (19200 to 23040) or behind it (19648 to 23488); behind it, each hop and run comes 448 later: 31168 + 3 x 448 at last.
@pytest.mark.parametrize(("hop_after", "slot_free_at", "left_ps", "last_ps"), [
    ("start", "start", 19648, 31168), ("start", "end", 23040, 31168), ("end", "start", 19648, 32512),
    ("end", "end", 23488, 32512)])
def test_edges_set_when_the_next_slice_enters(hop_after, slot_free_at, left_ps, last_ps):
    run, _ = timed("fse_dp", [[0, 1, 2]] * 4, micro_slices=1, placement="sequential", paired=False,
                   hop_after=hop_after, slot_free_at=slot_free_at)
    times = timeline(run)
    assert [times[f"copy demand e{e} chiplet0"][0][0] for e in range(3)] == [0, left_ps, 2 * left_ps]
    assert run.steps[0].end_ps == 2 * left_ps + last_ps


def test_hot_comes_with_cold_and_ties_keep_the_order_in_which_they_were_listed():
    counts = np.array([1, 4, 2, 2, 3])
    assert paired_order(np.array([3, 0, 1, 2, 4]), counts).tolist() == [1, 0, 4, 2, 3]
    assert paired_order(np.array([2, 0, 1, 3, 4]), counts).tolist() == [1, 0, 4, 3, 2]
    assert paired_order(np.array([7]), np.ones(8, np.int64)).tolist() == [7]


def test_even_placement_deals_slices_out_and_sequential_fills_channels():
    assert laid(2, 4, (10, 11, 12, 13), "even").tolist() == [[10, 11, 12, 13]] * 2
    assert laid(2, 3, (10, 11, 12, 13), "even").tolist() == [[10, 11, 12], [13, 10, 11]]
    assert laid(2, 4, (10, 11, 12, 13), "sequential").tolist() == [[10, 10, 11, 11], [12, 12, 13, 13]]


@pytest.mark.parametrize(("name", "rows", "cols", "rings"), [
    ("spiral", 2, 2, [[0, 1, 3, 2]]), ("spiral", 3, 3, [[0, 1, 2, 5, 8, 7, 6, 3, 4]]),
    ("spiral", 4, 4, [[0, 1, 2, 3, 7, 11, 15, 14, 13, 12, 8, 4, 5, 6, 10, 9]]), ("spiral", 1, 4, [[0, 1, 2, 3]]),
    ("row_major", 2, 3, [[0, 1, 2, 3, 4, 5]]), ("boustrophedon", 3, 3, [[0, 1, 2, 5, 4, 3, 6, 7, 8]]),
    ("hilbert", 4, 4, [[0, 1, 5, 4, 8, 12, 13, 9, 10, 14, 15, 11, 7, 6, 2, 3]]),
    ("groups", 3, 3, [[0, 1, 2], [3, 4, 5], [6, 7, 8]])])
def test_trajectories(name, rows, cols, rings):
    assert trajectory(name, rows, cols) == rings


def end_ps(name: str, experts: list[list[int]], **more: Any) -> int:
    return timed(name, experts, **more)[0].steps[0].end_ps


def test_slices_from_all_channels_come_in_at_once():
    one = [[0], [0], [0], [0]]
    (_, even), (_, filled) = (timed("fse_dp", one, micro_slices=4, placement=p) for p in ("even", "sequential"))
    assert [path[0] for *_, path in streamed(even)] == [0, 1, 2, 3]
    assert [path[0] for *_, path in streamed(filled)] == [0, 0, 0, 0]
    assert end_ps("fse_dp", one, micro_slices=4) < end_ps("fse_dp", one, micro_slices=4, placement="sequential")


def test_micro_slices_let_compute_begin_before_all_has_come():
    assert end_ps("fse_dp", [[0]] * 4, micro_slices=4) < end_ps("fse_dp", [[0]] * 4, micro_slices=1)


def test_a_most_empty_chiplet_takes_what_the_full_one_could_not():
    near, free = (timed("fse_dp", [[0, 1, 2]] * 4, micro_slices=1, placement="sequential", destination=d)
                  for d in ("nearest", "max_buffer"))
    assert [path[0] for *_, path in streamed(near[1])] == [0, 0, 0]
    assert len({path[0] for *_, path in streamed(free[1])}) > 1
    # 19200 each, one after the other: the channel never waits for chiplet 0 to be left
    assert sorted(s for k, spans in timeline(free[0]).items() if "demand" in k for s, _ in spans) == [0, 19200, 38400]
    assert free[0].steps[0].end_ps < near[0].steps[0].end_ps


def test_a_third_free_slot_holds_loads_back():
    assert end_ps("fse_dp", [[0, 1, 2]] * 4, micro_slices=4, slots=3) < end_ps(
        "fse_dp", [[0, 1, 2]] * 4, micro_slices=4, slots=3, free_slots=3)


def test_pairing_puts_a_long_run_beside_a_load():
    # Expert 5 has five tokens of six, all wide: by id it comes last, and its runs are then all that is left.
    wide = model(moe_layers=1, experts=6, top_k=2, d_ff=8)
    ids = [[0, 5], [1, 5], [2, 5], [3, 5], [4, 5], [0, 1]]
    paired, unpaired = (timed("fse_dp", ids, of=wide, micro_slices=1, paired=p, placement="even")[1]
                        for p in (True, False))
    assert [e for e, *_ in streamed(paired)] == [5, 4, 0, 3, 1, 2]
    assert [e for e, *_ in streamed(unpaired)] == [0, 1, 2, 3, 4, 5]


def test_a_shorter_ring_moves_less():
    whole, cut = (timed("fse_dp", [[0], [0]], micro_slices=1, whole_ring=w) for w in (True, False))
    assert streamed(cut[1]) == [(0, 0, (0, 1))]
    assert cut[0].emit.moved_bytes.sum() == 2 * 384
    assert whole[0].emit.moved_bytes.sum() == 4 * 384


def test_groups_load_once_each_and_hand_on_within():
    run, plan = timed("fse_dp", [[0]] * 4, micro_slices=1, trajectory="groups")
    assert streamed(plan) == [(0, 0, (0, 1)), (0, 0, (2, 3))]
    causes = moved(run)
    assert sum(b for (_, cause), b in causes.items() if cause == "stream") == 2 * 384
    assert causes["4>0", "demand"] == 2 * 384  # twice from its channel, once on by a link to the second row
    assert causes["0>2", "demand"] == 384


def test_spiral_keeps_to_neighbours_where_row_major_jumps():
    # From 2 to 3, from 5 to 6 and from 8 to 0 row-major goes over 3, 3 and 4 links, at 1000 ps a link.
    (spiral, _), (rows, _) = (timed("fse_dp", [[0]] * 9, side=3, micro_slices=4, latency_ps=1000, trajectory=t)
                              for t in ("spiral", "row_major"))
    assert spiral.emit.moved_bytes.sum() < rows.emit.moved_bytes.sum()
    assert spiral.steps[0].end_ps < rows.steps[0].end_ps


def test_expert_parallel_loads_behind_its_runs_unless_it_may_have_two():
    ids = [[0, 1, 2]] * 4
    alone, double = (timed("ep_chiplet", ids, double_buffer=d) for d in (False, True))
    # One at a time: load 19200, four tokens run 384 + 256 = 640 ps.
    times = timeline(alone[0])
    assert [times[f"copy demand e{e} chiplet0"][0] for e in range(3)] == [
        (0, 19200), (19840, 39040), (39680, 58880)]
    times = timeline(double[0])
    assert [times[f"copy demand e{e} chiplet0"][0] for e in range(3)] == [(0, 19200), (19200, 38400), (38400, 57600)]
    assert double[0].steps[0].end_ps < alone[0].steps[0].end_ps


def test_hydra_sends_experts_to_where_their_tokens_lie():
    # Token i lies on chiplet i; expert e rests on channel e mod 4. Hot with cold: 4 (3 tokens), 1 (1), 2 (2), 0 (2).
    # 4 has tokens on 0, 1, 2 and goes to 0; 1 on 3, to 3; 2 on 0 (taken) and 1, to 1. Channel 0 is idle again: 0 has
    # tokens on 2 and 3, and 2 is empty.
    _, plan = timed("hydra", [[2, 4], [2, 4], [0, 4], [0, 1]], of=model(moe_layers=1, experts=8, top_k=2))
    assert [(row.expert, row.device) for row in plan.rows if row.verb == LOAD] == [(4, 0), (1, 3), (2, 1), (0, 2)]
    assert [(row.expert, row.device) for row in plan.rows if row.verb == RUN] == [(4, 0), (1, 3), (2, 1), (0, 2)]


def test_hydra_may_load_behind_a_run():
    # Experts 0, 8, 4 come from channel 0, with all tokens on chiplet 0, which is busy with 0 when 8 is to come: that
    # goes to an empty chiplet without tokens, or waits in the second slot of chiplet 0.
    alone, double = (timed("hydra", [[0, 4, 8]], double_buffer=d) for d in (False, True))
    went = [[(row.expert, row.device) for row in plan.rows if row.verb == LOAD] for _, plan in (alone, double)]
    assert went == [[(0, 0), (8, 1), (4, 0)], [(0, 0), (8, 0), (4, 0)]]
    assert sum(b for (_, cause), b in moved(double[0]).items() if cause == "dispatch") == 0
    # 600 tokens run for 38784 ps, twice a load: with every chiplet busy, a second slot lets loads go on.
    everything = [list(range(12))] * 600
    assert end_ps("hydra", everything, double_buffer=True) < end_ps("hydra", everything)


@pytest.mark.parametrize(("write", "told"), [
    (lambda p: p.stream(0, 0, [0, 1]), "token 2 with expert 0 is unserved"),
    (lambda p: [p.stream(0, 0, [0, 1, 3, 2]), p.stream(0, 0, [1])], "part 0 of expert 0 is served twice on 'chiplet1'"),
    (lambda p: p.stream(0, 0, [0, 1, 0, 3]), "along two rings that share its slots"),
    (lambda p: [p.stream(0, 0, [0, 1, 3, 2]), p.stream(1, 0, [0, 2])], "streams from 'chiplet0' along two rings"),
    (lambda p: p.stream(9, 0, [0]), "streams expert 9, but there are 4"),
    (lambda p: p.stream(0, 0, [5]), "streams through 'ddr1'"),
    (lambda p: p.stream(0, 0, []), "streams expert 0 to no device")])
def test_streams_that_cannot_be_are_refused(write, told):
    assert told in refused(write)


@pytest.mark.parametrize(("handing", "told"), [
    (Handing(needs=1), "lets parts enter a ring with 1 free slot"),
    (Handing(needs=5), "asks for 5 free slots of 'chiplet0', which has 2"),
    (Handing(pool="beds"), "which has no pool 'beds'"), (Handing(hop_after="middle"), "an edge is one of start, end")])
def test_rules_of_handing_on_are_checked(handing, told):
    assert told in refused(lambda p: [p.stream(0, 0, [0, 1, 3, 2]), setattr(p, "handing", handing)])


def refused(write: Any) -> str:
    def plan(view: View) -> Plan:
        made = Plan(view.layer)
        write(made)
        return made

    machine = chiplets(2, slots=2)
    run = scheduler(machine, model(moe_layers=1, experts=4, top_k=1),
                    Scripted(resting(1, [[4], [5], [6], [7]]), [plan]), SpecEngine)
    run.begin(step(0, 4, machine.homes))
    with pytest.raises(PlanError) as error:
        run.decide(routing([[0], [0], [0], [0]]))
    return str(error.value)
