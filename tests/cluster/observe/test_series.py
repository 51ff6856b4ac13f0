"""What happened when: slices add up to the run's figures, wherever they are cut; what was routed is told as routed."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config.run import RunConfig
from cluster.observe.schema import Series
from cluster.observe.series.slices import ROWS, SLICES, add_stretches, grouped, halved, slice_at, width_of
from cluster.run import run
from emulation.lowering.streams import crossings, lanes_tell_links
from emulation.machine import Link

from .conftest import EXPERTS, LAYERS, PROMPTS, TOP_K, feed, machine, model, result_of

FETCHING: dict[str, dict[str, Any]] = {"lru_prefetch": {"slots": 3}, "lru": {"slots": 2}, "cpu_precalc": {"slots": 3}}


@pytest.mark.parametrize("policy", ["resident", *FETCHING])
def test_sums_over_slices_are_the_run_s_own_figures(policy: str) -> None:
    result = result_of(policy, feed(1, (0, 10**10)), FETCHING.get(policy))
    series, phases = result.series, result.phases.values()
    assert SLICES // 2 < series.slices <= SLICES
    assert (series.slices - 1) * series.slice_ps < result.horizon_ps <= series.slices * series.slice_ps
    for lane in result.lanes:
        assert sum(series.busy_ps[lane.lane]) == lane.busy_ps
        assert max(series.busy_ps[lane.lane]) <= series.servers[lane.lane] * series.slice_ps
    for link in result.traffic:
        assert {cause: sum(each) for cause, each in series.link_bytes[link.link].items()} == link.bytes
    assert sum(series.tokens) == result.emitted_tokens
    for name in ("steps", "prefill_tokens", "decode_tokens", "hits", "misses"):
        assert sum(getattr(series, name)) == sum(getattr(phase, name) for phase in phases)
    for name, total in result.prefetch.model_dump().items():
        assert sum(getattr(series, f"prefetch_{name}")) == total
    for memory in result.memory:
        assert max(series.resident_bytes.get(memory.device, (0,))) == memory.experts_peak_bytes
        assert max(series.kv_bytes.get(memory.device, (0,))) == memory.kv_peak_bytes


def test_prefetches_that_nobody_used_are_told_where_they_were_issued() -> None:
    result = run(RunConfig.model_validate({
        "machine": {"name": "h200-host"}, "model": {"name": "olmoe-1b-7b", "layers": 3}, "engine": "spec",
        "workload": {"work": "synthetic", "generator": {"name": "zipf", "skew": 0.6}, "batch": 2, "prompt_tokens": 4,
                     "output_tokens": 6}, "forecast": {"name": "oracle", "accuracy": 0.5},
        "policy": {"name": "lru_prefetch", "parameters": {"slots": 10}}}))
    assert result.prefetch.wasted > 0
    assert sum(result.series.prefetch_wasted) == result.prefetch.wasted
    assert all(wasted <= issued for wasted, issued in zip(
        result.series.prefetch_wasted, result.series.prefetch_issued, strict=True))


def test_a_slice_has_what_happened_up_to_its_end() -> None:
    result = result_of("lru", feed(1, (0, 10**10)), {"slots": 2})
    series, requests = result.series, result.requests
    for at in (*requests.first_ps, *requests.last_ps):
        assert at is not None
        assert series.tokens[(at - 1) // series.slice_ps] > 0
    # the second request comes at 10 ms: nothing is emitted between the first one's last token and its first
    first, last = requests.last_ps[0], requests.first_ps[1]
    assert first is not None
    assert last is not None
    assert not any(series.tokens[-(-first // series.slice_ps):(last - 1) // series.slice_ps])
    held = model().kv_bytes_per_token
    assert series.kv_bytes["gpu"][0] == PROMPTS[0] * held
    assert series.kv_bytes["gpu"][-1] == (PROMPTS[1] + 4) * held


def test_load_is_what_was_routed_by_layer_phase_and_expert() -> None:
    fed = feed(2)
    load = result_of("cpu_static", fed, {"slots": 3}).load
    assert load.layers == tuple(range(LAYERS))
    for layer in range(LAYERS):
        prefill, decode = (np.bincount(np.concatenate([experts[:, layer].ravel() for experts in part]),
                                       minlength=EXPERTS).tolist() for part in (fed.experts[:1], fed.experts[1:]))
        assert (list(load.prefill[layer]), list(load.decode[layer])) == (prefill, decode)
    assert sum(map(sum, load.prefill)) == sum(PROMPTS) * LAYERS * TOP_K


stretches = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 10**6), st.integers(0, 10**5)), max_size=30)


@given(rows=stretches)
def test_two_slices_make_one_of_twice_the_width(rows: list[tuple[int, int, int]]) -> None:
    row, from_ps, lasts_ps = np.array(rows, np.int64).reshape(-1, 3).T
    to_ps = from_ps + lasts_ps
    width = width_of(int(to_ps.max(initial=0)))
    assert int(to_ps.max(initial=0)) <= SLICES << width
    found = []
    for each in (width, width + 1):
        out = np.zeros((4, SLICES), np.int64)
        add_stretches(out, row, from_ps, to_ps, each)
        assert out.sum(axis=1).tolist() == np.bincount(row, lasts_ps, 4).astype(np.int64).tolist()
        found.append(out)
    assert halved(found[0]).tolist() == found[1].tolist()
    assert (slice_at(to_ps, width) >> 1).tolist() == slice_at(to_ps, width + 1).tolist()


@pytest.mark.parametrize(("horizon_ps", "width"), [(0, 0), (1, 0), (128, 0), (129, 1), (256, 1), (257, 2)])
def test_the_width_is_the_least_that_reaches_the_horizon(horizon_ps: int, width: int) -> None:
    assert width_of(horizon_ps) == width


def test_rows_behind_the_last_are_summed_by_kind() -> None:
    names = [f"ndp{i}.core" for i in range(ROWS + 2)]
    row, shown = grouped(names, ["other ndp lanes"] * len(names))
    assert shown == (*names[:ROWS], "other ndp lanes")
    assert row.tolist() == [*range(ROWS), ROWS, ROWS]
    assert grouped(names[:ROWS], ["other"] * ROWS)[1] == tuple(names[:ROWS])


def test_lanes_tell_links_unless_a_bus_joins_several() -> None:
    one = machine()
    assert lanes_tell_links(one)
    half = replace(one, links=tuple(replace(link, lane=3) for link in one.links))
    assert lanes_tell_links(half)
    found = crossings(half)
    assert (found.toward[3].tolist(), int(found.outward[3])) == ([0, 1], 1)
    bus = replace(half, links=(*half.links, Link("third", 1, 0, 3, 10**9)))
    assert not lanes_tell_links(bus)
    assert not lanes_tell_links(replace(half, homes=(0, 1)))


def test_a_half_duplex_link_tells_each_direction() -> None:
    one = machine()
    half = replace(one, links=tuple(replace(link, lane=3) for link in one.links))
    series: Series = result_of("cpu_static", feed(), {"slots": 3}, on=half).series
    assert set(series.link_bytes["d2h"]) == {"dispatch"}
    assert "return" in series.link_bytes["h2d"]
