"""A small run on a small machine, and its result, for any policy."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from actors.scheduler import Scheduler
from cluster.observe.build import build_result
from cluster.observe.journal import Asked, Journal
from cluster.observe.result import Result
from emulation.engine.spec import SpecEngine
from emulation.machine import Device, Issuer, Kernel, Link, Machine
from emulation.model import Layer, Model, Work
from emulation.ops import Lane
from emulation.view import DECODE, PREFILL, Routing, Setting, Step

FAMILIES = ("attention", "router", "expert", "head", "norm", "gather", "scatter", "reduce", "copy", "record", "wait")
EXPERTS, TOP_K, LAYERS = 8, 2, 3
OUTPUTS = 5
PROMPTS = (6, 3)


def machine() -> Machine:
    """A GPU that a host thread feeds, and a CPU that can hold and run experts, over one link each way."""
    kernel = Kernel(5_000_000, 4_000_000_000_000, 900 * 10**12, 8_000_000)
    lanes = (Lane("host", in_order=True), Lane("stream", in_order=True), Lane("copy", in_order=True), Lane("h2d"),
             Lane("d2h"), Lane("worker", servers=2))
    gpu = Device("gpu", "gpu", 10**8, (1,), (2,), dict.fromkeys(FAMILIES, kernel), Issuer(0, 10_000_000), True)
    cpu = Device("cpu", "cpu", 10**9, (5,), (), {"expert": Kernel(10_000_000, 60 * 10**9, 10**12)}, None, True)
    links = (Link("h2d", 1, 0, 3, 55 * 10**9, 10**6), Link("d2h", 0, 1, 4, 55 * 10**9, 10**6))
    return Machine("small", (gpu, cpu), links, lanes, (), (0,), 1 << 16)


def model() -> Model:
    width = 256
    layer = Layer(Work(width * width * 8, 0, 2 * width * width), 4 * width, 4 * width,
                  Work(width * EXPERTS * 2, 0, 2 * width * EXPERTS))
    return Model("toy", (layer,) * LAYERS, EXPERTS, TOP_K, width, 512, 3, Fraction(2), Fraction(2),
                 head=Work(width * 1000 * 2, 0, 2 * width * 1000))


@dataclass
class Feed:
    """What a run is fed: for each step its step, its arrival and its routing [tokens, layers, top_k]."""

    steps: list[tuple[Step, int]]
    experts: list[np.ndarray]
    requests: Asked


def feed(seed: int = 0, arrivals_ps: tuple[int, ...] = (0, 0)) -> Feed:
    """Both prompts in one step, then a token each; with arrivals apart, one sequence after the other."""
    rng = np.random.default_rng(seed)
    steps: list[tuple[Step, int]] = []
    together = len(set(arrivals_ps)) == 1
    groups = [tuple(range(len(PROMPTS)))] if together else [(i,) for i in range(len(PROMPTS))]
    for group in groups:
        sequence = np.repeat(group, [PROMPTS[i] for i in group]).astype(np.int64)
        position = np.concatenate([np.arange(PROMPTS[i]) for i in group])
        ends = np.concatenate([np.arange(PROMPTS[i]) == PROMPTS[i] - 1 for i in group])
        arrival_ps = arrivals_ps[group[0]]
        steps.append((_step(len(steps), sequence, position, PREFILL, ends), arrival_ps))
        for turn in range(OUTPUTS - 1):
            position = np.array([PROMPTS[i] + turn for i in group])
            steps.append((_step(len(steps), np.array(group), position, DECODE, np.ones(len(group), np.bool_)), 0))
    # popular experts: the product of two uniforms leans to the low numbers
    experts = []
    for step, _ in steps:
        scores = rng.random((len(step), LAYERS, EXPERTS)) * np.linspace(2, 1, EXPERTS)
        experts.append(np.argsort(-scores, axis=2, kind="stable")[:, :, :TOP_K].astype(np.int64))
    requests = Asked(np.arange(len(PROMPTS)), np.array(arrivals_ps), np.array(PROMPTS), np.full(len(PROMPTS), OUTPUTS))
    return Feed(steps, experts, requests)


def _step(number: int, sequence: np.ndarray, position: np.ndarray, phase: int, ends: np.ndarray) -> Step:
    return Step(number, sequence.astype(np.int64), position.astype(np.int64), np.full(len(sequence), phase),
                np.zeros(len(sequence), np.int64), ends)


def policy_of(name: str, **parameters: object) -> Any:
    return importlib.import_module(f"schedulers.{name}").Policy(**parameters)


def run(policy: Any, fed: Feed, on: Machine | None = None, of: Model | None = None,
        engine: Callable[..., Any] = SpecEngine) -> tuple[Scheduler, Journal]:
    """Drive a scheduler through a feed; the forecast of a layer is its true routing, with the first pair swapped."""
    popularity = np.zeros((LAYERS, EXPERTS), np.int64)
    for experts in fed.experts:
        for layer in range(LAYERS):
            popularity[layer] += np.bincount(experts[:, layer].ravel(), minlength=EXPERTS)
    scheduler = Scheduler(Setting(on or machine(), of or model(), np.array([9 * 10**7, 10**9]), popularity), policy,
                          engine)
    journal = Journal()
    for (step, arrival_ps), experts in zip(fed.steps, fed.experts, strict=True):
        scheduler.begin(step, arrival_ps)
        journal.begin(step)
        weights = np.full((len(step), TOP_K), 1 / TOP_K)
        for layer in range(LAYERS):
            routing = Routing(experts[:, layer], weights)
            forecast = None
            if layer + 1 < LAYERS:
                guess = experts[:, layer + 1].copy()
                guess[0] = guess[0][::-1]
                forecast = Routing(guess, weights)
            journal.decide(routing, forecast, scheduler.decide(routing, forecast))
        scheduler.end()
    scheduler.finish()
    return scheduler, journal


PROVENANCE = [{"path": "hardware.gpu.overhead", "value": "5 us", "kind": "measured", "source": "a bench"},
              {"path": "hardware.cpu.overhead", "value": "10 us", "kind": "assumed", "source": "a guess",
               "range": ("5 us", "20 us")}]


def result_of(name: str = "resident", fed: Feed | None = None, parameters: Mapping[str, object] | None = None,
              on: Machine | None = None, of: Model | None = None, **more: Any) -> Result:
    """The result of one run; more: what `build_result` is told otherwise."""
    fed = fed or feed()
    scheduler, journal = run(policy_of(name, **(parameters or {})), fed, on, of)
    told: dict[str, Any] = {"config": {"seed": 0, "policy": {"name": name}}, "policy": name, "provenance": PROVENANCE,
                            "hashes": {"trace": "0" * 64}, "requests": fed.requests,
                            "approximations": ["one lane a copy engine"],
                            "bound": {"lb_ps": 10**8, "binds": "P", "links": 3},
                            "text": [{"sequence": 0, "token_ids": [4, 5], "text": "so be it"}],
                            "host": {"transport": "local", "workers": 1}}
    return build_result(scheduler=scheduler, journal=journal, **{**told, **more})


@pytest.fixture(scope="session")
def small() -> Result:
    """The result of a small run of `resident`."""
    return result_of()


def changed(value: Any, **more: object) -> Any:
    """A frozen value with other fields."""
    return replace(value, **more)
