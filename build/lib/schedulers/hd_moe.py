"""`hd_moe`: hybrid parallelism on near-memory nodes: experts whole or cut, as a program decides (arXiv 2509.09420)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from emulation.errors import ConfigError
from emulation.ledger import Start
from emulation.machine import Machine
from emulation.plan import ALL_PARTS, ALL_TO_ALL, RUN, UNICAST, Plan
from emulation.view import Setting, View
from schedulers._broadcast import Sent, chosen, run_sent
from schedulers._link_balance import arranged, link_times
from schedulers._node_balance import costs_of, frequency, groups_of, in_parts, solve, touched
from schedulers._node_program import Costs, Groups
from schedulers._placement import by_batch
from schedulers._places import at_least, owners, places
from schedulers.contract import State

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def nodes_of(machine: Machine) -> tuple[int, ...]:
    """The nodes, each with its own share of the experts; refuses a machine where experts rest away from them."""
    shared = places(machine, "hd_moe")
    if any(stores != (device,) for device, stores in zip(*shared, strict=True)):
        raise ConfigError(f"hd_moe places experts in the memory of the nodes that run them, and on machine "
                          f"{machine.name!r} they rest elsewhere")
    return shared.devices


@dataclass(frozen=True)
class Policy:
    """Experts are cut into `parts` slices; a node runs those slices of active experts that rest on it.

    node_balance: what of an expert rests on which node is what a program says (schedulers/_node_balance.py), rounded to
    whole slices; without it experts lie whole, as in expert_parallel. link_balance: nodes change places on the mesh
    (schedulers/_link_balance.py), in a search that `seed` begins. broadcast: behind each layer, slices of the expert
    that the forecast makes the heaviest of the next layer's most loaded node are copied to all nodes
    (schedulers/_broadcast.py). The popularity and the co-activation of experts are those of the history that the
    workload names; without one all are alike.
    """

    node_balance: bool = True
    link_balance: bool = True
    broadcast: bool = True
    parts: int = 4
    seed: int = 0
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(1, self.parts, "hd_moe: parts")
        at_least(0, self.seed, "hd_moe: seed")

    def start(self, setting: Setting) -> tuple[Start, State]:
        model, nodes = setting.model, np.array(nodes_of(setting.machine))
        if model.d_ff < self.parts:
            raise ConfigError(f"hd_moe cuts an expert into {self.parts} slices, and an expert of {model.name!r} has "
                              f"{model.d_ff} columns")
        layers, experts, k = len(model.moe_layers), model.experts, model.top_k
        whole = np.zeros((experts, len(nodes)))
        whole[np.arange(experts), owners(experts, len(nodes), "contiguous")] = 1.0
        costs, times = self._costs(setting, nodes), link_times(setting.machine, tuple(nodes.tolist()))
        counts = by_batch(setting)
        rest = np.empty((layers, experts, self.parts), np.int64)
        for layer in range(layers):
            load, groups = frequency(counts[:, layer].sum(axis=0), k), groups_of(counts[:, layer], k)
            held = self._held(whole, load, groups, costs)
            order = np.arange(len(nodes))
            if self.link_balance:
                order = arranged(times, touched(held.astype(np.float64), groups), self.seed)
            for expert in range(experts):
                rest[layer, expert] = np.repeat(nodes[order], held[expert])
        return Start(rest), Sent.nothing(layers, self.parts)

    def _held(self, whole: Floats, load: Floats, groups: Groups, costs: Costs) -> Ints:
        """Slices of each expert on each node, [experts, nodes]."""
        if not self.node_balance:
            return (whole * self.parts).astype(np.int64)
        found = np.frombuffer(solve(whole.tobytes(), tuple(load.tolist()), groups, costs), np.float64)
        return in_parts(found.reshape(whole.shape), self.parts, np.array(costs.room))

    def _costs(self, setting: Setting, nodes: Ints) -> Costs:
        machine, model = setting.machine, setting.model
        part = model.expert_work(model.columns(0, self.parts)).weight_bytes
        room = setting.budget_bytes[nodes] // len(model.moe_layers) / max(part * self.parts, 1)
        comp = min(machine.devices[node].kernels["expert"].flops_per_s for node in nodes.tolist())
        bandwidth = min((link.bytes_per_s for link in machine.links), default=1)
        return costs_of(model.d_model, model.d_ff, model.top_k, len(nodes), comp, bandwidth, tuple(room.tolist()))

    def plan(self, view: View, state: State) -> tuple[Plan, State]:
        machine, sent = view.setting.machine, Sent(*(part.copy() for part in state))
        nodes, moe = nodes_of(machine), view.moe
        at_home = len(machine.homes) > 1 and nodes == machine.homes
        plan = Plan(view.layer, exchange=ALL_TO_ALL if at_home else UNICAST)
        active = view.routing.active
        others = active[active != sent.expert[moe]]
        rest = view.ledger.start.rest[moe, others]
        whole = (rest == rest[:, :1]).all(axis=1)
        row = np.repeat(np.arange(len(others)), np.where(whole, 1, self.parts))
        part = np.arange(len(row)) - np.searchsorted(row, row)
        plan.extend(RUN, others[row], rest[row, part], part=np.where(whole[row], ALL_PARTS, part))
        run_sent(plan, view, sent, nodes)
        if self.broadcast:
            chosen(plan, view, sent, nodes)
        return plan, tuple(sent)
