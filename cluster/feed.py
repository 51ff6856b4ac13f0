"""What a run is fed, from its config: steps with their routing, its requests."""

import dataclasses
from itertools import islice

from cluster.config.workload import Workload
from cluster.observe.journal import Request
from cluster.resolve import Setup
from emulation.trace import StepRouting
from emulation.view import DECODE, PREFILL, Step
from workloads.synthetic import Request as Asked
from workloads.synthetic import Router, static_steps

Feed = list[tuple[Step, StepRouting]]


def batches(work: Workload) -> list[list[Asked]]:
    """The requests of a generated workload, batch by batch."""
    count = work.requests or work.batch
    one = Asked(work.prompt_tokens or 1, work.output_tokens or 1)
    return [[one] * min(work.batch, count - at) for at in range(0, count, work.batch)]


def feed_of(setup: Setup) -> Feed:
    """The steps that the workload names with their routing: recorded or generated."""
    config, machine = setup.config, setup.machine
    if setup.routing is not None:
        shift = config.workload.context_tokens
        steps = ((dataclasses.replace(step, position=step.position + shift), routed)
                 for step, routed in setup.routing.steps(machine.homes))
        return list(islice(steps, config.limits.steps))
    assert config.workload.generator is not None
    router = Router(setup.model, config.workload.generator.name, config.seed, config.workload.generator.skew)
    out: Feed = []
    sequences = 0
    for batch in batches(config.workload):
        for step in static_steps(batch, machine.homes):
            if config.limits.steps is not None and len(out) == config.limits.steps:
                return out
            moved = dataclasses.replace(step, number=len(out), sequence=step.sequence + sequences)
            out.append((moved, router.route(moved)))
        sequences += len(batch)
    return out


def requests_of(steps: list[Step]) -> list[Request]:
    """The sequences that a run served: prompt tokens as prefilled, output tokens as it made them."""
    made: dict[int, list[int]] = {}
    for step in steps:
        for sequence, phase in zip(step.sequence.tolist(), step.phase.tolist(), strict=True):
            made.setdefault(sequence, [0, 0])[phase] += 1
    return [Request(sequence, 0, counts[PREFILL], counts[DECODE] + (1 if counts[PREFILL] else 0))
            for sequence, counts in sorted(made.items())]
