"""The checks on a plan before it is lowered: every routed pair served once, nothing undeclared."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulation.errors import PlanError
from emulation.plan import ALL_PARTS, ALL_TOKENS, EXCHANGES, RUN, UNICAST, Plan, Row
from emulation.view import Pairs, View

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


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
    substituted, dropped: how many pairs were served to another expert than routed, or not at all.
    """

    plan: Plan
    assignments: list[Assignment]
    served: Pairs
    early: NDArray[np.bool_]
    substituted: int
    dropped: int


def validate(view: View, plan: Plan, parts: int, exact: bool) -> Decision:
    """The decision that a plan amounts to; refuses a pair unserved or served twice, and undeclared changes."""
    if plan.layer != view.layer or plan.exchange not in EXCHANGES:
        raise PlanError(f"a plan for layer {view.layer} names layer {plan.layer} and exchange {plan.exchange!r} "
                        f"(known: {', '.join(EXCHANGES)}, for example {UNICAST!r})")
    if exact and plan.served is not None:
        raise PlanError(f"the policy calls itself exact, but serves a routing of its own in layer {view.layer}: "
                        "declare exact = False")
    routed = view.routing.pairs
    if plan.served is None:
        served, early = routed, np.zeros(len(routed.token), np.bool_)
        substituted = dropped = 0
    else:
        served = Pairs(plan.served.token, plan.served.expert, plan.served.weight)
        early = plan.served.input_layer != view.layer
        substituted, dropped = _changes(view, served)
    _check_early(view, served, early)
    now = Pairs(served.token[~early], served.expert[~early], served.weight[~early])
    assignments = [_assignment(view, plan, row, now) for row in plan.rows if row.verb == RUN]
    _check_cover(view, now, [run for run in assignments if run.layer == view.layer], parts)
    return Decision(plan, assignments, served, early, substituted, dropped)


def _assignment(view: View, plan: Plan, row: Row, now: Pairs) -> Assignment:
    if row.tokens == ALL_TOKENS:
        if row.layer != view.layer:
            raise PlanError(f"an early run of expert {row.expert} of layer {row.layer} names no tokens: "
                            f"in layer {view.layer} only a forecast can tell them")
        of = now.of(row.expert)
        return Assignment(row.layer, row.expert, row.part, row.device, now.token[of], now.weight[of])
    tokens = plan.token_sets[row.tokens]
    if len(tokens) and not (tokens.min() >= 0 and tokens.max() < len(view.step)):
        raise PlanError(f"a run of expert {row.expert} names token {int(tokens.max())}; the step has {len(view.step)}")
    weights = np.ones(len(tokens))
    if row.layer == view.layer:
        of = now.of(row.expert)
        order = np.argsort(now.token[of], kind="stable")
        at = order[np.minimum(np.searchsorted(now.token[of], tokens, sorter=order), max(len(of) - 1, 0))]
        weights = now.weight[of][at] if len(of) else weights
    return Assignment(row.layer, row.expert, row.part, row.device, tokens, weights)


def _check_cover(view: View, now: Pairs, runs: list[Assignment], parts: int) -> None:
    """Each (token, expert) pair is run once, in all of its parts."""
    experts, tokens = view.setting.model.experts, len(view.step)
    wanted = np.zeros((experts, tokens), np.int64)
    np.add.at(wanted, (now.expert, now.token), parts)
    found = np.zeros((experts, tokens), np.int64)
    seen: dict[tuple[int, int], list[Ints]] = {}
    for run in runs:
        if not len(run.tokens):
            raise PlanError(f"the plan runs expert {run.expert} of layer {view.layer}, to which no token is routed")
        found[run.expert, run.tokens] += parts if run.part == ALL_PARTS else 1
        seen.setdefault((run.expert, run.part), []).append(run.tokens)
    if (found != wanted).any():
        expert, token = (int(i[0]) for i in np.nonzero(found != wanted))
        want, got = int(wanted[expert, token]), int(found[expert, token])
        how = "unserved" if got < want else "served twice" if want else "served though it was not routed"
        raise PlanError(f"layer {view.layer}: token {token} with expert {expert} is {how} "
                        f"({got} of {want} parts): each routed pair is run exactly once")
    for (expert, part), lists in seen.items():
        together = np.concatenate(lists)
        if len(np.unique(together)) != len(together):
            raise PlanError(f"layer {view.layer}: part {part} of expert {expert} runs twice for one token")


def _check_early(view: View, served: Pairs, early: NDArray[np.bool_]) -> None:
    """What is said to be served early did run early."""
    if not early.any():
        return
    tokens = len(view.step)
    ran = view.early_pairs.expert * tokens + view.early_pairs.token
    named = served.expert[early] * tokens + served.token[early]
    absent = named[~np.isin(named, ran)]
    if len(absent):
        expert, token = divmod(int(absent[0]), tokens)
        raise PlanError(f"layer {view.layer}: expert {expert} is said to have run early for token {token}, "
                        "but no earlier plan ran it")


def _changes(view: View, served: Pairs) -> tuple[int, int]:
    """(substituted, dropped) pairs: how the served routing differs from the true one."""
    routed, tokens = view.routing.pairs, len(view.step)
    true = routed.expert * tokens + routed.token
    given = served.expert * tokens + served.token
    if len(np.unique(given)) != len(given):
        raise PlanError(f"layer {view.layer}: the served routing lists a (token, expert) pair twice")
    unserved, new = int((~np.isin(true, given)).sum()), int((~np.isin(given, true)).sum())
    return new, max(unserved - new, 0)
