"""Faults of a run: told to its scheduler, before it or while it runs, and what its result says of them."""

from collections.abc import Mapping

from actors.faults import Happened
from actors.scheduler import Scheduler, StepTimes
from cluster.config.faults import STORAGE, injected
from cluster.observe import schema
from cluster.observe.figures import rate
from cluster.resolve import Setup
from emulation.units import seconds

LEFT_OUT = (
    "A fault takes effect at the first decision of a layer at or after its time; one that moves experts at the first "
    "begin of a step. Operations that are under way keep their duration.",
    "A flap that begins and ends between two decisions is not met.")
STAYS = ("The lower bound is that of the machine without its faults, which no fault beats.",)
MOVES = ("Storage hands a device its experts at its own bandwidth, over none of the machine's links; links of a device "
         "that died still pass on what goes through them.",
         "There is no lower bound: experts came from storage, and the bound supposes that they come over links.")


def inject(scheduler: Scheduler, fault: Mapping[str, object]) -> str:
    """Let a fault happen: a mapping as an entry of a run's `faults`, where `at` left out means now.

    It takes effect at the next layer, or where experts have to be placed anew, at the next step; so a run goes alike
    whenever it is told the same at the same step. Call it on the thread that drives the scheduler. Returns a sentence
    that tells it; refuses, in one sentence, what is no fault of this machine and what the policy could not go on with,
    and nothing has changed then.
    """
    faults = scheduler.faults
    if faults.storage_bytes_per_s is None:
        faults.storage_bytes_per_s = int(STORAGE.si)
    return faults.add(injected(fault, scheduler.setting.machine, scheduler.engine.now_ps))


def tell(scheduler: Scheduler, setup: Setup) -> None:
    """The faults of a run's config."""
    scheduler.faults.storage_bytes_per_s = int(setup.config.storage.si)
    for fault in setup.faults:
        scheduler.faults.add(fault)


def left_out(scheduler: Scheduler) -> tuple[str, ...]:
    """What is not modelled of the faults that a run had."""
    happened = scheduler.faults.happened
    if not happened:
        return ()
    return (*LEFT_OUT, *(MOVES if moved(scheduler) else STAYS))


def moved(scheduler: Scheduler) -> bool:
    """Whether experts were placed anew in the run."""
    return any(each.fault.moves and each.took_ps is not None for each in scheduler.faults.happened)


def effects(scheduler: Scheduler) -> tuple[schema.FaultEffect, ...] | None:
    """What became of each fault; None of a run without any."""
    happened = scheduler.faults.happened
    return tuple(_effect(each, scheduler) for each in happened) if happened else None


def marks(scheduler: Scheduler) -> tuple[tuple[int, str], ...]:
    """(instant, what happened then), by instant."""
    machine, found = scheduler.setting.machine, []
    for each in scheduler.faults.happened:
        what = each.fault.told(machine)
        if each.took_ps is not None:
            found.append((each.took_ps, what))
        if each.recovery_ps and each.took_ps is not None:
            found.append((each.took_ps + each.recovery_ps, f"recovered: {what}"))
        if each.over_ps is not None:
            found.append((each.over_ps, f"over: {what}"))
    return tuple(sorted(found))


def _effect(each: Happened, scheduler: Scheduler) -> schema.FaultEffect:
    fault, machine, steps = each.fault, scheduler.setting.machine, scheduler.steps
    before, during, after = steps, [], []
    if each.took_ps is not None:
        over_ps = steps[-1].end_ps if each.over_ps is None and steps else each.over_ps or 0
        before = [step for step in steps if step.begin_ps < each.took_ps and step.number != each.step]
        rest = steps[len(before):]
        during = [step for step in rest if step.begin_ps < over_ps or each.over_ps is None]
        after = rest[len(during):]
    return schema.FaultEffect(
        fault=fault.kind, of=fault.of(machine), what=fault.told(machine), at_ps=fault.at_ps, until_ps=fault.until_ps,
        took_ps=each.took_ps, step=each.step, over_ps=each.over_ps, sent_bytes=each.sent_bytes,
        stored_bytes=each.stored_bytes, recovery_ps=each.recovery_ps,
        before=_stretch(before, scheduler), during=_stretch(during, scheduler), after=_stretch(after, scheduler))


def _stretch(steps: list[StepTimes], scheduler: Scheduler) -> schema.Stretch | None:
    if not steps:
        return None
    waited: dict[int | None, int] = {}
    for each in scheduler.faults.happened:
        waited[each.step] = waited.get(each.step, 0) + each.recovery_ps
    prefill, decode = sum(step.prefill_tokens for step in steps), sum(step.decode_tokens for step in steps)
    time_ps = sum(step.end_ps - step.begin_ps for step in steps)
    decoding = [step.end_ps - step.begin_ps - waited.get(step.number, 0) for step in steps if not step.prefill_tokens]
    return schema.Stretch(steps=len(steps), prefill_tokens=prefill, decode_tokens=decode, time_ps=time_ps,
                          tokens_per_s=rate(prefill + decode, time_ps),
                          decode_step_s=seconds(sum(decoding)) / len(decoding) if decoding else None)
