"""The result of a run: its figures by hand, its file, and what its digest covers."""

import json
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cluster.observe import schema
from cluster.observe.digest import array_bytes
from cluster.observe.figures import skew
from cluster.observe.journal import Journal
from cluster.observe.layers import LAYERS_FILE
from cluster.observe.requests import quantiles, quantiles_s
from cluster.observe.result import RESULT_FILE, Result
from cluster.observe.timeline import TIMELINE_FILE
from emulation.errors import InputError, MoelabError
from emulation.machine import Device, Kernel, Link, Machine
from emulation.model import Layer
from emulation.plan import Plan
from emulation.validate import Decision
from emulation.view import Pairs, Routing, Step

from .conftest import EXPERTS, LAYERS, OUTPUTS, PROMPTS, PROVENANCE, feed, machine, model, policy_of, result_of, run

WALL = schema.Wall(
    verdict="VOID", reason="late", dilation=10.0, smallest_dilation=20.0, chosen_by="given", error=0.1,
    worst_step_error=0.2, real_s=1.0, steps=1, ops=2, causality_violations=0, late_ops=1, late_after_s=0.002,
    lag_p50_s=0.0, lag_p99_s=0.1, read_bytes=0, bytes_per_s=0.0, players=1, turn_s=1e-5, hop_s=1e-4, standstill_s=0.01,
    others_cores=0.1)
HOST_KEYS = ("checkpoints_unpacked", "lag", "nodes", "operations", "paths", "ports", "restarts", "times", "transport",
             "versions", "wall", "workers")


def changed_lanes() -> dict[str, Machine]:
    """The small machine with each of its constants one larger (or one device or lane renamed)."""
    base = machine()
    gpu, cpu = base.devices
    out: dict[str, Machine] = {}

    def devices(name: str, *two: Device) -> None:
        out[name] = replace(base, devices=two)

    for figure in ("overhead_ps", "bytes_per_s", "flops_per_s", "issue_ps"):
        for family, kernel in gpu.kernels.items():
            other = replace(kernel, **{figure: getattr(kernel, figure) + 1})
            devices(f"gpu {family} {figure}", replace(gpu, kernels={**gpu.kernels, family: other}), cpu)
    for figure in ("memory_bytes",):
        devices(f"gpu {figure}", replace(gpu, memory_bytes=gpu.memory_bytes + 1), cpu)
        devices(f"cpu {figure}", gpu, replace(cpu, memory_bytes=cpu.memory_bytes + 1))
    assert gpu.issuer is not None
    devices("gpu sync", replace(gpu, issuer=replace(gpu.issuer, sync_ps=gpu.issuer.sync_ps + 1)), cpu)
    devices("cpu name", gpu, replace(cpu, name="cpu1"))
    for i, link in enumerate(base.links):
        for figure in ("bytes_per_s", "latency_ps"):
            links: list[Link] = list(base.links)
            links[i] = replace(link, **{figure: getattr(link, figure) + 1})
            out[f"{link.name} {figure}"] = replace(base, links=tuple(links))
    out["quantum_bytes"] = replace(base, quantum_bytes=base.quantum_bytes + 1)
    return out


def test_every_constant_of_the_machine_is_in_the_digest(small: Result) -> None:
    found = {name: result_of(on=on).digest for name, on in changed_lanes().items()}
    assert small.digest not in found.values()
    assert len(set(found.values())) == len(found)


def test_every_constant_of_the_model_is_in_the_digest(small: Result) -> None:
    base = model()
    layer: Layer = base.layers[0]
    others = [replace(base, name="toy2"), replace(base, weight_bytes=Fraction(3, 2)), replace(base, dequant_flops=1),
              replace(base, activation_bytes=Fraction(1)), replace(base, d_ff=513), replace(base, matrices=2),
              replace(base, embedding_bytes=1), replace(base, head=replace(base.head, weight_bytes=1))]
    for part in ("attention", "router"):
        for figure in ("weight_bytes", "token_bytes", "token_flops"):
            work = replace(getattr(layer, part), **{figure: getattr(getattr(layer, part), figure) + 1})
            others.append(replace(base, layers=(replace(layer, **{part: work}), *base.layers[1:])))
    others += [replace(base, layers=(*base.layers[:2], replace(layer, **{name: getattr(layer, name) + 1})))
               for name in ("kv_bytes", "context_flops")]
    found = [result_of(of=other).digest for other in others]
    assert len({small.digest, *found}) == 1 + len(found)


def test_every_routing_entry_is_in_the_digest(small: Result) -> None:
    seen = {small.digest}
    base = feed()
    for step, layer, token in [(0, 0, 0), (0, 2, 8), (1, 1, 1), (4, 2, 0)]:
        fed = feed()
        row = fed.experts[step][token, layer]
        row[0] = next(e for e in range(EXPERTS) if e not in row)
        assert (fed.experts[step] != base.experts[step]).sum() == 1
        seen.add(result_of(fed=fed).digest)
    assert len(seen) == 5


def test_two_runs_with_equal_spans_and_other_routing_differ() -> None:
    # two tokens of one step swap their experts: every load, every operation and every time is the same
    fed = feed()
    fed.experts[1][[0, 1]] = fed.experts[1][[1, 0]]
    one, other = result_of(), result_of(fed=fed)
    figures = {"hashes", "host", "series"}  # runs of a layer may change places in time
    assert one.model_dump(exclude=figures) == other.model_dump(exclude=figures)
    assert {key for key in one.hashes if one.hashes[key] != other.hashes[key]} <= {"routing", "spans"}
    assert one.hashes["routing"] != other.hashes["routing"]
    assert one.digest != other.digest


def test_a_journal_covers_tokens_routing_forecast_and_what_is_served() -> None:
    whole = np.ones(2, np.bool_)
    step = Step(0, np.array([0, 1]), np.array([4, 7]), np.array([1, 1]), np.array([0, 0]), whole)
    routing, other = (Routing(np.array([[a, 1], [2, 3]]), np.full((2, 2), 0.5)) for a in (0, 5))
    served = routing.pairs

    def digest(step: Step = step, routing: Routing = routing, forecast: Routing | None = routing,
               served: Pairs = served, early: Any = None) -> str:
        journal = Journal()
        journal.begin(step)
        none = np.zeros(len(served.token), np.bool_)
        journal.decide(routing, forecast, Decision(Plan(0), [], served, none if early is None else early, 0, 0, 0))
        return journal.digest

    seen = [digest()]
    for name in ("sequence", "position", "phase", "home"):
        column = getattr(step, name).copy()
        column[1] += 1
        seen.append(digest(step=replace(step, **{name: column})))
    seen += [digest(step=replace(step, number=1)), digest(step=replace(step, ends=~whole)), digest(routing=other),
             digest(forecast=other), digest(forecast=None), digest(served=replace(served, expert=served.expert[::-1])),
             digest(routing=Routing(routing.experts, routing.weights * 2)),
             digest(served=replace(served, weight=served.weight * 2)),
             digest(served=replace(served, token=served.token[::-1])),
             digest(early=np.array([True, False, False, False]))]
    assert len(set(seen)) == len(seen)


def test_arrays_of_other_shape_or_kind_have_other_bytes() -> None:
    flat = np.arange(6)
    arrays = [flat, flat.reshape(2, 3), flat.reshape(3, 2), flat.view(np.float64)]
    assert len({array_bytes(array) for array in arrays}) == 4
    assert array_bytes(flat.astype(np.int32)) == array_bytes(flat) == array_bytes(flat.astype(">i8"))


def test_tokens_text_config_and_inputs_are_in_the_digest(small: Result) -> None:
    others: list[dict[str, Any]] = [
        {"text": [{"sequence": 0, "token_ids": [4, 6], "text": "so be it"}]},
        {"text": [{"sequence": 0, "token_ids": [4, 5], "text": "so be It"}]}, {"text": None},
        {"config": {"seed": 1, "policy": {"name": "resident"}}}, {"hashes": {"trace": "1" * 64}}, {"provenance": []},
        {"approximations": []}, {"bound": None}, {"bound": {"lb_ps": 10**8 + 1, "binds": "P", "links": 3}},
        {"provenance": [{**row, "source": row["source"] + "?"} for row in PROVENANCE]}, {"policy": "other"}]
    found = [result_of(**other).digest for other in others]
    assert len({small.digest, *found}) == 1 + len(found)


def test_the_digest_leaves_out_the_host_and_nothing_else(small: Result) -> None:
    assert tuple(sorted(schema.Host.model_fields)) == HOST_KEYS
    assert tuple(sorted(json.loads(small.to_json())["host"])) == HOST_KEYS
    others: dict[str, Any] = {
        "operations": 9, "transport": "ray", "workers": 8, "ports": {"gcs": 6379}, "paths": {"out": "/elsewhere"},
        "times": {"wall_s": 1.5}, "versions": {"numpy": "2.4"}, "restarts": 1, "lag": {"max_s": 0.25},
        "wall": WALL, "nodes": 2, "checkpoints_unpacked": 1}
    assert tuple(sorted(others)) == HOST_KEYS
    for key, value in others.items():
        other = result_of(host={key: value})
        assert other.digest == small.digest
        assert other.host != small.host
    faulty = small.model_copy(update={"faults": ()})  # a run without faults has no such part
    assert set(faulty.model_dump(mode="json", exclude={"host"})) | {"host"} == set(Result.model_fields)
    assert set(small.model_dump(mode="json")) | {"faults"} == set(Result.model_fields)
    assert faulty.digest != small.digest


def test_a_host_key_that_is_not_listed_is_refused() -> None:
    with pytest.raises(ValueError, match="hostname"):
        result_of(host={"hostname": "x"})


def test_a_run_gives_the_same_bytes_again(small: Result) -> None:
    assert result_of().to_json() == small.to_json()


def test_both_engines_give_the_same_digest(engine: Any) -> None:
    from cluster.observe.build import build_result

    for name, parameters in (("resident", {}), ("lru_prefetch", {"slots": 4})):
        fed = feed(2, (0, 10**10))
        told: dict[str, Any] = {"config": {}, "policy": name, "provenance": [], "hashes": {}, "requests": fed.requests}
        found = []
        for make in ({}, {"engine": engine}):
            scheduler, journal = run(policy_of(name, **parameters), fed, **make)
            found.append(build_result(scheduler=scheduler, journal=journal, **told).to_json())
        assert found[0] == found[1]


def test_times_to_tokens_by_hand() -> None:
    gap_ps = 10**10
    result = result_of(fed=feed(0, (0, gap_ps)))
    first, second = (SimpleNamespace(**{key: column[i] for key, column in dict(result.requests).items()})
                     for i in range(2))
    steps = (1 + OUTPUTS - 1) * 2
    assert sum(phase.steps for phase in result.phases.values()) == steps
    assert (first.emitted_tokens, second.emitted_tokens) == (OUTPUTS, OUTPUTS)
    assert first.first_ps is not None
    assert second.first_ps is not None
    assert result.ttft is not None
    assert result.tpot is not None
    # alone on an idle machine, each sequence's first token takes as long as its own prefill step
    waits = sorted((first.first_ps, second.first_ps - gap_ps))
    assert sum(waits) == result.phases["prefill"].time_ps
    assert result.ttft.exact_ps == (waits[0], waits[1], waits[1])
    assert first.last_ps is not None
    assert second.last_ps is not None
    per_token = sorted((Fraction(first.last_ps - first.first_ps, 4), Fraction(second.last_ps - second.first_ps, 4)))
    assert (result.tpot.p50_s, result.tpot.p99_s) == tuple(float(value / 10**12) for value in per_token)
    assert result.itl is not None
    assert result.itl.count == 2 * (OUTPUTS - 1)
    assert result.makespan_ps == second.last_ps
    assert (result.phases["prefill"].prefill_tokens, result.phases["decode"].decode_tokens) == (sum(PROMPTS), 8)


def test_percentiles_are_observed_values_by_nearest_rank() -> None:
    found = quantiles([10 * PS for PS in range(1, 11)])
    assert found is not None
    assert (found.exact_ps, found.count) == ((50, 90, 100), 10)
    assert found.mean_s == 55e-12
    assert quantiles([]) is None
    thirds = quantiles_s([1 / 3])
    assert thirds is not None
    assert (thirds.p50_s, thirds.exact_ps) == (1 / 3, None)


def test_a_decode_only_trace_has_no_time_to_first_token() -> None:
    fed = feed()
    fed.steps, fed.experts = fed.steps[1:], fed.experts[1:]
    result = result_of(fed=fed)
    assert result.ttft is None
    assert result.requests.first_ps == (None, None)
    assert result.tpot is not None
    assert result.phases["prefill"].tokens_per_s is None


def test_figures_add_up(small: Result) -> None:
    result = result_of("lru_prefetch", feed(0, (0, 10**10)), {"slots": 4})
    for phase in result.phases.values():
        assert sum(phase.latency_ps.values()) == phase.time_ps
    assert [lane.busy_ps + lane.stall_ps for lane in result.lanes] == \
        [lane.servers * result.horizon_ps for lane in result.lanes]
    assert sum(link.total_bytes for link in result.traffic) == sum(p.loaded_bytes for p in result.phases.values())
    assert [sum(link.bytes.values()) for link in result.traffic] == [link.total_bytes for link in result.traffic]
    assert result.prefetch.useful + result.prefetch.wasted == result.prefetch.issued
    for entry in result.memory:
        assert entry.peak_bytes <= entry.capacity_bytes
    # both sequences live at once: prompts and all but the last token, which no step reads
    positions = sum(PROMPTS) + 2 * (OUTPUTS - 1)
    assert small.memory[0].kv_peak_bytes == positions * model().kv_bytes_per_token
    alone = max(PROMPTS) + OUTPUTS - 1
    assert result.memory[0].kv_peak_bytes == alone * model().kv_bytes_per_token


def test_sparse_utilisation_by_hand() -> None:
    # one home without an issuer, decode only, one token: weights of top_k experts, the dense parts and its cache
    kernel = Kernel(0, 10**9, 10**12)
    base = machine()
    gpu = replace(base.devices[0], kernels=dict.fromkeys(base.devices[0].kernels, kernel), issuer=None)
    cpu = replace(base.devices[1], lanes=(), kernels={})
    fed = feed(0, (0, 1))
    fed.steps, fed.experts = fed.steps[1:2], fed.experts[1:2]
    result = result_of(fed=fed, on=replace(base, devices=(gpu, cpu)))
    of, phase = model(), result.phases["decode"]
    expert = of.expert_work(of.d_ff)
    layer = of.layers[0]
    bytes_ = LAYERS * (2 * expert.weight_bytes + layer.attention.weight_bytes + layer.router.weight_bytes
                       + (PROMPTS[0] + 1) * layer.kv_bytes) + of.head.weight_bytes
    assert phase.s_mbu == float(Fraction(bytes_, 10**9) / Fraction(phase.time_ps, 10**12))
    flops = LAYERS * (2 * expert.token_flops + layer.attention.token_flops + layer.router.token_flops
                      + (PROMPTS[0] + 1) * layer.context_flops) + of.head.token_flops
    assert phase.s_mfu == float(Fraction(flops, 10**12) / Fraction(phase.time_ps, 10**12))


def test_skew_is_the_fullest_over_the_mean() -> None:
    found = skew(np.array([[2, 0, 2, 4], [1, 1, 1, 1], [0, 0, 0, 0]]))
    assert (found.layers, found.mean, found.max) == ((2.0, 1.0, None), 1.5, 2.0)


def test_the_label_is_that_of_check_and_of_the_machine_alone():
    def label(path, *kinds):
        return result_of(provenance=[{"path": path, "value": "1", "kind": kind, "source": "s"} for kind in kinds]
                         ).confidence.label

    assert label("hardware.a", "measured", "assumed", "paper") == "assumed"
    assert label("hardware.a", "paper", "data_sheet", "measured") == "documented"
    assert label("hardware.a", "measured", "measured", "paper") == "measured"
    assert label("precision.a", "measured") == label("hardware.a") == "unknown"


def test_a_result_is_written_and_read_back(small: Result, tmp_path: Path) -> None:
    result = result_of("lru", parameters={"slots": 3})
    written = result.write(tmp_path / "new" / "run")
    assert written is not None
    assert written.truncated is None
    assert sorted(p.name for p in (tmp_path / "new" / "run").iterdir()) == [LAYERS_FILE, RESULT_FILE, TIMELINE_FILE]
    back = Result.read(tmp_path / "new" / "run")
    assert back == result
    assert back != small
    assert back.to_json() == result.to_json()
    assert back.write(tmp_path / "copy") is None
    assert [p.name for p in (tmp_path / "copy").iterdir()] == [RESULT_FILE]


@pytest.mark.parametrize(("change", "said"), [
    (lambda d: d.update(makespan_ps=d["makespan_ps"] + 1), "was changed after it was written"),
    (lambda d: d.pop("digest"), "was changed after it was written"),
    (lambda d: d.update(schema_version=99), "schema version 99; this moelab reads 4"),
    (lambda d: d.pop("schema_version"), "no schema_version"),
    (lambda d: d.update(more=1), "more: Extra inputs"),
    (lambda d: d["phases"]["decode"].update(hits="many"), "phases.decode.hits"),
])
def test_a_damaged_result_is_refused_in_a_sentence(small: Result, tmp_path: Path, change: Any, said: str) -> None:
    data = json.loads(small.to_json())
    change(data)
    (tmp_path / RESULT_FILE).write_text(json.dumps(data))
    with pytest.raises(InputError, match=said):
        Result.read(tmp_path)


def test_what_is_no_result_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no result .*absent"):
        Result.read(tmp_path / "absent")
    for policy in ("lru", "resident"):
        (tmp_path / "both" / policy).mkdir(parents=True)
        (tmp_path / "both" / policy / "result.json").write_text("{}")
    with pytest.raises(InputError, match=r"both holds the results of 2 policies, .* wanted: .*lru, .*resident$"):
        Result.read(tmp_path / "both")
    (tmp_path / "a").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="no JSON that is read here: it is not UTF-8 text"):
        Result.read(tmp_path / "a")
    (tmp_path / "b").write_text("{")
    with pytest.raises(InputError, match="is no JSON"):
        Result.read(tmp_path / "b")
    (tmp_path / "c").write_text("[1]")
    with pytest.raises(InputError, match="no result"):
        Result.read(tmp_path / "c")


def test_a_nan_never_reaches_a_result() -> None:
    with pytest.raises(ValueError, match=r"finite|NaN|nan|JSON"):
        _ = result_of(config={"x": float("nan")}).digest


def test_a_failed_write_leaves_no_file_and_keeps_the_last(small: Result, tmp_path: Path) -> None:
    small.write(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MoelabError, match=r"cannot write .*file.*: Not a directory|File exists"):
        small.write(tmp_path / "file" / "run")
    (tmp_path / "file").unlink()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


FULL = """
import resource, sys
from pathlib import Path
from types import SimpleNamespace
from cluster.observe.files import write_whole
from cluster.observe.result import Result
from emulation.errors import MoelabError
result = Result.read(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    write_whole(Path(sys.argv[2]), {"small": lambda f: f.write(b"x"),
                                    "result.json": lambda f: f.write(result.to_json().encode())})
except MoelabError as error:
    print(error)
"""


def test_a_full_disk_is_one_sentence_and_no_file(small: Result, tmp_path: Path) -> None:
    small.write(tmp_path / "good")
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path / "good"), str(tmp_path / "full" / "run")],
                          capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    assert done.stdout.startswith(f"cannot write {tmp_path}/full/run/result.json: File too large; nothing was written")
    assert len(done.stdout.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["good"]


def test_an_unfinished_run_has_no_result() -> None:
    from cluster.observe.flight import read_flight
    from emulation.ops import OpBuilder

    scheduler, _ = run(policy_of("resident"), feed())
    more = OpBuilder(scheduler.engine.next_serial, scheduler.engine.next_take)
    more.op({0: 5})
    scheduler.engine.submit(more.build())
    with pytest.raises(ValueError, match="still in flight"):
        read_flight(scheduler)


def test_the_schema_can_be_exported() -> None:
    schema_ = Result.model_json_schema()
    assert schema_["additionalProperties"] is False
    assert set(schema_["properties"]) == set(Result.model_fields)
