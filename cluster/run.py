"""Runs and comparisons: from a run's config to results, on whichever transport it names."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.config.run import RunConfig
from cluster.observe.result import Result
from cluster.one_run import OneRun
from cluster.resolve import PolicyTarget, resolve
from cluster.safe import Part, Safe
from cluster.session import Named, Progress, Record, Silent
from cluster.transports.contract import Transport
from cluster.wall.stream import OnToken
from emulation.extras import require
from emulation.units import PS_PER_S


def run(config: RunConfig, progress: Progress | None = None, *, one_thread: bool = False,
        on_token: OnToken | None = None, bounded: bool = True) -> Result:
    """Carry out a run; its result is not written yet. one_thread: where others use the other cores. on_token: hears
    tokens at the pace of `clock: wall`. bounded: with its lower bound, which takes half the time of a short run."""
    return next(iter(_perform(config, Host(False, one_thread, bounded), progress, on_token).values()))


def compare(config: RunConfig, progress: Progress | None = None) -> dict[str, Result]:
    """Time `policy` and all of `against` on one record of routing and tokens.

    In `execute` the first policy runs the model and is recorded; exact policies are timed on that record, the others
    run the model themselves.
    """
    return _perform(config, Host(compare=True), progress)


def _perform(config: RunConfig, host: "Host", progress: Progress | None,
             on_token: OnToken | None = None) -> dict[str, Result]:
    heard = progress or Silent()
    if config.workload.work == "execute":
        require("work: execute", "models")
    if config.transport == "ray":
        from cluster.transports.ray.hosting import run_in_cluster

        machine = resolve(config).machine  # what is wrong with a run is told before a cluster starts
        actors = -(-sum(device.computes for device in machine.devices) // config.devices_per_actor)
        results: dict[str, Result] = run_in_cluster(host, config, actors, heard, on_token)
        return results
    transport = transport_of(config)
    try:
        return host.run(config, transport, heard, on_token)
    finally:
        transport.close()


def transport_of(config: RunConfig) -> Transport:
    """The transport that a run names, in this process or several: Ray has its own way in."""
    if config.transport == "processes":
        from cluster.transports.processes import ProcessTransport

        return ProcessTransport(config.workers, config.restarts)
    from cluster.transports.local import LocalTransport

    return LocalTransport()


@dataclass(frozen=True)
class Host:
    """What runs where the scheduler lives: this process, or a scheduler actor."""

    compare: bool
    one_thread: bool = False
    bounded: bool = True

    def run(self, config: RunConfig, transport: Transport, progress: Progress, on_token: OnToken | None = None,
            safe: Safe | None = None) -> dict[str, Result]:
        """Every policy of the run in turn; one whose result is in the safe, not again."""
        setup = resolve(config)
        targets = setup.policies if self.compare else setup.policies[:1]
        results: dict[str, Result] = {}
        record: Record | None = None
        for target in targets:
            named = title(target, targets, results)
            if safe is not None and (done := safe.get(named)) is not None:
                results[named], record = done
                continue
            one = OneRun(setup, target, transport, Named(named, progress), one_thread=self.one_thread,
                         on_token=on_token, safe=safe and Part(named, safe), bounded=self.bounded)
            results[named] = one.execute() if setup.config.workload.work == "execute" and (
                record is None or not one.policy.exact) else one.replay(record)
            if setup.requests is None:  # served requests meet other steps under another policy
                record = record or one.session.record
            if safe is not None:
                safe.put(named, (results[named], record))
        return results

    def counts(self, results: Mapping[str, Result]) -> dict[str, dict[str, float]]:
        """What a cluster's metrics count of each policy."""
        return {name: {"emulated_seconds": result.makespan_ps / PS_PER_S, "output_tokens": result.emitted_tokens,
                       "steps": sum(phase.steps for phase in result.phases.values())}
                for name, result in results.items()}


def title(target: PolicyTarget, targets: Sequence[PolicyTarget], taken: Collection[str]) -> str:
    """A policy's name; with its parameters, if it has any, where the same policy is there twice. It names a folder,
    too: of a path only the file's name is taken, unless another file has the same one."""
    twice = sum(other.name == target.name for other in targets) > 1
    name = Path(target.name).name if target.name.endswith(".py") else target.name
    if any(Path(other.name).name == name and other.target != target.target for other in targets):
        name = target.name.strip("./").replace("/", "_")
    if name not in taken and not (twice and target.parameters):
        return name
    return f"{name}({', '.join(f'{key}={value}' for key, value in sorted(target.parameters.items()))})"
