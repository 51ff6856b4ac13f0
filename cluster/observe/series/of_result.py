"""The series of a result: what happened in each slice of a run (`slices` says what a slice is)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from actors.scheduler import Scheduler
from cluster.observe import schema
from cluster.observe.held import caches
from cluster.observe.journal import Journal
from cluster.observe.requests import Service
from cluster.observe.series.slices import SLICES, grouped, rows_of, slice_at
from cluster.observe.submitted import Sliced
from emulation.lowering.emit import CAUSES
from emulation.machine import Machine

Ints = NDArray[np.int64]


def series(scheduler: Scheduler, journal: Journal, service: Service | None, of: Sliced, horizon_ps: int,
           end_ps: Ints) -> schema.Series:
    """The series of a finished run. end_ps: when each operation ended."""
    machine, steps = scheduler.setting.machine, scheduler.steps
    rows, width = rows_of(machine), of.width
    count = max(-(-horizon_ps >> width), 1)
    step_end_ps = np.array([step.end_ps for step in steps], np.int64)
    where = slice_at(step_end_ps, width)

    def by_step(values: Sequence[int] | Ints) -> tuple[int, ...]:
        out = np.zeros(count, np.int64)
        np.add.at(out, where, np.asarray(values, np.int64))
        return tuple(out.tolist())

    counted = np.array([step.counted for step in steps], np.int64).reshape(-1, 3)
    used = np.array(scheduler.counts.first_uses, np.int64).reshape(-1, 2)
    user = np.searchsorted(step_end_ps, used[:, 1])
    late = end_ps[used[:, 0]] > used[:, 1]
    issuer = np.searchsorted(np.array([step.end_op for step in steps], np.int64), used[:, 0])
    useful, of_those_late, kept = (np.bincount(each, minlength=len(steps)) for each in (user, user[late], issuer))
    servers = dict.fromkeys(rows.lanes, 0)
    for lane, row in zip(machine.lanes, rows.lane.tolist(), strict=True):
        servers[rows.lanes[row]] += lane.servers
    return schema.Series(
        slice_ps=1 << width, slices=count, servers=servers,
        busy_ps=dict(zip(rows.lanes, _tuples(of.busy_ps[:, :count]), strict=True)),
        link_bytes={name: {cause: tuple(at.tolist()) for cause, at in zip(CAUSES, moved[:, :count], strict=True)
                           if at.any()} for name, moved in zip(rows.links, of.moved, strict=True)},
        steps=by_step(np.ones(len(steps))), prefill_tokens=by_step([step.prefill_tokens for step in steps]),
        decode_tokens=by_step([step.decode_tokens for step in steps]),
        tokens=by_step([int(activity.step.ends.sum()) for activity in journal.activities]),
        hits=by_step(counted[:, 0]), misses=by_step(counted[:, 1]), prefetch_issued=by_step(counted[:, 2]),
        prefetch_useful=by_step(useful), prefetch_late=by_step(of_those_late),
        prefetch_wasted=by_step(counted[:, 2] - kept),
        resident_bytes=_by_device(machine, _resident(scheduler, of.taken, width)[:, :count]),
        kv_bytes=_by_device(machine, _cached(scheduler, journal, service, (np.arange(count) + 1) << width)))


def _tuples(rows: Ints) -> list[tuple[int, ...]]:
    return [tuple(row) for row in rows.tolist()]


def _by_device(machine: Machine, held: Ints) -> dict[str, tuple[int, ...]]:
    """Rows [devices, slices] by name, of the devices that ever hold anything."""
    some = np.flatnonzero(held.any(axis=1)).tolist()
    devices = [machine.devices[i] for i in some]
    row, names = grouped([device.name for device in devices], [f"other {device.kind}" for device in devices])
    out = np.zeros((len(names), held.shape[1]), np.int64)
    np.add.at(out, row, held[some])
    return dict(zip(names, _tuples(out), strict=True))


def _resident(scheduler: Scheduler, taken: Ints, width: int) -> Ints:
    """Bytes of experts on each device at each slice's end: those that rest there, and what memory pools have given."""
    machine, counts = scheduler.setting.machine, scheduler.counts
    out = np.zeros((len(machine.devices), SLICES), np.int64)
    before = np.zeros(len(machine.devices), np.int64)
    for from_ps, bytes_ in counts.resting:
        out[:, int(slice_at(np.array(from_ps), width))] += bytes_ - before
        before = bytes_
    slot_bytes = int(scheduler.ledger.part_bytes.max())
    for pool, amounts in zip(machine.pools, taken, strict=False):
        out[machine.index[pool.name.rpartition(".")[0]]] += amounts * slot_bytes
    for device, pool in scheduler.pool_of.items():
        out[device] += taken[pool]
    held: Ints = out.cumsum(axis=1)
    return held


def _cached(scheduler: Scheduler, journal: Journal, service: Service | None, at_ps: Ints) -> Ints:
    """Bytes of caches on each device, [devices, instants]: of the last step that began before each."""
    machine = scheduler.setting.machine
    held = np.zeros((len(machine.devices), len(scheduler.steps) + 1), np.int64)
    if service is None:
        held[:, 1:] = caches(journal, scheduler.setting.model, len(machine.devices))
    else:
        held[list(machine.homes), 1:] = service.kv_blocks.T * service.block_bytes
    attends = [i in machine.homes and "attention" in device.kernels for i, device in enumerate(machine.devices)]
    held[~np.array(attends)] = 0
    began_ps = np.array([step.begin_ps for step in scheduler.steps], np.int64)
    found: Ints = held[:, np.searchsorted(began_ps, at_ps)]
    return found
