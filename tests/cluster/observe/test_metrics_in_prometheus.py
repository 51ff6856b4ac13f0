"""A run of microseconds, loaded as blocks: Prometheus answers queries with the figures of its result.json."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator

import pytest

from cluster.config.reading import load_run
from cluster.main import enter
from cluster.observe.metrics.over_time import SCRAPE_MS
from cluster.observe.result import Result
from cluster.run import run
from tests.studies.small import RUN

pytestmark = pytest.mark.slow

SINCE = "2020-02-29T12:00:00Z"
SINCE_S = 1_582_977_600
READY_S = 60.0


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    path = tmp_path_factory.mktemp("run") / "short.yaml"
    path.write_text(json.dumps({**RUN, "policy": {"name": "lru", "parameters": {"slots": 16}}, "machine": "h200-host",
                                "workload": {**RUN["workload"], "output_tokens": 8}}), encoding="utf-8")
    return run(load_run(str(path), []))


@pytest.fixture(scope="module")
def prometheus(result: Result, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a Prometheus on blocks of the run answers."""
    binary = shutil.which("prometheus")
    if binary is None or shutil.which("promtool") is None:
        pytest.skip("prometheus and promtool are not installed: apt-get install prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "result.json").write_text(result.to_json(), encoding="utf-8")
    assert enter(["metrics", str(folder / "result.json"), "--run", "short", "--since", SINCE, "--blocks",
                  str(folder / "data")]) == 0
    (folder / "prometheus.yml").write_text("global: {}\n", encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([binary, f"--config.file={folder / 'prometheus.yml'}",
                                   f"--storage.tsdb.path={folder / 'data'}", "--storage.tsdb.retention.time=100y",
                                   f"--web.listen-address={address}", "--log.level=warn"], stderr=log)
    try:
        until_s = time.monotonic() + READY_S
        while True:
            try:
                with urllib.request.urlopen(f"http://{address}/-/ready", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                assert server.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < until_s
                time.sleep(0.1)
        yield f"http://{address}"
    finally:
        server.terminate()
        server.wait(30)


def end_s(result: Result) -> float:
    return SINCE_S + result.series.slices * SCRAPE_MS / 1000


def ask(prometheus: str, query: str, at_s: float) -> dict[tuple[tuple[str, str], ...], float]:
    """The answer's values by their labels."""
    asked = urllib.parse.urlencode({"query": query, "time": f"{at_s:.3f}"})
    with urllib.request.urlopen(f"{prometheus}/api/v1/query?{asked}", timeout=30) as answer:
        found = json.load(answer)["data"]["result"]
    return {tuple(sorted(row["metric"].items())): float(row["value"][1]) for row in found}


def one(prometheus: str, query: str, at_s: float) -> float:
    (value,) = ask(prometheus, query, at_s).values()
    return value


def test_prometheus_answers_with_the_figures_of_the_result(prometheus: str, result: Result) -> None:
    end, window = end_s(result), f"{result.series.slices * SCRAPE_MS // 1000 + 60}s"

    def total(query: str) -> float:
        return one(prometheus, query, end)

    assert result.makespan_ps < 10**11, "a tenth of a second: no scraper would see it"
    assert total('moelab_emulated_seconds_total{run="short",policy="lru"}') == result.makespan_ps / 1e12
    assert total("sum(moelab_link_bytes_total)") == sum(link.total_bytes for link in result.traffic)
    assert total('moelab_tokens_total{kind="output"}') == result.emitted_tokens
    assert total("count(moelab_lane_busy_seconds_total)") == len(result.lanes)
    decode = result.phases["decode"]
    assert total('moelab_experts_hits_total{phase="decode"} / (moelab_experts_hits_total{phase="decode"} + '
                 'moelab_experts_misses_total{phase="decode"})') == pytest.approx(decode.hit_rate)
    assert result.output_tokens_per_s is not None
    assert total(f'last_over_time(moelab_tokens_total{{kind="output"}}[{window}]) / on(run, policy) '
                 f"last_over_time(moelab_emulated_seconds_total[{window}])") == pytest.approx(
        result.output_tokens_per_s)
    assert result.ttft is not None
    assert total("moelab_ttft_seconds_sum / moelab_ttft_seconds_count") == pytest.approx(result.ttft.mean_s)
    assert result.itl is not None
    quantile = total("histogram_quantile(0.5, sum by (le) (moelab_itl_seconds_bucket))")
    assert quantile / 2.5 < result.itl.p50_s < quantile * 2.5, "within the bucket"
    slice_s = result.series.slice_ps / 1e12
    assert total("moelab_dilation_ratio") == pytest.approx(SCRAPE_MS / 1000 / slice_s)


def test_rates_over_emulated_time_do_not_know_the_stretch(prometheus: str, result: Result) -> None:
    """In the middle of the run: what its series says of those slices."""
    series, wide = result.series, 20
    last = series.slices // 2
    at_s = SINCE_S + last * SCRAPE_MS / 1000
    busiest = max(series.busy_ps, key=lambda lane: sum(series.busy_ps[lane]))
    window = f"{wide * SCRAPE_MS // 1000}s"
    use = one(prometheus, f'rate(moelab_lane_busy_seconds_total{{lane="{busiest}"}}[{window}]) / on(run, policy) '
                          f"rate(moelab_emulated_seconds_total[{window}])", at_s)
    taken = series.busy_ps[busiest][last - wide:last]
    assert use == pytest.approx(sum(taken) / (wide * series.slice_ps), rel=0.01)


def test_nothing_is_there_before_and_behind_the_run(prometheus: str, result: Result) -> None:
    assert ask(prometheus, "moelab_emulated_seconds_total", SINCE_S - 1) == {}
    assert one(prometheus, "moelab_emulated_seconds_total", SINCE_S) == 0.0
    assert ask(prometheus, "moelab_emulated_seconds_total", end_s(result) + 301) == {}
