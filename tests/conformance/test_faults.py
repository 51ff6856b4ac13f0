"""Every policy of schedulers/ under every fault: it goes on and serves what is routed, or refuses in one sentence."""

from collections.abc import Mapping

import pytest

from actors.scheduler import Scheduler
from cluster.faults import inject
from emulation.engine.spec import SpecEngine
from emulation.errors import MoelabError
from emulation.faults import setting_under
from emulation.machine import Machine
from emulation.view import Setting
from schedulers.contract import Policy
from schedulers.registry import load_policy, policy_names
from tests.conformance.checks import Feed, Run, Seen, check_served, variants
from tests.conformance.test_policies import MACHINES, drawn, refusal, told

WHERE = ("gpu+3", "gpu+4 behind one link", "eager", "chiplets", "gpus")
FAULTS = ("unit_dies", "memory_shrinks", "straggler", "link_slows", "link_flaps")


def fault_on(machine: Machine, fault: str) -> Mapping[str, object]:
    """One that hits: a unit or a store that is no home, a device that computes, a link."""
    beside = [device.name for i, device in enumerate(machine.devices) if i not in machine.homes]
    at = {"fault": fault, "at": "1 ps"}
    if fault == "unit_dies":
        return {**at, "device": beside[-1] if beside else machine.devices[-1].name}
    if fault == "memory_shrinks":
        return {**at, "device": machine.devices[-1].name, "to": "70 %"}
    if fault == "straggler":
        return {**at, "device": next(d.name for d in reversed(machine.devices) if d.computes), "to": "30 %"}
    slow = {**at, "link": machine.links[-1].name, "to": "30 %"}
    return slow if fault == "link_slows" else {**slow, "period": "50 ns", "duty": "50 %"}


def run_under(name: str, where: str, seed: int, fault: str) -> Run | str:
    """A run of a few steps, or the sentence with which it was refused."""
    given, feed = drawn(MACHINES[where](), seed)
    policy = load_policy(name, variants(name)[0])
    given = told(policy, given, feed)
    scheduler = Scheduler(given, policy, SpecEngine)
    seen = []
    try:
        inject(scheduler, fault_on(given.machine, fault))
        for step, layers, forecasts in feed:
            scheduler.begin(step)
            for moe, routing in enumerate(layers):
                at, batch = scheduler.engine.now_ps, len(scheduler.batches)
                guess = forecasts[moe + 1] if moe + 1 < len(layers) else None
                layer = given.model.moe_layers[moe]
                seen.append(Seen(step, layer, routing, scheduler.decide(routing, guess), at, batch))
            scheduler.end()
        scheduler.finish()
    except MoelabError as error:
        return str(error)
    return Run(scheduler, seen)


def cases(name: str, first: int) -> list[tuple[str, int, Policy, Setting, Feed]]:
    """Machines on which a policy makes sense, from one of them on, each with what it is told and fed there."""
    found = []
    for i in range(len(WHERE)):
        seed = (first + i) % len(WHERE)
        given, feed = drawn(MACHINES[WHERE[seed]](), seed)
        policy = load_policy(name, variants(name)[0])
        given = told(policy, given, feed)
        if not refusal(policy, given):
            found.append((WHERE[seed], seed, policy, given, feed))
    return found


def survives(name: str, fault: str, where: str, seed: int, policy: Policy, given: Setting) -> None:
    done = run_under(name, where, seed, fault)
    if isinstance(done, str):
        assert "\n" not in done
        assert fault in ("unit_dies", "memory_shrinks"), done
        return
    parts = Scheduler(given, policy, SpecEngine).ledger.start.parts
    ledger, (happened,) = done.scheduler.ledger, done.scheduler.faults.happened
    check_served([s for s in done.seen if s.step.number == 0], parts, policy.exact)
    check_served([s for s in done.seen if s.step.number > 0], ledger.start.parts, policy.exact)
    assert happened.took_ps is not None or fault == "link_flaps"
    for d, device in enumerate(ledger.machine.devices):
        assert ledger.used_bytes[d] <= ledger.budget_bytes[d], device.name
        assert done.scheduler.engine.free(done.scheduler.pool_of[d]) == ledger.free_bytes(d), device.name
    if fault == "unit_dies":
        dead = given.machine.index[happened.fault.of(given.machine)]
        assert ledger.used_bytes[dead] == 0
        assert all(row.device != dead for s in done.seen if s.step.number for row in s.decision.plan.rows)


@pytest.mark.parametrize("fault", FAULTS[:4])
@pytest.mark.parametrize("name", policy_names())
def test_every_policy_survives_a_fault_or_refuses_it(name: str, fault: str) -> None:
    where, seed, policy, given, _ = cases(name, FAULTS.index(fault))[0]
    survives(name, fault, where, seed, policy, given)


@pytest.mark.soak
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", policy_names())
def test_every_policy_survives_a_fault_or_refuses_it_everywhere(name: str, fault: str) -> None:
    for where, seed, policy, given, _ in cases(name, 0):
        survives(name, fault, where, seed, policy, given)


@pytest.mark.parametrize("name", policy_names())
def test_a_slower_machine_from_the_beginning_is_the_machine_whose_file_says_so(name: str) -> None:
    _, seed, policy, given, feed = cases(name, 1)[0]
    told_of = Scheduler(given, policy, SpecEngine)
    for fault in ("straggler", "link_slows"):
        inject(told_of, {**fault_on(given.machine, fault), "at": "0 ms"})
    built_so = Scheduler(setting_under(given, [h.fault for h in told_of.faults.happened]), policy, SpecEngine)
    if not (built_so.ledger.start.rest == told_of.ledger.start.rest).all():
        assert name == "hd_moe", seed  # its placement follows from rates, and was made for healthy ones
        return
    for scheduler in (told_of, built_so):
        for step, layers, forecasts in feed:
            scheduler.begin(step)
            for moe, routing in enumerate(layers):
                scheduler.decide(routing, forecasts[moe + 1] if moe + 1 < len(layers) else None)
            scheduler.end()
        scheduler.finish()
    assert told_of.steps == built_so.steps
