"""The same bytes over every transport, and nothing left behind. Ray's tests are in test_ray.py."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from actors.messages import DeviceSpec, Move, Run, Work
from cluster import run as running
from cluster.config.reading import load_run
from cluster.config.run import RunConfig
from cluster.transports.contract import Transport
from cluster.transports.local import LocalTransport
from cluster.transports.processes import ProcessTransport
from emulation.errors import MoelabError, PlanError, TransportError
from emulation.plan import ALL_PARTS

SMALL = ["workload.output_tokens=6", "workload.requests=3", "against=[]", "machine.name=template",
         "machine.options.units=9"]


def small(*settings: str) -> RunConfig:
    """The demo cut to a few tokens, on a machine of ten devices."""
    return load_run("demo", [*SMALL, "transport=local", *settings])


@pytest.fixture(scope="module")
def wanted() -> str:
    """The digest of the small run in this process."""
    return running.run(small()).digest


def transports() -> list[Transport]:
    return [LocalTransport(), ProcessTransport(1), ProcessTransport(None)]


NOTHING = np.empty((0, 3), np.int64)
SPECS = [DeviceSpec(0, "gpu", 2, np.array([[0, 1, 0], [0, 1, 1]])), DeviceSpec(3, "ndp0", 2, NOTHING)]
ROWS, ONES = np.zeros(1, np.int64), np.ones(1, np.float32)


@pytest.mark.parametrize("transport", transports(), ids=["local", "one process", "a process a device"])
class TestEveryTransport:
    def test_carries_work_and_runs_what_is_held(self, transport: Transport) -> None:
        transport.open(SPECS)
        transport.wait()
        try:
            replies = transport.exchange({0: Work(items=[Run(0, 1, ALL_PARTS, ROWS, ONES)] * 2)})
            assert {number: reply.runs for number, reply in replies.items()} == {0: 2}
            comes = Work(items=[Move(1, 7, 0, comes=True), Run(1, 7, 0, ROWS, ONES), Move(1, 7, 0, comes=False)])
            assert transport.exchange({3: comes, 0: Work()})[3].runs == 1
        finally:
            transport.close()

    def test_a_shard_that_went_is_refused_in_the_plans_order(self, transport: Transport) -> None:
        transport.open(SPECS)
        transport.wait()
        try:
            gone = Work(items=[Move(0, 1, 0, comes=False), Run(0, 1, ALL_PARTS, ROWS, ONES)])
            with pytest.raises(PlanError, match="'gpu' is sent expert 1 part 0 of MoE layer 0, which it does not hold"):
                transport.exchange({0: gone})
            assert transport.exchange({3: Work()})[3].runs == 0
        finally:
            transport.close()

    def test_works_twice_in_a_row_and_leaves_no_process(self, transport: Transport) -> None:
        for _ in range(2):
            transport.open(SPECS)
            transport.wait()
            transport.close()
        workers = [child.name() for child in psutil.Process().children(recursive=True) if "moelab" in child.name()]
        assert workers == []

    def test_an_error_of_ours_in_a_device_keeps_its_sentence(self, transport: Transport, tmp_path: Path) -> None:
        def start() -> None:
            transport.open([DeviceSpec(0, "gpu", 1, NOTHING, str(tmp_path / "absent"))])
            transport.wait()

        with pytest.raises(MoelabError, match="no checkpoint folder"):
            start()
        transport.close()


def test_a_killed_worker_is_one_sentence() -> None:
    transport = ProcessTransport(1)
    transport.open(SPECS)
    transport.wait()
    child = next(p for p in psutil.Process().children(recursive=True) if p.pid in transport.pids())
    child.send_signal(signal.SIGKILL)
    with pytest.raises(TransportError, match=r"worker process 0 \(pid \d+\) ended with exit code -9"):
        transport.exchange({0: Work()})
    transport.close()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 8])
def test_worker_processes_give_the_same_bytes(wanted: str, workers: int) -> None:
    result = running.run(small("transport=processes", f"workers={workers}"))
    assert result.digest == wanted
    assert result.host.workers == workers


@pytest.mark.slow
def test_a_rerun_on_a_loaded_host_gives_the_same_bytes(wanted: str) -> None:
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        time.sleep(0.2)
        assert running.run(small()).digest == wanted
        assert running.run(small("transport=processes", "workers=2")).digest == wanted
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


@pytest.mark.slow
def test_both_engines_give_the_same_bytes(wanted: str) -> None:
    assert running.run(small("engine=spec")).digest == wanted


@pytest.mark.slow
def test_what_compare_times_on_the_record_is_what_a_run_times(wanted: str) -> None:
    config = load_run("demo", [*(s for s in SMALL if s != "against=[]"), "transport=local"])
    results = running.compare(config)
    assert results["expert_parallel"].digest == wanted
    alone = running.run(small("policy=tensor_parallel"))
    assert results["tensor_parallel"].makespan_ps == alone.makespan_ps


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_leaves_no_process_and_no_file(tmp_path: Path, workers: int) -> None:
    settings = ["transport=local"] if workers == 0 else ["transport=processes", f"workers={workers}"]
    command = [sys.executable, "-c", "from cluster.main import main; main()", "run", "demo", "--out",
               str(tmp_path / "o")]
    for setting in [*settings, "workload.output_tokens=400"]:
        command += ["--set", setting]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    group = psutil.Process(process.pid)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (len(group.children(recursive=True)) < workers
                                           or group.cpu_times().user < 2):
        time.sleep(0.1)
    children = group.children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in told
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_a_script_without_a_main_guard_runs_on_worker_processes(tmp_path: Path, wanted: str) -> None:
    settings = [*SMALL, "transport=processes", "workers=2"]
    script = tmp_path / "mine.py"
    script.write_text(f"import moelab\nprint(moelab.run('demo', {settings!r}).digest)\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, f"{wanted}\n"), done.stderr


def shadowed(folder: Path) -> Path:
    """A folder whose packages bear the names of ours, and end whoever imports them."""
    for name in ("actors", "cluster", "emulation", "moe", "configs"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise SystemExit('the wrong package')\n")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["local", "processes",
                                       pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.soak])])
def test_a_folder_with_packages_of_our_names_is_not_imported(transport: str, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "moelab"), "run", "demo", "--transport", transport, "--out", "o"]
    command += [word for setting in [*SMALL, "devices_per_actor=5"] for word in ("--set", setting)]
    done = subprocess.run(command, cwd=shadowed(tmp_path), capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o" / "result.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("wait_s", [0.0, 0.1, 0.5])
def test_ctrl_c_while_the_fork_server_starts_is_one_line(wait_s: float, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "moelab"), "run", "demo", "--transport", "processes"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    group, deadline = psutil.Process(process.pid), time.monotonic() + 60
    while not any("forkserver" in " ".join(child.cmdline()) for child in group.children()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    children = group.children(recursive=True)
    time.sleep(wait_s)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (130, "moelab: interrupted\n")
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
