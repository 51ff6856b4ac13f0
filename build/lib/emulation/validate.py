"""The checks on a plan before it is lowered: every routed pair served once, nothing undeclared."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulation.errors import PlanError, unknown
from emulation.ops import HIGHEST
from emulation.plan import ALL_PARTS, ALL_TOKENS, EXCHANGES, NOBODY, RUN, UNEVEN, Gating, Plan, Row, Served
from emulation.validate_streams import check_streams, covered
from emulation.view import Early, Pairs, View

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Assignment(NamedTuple):
    """One run as an actor gets it: part of an expert of a layer on a device, over token rows with their weights."""

    layer: int
    expert: int
    part: int
    device: int
    tokens: Ints
    weights: Floats


class Decision(NamedTuple):
    """A plan that passed: its runs with their tokens, what is served, and what of the routing is not.

    served: pairs of this layer, early ones included. early [pairs]: whether a pair was computed early.
    substituted, dropped: how many routed pairs are served by another expert, or not at all.
    substituted_experts: how many routed experts have such a substitute for any of their tokens.
    streamed: makes the runs of the plan's streams.
    """

    plan: Plan
    assignments: list[Assignment]
    served: Pairs
    early: Mask
    substituted: int
    dropped: int
    substituted_experts: int
    streamed: Callable[[], list[Assignment]] = list

    @property
    def now(self) -> Pairs:
        """The pairs that run in this layer."""
        return _not_early(self.served, self.early)


def validate(view: View, plan: Plan, parts: int, exact: bool, *, whole: bool = True) -> Decision:
    """The decision that a plan amounts to; refuses a pair unserved or served twice, and undeclared changes.

    Not whole: a plan that will go on when it is woken, in which pairs may still be unserved.
    """
    if plan.layer != view.layer:
        raise PlanError(f"a plan for layer {view.layer} names layer {plan.layer}: it is made for the layer of its view")
    if plan.exchange not in EXCHANGES:
        raise PlanError(f"the plan for layer {view.layer}: {unknown('exchange', plan.exchange, EXCHANGES)}")
    if exact and plan.served is not None:
        raise PlanError(f"the policy calls itself exact, but serves a routing of its own in layer {view.layer}: "
                        "declare exact = False")
    layers = view.setting.model.moe_layers
    for row in plan.rows:
        _check_row(view, row, parts, layers)
    routed = view.routing.pairs
    substituted = dropped = substituted_experts = 0
    served, early = routed, np.zeros(len(routed.token), np.bool_)
    if plan.served is not None:
        substituted, dropped, substituted_experts = _changes(view, plan.served)
        served, early = _merged(view, plan.served)
    now = _not_early(served, early)
    assignments = [_assignment(view, plan, row, now) for row in plan.rows if row.verb == RUN]
    check_streams(view, plan, view.ledger)
    if plan.gating is not None:
        _check_gating(view, plan, plan.gating, now)
    if whole:
        _check_cover(view, now, [run for run in assignments if run.layer == view.layer], parts,
                     covered(view, plan, now, parts), empty=plan.gating is not None and plan.gating.capacity != UNEVEN)
    return Decision(plan, assignments, served, early, substituted, dropped, substituted_experts,
                    lambda: _streamed(view, plan, now))


def _not_early(served: Pairs, early: Mask) -> Pairs:
    if not early.any():
        return served
    return Pairs(served.token[~early], served.expert[~early], served.weight[~early])


def as_plan(layer: int, answer: object) -> Plan:
    """What a policy returned for a layer, if it is a plan made of rows."""
    if not isinstance(answer, Plan):
        raise PlanError(f"the policy answers layer {layer} with {type(answer).__name__}: it returns a Plan and its "
                        "next state")
    for row in answer.rows:
        if not isinstance(row, Row):
            raise PlanError(f"the plan for layer {layer} holds a {type(row).__name__} among its rows: write it with "
                            "run, load and evict")
    return answer


def check_fragment(view: View, fragment: Plan) -> None:
    """Refuse a fragment that does more than go on with its layer's plan."""
    if fragment.served is not None or fragment.gating is not None or any(
            row.verb == RUN and row.layer != view.layer for row in fragment.rows):
        raise PlanError(f"the policy was woken in layer {view.layer}: a fragment runs that layer's experts, loads and "
                        "evicts; routing of its own, a gating and early runs belong to the plan")


def ran_early(layer: int, runs: Sequence[tuple[int, Assignment]], parts: int) -> Early:
    """The pairs of a layer that ran whole, from (input layer, run) in order; refuses a part that ran twice."""
    fed: dict[tuple[int, int], int] = {}
    done: dict[tuple[int, int], list[int]] = {}
    for input_layer, run in runs:
        for token in run.tokens.tolist():
            pair = (token, run.expert)
            seen = done.setdefault(pair, [])
            new = range(parts) if run.part == ALL_PARTS else (run.part,)
            if fed.setdefault(pair, input_layer) != input_layer or any(part in seen for part in new):
                raise PlanError(f"layer {layer}: expert {run.expert} ran early twice for token {token}")
            seen += new
    whole = [(*pair, fed[pair]) for pair, seen in done.items() if len(seen) == parts]
    return Early(*np.array(whole, np.int64).reshape(-1, 3).T)


def _check_row(view: View, row: Row, parts: int, layers: tuple[int, ...]) -> None:
    """What the row names exists, and what it runs can be run there and is not over."""
    model, devices = view.setting.model, view.setting.machine.devices
    plan = f"the plan for layer {view.layer}"
    if abs(row.priority) > HIGHEST:
        raise PlanError(f"{plan} gives priority {row.priority} to expert {row.expert}: {HIGHEST} is the most there is")
    if row.layer not in layers:
        raise PlanError(f"{plan} names layer {row.layer}, which has no experts")
    if not 0 <= row.device < len(devices):
        raise PlanError(f"{plan} names device {row.device}, but the machine has {len(devices)}")
    for expert in (row.expert,) if row.victim == NOBODY else (row.expert, row.victim):
        if not 0 <= expert < model.experts:
            raise PlanError(f"{plan} names expert {expert}, but a layer has {model.experts}")
    if row.part != ALL_PARTS and not 0 <= row.part < parts:
        raise PlanError(f"{plan} names part {row.part} of expert {row.expert}, but an expert has {parts}")
    if row.verb == RUN:
        if row.layer < view.layer:
            raise PlanError(f"{plan} runs expert {row.expert} of layer {row.layer}, which is over")
        device = devices[row.device]
        if not device.computes or "expert" not in device.kernels:
            raise PlanError(f"{plan} runs expert {row.expert} on {device.name!r}, which computes no experts: "
                            "load it to a device that does")


def _assignment(view: View, plan: Plan, row: Row, now: Pairs) -> Assignment:
    if row.tokens == ALL_TOKENS:
        if row.layer != view.layer:
            raise PlanError(f"an early run of expert {row.expert} of layer {row.layer} names no tokens: "
                            f"in layer {view.layer} only a forecast can tell them")
        of = now.of(row.expert)
        return Assignment(row.layer, row.expert, row.part, row.device, now.token[of], now.weight[of])
    tokens = plan.token_sets[row.tokens]
    wrong = tokens[(tokens < 0) | (tokens >= len(view.step))]
    if len(wrong):
        raise PlanError(f"a run of expert {row.expert} names token {int(wrong[0])}; the step has {len(view.step)}")
    if not len(tokens):
        raise PlanError(f"the plan runs expert {row.expert} of layer {row.layer} for no token")
    weights = np.ones(len(tokens))
    if row.layer == view.layer:
        of = now.of(row.expert)
        order = of[np.argsort(now.token[of], kind="stable")]
        at = np.searchsorted(now.token[order], tokens)
        if len(order):  # where a token is not among them, `_check_cover` refuses it
            weights = now.weight[order[np.minimum(at, len(order) - 1)]]
    return Assignment(row.layer, row.expert, row.part, row.device, tokens, weights)


def _streamed(view: View, plan: Plan, now: Pairs) -> list[Assignment]:
    """The runs of a plan's streams: each device's own tokens of the expert."""
    if (s := plan.streams) is None:
        return []
    home, runs = view.step.home[now.token], []
    for i, device in zip(s.of_visit.tolist(), s.path.tolist(), strict=True):
        of = now.of(int(s.expert[i]))
        of = of[home[of] == device]
        if len(of):
            runs.append(Assignment(view.layer, int(s.expert[i]), int(s.part[i]), device, now.token[of],
                                   now.weight[of]))
    return runs


def _check_gating(view: View, plan: Plan, gating: Gating, now: Pairs) -> None:
    """No home sends an expert more rows than its capacity, and the layer is decided at once."""
    if any(row.wake for row in plan.rows):
        raise PlanError(f"the plan for layer {view.layer} names a gating and marks rows with wake: an all-to-all "
                        "brings all rows of a layer at once")
    if gating.capacity < 0 or (gating.mask and gating.capacity == UNEVEN):
        raise PlanError(f"the plan for layer {view.layer} has a capacity of {gating.capacity} rows: it is at least 1 "
                        "with a mask, and 0 means uneven")
    if gating.capacity != UNEVEN and len(now.token):
        key = view.step.home[now.token] * view.setting.model.experts + now.expert
        found, rows = np.unique(key, return_counts=True)
        if (most := int(rows.max())) > gating.capacity:
            expert = int(found[int(rows.argmax())]) % view.setting.model.experts
            raise PlanError(f"the plan for layer {view.layer} sends expert {expert} {most} rows from one home; its "
                            f"capacity is {gating.capacity}")


def _check_cover(view: View, now: Pairs, runs: list[Assignment], parts: int, streamed: Ints, *, empty: bool) -> None:
    """Each (token, expert) pair is run once, in all of its parts. streamed [pairs]: parts that streams bring to each.
    empty: experts may run for no token."""
    tokens = max(len(view.step), 1)
    for run in runs:
        if not len(run.tokens) and not empty:
            raise PlanError(f"the plan runs expert {run.expert} of layer {view.layer}, to which no token is routed")
    lengths = [len(run.tokens) for run in runs]
    wanted = np.unique(now.expert * tokens + now.token)
    covered = np.repeat(np.array([parts if run.part == ALL_PARTS else 1 for run in runs], np.int64), lengths)
    ran = np.repeat(np.array([run.expert * tokens for run in runs], np.int64), lengths)
    ran += np.concatenate([run.tokens for run in runs]) if runs else 0
    if len(streamed):
        ran, covered = np.concatenate([ran, now.expert * tokens + now.token]), np.concatenate([covered, streamed])
    pairs, at = np.unique(np.concatenate([wanted, ran]), return_inverse=True)
    want = np.bincount(at[:len(wanted)], minlength=len(pairs)) * parts
    got = np.bincount(at[len(wanted):], covered, len(pairs)).astype(np.int64)
    if (wrong := np.flatnonzero(got != want)).size:
        (expert, token), first = divmod(int(pairs[wrong[0]]), tokens), wrong[0]
        how = "unserved" if got[first] < want[first] else "served twice" if want[first] else (
            "served though it was not routed")
        raise PlanError(f"layer {view.layer}: token {token} with expert {expert} is {how} "
                        f"({got[first]} of {want[first]} parts): each routed pair is run exactly once")
    if parts > 1:
        _check_parts(view.layer, runs)


def _check_parts(layer: int, runs: list[Assignment]) -> None:
    """No part runs twice for a token in the place of one that does not run."""
    named = np.array([(run.expert, run.part) for run in runs], np.int64).reshape(-1, 2)
    rows = np.repeat(named, [len(run.tokens) for run in runs], axis=0)
    tokens = np.concatenate([run.tokens for run in runs]) if runs else np.empty(0, np.int64)
    order = np.lexsort((tokens, rows[:, 1], rows[:, 0]))
    rows, tokens = rows[order], tokens[order]
    twice = np.flatnonzero((rows[1:] == rows[:-1]).all(axis=1) & (tokens[1:] == tokens[:-1]))
    if len(twice):
        (expert, part), token = rows[twice[0]].tolist(), int(tokens[twice[0]])
        raise PlanError(f"layer {layer}: part {part} of expert {expert} is served twice for token {token}")


def _changes(view: View, served: Served) -> tuple[int, int, int]:
    """(substituted, dropped) pairs and substituted experts: how the served routing differs from the true one."""
    routed, tokens, experts = view.routing.pairs, len(view.step), view.setting.model.experts
    if len({len(column) for column in served}) != 1:
        raise PlanError(f"layer {view.layer}: the columns of the served routing differ in length")
    bad = (served.token < 0) | (served.token >= tokens) | (served.expert < 0) | (served.expert >= experts)
    bad |= (served.input_layer < 0) | (served.input_layer > view.layer)
    true, given = routed.expert * tokens + routed.token, served.routed * tokens + served.token
    bad |= ~np.isin(given, true)
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        raise PlanError(f"layer {view.layer}: the served routing has token {int(served.token[at])} on expert "
                        f"{int(served.expert[at])} for expert {int(served.routed[at])} with the input of layer "
                        f"{int(served.input_layer[at])}, which was not routed or cannot be")
    once, times = np.unique(given, return_counts=True)
    if (times > 1).any():
        expert, token = divmod(int(once[times > 1][0]), tokens)
        raise PlanError(f"layer {view.layer}: token {token} with expert {expert} is served twice: "
                        "two rows of the served routing stand for it")
    changed = served.expert != served.routed
    return int(changed.sum()), len(true) - len(given), len(np.unique(served.routed[changed]))


def _merged(view: View, served: Served) -> tuple[Pairs, Mask]:
    """Rows of one token and one expert as one pair, and which pairs are early; what is early must have run."""
    early = served.input_layer != view.layer
    experts, layers = view.setting.model.experts, len(view.setting.model.layers)
    key = (served.token * experts + served.expert) * layers + served.input_layer
    ran = (view.early.token * experts + view.early.expert) * layers + view.early.input_layer
    absent = np.flatnonzero(early & ~np.isin(key, ran))
    if len(absent):
        at = int(absent[0])
        raise PlanError(f"layer {view.layer}: expert {int(served.expert[at])} is said to have run early for token "
                        f"{int(served.token[at])} from layer {int(served.input_layer[at])}, but no earlier plan ran it")
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rows = first[order]
    weight = np.zeros(len(first))
    np.add.at(weight, inverse, served.weight)
    return Pairs(served.token[rows], served.expert[rows], weight[order]), early[rows]
