"""Ray as a transport: the same bytes, loopback only, nothing left behind."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster import run as running
from cluster.config.reading import load_run
from cluster.config.run import RunConfig
from cluster.transports.ray.cluster import cluster
from emulation.errors import MoelabError, TransportError

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
              pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]
"""Ray drops its handles of processes that it has told to end; that they do end is tested here."""

LOOPBACK = ("127.0.0.1:", "[::1]:", "[::ffff:127.0.0.1]:")
SMALL = ["workload.output_tokens=4", "workload.requests=2", "against=[]"]


def small(*settings: str) -> RunConfig:
    return load_run("demo", [*SMALL, *settings])


class Watch(threading.Thread):
    """Notes every process that comes to be below this one, and what they listen on; the host may run other clusters."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: set[psutil.Process] = set()
        self._before = set(psutil.Process().children(recursive=True))  # a fork server of another test's
        self.listening: set[str] = set()
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.3):
            self.processes |= set(psutil.Process().children(recursive=True)) - self._before
            pids = {process.pid for process in self.processes}
            told = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
            for line in told.splitlines():
                if any(f"pid={pid}," in line for pid in pids):
                    self.listening.add("loopback" if line.split()[3].startswith(LOOPBACK) else line)

    def __enter__(self) -> "Watch":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()


@pytest.fixture(autouse=True)
def _handles_are_dropped_within_the_test() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture(scope="module")
def wanted() -> str:
    return running.run(small("transport=local")).digest


def test_the_same_bytes_on_loopback_only_and_nothing_left(wanted: str) -> None:
    before = set(os.environ.items())
    with Watch() as watch:
        result = running.run(small("transport=ray", "devices_per_actor=3"))
    assert (result.digest, result.host.workers) == (wanted, 2)
    assert watch.listening == {"loopback"}
    assert len(watch.processes) > 5
    _, alive = psutil.wait_procs(watch.processes, timeout=20)
    assert alive == []
    assert set(os.environ.items()) == before


def test_an_error_of_ours_in_an_actor_keeps_its_sentence() -> None:
    with pytest.raises(MoelabError, match="did you mean 'expert_parallel'") as caught:
        running.run(small("transport=ray", "policy=expert_paralel"))
    assert "\n" not in str(caught.value)


@pytest.mark.soak
def test_a_cluster_that_died_uncleanly_does_not_matter(wanted: str, tmp_path: Path) -> None:
    script = ("import ray, os, psutil; ray.init(address='local', include_dashboard=False, log_to_driver=False); "
              "print(*(p.pid for p in psutil.Process().children(recursive=True)), flush=True); os.kill(os.getpid(), 9)")
    environment = {**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0",
                   "RAY_TMPDIR": os.environ.get("RAY_TMPDIR", "/tmp"), "HOME": str(tmp_path)}
    dirty = subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL, text=True)
    assert dirty.stdout is not None
    left = [psutil.Process(int(pid)) for pid in dirty.stdout.readline().split()]
    try:
        assert dirty.wait(60) == -9
        assert len(left) > 2
        assert running.run(small("transport=ray", "devices_per_actor=5")).digest == wanted
    finally:
        dirty.stdout.close()
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def test_ctrl_c_while_ray_is_imported_leaves_no_folder(tmp_path: Path) -> None:
    script = """if True:
        import os, sys, tempfile
        from cluster.transports.ray import cluster

        class Interrupted:
            def find_spec(self, name, *_):
                if name == "ray._private":
                    raise KeyboardInterrupt

        make, before = tempfile.mkdtemp, dict(os.environ)
        tempfile.mkdtemp = lambda **asked: make(**{**asked, "dir": sys.argv[1]})
        sys.meta_path.insert(0, Interrupted())
        try:
            with cluster.cluster():
                pass
        except KeyboardInterrupt:
            print(os.listdir(sys.argv[1]), os.environ == before)"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout == "[] True\n", done.stderr


def test_sigterm_while_ray_starts_is_heard_by_whoever_heeds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    class HeardError(Exception):
        pass

    def heed(*_: object) -> None:
        raise HeardError

    def interrupted(**_: object) -> None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as Ray does before it starts its processes
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ray, "init", interrupted)
    before = signal.signal(signal.SIGTERM, heed)
    try:
        with pytest.raises(HeardError), cluster():
            pass
        assert signal.getsignal(signal.SIGTERM) is heed
    finally:
        signal.signal(signal.SIGTERM, before)


def test_ray_that_does_not_come_up_on_a_busy_host_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def late(**_: object) -> None:
        raise Exception("The current node timed out during startup.")  # word for word as Ray does

    monkeypatch.setattr(ray, "init", late)
    with pytest.raises(TransportError, match=r"^Ray did not start: The current node timed out during startup\.$"), \
            cluster():
        pass


def test_ctrl_c_ends_the_cluster_and_leaves_no_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from cluster.main import main; main()", "run", "demo", "--out",
               str(tmp_path / "out"), "--set", "workload.output_tokens=900"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
                               start_new_session=True)
    driver, seen, deadline = psutil.Process(process.pid), set[psutil.Process](), time.monotonic() + 90
    while time.monotonic() < deadline and not any("SchedulerActor" in p.name() for p in seen if p.is_running()):
        seen |= set(driver.children(recursive=True))
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in told
    _, alive = psutil.wait_procs(seen, timeout=20)
    assert alive == []
    assert not (tmp_path / "out").exists()
