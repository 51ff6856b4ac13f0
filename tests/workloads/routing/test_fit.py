"""A generator fitted to a trace generates its statistics, on its shape and, where they carry over, on another."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emulation.errors import InputError
from emulation.model import Layer, Model, Work
from emulation.trace import Trace
from workloads.foreign import convert, with_steps
from workloads.routing.fit import fit, generated, head
from workloads.routing.fitted import fitted_text, read_fitted
from workloads.routing.kinds import Fitted, kind
from workloads.routing.router import Router
from workloads.statistics import info
from workloads.synthetic import Request, static_steps, synthetic_trace
from workloads.traces import read_trace

TRACES = Path(__file__).resolve().parents[3] / "configs" / "workload" / "traces"
MOE = Layer(Work(8, 0, 8), 4, 4, Work(1, 0, 1))
TOLERANCES = {"max_over_mean": 0.08, "skew": 0.08, "shared_with_last": 0.06, "coactivation_lift": 0.1,
              "prefill_decode_similarity": 0.06}
"""How far, in parts of the recorded value, a statistic of 1024 generated tokens may lie from it."""


def model(experts: int, top_k: int, layers: int) -> Model:
    return Model("shape", (MOE,) * layers, experts, top_k, 8, 8, 3, Fraction(2), Fraction(2))


def far(told: dict[str, Any], again: dict[str, Any], times: float = 1.0) -> dict[str, tuple[float, float]]:
    return {name: (told[name], again[name]) for name, most in TOLERANCES.items()
            if told[name] is not None and abs(again[name] - told[name]) > times * most * told[name]}


@pytest.mark.parametrize("name", ["code", "maths", "technical", "german"])
def test_what_is_generated_has_the_statistics_of_the_recorded_trace(name: str) -> None:
    trace = read_trace(TRACES / f"embedded-{name}.npz")
    assert far(info(trace), info(generated(trace, fit(trace), seed=77))) == {}


def test_fitting_what_was_generated_gives_the_statistics_again() -> None:
    trace = read_trace(TRACES / "embedded-maths.npz")
    once = generated(trace, fit(trace), seed=3)
    assert far(info(once), info(generated(once, fit(once), seed=4))) == {}


def test_known_parameters_are_found() -> None:
    """From 4096 tokens of 16 sequences: chances to repeat, of partners and of ranks, within 0.03 each."""
    layer = {"ranks": tuple(np.diff([0, *(2**32 * np.cumsum(np.arange(8, 0, -1)) // 36)]).tolist()), "repeat": 0.3,
             "pair": 0.3}
    of = Fitted(experts=2, share=0.0, layers=(kind_layer(**layer),))
    shape = model(8, 2, 2)
    trace = synthetic_trace(shape, Router(shape, of, seed=1), list(static_steps([Request(128, 129)] * 16)))
    for found in fit(trace, seed=2).layers:
        assert abs(found.repeat - 0.3) < 0.03
        assert abs(found.pair - 0.3) < 0.03
        assert all(abs(a - b) < 0.03 * 2**32 for a, b in zip(found.ranks, of.layers[0].ranks, strict=True))


def kind_layer(**values: Any) -> Any:
    from workloads.routing.kinds import FittedLayer
    return FittedLayer(**values)


def test_real_mixtral_routing_is_fitted(shared: Path) -> None:
    for name in ("math", "writing"):
        trace = head(convert(shared / "traces" / f"mixtral-8x7b_{name}.npz", model="mixtral-8x7b", num_experts=8,
                             batch=1))
        assert far(info(trace), info(generated(trace, fit(trace), seed=5)), times=0.5) == {}


def test_a_fitted_generator_fits_another_shape(tmp_path: Path) -> None:
    """From 6 layers of 16 experts, top 2, to 12 of 64, top 6: as local, as skewed in its upper half, by layer."""
    trace = read_trace(TRACES / "embedded-code.npz")
    of = fit(trace)
    (tmp_path / "f.json").write_text(fitted_text(of, {"of": "embedded-code"}))
    assert read_fitted(tmp_path / "f.json") == of
    shape = model(64, 6, 12)
    other = synthetic_trace(shape, Router(shape, read_fitted(tmp_path / "f.json"), seed=1),
                            list(static_steps([Request(64, 65)] * 16)))
    halves = [np.sort(loads, axis=1)[:, loads.shape[1] // 2:].sum(axis=1) / loads.sum(axis=1)
              for loads in (trace.popularity(), other.popularity())]
    assert (abs(np.repeat(halves[0], 2) - halves[1]) < 0.06).all()
    assert abs(float(str(info(other)["shared_with_last"])) - float(str(info(trace)["shared_with_last"]))) < 0.08


@pytest.mark.parametrize(("change", "told"), [
    ({"fitted_version": 2}, "has fitted_version 2; this moelab reads 1"),
    ({"layers": []}, "layers is no list of at least one layer"),
    ({"share": 2}, "share is 2; it must be a number from 0 to 1"),
    ({"experts": 99}, "experts is 99; it must be a whole number from 1 to 2"),
    ({"layers": [{"ranks": [1, 2], "repeat": 0, "pair": 0}]}, "layer 0: ranks is no list of whole chances"),
    ({"layers": [{"ranks": [2**32, 0], "repeat": 1, "pair": 0}]}, "layer 0: repeat is 1; it must be"),
])
def test_a_wrong_file_is_one_sentence(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    good = json.loads(fitted_text(Fitted(experts=1, share=0.0, layers=(
        kind_layer(ranks=(2**31, 2**31), repeat=0.0, pair=0.0),)), {}))
    (tmp_path / "f.json").write_text(json.dumps({**good, **change}))
    with pytest.raises(InputError, match=told):
        read_fitted(tmp_path / "f.json")


def test_an_empty_place_stays_empty() -> None:
    trace = read_trace(TRACES / "embedded-code.npz")
    trace.experts[5, 2, 1] = 65535
    again: Trace = generated(trace, kind("fitted", experts=1, share=0.0, layers=fit(trace).layers), seed=1)
    assert np.array_equal(again.experts == 65535, trace.experts == 65535)


def test_nothing_is_fitted_to_a_trace_that_visits_no_expert() -> None:
    nothing = np.full((4, 2, 1), 65535, np.uint16)
    trace = with_steps(nothing, "m", 8, 1)
    with pytest.raises(InputError, match="no token of the trace visits an expert of layer 0"):
        fit(trace)
