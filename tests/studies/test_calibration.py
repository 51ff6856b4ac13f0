"""Calibration: fits give back what they were made from, and this machine gets a file that loads."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from cluster.build import build_machine
from cluster.config.hardware import Hardware
from cluster.config.load import load_hardware, validate
from cluster.main import enter
from studies.calibration.calibrate import QUICK, chosen_device, make_near, merged
from studies.calibration.hardware import Host, as_yaml, cpu_file, cuda_file
from studies.calibration.measure import Column, Measured
from studies.calibration.watch import Samples, watched
from studies.counted import attention_work, expert_work, model_of
from studies.offload.body import Shape
from studies.offload.measure import Routes, random_experts, randomly
from studies.offload.near import PacedNear
from studies.offload.policies import ENGINES

HOST = Host("here", "A machine", "fp32", "2026-01-01", 10**9, 10**9)
SHAPES = [Shape("s", 1, d, ff, 8, 2, d // 64, d // 64, 64, 128) for d, ff in ((256, 128), (512, 512), (1024, 2048))]


def made(overlap: float) -> Measured:
    """What a machine shows whose kernels are rooflines of 40 us, 10 GB/s and 50 GFLOP/s near, and half that far."""
    measured = Measured(overlaps=[overlap], samples=1)
    for shape in SHAPES:
        model = model_of(shape, "fp32")
        for tokens in (1, 4, 64):
            bytes_, flops = expert_work(model, tokens)
            once = max(bytes_ / 10e9, flops / 50e9)
            measured.column("near whole").add(bytes_, flops, 40e-6 + once)
            measured.column("near gathered").add(bytes_, flops, 55e-6 + once)
            measured.column("far").add(bytes_, flops, 80e-6 + 2 * once)
            measured.column("gpu expert").add(bytes_, flops, 10e-6 + once / 100)
            read, work = attention_work(model, tokens, shape.context)
            measured.column("attention").add(read, work, 30e-6 + max(read / 20e9, work / 40e9))
            measured.column("router").add(read, work, 20e-6 + max(read / 20e9, work / 40e9))
        for what, seconds in (("norm", 6e-6), ("between", 4e-6), ("fetch", 5e-6), ("to_host", 3e-6),
                              ("far start", 90e-6), ("sync", 8e-6), ("gpu gather", 3e-6), ("gpu scatter", 3e-6),
                              ("gpu norm", 4e-6), ("gpu add", 2e-6), ("gpu router", 9e-6),
                              ("issue of an add", 7e-6), ("gpu attention", 25e-6)):
            measured.column(what).add(shape.d_model * 4.0, 0, seconds)
        copied = shape.expert_elements * 4.0
        measured.column("copy in engine").add(copied, 0, 25e-6 + copied / 1e9)
        measured.column("copy queued").add(copied, 0, 2e-6 + copied / 50e9)
    return measured


def test_a_cpus_file_holds_the_rates_that_its_rows_were_made_from() -> None:
    file, report = cpu_file(made(0.9), HOST)
    machine = build_machine(validate(Hardware, yaml.safe_load(as_yaml(file)), "file"), {}, "fp32", "here")
    near, far = machine.devices
    assert (near.name, far.name, machine.homes) == ("near", "far", (0,))
    for device, overhead, slower in ((near, 40e-6, 1), (far, 80e-6, 2)):
        kernel = device.kernels["expert"]
        assert kernel.overhead_ps / 1e12 == pytest.approx(overhead, rel=1e-3)
        assert kernel.bytes_per_s == pytest.approx(10e9 / slower, rel=1e-3)
        assert kernel.flops_per_s == pytest.approx(50e9 / slower, rel=1e-3)
    assert near.kernels["gather"].overhead_ps == 15_000_000
    assert near.kernels["norm"].overhead_ps == 5_000_000
    assert near.kernels["attention"].bytes_per_s == pytest.approx(20e9, rel=1e-3)
    links = {link.name: link for link in machine.links}
    assert links["copies:far>near"].bytes_per_s == pytest.approx(1e9, rel=1e-3)
    assert links["copies:far>near"].latency_ps == pytest.approx(25e6, rel=1e-2)
    assert links["copies:near>far"].latency_ps == 90_000_000
    assert near.kernels["copy"].issue_ps == 5_000_000
    assert near.issuer is not None
    assert near.issuer.lane in near.lanes, "what it issues runs on the thread that issues it"
    assert set(report["residuals"]) == {"attention", "router", "norm", "copy", "near expert", "far expert"}
    assert all(set(each) == {"rows", "p50", "p90", "p99", "max"} for each in report["residuals"].values())


@pytest.mark.parametrize(("overlap", "shared"), [(-0.2, True), (0.4, True), (0.6, False), (1.0, False)])
def test_threads_share_the_interpreter_where_little_was_hidden(overlap: float, shared: bool) -> None:
    for make, dtype in ((cpu_file, "fp32"), (cuda_file, "bf16")):
        host = Host("here", "A machine", dtype, "2026-01-01", 10**9, 10**9)
        machine = build_machine(validate(Hardware, yaml.safe_load(as_yaml(make(made(overlap), host)[0])), "file"), {},
                                dtype, "here")
        near, far = machine.devices
        assert near.issuer is not None
        assert (near.issuer.lane in far.lanes) == shared


def test_a_gpus_file_charges_issue_to_its_host_and_time_to_its_stream() -> None:
    host = Host("here", "A GPU", "bf16", "2026-01-01", 10**9, 10**9)
    file, _ = cuda_file(made(-0.1), host)
    near = build_machine(validate(Hardware, yaml.safe_load(as_yaml(file)), "file"), {}, "bf16", "here").devices[0]
    assert near.issuer is not None
    assert near.issuer.sync_ps == 8_000_000
    assert near.kernels["expert"].overhead_ps / 1e12 == pytest.approx(10e-6, rel=1e-3)
    assert near.kernels["copy"].issue_ps == 5_000_000
    assert near.kernels["gather"].issue_ps == 15_000_000
    assert near.kernels["reduce"].issue_ps == 7_000_000
    assert 0 < near.kernels["attention"].overhead_ps < 25_000_000, "what its bytes take is not counted twice"
    kinds = {each["kind"] for each in _quantities(file)}
    assert kinds == {"measured", "computed"}


def _quantities(part: object) -> list[dict[str, str]]:
    if isinstance(part, dict):
        if "kind" in part and "value" in part:
            return [part]
        return [each for value in part.values() for each in _quantities(value)]
    return [each for value in part for each in _quantities(value)] if isinstance(part, list) else []


def test_what_rows_do_not_tell_is_assumed_with_a_range() -> None:
    measured = made(1.0)
    measured.columns["copy in engine"] = Column([1e3, 2e3, 4e3], [0, 0, 0], [1e-3, 1.01e-3, 0.99e-3])
    file, _ = cpu_file(measured, HOST)
    bandwidth = file["links"][0]["bandwidth"]
    assert bandwidth["kind"] == "assumed"
    assert "does not show" in bandwidth["source"]
    validate(Hardware, yaml.safe_load(as_yaml(file)), "file")


def test_rounds_are_put_together() -> None:
    both = merged([made(0.2), made(0.8)])
    assert both.overlap == 0.5
    assert len(both.column("far").seconds) == 2 * len(made(0.2).column("far").seconds)
    assert both.samples == 2


def test_a_watched_engine_notes_each_part_and_leaves_the_result() -> None:
    shape, near = Shape("tiny", 2, 64, 32, 6, 2, 2, 1, 32, 8), PacedNear(1e12)
    make = randomly(7, near.device, torch.float32)
    far = random_experts(shape, make, pinned=False)
    rows = torch.arange(8).numpy()
    experts = torch.stack([torch.randperm(6)[:2] for _ in range(16)]).view(8, 2, 2).numpy()
    routes = Routes.of(experts, experts, rows, 6, near.device)
    last = []
    for kind in (ENGINES["cpu_static"], watched(ENGINES["cpu_static"])):
        engine = kind(shape, near, randomly(9, near.device, torch.float32), far, 1, 2, routes.popular)
        samples = Samples()
        if hasattr(engine, "watch"):
            engine.watch(samples)
        with torch.inference_mode():
            for chosen, guess in zip(routes.steps, routes.guesses, strict=True):
                engine.step(chosen, guess)
        engine.worker.close()
        last.append(engine.last)
    near.close()
    assert torch.equal(*last)
    assert len(samples.by["attention"]) == len(samples.by["route"]) == len(samples.by["normed"]) == 16
    assert len(samples.by["step"]) == len(samples.by["between"]) == 8
    assert len(samples.by["far 1"]) + len(samples.by["near whole 1"]) == 32
    assert all(0 < seconds < took for seconds, took in zip(samples.by["between"], samples.by["step"], strict=True))


def test_cuda_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen_device("auto") == "cpu"
    assert enter(["calibrate", "--device", "cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    with pytest.raises(Exception, match="no CUDA device"):
        make_near("cuda", 1e9)


@pytest.mark.parametrize("rate", ["fast", "0 GB/s", "1 GB", "-1 GB/s"])
def test_a_wrong_bandwidth_is_told_in_a_sentence(rate: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert enter(["calibrate", "--device", "cpu", f"--far-bandwidth={rate}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("moelab: ")
    assert error.count("\n") == 1


@pytest.mark.alone
def test_this_machine_is_calibrated_within_two_minutes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine.yaml"
    assert enter(["calibrate", "--device", "cpu", "--quick", "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["seconds"] < 120
    assert report == json.loads((tmp_path / "mine.fit.json").read_text())
    machine = build_machine(load_hardware(str(out)), {}, "fp32", "mine")
    copies = machine.links[machine.link_number["copies:far>near"]]
    assert 0.4e9 < copies.bytes_per_s < 1.25e9, "copies are paced to 1 GB/s; as it is, memory copies ten"
    assert QUICK.steps < 24
