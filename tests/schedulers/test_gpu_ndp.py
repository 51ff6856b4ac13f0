"""GPU-NDP, MoNDE and Fiddler: their rules by hand, and that each part changes the plan and the time as it says."""

from dataclasses import replace

import numpy as np
import pytest

from emulation.costs import Costs
from emulation.engine.spec import SpecEngine
from emulation.errors import ConfigError
from emulation.ledger import Ledger
from emulation.plan import EVICT, LOAD, NOBODY, RUN
from emulation.view import DECODE, PREFILL, Early, View
from schedulers._balance import fewest, left_beside, overlapped, together_ps
from schedulers._beside import FEW, beside_home
from schedulers._popular import FILL, global_list
from schedulers._recent import caps, exchanged, most_visited
from schedulers.registry import load_policy
from tests.schedulers.rig import (
    GB,
    drive,
    eager_host,
    gpu_and_units,
    gpus,
    model,
    moved,
    routing,
    scheduler,
    setting,
    step,
    timeline,
)

VERBS = {RUN: "run", LOAD: "load", EVICT: "evict"}
NONE_EARLY = Early(*np.empty((3, 0), np.int64))
ONLY_BALANCE = {"prefetch": "none"}


def fast(units=2, rate=100, quantum_bytes=64):
    """GPU and units with links of `rate` GB/s. An expert is 384 B; a run reads that and 64 B a token: on the GPU, of
    1000 GB/s, 448 ps for one token; a half on a unit of 100 GB/s reads 192 B and 48 B a token: 2400 ps."""
    machine = gpu_and_units(units, quantum_bytes=quantum_bytes)
    return replace(machine, links=tuple(replace(link, bytes_per_s=rate * GB) for link in machine.links))


class Asked:
    """A policy at work on two MoE layers of six experts; the ledger follows its loads and evictions."""

    def __init__(self, name, parameters=None, *, machine=None, popularity=None, backlog_ps=0, budget=None):
        self.policy = load_policy(name, parameters or {})
        self.given = setting(machine or fast(), model(moe_layers=2, experts=6, top_k=1), budget, popularity)
        self.start, self.state = self.policy.start(self.given)
        self.ledger = Ledger(self.given.machine, self.given.model, self.start, self.given.budget_bytes)
        self.backlog_ps = backlog_ps

    def rows(self, experts, phase=DECODE, layer=0):
        """Rows in words: verb, expert, part, device; `over` a victim, `ahead` of use."""
        now = step(0, len(experts), self.given.machine.homes, phase)
        view = View(self.given, now, layer, layer, routing(experts), None, self.ledger, NONE_EARLY, lambda: 0,
                    lambda _: self.backlog_ps)
        plan, self.state = self.policy.plan(view, self.state)
        for row in plan.rows:
            if row.victim != NOBODY or row.verb == EVICT:
                self.ledger.evict(row.device, layer, row.expert if row.verb == EVICT else row.victim, -1)
            if row.verb == LOAD:
                self.ledger.load(row.device, layer, row.expert, row.part)
        names = [device.name for device in self.given.machine.devices]
        return [f"{VERBS[row.verb]} {row.expert}" + (f".{row.part}" if row.part >= 0 else "") + f" {names[row.device]}"
                + (f" over {row.victim}" if row.victim != NOBODY else "") + (" ahead" if row.priority else "")
                for row in plan.rows]


def halves(expert):
    return [f"run {expert}.0 unit0", f"run {expert}.1 unit1"]


def test_the_loop_of_the_assignment():
    # g: 5; max(5, 10) + 3; max(13, 20) + 2; max(22, 30) + 1.
    assert overlapped(5, [10, 10, 10], [3, 2, 1]) == [5, 13, 22, 31]
    assert overlapped(5, [10, 10, 10], [3, 2, 1], before_ps=4) == [5, 17, 26, 35]
    assert overlapped(40, [10, 10], [3, 2]) == [40, 43, 45]
    assert left_beside([9, 6, 5], [0, 0, 0], 1, exchange_ps=2) == [22, 13, 7, 0]
    assert left_beside([4, 4, 4], [0, 1, 0], 2) == [8, 4, 4, 0]
    assert fewest([5, 13, 22, 31], [22, 13, 7, 0]) == 1
    assert fewest([0, 10, 20], [10, 5, 0]) == 0
    assert fewest([0], [0]) == 0


def test_messages_share_a_link_one_after_the_other():
    machine = gpu_and_units(3, shared_link=True)
    assert together_ps(machine, [(1, 0), (2, 0), (3, 0)], [100, 50, 50]) == (20000, 20000)
    assert together_ps(gpu_and_units(3), [(1, 0), (2, 0), (3, 0)], [100, 50, 50]) == (10000, 10000)


def test_estimates_are_those_of_the_lowering_and_the_largest_slice_counts():
    given = setting(fast(3), model(moe_layers=1, experts=4, top_k=1, d_ff=10))
    cut, whole = beside_home(given, "any", cut=True), beside_home(given, "any", cut=False)
    parts, one = Costs(given.machine, given.model, 3), Costs(given.machine, given.model, 1)
    assert [given.model.columns(part, 3) for part in range(3)] == [4, 3, 3]
    for n in (1, 5, FEW + 1):
        assert cut.ndp_ps(0, n) == parts.run_ps(1, n, 0) > parts.run_ps(2, n, 1)
        assert whole.ndp_ps(1, n) == one.run_ps(2, n)
        assert cut.gpu_ps(n) == one.run_ps(0, n)
    assert whole.load_ps(0) == (one.load_ps(1, 0), 0)
    few, many = np.array([1, 5]), np.array([1, FEW + 1])
    for tokens in (few, many):
        assert cut.on_home_ps(cut.tables("unicast"), tokens) == [one.run_ps(0, n) for n in tokens.tolist()]


def test_the_hottest_are_moved_while_it_ends_the_layer_earlier_and_ties_go_to_the_lower_id():
    # Tokens: 4 has two, 1 and 2 one. Units: 2880 + 2400 + 2400, and for four rows 640 out, 640 back, 2 * 192 to add:
    # 9344, 6464, 4064, 0. GPU: 0, 1920 + 512 = 2432, 3840 + 448 = 4288, 5760 + 448. The latest: 9344, 6464, 4288, 6208.
    asked = Asked("gpu_ndp", ONLY_BALANCE)
    assert asked.rows([[4], [1], [4], [2]]) == [
        *halves(2), "load 4 gpu", "run 4 gpu", "load 1 gpu", "run 1 gpu", "evict 4 gpu", "evict 1 gpu"]
    assert Asked("gpu_ndp", {"prefetch": "none", "balance": False}).rows([[4], [1], [4], [2]]) == [
        *halves(4), *halves(1), *halves(2)]


def test_whole_experts_are_queued_by_unit():
    asked = Asked("gpu_ndp", {"parallel": "expert", "balance": False, "prefetch": "none"})
    assert asked.rows([[5], [0], [2]]) == ["run 0 unit0", "run 2 unit0", "run 5 unit1"]


def test_an_exchange_that_counts_for_each_expert_moves_more():
    # 50 GB/s: T_w 3840, the exchange of one row 320 + 320 + 96. GPU: 0, 4288, 8128, 11968, 15808. Units, with four of
    # 2400 and one exchange: 10336, 7936, 5536, ...; with four of 3136: 12544, 9408, 6272, 3136.
    def runs(charge):
        asked = Asked("gpu_ndp", {**ONLY_BALANCE, "charge": charge}, machine=fast(rate=50))
        return [row for row in asked.rows([[1, 2, 3, 4]]) if row.startswith("run") and row.endswith("gpu")]

    assert runs("layer") == ["run 1 gpu"]
    assert runs("expert") == ["run 1 gpu", "run 2 gpu"]


@pytest.mark.parametrize(("backlog", "queued_ps", "told_ps", "moves"), [
    ("reckoned", 10**6, 0, 0), ("reckoned", 0, 10**6, 2), ("asked", 0, 10**6, 0), ("asked", 10**6, 0, 2),
    ("none", 10**6, 10**6, 2)])
def test_what_is_queued_on_the_link_keeps_experts_where_they_are(backlog, queued_ps, told_ps, moves):
    # A quantum of 1920 B takes 19200 ps: the first copy would be there at 21120, and all units are done at 9344.
    asked = Asked("gpu_ndp", {**ONLY_BALANCE, "backlog": backlog}, machine=fast(quantum_bytes=1920), backlog_ps=told_ps)
    asked.state = {**asked.state, "queued_ps": queued_ps}
    assert sum(row.startswith("load") for row in asked.rows([[4], [1], [4], [2]])) == moves


def test_a_prompt_s_most_visited_experts_come_and_stay():
    asked = Asked("gpu_ndp", {"balance": False, "cap": 2})
    # Counts 4: 2, 1: 1, 2: 1, 0: 1: 4 and, of the tie, 0.
    assert asked.rows([[4], [1], [4], [2], [0]], PREFILL)[-2:] == ["load 4 gpu ahead", "load 0 gpu ahead"]
    assert asked.rows([[4], [3]]) == [*halves(3), "run 4 gpu"]
    # Frozen: what decode visits moves nothing; the next prompt's counts begin anew and replace what it does not visit.
    assert [asked.rows([[3]]) for _ in range(4)] == [halves(3)] * 4
    assert asked.rows([[3], [4]], PREFILL) == [*halves(3), "run 4 gpu", "load 3 gpu over 0 ahead"]


def test_running_counts_replace_what_falls_behind():
    asked = Asked("gpu_ndp", {"balance": False, "cap": 1, "prefetch": "running"})
    assert asked.rows([[0], [0], [3]], PREFILL)[-1] == "load 0 gpu ahead"
    assert asked.rows([[3]]) == halves(3)  # two each: what is held stays
    assert asked.rows([[3]]) == [*halves(3), "load 3 gpu over 0 ahead"]
    assert asked.rows([[3]]) == ["run 3 gpu"]


def test_what_the_balance_moves_and_the_prompt_wants_stays():
    asked = Asked("gpu_ndp", {"cap": 1})
    assert asked.rows([[4], [1], [4], [2]], PREFILL) == [
        *halves(2), "load 4 gpu", "run 4 gpu", "load 1 gpu", "run 1 gpu", "evict 1 gpu"]
    assert np.flatnonzero(asked.ledger.held(0, 0)).tolist() == [4]


def test_the_cap_holds_in_every_layer_and_within_memory():
    assert caps(3, 6, 7, -1).tolist() == [3, 2, 2]
    assert caps(3, 6, 7, 2).tolist() == [2, 2, 2]
    assert caps(3, 6, 7, 5).tolist() == [3, 2, 2]
    assert caps(2, 6, 10**9, -1).tolist() == [6, 6]
    # 2000 B hold five experts of 384 B, two of them staged: three stay, two in the first layer.
    given = setting(fast(), model(moe_layers=2, experts=6, top_k=1))
    given = replace(given, budget_bytes=np.array([2000, 10**6, 10**6]))
    policy = load_policy("gpu_ndp", {})
    assert policy.start(given)[1]["caps"].tolist() == [2, 1]
    assert policy.staged(given) == {0: 5 * 384}


def test_choices_among_counts():
    counts = np.array([2, 0, 5, 2, 2, 0])
    assert np.flatnonzero(most_visited(counts, 3)).tolist() == [0, 2, 3]
    assert np.flatnonzero(most_visited(counts, 9)).tolist() == [0, 2, 3, 4]
    held = np.array([False, False, False, False, True, True])
    target = most_visited(counts, 2, held)
    assert np.flatnonzero(target).tolist() == [2, 4]
    coming, over = exchanged(counts, held, target, 2)
    assert (coming.tolist(), over.tolist()) == ([2], [5])
    assert exchanged(counts, held, target, 3)[1].tolist() == [NOBODY]


def timed(name, parameters, routed, *, machine=None, phases=None):
    """A run of one MoE layer, a step a routing: the scheduler when it has ended."""
    of = model(moe_layers=1, experts=6, top_k=1)
    run = scheduler(machine or fast(), of, load_policy(name, parameters), SpecEngine)
    drive(run, [(step(i, len(ids), phase=(phases or {}).get(i, DECODE)), [routing(ids)], [None])
                for i, ids in enumerate(routed)])
    return run


def took(*args, **more):
    return timed(*args, **more).engine.now_ps


def test_cut_experts_load_units_equally_and_are_faster_where_one_unit_had_both():
    whole = {"parallel": "expert", "balance": False, "prefetch": "none"}
    cut = {**whole, "parallel": "tensor"}
    busy = [{key: end - start for key, [(start, end), *_] in timeline(timed("gpu_ndp", p, [[[0], [1]]])).items()
             if key.startswith("expert")} for p in (whole, cut)]
    assert busy == [{"expert e0 unit0": 4480, "expert e1 unit0": 4480},
                    {f"expert e{e} unit{u}": 2400 for e in (0, 1) for u in (0, 1)}]
    assert took("gpu_ndp", cut, [[[0], [1]]]) < took("gpu_ndp", whole, [[[0], [1]]])


def test_off_altogether_it_is_tensor_or_expert_parallel():
    off = {"balance": False, "prefetch": "none"}
    routed = [[[0], [1], [5]], [[2], [2]]]
    assert took("gpu_ndp", off, routed) == took("tensor_parallel", {}, routed)
    assert took("gpu_ndp", {**off, "parallel": "expert", "exchange": "unicast"}, routed) == took(
        "expert_parallel", {}, routed)


def test_a_broadcast_crosses_a_shared_link_once():
    machine = gpu_and_units(3)
    out = machine.links[0].lane
    machine = replace(machine, links=tuple(replace(link, lane=out) if link.source == 0 else link
                                           for link in machine.links))
    off = {"balance": False, "prefetch": "none"}
    one, each = (timed("gpu_ndp", {**off, "exchange": how}, [[[0]]], machine=machine)
                 for how in ("broadcast", "unicast"))
    # A row of 16 B takes 1600 ps: the third unit has it at 1600 or at 4800. Slices of 3, 3 and 2 columns take 1880,
    # 1880 and 1360. Once: two come back at 5080 and are added, 48 each. To each: the third's is at 7760.
    assert [timeline(run)["expert e0 unit2"][0] for run in (one, each)] == [(1600, 2960), (4800, 6160)]
    assert [run.engine.now_ps for run in (one, each)] == [5176, 7808]
    assert moved(one) == moved(each)  # links of their own, one lane: each carries the row


def test_each_part_shortens_the_run_that_it_is_for():
    prompt, answer = [[4], [1], [4], [2], [4]], [[[4]], [[4]], [[1]]]
    routed, phases = [prompt, *answer], {0: PREFILL}

    def ps(**parameters):
        return took("gpu_ndp", parameters, routed, phases=phases, machine=fast(rate=50))

    nothing = ps(balance=False, prefetch="none")
    balanced = ps(prefetch="none")
    assert balanced < nothing
    assert ps(cap=0) == balanced
    assert ps(cap=3) < ps(cap=1) < balanced
    assert ps(balance=False, cap=1) < nothing


def test_running_counts_serve_what_only_the_answer_visits():
    routed, phases = [[[0], [0], [3]], *[[[3]]] * 8], {0: PREFILL}
    frozen, running = (timed("gpu_ndp", {"cap": 1, "prefetch": how, "balance": False}, routed, phases=phases)
                       for how in ("frozen", "running"))
    assert [len(timeline(run).get("expert e3 gpu", [])) for run in (frozen, running)] == [0, 6]
    assert running.engine.now_ps < frozen.engine.now_ps


def test_monde_moves_the_hottest_and_leaves_nothing_behind():
    # All on unit 0; T_n 5120 and 4480, T_w 3840. Units: 14080, 8960, 4480, 0. GPU: 0, 3840 + 512, 7680 + 448, 11968.
    asked = Asked("monde")
    assert asked.rows([[0], [1], [2], [2]]) == [
        "run 1 unit0", "load 2 gpu", "run 2 gpu", "load 0 gpu", "run 0 gpu", "evict 2 gpu", "evict 0 gpu"]
    assert not asked.ledger.held(0, 0).any()
    assert Asked("monde").rows([[0], [3]]) == ["run 0 unit0", "run 3 unit1"]  # 4480 each: a copy is no sooner
    dealt = Asked("monde", {"placement": "round_robin"})
    assert dealt.rows([[0], [1]]) == ["run 0 unit0", "run 1 unit1"]


HISTORY = np.array([[5, 0, 9, 9, 1, 0], [0, 0, 0, 0, 0, 7]])


def test_popular_experts_are_taken_from_one_list_over_all_layers():
    given = setting(fast(), model(moe_layers=2, experts=6, top_k=1), popularity=HISTORY)
    assert np.argwhere(global_list(given, 0, 3, 2)).tolist() == [[0, 2], [0, 3], [1, 5]]
    assert global_list(given, 0, FILL, 2).all()
    tight = replace(given, budget_bytes=np.array([4 * 384, 10**6, 10**6]))
    assert np.argwhere(global_list(tight, 0, FILL, 2)).tolist() == [[0, 2], [0, 3]]
    with pytest.raises(ConfigError, match="fiddler: popular is -2; it is at least -1"):
        load_policy("fiddler", {"popular": -2})


def test_fiddler_copies_what_has_tokens_enough():
    # One token takes a unit 4480 ps, a copy at 10 GB/s 38400: from nine tokens on it is copied.
    def rows(tokens, **parameters):
        asked = Asked("fiddler", {"popular": 2, **parameters}, machine=gpu_and_units(2), popularity=HISTORY)
        return asked.rows([[1]] * tokens + [[2]])

    assert rows(8) == ["run 1 unit0", "run 2 gpu"]
    assert rows(9) == ["run 2 gpu", "load 1 gpu", "run 1 gpu", "evict 1 gpu"]
    assert rows(9, run_ms=7.0, load_ms=70.0) == ["run 1 unit0", "run 2 gpu"]
    assert rows(10, run_ms=7.0, load_ms=70.0) == ["run 2 gpu", "load 1 gpu", "run 1 gpu", "evict 1 gpu"]


def test_fiddler_s_sides_run_at_once_or_one_after_the_other():
    for machine in (gpu_and_units(2), eager_host()):
        both, serial = (timed("fiddler", {"popular": 1, "sides": sides, "run_ms": 7.0, "load_ms": 70.0},
                              [[[0], [4]]], machine=machine) for sides in ("overlapped", "serial"))
        unit = machine.devices[-1].name
        there, here = (timeline(serial)[key][0] for key in (f"expert e4 {unit}", "expert e0 gpu"))
        assert there[0] >= here[1]
        assert both.engine.now_ps < serial.engine.now_ps


def test_on_demand_keeps_a_popular_set():
    asked = Asked("on_demand", {"popular": 2}, popularity=HISTORY)
    assert asked.rows([[1], [2]]) == ["run 2 gpu", "load 1 gpu", "run 1 gpu", "evict 1 gpu"]


@pytest.mark.parametrize("name", ["gpu_ndp", "monde"])
def test_a_machine_without_units_beside_one_home_is_refused(name):
    with pytest.raises(ConfigError, match=f"{name} keeps experts on one home"):
        Asked(name, machine=gpus(2))
    with pytest.raises(ConfigError, match=f"{name} needs a device beside the home"):
        Asked(name, machine=gpus(1))
