"""Expert weights and KV caches share a memory: who gets what of it in a served workload."""

from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from actors.scheduler import Scheduler
from cluster.resolve import Setup, kv_block_bytes
from emulation.engine.choose import make_engine
from emulation.view import Setting
from schedulers.contract import Policy

Ints = NDArray[np.int64]


def division(setup: Setup, policy: Policy) -> tuple[Setting, Ints]:
    """(what the policy is told, with the room for experts that is left to it; KV blocks on each home).

    Experts get what the policy places at its start and stages beyond it; caches get the rest of each home, or as much
    as the workload says. A home that runs no attention keeps no cache: it has blocks for all.
    """
    setting, machine, serving = setup.setting, setup.machine, setup.config.workload.serving
    assert serving is not None
    budget, block = setting.budget_bytes.copy(), kv_block_bytes(setup)
    requests, homes = setup.requests, len(machine.homes)
    assert requests is not None
    each = -(-(requests.prompt_tokens + requests.output_tokens) // serving.kv.block_tokens)
    blocks = np.bincount(np.arange(len(each)) % homes, each, homes).astype(np.int64)
    reserved = budget.copy()
    if serving.kv.capacity is None:
        reserved = Scheduler(setting, policy, partial(make_engine, "spec")).ledger.used_bytes.copy()
        staged = getattr(policy, "staged", None)
        for device, bytes_ in (staged(setting) if staged is not None else {}).items():
            reserved[device] += bytes_
    for i, home in enumerate(machine.homes):
        if "attention" in machine.devices[home].kernels:
            budget[home] = min(int(reserved[home]), int(budget[home]))
            if setup.kv_capacity_bytes is not None:
                blocks[i] = setup.kv_capacity_bytes // block
            else:
                blocks[i] = (machine.devices[home].memory_bytes - setup.model.dense_bytes - int(budget[home])) // block
    return replace(setting, budget_bytes=budget), blocks
