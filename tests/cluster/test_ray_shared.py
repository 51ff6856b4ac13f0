"""Manners on a Ray cluster that others use too: room, names, waiting, neighbours, nodes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import run as running
from cluster.config.reading import load_run
from tests.cluster.conftest import Head, joined

pytestmark = pytest.mark.ray

TINY = ("workload.output_tokens=3", "workload.requests=1", "against=[]")
SET = tuple(part for setting in TINY for part in ("--set", setting))


def digest() -> str:
    return running.run(load_run("demo", [*TINY, "transport=local"])).digest


def result(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    return found


def test_what_the_cluster_lacks_is_told_and_the_room_given_back(head: Head) -> None:
    run = head.moelab("run", "demo", *SET, "--set", "ray.cpus_per_actor=1.5", "--set", "ray.memory_per_actor=100 MB")
    _, said = run.communicate(timeout=120)
    assert run.returncode == 6
    assert said.startswith("moelab: the Ray cluster has no room for 6 actors of 1.5 CPUs and 0.1 GB each: 2 of 2 CPUs "
                           "and ")
    assert said.endswith("are free on 1 node; ask for less (ray.cpus_per_actor, ray.memory_per_actor, more "
                         "devices_per_actor), or wait for it (--wait SECONDS)\n")
    assert head.is_clear()


def test_runs_side_by_side_wait_for_room_and_do_not_disturb_each_other(head: Head, tmp_path: Path) -> None:
    """The first takes all CPUs and is killed: its actors go, and the second, which waited, gets them."""
    first = head.moelab("run", "demo", "--set", "workload.output_tokens=900", "--set", "devices_per_actor=5", "--set",
                        "ray.cpus_per_actor=1", "--set", "ray.namespace=team")
    assert head.until(lambda: len(head.actors()) == 2)
    names = sorted(head.actors())
    label = names[0].partition("/")[0]
    assert label.startswith("demo-")
    assert names == [f"{label}/gpu..ndp3", f"{label}/scheduler"]
    assert {row["ray_namespace"] for row in head.listed("actors") if row["name"] in names} == {"team"}
    assert head.held() == [label]
    second = head.moelab("run", "demo", *SET, "--wait", "120", "--out", str(tmp_path / "second"), "--set",
                         "devices_per_actor=5", "--set", "ray.cpus_per_actor=1", "--set", "ray.namespace=team")
    assert second.stderr is not None
    told = second.stderr.readline()
    assert told == ("moelab: waiting up to 120 s for room on the Ray cluster: 2 actors of 1 CPU and 0.3 GB each\n")
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=30)
    second.communicate(timeout=120)
    assert second.returncode == 0
    assert result(tmp_path / "second")["digest"] == digest()
    assert head.is_clear()


@pytest.fixture
def second_node(head: Head) -> Iterator[Path]:
    """Another raylet that joins the head, with a cache of its own for what is sent to it."""
    cache = head.folder / "node-cache"
    with joined({**head.environment, "MOELAB_CACHE": str(cache)}, head.gcs, head.folder):
        came = head.until(lambda: sum(row["state"] == "ALIVE" for row in head.listed("nodes")) == 2, 60)
        assert came, (head.folder / "node.log").read_text()
        yield cache


@pytest.mark.soak
def test_actors_spread_over_nodes_and_the_checkpoint_goes_to_each_once(head: Head, second_node: Path,
                                                                       tmp_path: Path) -> None:
    spread = ("--set", "ray.placement=spread", "--set", "ray.checkpoint=shipped", "--set", "ray.flush_metrics=false")
    for out, unpacked in (("first", 2), ("again", 1)):
        run = head.moelab("run", "demo", *SET, *spread, "--out", str(tmp_path / out))
        _, said = run.communicate(timeout=200)
        assert run.returncode == 0, said
        found = result(tmp_path / out)
        assert (found["host"]["nodes"], found["host"]["checkpoints_unpacked"]) == (2, unpacked)
        assert found["digest"] == digest()
        for cache in (head.folder / "head-cache", second_node):
            (folder,) = (path for path in cache.iterdir() if path.is_dir())
            assert len(folder.name) == 64
            assert (folder / "embedded" / "config.json").is_file()
        # A file that was cut short is not taken for the checkpoint; the one on the other node is.
        os.truncate(max((folder / "embedded").iterdir(), key=lambda path: path.stat().st_size), 100)
    assert head.is_clear()


def test_a_module_that_actors_lack_is_named_in_a_sentence(head: Head, tmp_path: Path) -> None:
    (tmp_path / "only_here.py").write_text(
        "from cluster.run import Host\n\n\nclass Elsewhere(Host):\n    pass\n", encoding="utf-8")
    script = ("import sys; sys.path.insert(0, sys.argv[1]); import only_here\n"
              "from cluster.transports.ray.hosting import run_in_cluster\n"
              "from cluster.config.reading import load_run\nfrom cluster.session import Silent\n"
              "from emulation.errors import MoelabError\n"
              "try:\n    run_in_cluster(only_here.Elsewhere(False), load_run('demo'), 5, Silent())\n"
              "except MoelabError as error:\n    print(error)\n")
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=head.driver, capture_output=True,
                          text=True, timeout=120, check=False)
    assert done.stdout == ("an actor on the Ray cluster cannot start (No module named 'only_here'): install moelab "
                           "with its libraries in the cluster's image, and send a module of your own along with "
                           "--working-dir\n"), done.stderr
    assert head.is_clear()
