"""`fse_dp`: micro-slices of experts stream around a ring of chiplets; tokens stay (FSE-DP, arXiv 2603.27624)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from emulation.ledger import Start
from emulation.plan import Plan
from emulation.streams import Handing, Ints, bound_tokens
from emulation.view import Setting, View
from schedulers._places import at_least
from schedulers._rings import array_of, laid, paired_order, trajectory
from schedulers.contract import State

SLOTS = "expert_slots"


@dataclass(frozen=True)
class Policy:
    """Each expert is cut into `micro_slices`, which come in from their channels and visit the chiplets of a ring.

    trajectory: the ring; `groups`: one ring for each row of chiplets, with a load of its own. destination: the chiplet
    next to the channel, or the one with most free slots when the channel is idle (it is woken for that). paired: hot
    experts alternate with cold ones; otherwise they come by id. placement: consecutive slices on the channels in turn,
    or one channel filled after the other. free_slots: with fewer a chiplet lets no slice in from a channel. hop_after,
    slot_free_at: edges of the run and of the hop (emulation/streams.py). whole_ring: a slice visits all chiplets;
    otherwise it ends where the last tokens for it lie.
    """

    micro_slices: int = 16
    trajectory: Literal["spiral", "row_major", "boustrophedon", "hilbert", "groups"] = "spiral"
    destination: Literal["nearest", "max_buffer"] = "nearest"
    paired: bool = True
    placement: Literal["even", "sequential"] = "even"
    free_slots: Literal[2, 3] = 2
    hop_after: Literal["start", "end"] = "start"
    slot_free_at: Literal["start", "end"] = "start"
    whole_ring: bool = True
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(1, self.micro_slices, "fse_dp: micro_slices")

    @property
    def plain(self) -> bool:
        """Whether a plan says all at once: what goes to the fullest buffers is told chiplet by chiplet."""
        return self.destination == "nearest"

    def start(self, setting: Setting) -> tuple[Start, State]:
        """State: rings [devices, length]: from each chiplet around its ring; entry [devices, groups]: a channel's
        chiplet in each group; member [groups, devices]; queue [rows, 4]: what is still to come (max_buffer).
        """
        machine, model = setting.machine, setting.model
        array = array_of(machine, "fse_dp")
        groups = trajectory(self.trajectory, array.rows, array.cols)
        rings = np.full((len(machine.devices), len(groups[0])), -1, np.int64)
        entry = np.full((len(machine.devices), len(groups)), -1, np.int64)
        member = np.zeros((len(groups), len(machine.devices)), np.int64)
        for g, ring in enumerate(groups):
            chips = [array.chips[place] for place in ring]
            member[g, chips] = 1
            for i, chip in enumerate(chips):
                rings[chip] = [*chips[i:], *chips[:i]]
            for channel in array.channels:
                entry[channel, g] = array.near(machine, channel, tuple(sorted(chips)))
        parts = min(self.micro_slices, model.d_ff)
        rest = laid(model.experts, parts, array.channels, self.placement)
        state = {"rings": rings, "entry": entry, "member": member, "queue": np.zeros((0, 4), np.int64)}
        return Start(np.tile(rest, (len(model.moe_layers), 1, 1))), state

    def plan(self, view: View, state: State) -> tuple[Plan, State]:
        rows = self._rows(view, state)
        plan = self._begin(view)
        if self.destination == "nearest":
            self._send(view, state, plan, rows, state["entry"][rows[:, 3], rows[:, 2]])
            return plan, state
        _, first = np.unique(rows[:, 3], return_index=True)
        return self._send_free(view, {**state, "queue": np.delete(rows, first, axis=0)}, plan, rows[np.sort(first)])

    def wake(self, view: View, state: State) -> tuple[Plan, State]:
        """Channels whose slice has come in send their next to where most slots are free now."""
        queue, rest = state["queue"], view.ledger.start.rest[view.moe]
        idle = dict.fromkeys(int(rest[row.expert, row.part]) for row in view.ended)
        following = [int(at[0]) for channel in idle if len(at := np.flatnonzero(queue[:, 3] == channel))]
        return self._send_free(view, {**state, "queue": np.delete(queue, following, axis=0)}, self._begin(view),
                               queue[following])

    def _begin(self, view: View) -> Plan:
        return Plan(view.layer, handing=Handing(SLOTS, self.free_slots, self.hop_after, self.slot_free_at))

    def _rows(self, view: View, state: State) -> Ints:
        """All slices in the order in which channels read them: (expert, part, group, channel) [rows, 4]."""
        counts, parts = view.routing.counts(view.setting.model.experts), view.ledger.start.parts
        order = paired_order(view.routing.active, counts) if self.paired else np.sort(view.routing.active)
        expert, part = np.repeat(order, parts), np.tile(np.arange(parts), len(order))
        wanted = (self._bound(view) @ state["member"].T > 0)[expert]
        row, group = np.nonzero(wanted)
        expert, part = expert[row], part[row]
        return np.stack([expert, part, group, view.ledger.start.rest[view.moe, expert, part]], axis=1)

    def _bound(self, view: View) -> Ints:
        pairs, setting = view.routing.pairs, view.setting
        return bound_tokens(pairs.expert, view.step.home[pairs.token], setting.model.experts,
                            len(setting.machine.devices))

    def _send(self, view: View, state: State, plan: Plan, rows: Ints, entry: Ints, *, wake: bool = False) -> None:
        """Let slices in at these chiplets."""
        paths = state["rings"][entry]
        kept = np.ones(paths.shape, np.bool_)
        if not self.whole_ring:
            needed = self._bound(view)[rows[:, 0][:, None], paths] > 0
            kept = np.cumsum(needed[:, ::-1], axis=1)[:, ::-1] > 0  # up to the last that has tokens
            kept[:, 0] = True
        ptr = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
        plan.stream_all(rows[:, 0], rows[:, 1], ptr, paths[kept], wake=wake)

    def _send_free(self, view: View, state: State, plan: Plan, rows: Ints) -> tuple[Plan, State]:
        """Each where most slots are free, after those before it; of equals next to its channel, then the first."""
        if not len(rows):
            return plan, state
        free = {chip: view.free_slots(chip, SLOTS) for chip in view.setting.machine.homes}
        entry = np.empty(len(rows), np.int64)
        for i, (_, _, group, channel) in enumerate(rows.tolist()):
            near, inside = int(state["entry"][channel, group]), np.flatnonzero(state["member"][group]).tolist()
            entry[i] = max(inside, key=lambda chip: (free[chip], chip == near))
            free[int(entry[i])] -= 1
        self._send(view, state, plan, rows, entry, wake=True)
        return plan, state
