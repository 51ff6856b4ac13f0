"""Decisions: the same bytes whatever happens, what does not fit, what is equal, searches, ties, the command line."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.commands.decide import alike
from cluster.config.reading import load_run
from cluster.main import enter
from cluster.run import run
from emulation.errors import ConfigError, InputError
from studies.decide.decide import decide
from studies.decide.decision import Decision, Need
from studies.decide.ready import prepare
from studies.decide.study import load_decide
from studies.sweep import Options
from tests.studies.decide.rig import EXPERT_BYTES, RUN, decided, machine, pair, quantity, studied, written
from tests.studies.small import MOELAB

PLANE: dict[str, Any] = {"over": {"precision": ["bf16", "fp8"]}, "uncertainty": {"samples": 3, "again": 2}}
PLAIN = {"samples": 0, "break_even": False}


def test_the_same_study_gives_the_same_bytes_whoever_works(tmp_path: Path) -> None:
    candidates = pair(tmp_path)
    candidates["near"] |= {"policies": ["on_demand", "lru"], "search": {"policy.parameters.slots": [1, 8]}}
    asked = studied(tmp_path, **PLANE, candidates=candidates)
    texts = []
    for workers in (1, 3):
        made, carried = decide(asked, tmp_path / str(workers), Options(workers=workers))
        assert carried == sum(made.runs.model_dump().values()) > 30
        texts.append((tmp_path / str(workers) / "decision.json").read_bytes())
    assert texts[0] == texts[1]
    made, carried = decide(asked, tmp_path / "1", Options(workers=1))
    assert (carried, (tmp_path / "1" / "decision.json").read_bytes()) == (0, texts[0])
    assert Decision.read(tmp_path / "1") == made
    assert [place.label for place in made.places] == ["bf16", "fp8"]
    for place in made.places:
        assert place.again is not None
        assert (place.again.samples, place.of("near").tried) == (2, 4)
    (tmp_path / "1" / "decision.json").write_bytes(texts[0].replace(b'"seed": 0', b'"seed": 1'))
    with pytest.raises(InputError, match="was changed after it was written"):
        Decision.read(tmp_path / "1")


def test_the_run_behind_a_value_is_that_of_moelab_run(tmp_path: Path) -> None:
    made = decided(tmp_path, over={"workload.batch": [2]}, uncertainty={"samples": 2, "break_even": False})
    (tmp_path / "run.yaml").write_text(json.dumps({**RUN, "machine": "./wide.yaml"}))
    result = run(load_run(tmp_path / "run.yaml", ["workload.batch=2"]))
    outcome = made.places[0].of("wide")
    assert (outcome.digest, outcome.value) == (result.digest, result.output_tokens_per_s)
    assert outcome.figures["ttft_p50"] == (result.ttft.p50_s if result.ttft is not None else None)


def test_the_seed_of_routing_is_drawn_for_all_candidates_alike_where_it_is_asked_for(tmp_path: Path) -> None:
    for name, bandwidth in (("near", "6 GB/s"), ("wide", "8 GB/s")):
        machine(tmp_path, name, quantity(bandwidth))
    work = {"work": "synthetic", "generator": {"name": "zipf", "skew": 1.0}, "prompt_tokens": 2, "output_tokens": 6}
    cached = {**RUN, "policy": {"name": "lru", "parameters": {"slots": 16}}, "workload": work, "seed": 5}
    asked = {"run": cached, "candidates": {name: {"machine": f"./{name}.yaml"} for name in ("near", "wide")}}
    made = decided(tmp_path, **asked, uncertainty={"samples": 4, "routing": True})
    (tmp_path / "run.yaml").write_text(json.dumps({**cached, "machine": "./wide.yaml"}))
    rates = sorted(run(load_run(tmp_path / "run.yaml", [f"seed={seed}"])).output_tokens_per_s for seed in range(6, 10))
    found = made.places[0].of("wide").interval
    assert found is not None
    assert (found.p5, found.p50, found.p95, found.samples) == (rates[0], rates[1], rates[3], 4)
    assert len(set(rates)) > 1
    # The same seeds for both: only then does time go as one over the bandwidth in each draw.
    margins = made.places[0].margins
    assert margins is not None
    assert (margins.p5, margins.p95) == pytest.approx((8 / 6, 8 / 6), rel=1e-6)
    assert "wide wins in 100% of 4 draws of routing" in made.verdict[1]
    assert decided(tmp_path, **asked, uncertainty={"samples": 4}).samples == 0


@pytest.mark.slow
def test_a_decision_that_was_killed_goes_on_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    study, out = written(tmp_path, **PLANE), tmp_path / "out"
    whole, carried = decide(load_decide(study), tmp_path / "whole", Options(workers=2))
    process = subprocess.Popen([*MOELAB, "decide", str(study), "--out", str(out), "--workers", "2"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    rows, deadline = out / "rows.jsonl", time.monotonic() + 60
    while not (rows.exists() and rows.read_bytes().count(b"\n") >= 5):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    assert not (out / "decision.json").exists()
    kept = rows.read_bytes().count(b"\n")
    again, now = decide(load_decide(study), out, Options(workers=2))
    assert kept + now == carried
    assert (out / "decision.json").read_bytes() == (tmp_path / "whole" / "decision.json").read_bytes()
    assert again == whole


def test_what_does_not_fit_is_told_before_anything_runs_and_wins_nothing(tmp_path: Path) -> None:
    candidates = pair(tmp_path)
    machine(tmp_path, "small", quantity("900 GB/s"), memory="500 MB")
    candidates["small"] = {"machine": "./small.yaml"}
    made = decided(tmp_path, candidates=candidates, over={"precision": ["bf16", "int4"]}, uncertainty=PLAIN)
    wide, narrow = made.places
    assert (wide.of("small").status, wide.winner, narrow.winner) == ("unfit", "wide", "small")
    why = "olmoe-1b-7b at bf16 does not fit small: its experts take 0.81 GB and the devices where experts rest " \
          "(store0) have room for 0.50 GB"
    assert (wide.of("small").why or "").startswith(why)
    (need,) = [need for need in wide.of("small").needs if need.what == "experts"]
    assert (need.bytes, need.capacity_bytes) == (64 * EXPERT_BYTES, 500_000_000)
    assert made.verdict[0] == "wide has the most output tokens a second at 1 of 2 places, small at 1."
    assert made.verdict[-1].startswith("small does not fit at 1 of 2 places: ")
    assert all(one.candidate != "small" or one.at == {"precision": "int4"} for one in made.frontier)


def test_a_policy_that_is_refused_is_a_sentence_and_the_others_compete(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from schedulers.on_demand import Policy as Own\nclass Policy(Own):\n"
                                      "    def start(self, setting):\n        raise ValueError('not today')\n")
    candidates = pair(tmp_path)
    candidates["wide"]["policies"] = ["./mine.py", {"name": "on_demand", "parameters": {"slots": 1}}]
    candidates["near"]["policies"] = ["./mine.py"]
    made = decided(tmp_path, candidates=candidates, uncertainty=PLAIN)
    near, wide = (made.places[0].of(name) for name in ("near", "wide"))
    assert (near.status, near.value, wide.status, made.places[0].winner) == ("failed", None, "ran", "wide")
    assert near.why == wide.why == "./mine.py: ValueError at mine.py line 4: not today"
    assert wide.setting is not None
    assert wide.setting.label == "on_demand(slots=1)"
    assert made.verdict[0].endswith("and is the only one that went through.")


def test_the_same_machine_twice_ties(tmp_path: Path) -> None:
    pair(tmp_path)
    made = decided(tmp_path, candidates={"one": {"machine": "./wide.yaml"}, "two": {"machine": "./wide.yaml"}},
                   uncertainty={"samples": 4})
    (place,) = made.places
    assert (place.winner, place.tied, made.break_evens) == (None, ("one", "two"), ())
    assert place.stability is not None
    assert (place.stability.ties, place.stability.share) == (4, 1.0)
    assert made.verdict[0].startswith("one and two tie: ")


def test_a_search_by_tpe_finds_the_best_of_all(tmp_path: Path) -> None:
    pair(tmp_path)
    search = {"policy.parameters.slots": {"low": 1, "high": 16, "step": 1}, "machine.options.stores": [1, 2]}
    one = {"wide": {"machine": "./wide.yaml", "policies": ["lru"], "search": search}}
    work = {"set": {"workload.batch": 4, "workload.output_tokens": 3}, "candidates": one, "uncertainty": PLAIN}
    whole = decided(tmp_path, **work).places[0].of("wide")
    assert (whole.exhaustive, whole.tried) == (True, 32)
    found = [decided(tmp_path, **work, budget=20).places[0].of("wide") for _ in range(2)]
    assert found[0] == found[1]
    assert (found[0].exhaustive, found[0].value) == (False, whole.value)
    assert found[0].tried <= 20


@pytest.mark.parametrize(("by", "to", "wanted"), [
    ("capacity", "272 GB", {"near": 3, "wide": 3}), ("cost", "5 kUSD", {"near": 4, "wide": 2}),
    ("power", "near", {"wide": 1})])
def test_options_are_chosen_so_that_candidates_are_equal(by: str, to: str, wanted: dict[str, int],
                                                         tmp_path: Path) -> None:
    each = {"cost": {"near": {"gpu": quantity("1000 USD", "500 USD", "2000 USD"), "store": quantity("1 kUSD")},
                     "wide": {"gpu": quantity("1000 USD"), "store": quantity("2000 USD")}},
            "power": {name: {"gpu": quantity("100 W"), "store": quantity("10 W")} for name in ("near", "wide")}}
    equal = {"by": by, "to": to, "scale": dict.fromkeys(wanted, "stores")}
    made = decided(tmp_path, equal=equal | ({"each": each[by]} if by in each else {}), uncertainty=PLAIN)
    options = {one.name: one.options["stores"] for one in made.candidates}
    assert options == {"near": 1, "wide": 1} | wanted
    assert made.equal is not None
    for one in made.candidates:
        assert one.amount is not None
        assert one.amount.value == made.equal.target
    if by == "cost":
        near = made.candidates[0].amount
        assert near is not None
        assert (near.value, near.low, near.high) == (5000, 4500, 6000)
        assert near.sources["store"] == "4 x 1 kUSD (paper: a test)"


def test_goodput_of_static_batches_counts_what_meets_its_slo(tmp_path: Path) -> None:
    # A token takes eight copies: 16.8 ms on near, 14.2 ms on wide.
    made = decided(tmp_path, objective="goodput", slo={"tpot": "15 ms"}, uncertainty=PLAIN)
    assert (made.places[0].of("near").value, made.places[0].winner, made.places[0].margin) == (0.0, "wide", None)
    strict = decided(tmp_path, objective="goodput", slo={"tpot": "1 ms"}, uncertainty=PLAIN)
    assert (strict.places[0].winner, strict.places[0].tied) == (None, ())
    assert strict.verdict[0] == "Nobody wins: no candidate has any goodput."


def test_the_frontier_holds_what_nothing_beats(tmp_path: Path) -> None:
    made = decided(tmp_path, over={"workload.batch": [1, 2, 4]}, uncertainty=PLAIN)
    told = [(one.output_tokens_per_s, -one.ttft_p50_s, -one.tpot_p50_s) for one in made.frontier]
    assert told
    assert not any(a != b and all(x <= y for x, y in zip(a, b, strict=True)) for a in told for b in told)
    every = [(outcome.figures["output_tokens_per_s"], -outcome.figures["ttft_p50"], -outcome.figures["tpot_p50"])
             for place in made.places for outcome in place.outcomes]
    assert all(any(all(x <= y for x, y in zip(one, best, strict=True)) for best in told) for one in every)


def test_the_command_line_decides_and_tells_what_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, over={"workload.batch": [1, 2]}, uncertainty={"samples": 9, "break_even": False})
    assert enter(["decide", "./mine.yaml", "--fits"]) == 0
    out = capsys.readouterr().out
    assert "experts 805.3 MB of 64 GB on store0" in out
    assert "runs: search " in out
    assert ", draws " in out, "stages are named as where they were carried out"
    assert not (tmp_path / "runs").exists()
    assert enter(["decide", "./mine.yaml", "--samples", "2", "--workers", "2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("wide has the most output tokens a second at all 2 places.\n")
    assert "carried out now" in out
    made = Decision.read(tmp_path / "runs" / "mine")
    assert made.samples == 2
    assert enter(["decide", "./mine.yaml", "--samples", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == made.digest


def test_devices_that_need_alike_are_told_as_one() -> None:
    chips = [Need(device=f"chip{i}", what="caches", bytes=10, capacity_bytes=80 if i < 6 else 40) for i in range(8)]
    assert list(alike([*chips, Need(device="ddr", what="experts", bytes=10, capacity_bytes=80)]).values()) == [
        "each of chip0 to chip5", "each of chip6, chip7", "ddr"]


def test_energy_is_compared_only_where_all_of_it_is_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the file of near's machine says nothing of what its gpu draws"):
        prepare(studied(tmp_path, objective="joules_per_token"))
    drawn = {"gpu": {"idle_power": quantity("100 W")},
             "store": {"energy_per_byte": quantity("1 nJ/B", "1 nJ/B", "9 nJ/B")}}
    for name, rate in (("near", "6 GB/s"), ("wide", "8 GB/s")):
        machine(tmp_path, name, quantity(rate), **json.loads(json.dumps(drawn)))
    candidates = {name: {"machine": f"./{name}.yaml"} for name in ("near", "wide")}
    made = decided(tmp_path, objective="joules_per_token", candidates=candidates, uncertainty={"samples": 2})
    assert (made.places[0].winner, len(made.constants)) == ("wide", 2)
