"""Every policy of schedulers/, with every choice of its parameters, on machines and routings drawn at random.

A new policy appears here by lying there.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from emulation.engine.spec import SpecEngine
from emulation.errors import ConfigError
from emulation.machine import Machine
from emulation.view import DECODE, PREFILL, Routing, Setting, Visits
from schedulers.contract import Policy
from schedulers.registry import load_policy, policy_names
from tests.conformance.checks import (
    Feed,
    Watched,
    check_bound,
    check_residency_and_time,
    check_served,
    parameters_text,
    run,
    variants,
)
from tests.schedulers.rig import chiplets, eager_host, gpu_and_units, gpus, model, setting, step

MACHINES: dict[str, Callable[[], Machine]] = {
    "gpu+1": lambda: gpu_and_units(1), "gpu+3": lambda: gpu_and_units(3),
    "gpu+4 behind one link": lambda: gpu_and_units(4, shared_link=True),
    "eager": eager_host, "chiplets": chiplets, "gpus": lambda: gpus(3)}
CASES = [pytest.param(name, parameters, id=f"{name}-{parameters_text(parameters)}")
         for name in policy_names() for parameters in variants(name)]


def drawn(machine: Machine, seed: int) -> tuple[Setting, Feed]:
    """A model, a history and a few steps; forecasts are absent, right or wrong."""
    rng = np.random.default_rng(seed)
    experts = int(rng.integers(4, 10))
    of = model(moe_layers=int(rng.integers(1, 4)), experts=experts, top_k=int(rng.integers(1, 4)),
               d_ff=int(rng.integers(5, 12)), dense=bool(rng.integers(2)))
    layers = len(of.moe_layers)
    history = rng.integers(0, 5, (layers, experts)) if seed % 2 else None

    def routing(tokens: int) -> Routing:
        ids = np.stack([rng.permutation(experts)[:of.top_k] for _ in range(tokens)])
        return Routing(ids, rng.random(ids.shape))

    feed: Feed = []
    for number in range(4):
        tokens = int(rng.integers(1, 7))
        true = [routing(tokens) for _ in range(layers)]
        kinds = rng.integers(0, 3, layers)
        guess = [None if kind == 0 else true[i] if kind == 1 else routing(tokens) for i, kind in enumerate(kinds)]
        feed.append((step(number, tokens, machine.homes, DECODE if number else PREFILL), true, guess))
    return setting(machine, of, popularity=history), feed


def told(policy: Policy, given: Setting, feed: Feed) -> Setting:
    """The setting, with the steps to come for a policy that is clairvoyant, and for all a history step by step where
    there is one that is counted."""
    def counted(layers: list[Routing]) -> list[object]:
        return [routing.counts(given.model.experts) for routing in layers]

    coming = Visits(np.array([step.number for step, _, _ in feed]), np.array([counted(true) for _, true, _ in feed]))
    before = None if given.popularity is None else Visits(
        np.arange(2), np.stack([given.popularity // 2, given.popularity - given.popularity // 2]))
    return replace(given, history=before, future=coming if getattr(policy, "clairvoyant", False) else None)


def refusal(policy: Policy, given: Setting) -> str:
    """The sentence with which a policy says that a machine or model is not for it; empty where it is."""
    try:
        policy.start(given)
    except ConfigError as refused:
        return str(refused)
    return ""


def keeps_the_contract(name: str, parameters: dict[str, object], where: str, seeds: range) -> None:
    for seed in seeds:
        given, feed = drawn(MACHINES[where](), seed)
        policy = load_policy(name, parameters)
        given = told(policy, given, feed)
        if refused := refusal(policy, given):
            assert "\n" not in refused
            assert name in refused
            continue
        done = run(given, policy, SpecEngine, feed)
        again = run(given, Watched(policy), SpecEngine, feed)
        check_served(done.seen, done.scheduler.ledger.start.parts, policy.exact)
        check_residency_and_time(done)
        check_bound(done)
        for first, second in zip(done.spans(), again.spans(), strict=True):
            assert (first == second).all(), "the same inputs gave other times"


@pytest.mark.parametrize(("where", "seed"), [(where, number % 2) for number, where in enumerate(MACHINES)])
@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_policy_keeps_the_contract(name: str, parameters: dict[str, object], where: str, seed: int) -> None:
    """Every other machine with a history, the others without; `soak` draws both, and eight more of each."""
    keeps_the_contract(name, parameters, where, range(seed, seed + 1))


@pytest.mark.soak
@pytest.mark.parametrize("where", MACHINES)
@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_policy_keeps_the_contract_in_many_draws(name: str, parameters: dict[str, object], where: str) -> None:
    keeps_the_contract(name, parameters, where, range(10))


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_every_policy_makes_sense_somewhere(name: str, parameters: dict[str, object]) -> None:
    policy = load_policy(name, parameters)
    refused = [refusal(policy, told(policy, *drawn(machine(), 1))) for machine in MACHINES.values()]
    assert "" in refused
