"""Metrics: the catalogue keeps its rules, labels stay within their bounds, and what is written is what parsers read."""

import itertools
import re
import shutil
import subprocess

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from cluster.observe.metrics.catalogue import (
    BOUNDS,
    BUCKETS_S,
    BY_NAME,
    IDENTITY,
    LONGEST_VALUE,
    METRICS,
    OTHER,
    table,
)
from cluster.observe.metrics.collector import Exposition
from cluster.observe.metrics.families import Samples, Spread, joined
from cluster.observe.metrics.load import TOP, fullest, group_of, tell_load
from cluster.observe.metrics.text import Instant, openmetrics
from tests.conftest import ROOT
from tests.scraped import found, value

UNITS = ("seconds", "bytes", "joules", "ratio")
HOSTILE = ('a"b', "back\\slash", "two\nlines", "tab\tand\r", "{}=,#", "", " ", "日本", "\ud800", "x" * 5000, "le",
           OTHER)


def promtool(*arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """promtool, where Debian's package prometheus is installed."""
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    return subprocess.run([tool, *arguments], input=given, capture_output=True, text=True, check=False)


# The catalogue


def test_names_say_what_they_are() -> None:
    assert len(BY_NAME) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"moelab_[a-z][a-z0-9_]*", metric.name), metric.name
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert metric.text
        assert metric.text[-1] != "."
        assert set(metric.labels) <= set(BOUNDS), metric.name
        assert not set(metric.labels) & {*IDENTITY, "le", "quantile"}, metric.name
        unit = next((unit for unit in UNITS if metric.family.endswith(f"_{unit}")), "")
        assert metric.unit == unit, metric.name
    assert {label for metric in METRICS for label in metric.labels} == set(BOUNDS)


def test_the_documented_table_is_the_catalogue() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert table() in text, "put the output of `python -m cluster.observe.metrics.catalogue` into docs/metrics.md"


# Bounds


def test_what_is_beyond_a_labels_bound_is_summed_and_never_lost() -> None:
    out = Samples("run", "policy")
    for lane in range(1000):
        out.add("moelab_lane_busy_seconds_total", 1.0, lane=f"ndp{lane}.mac")
    (family,) = out.families()
    values = family.samples
    assert len(values) == BOUNDS["lane"] + 1
    assert values["run", "policy", OTHER] == 1000 - BOUNDS["lane"]
    assert values["run", "policy", "ndp0.mac"] == 1.0


def test_the_same_lanes_are_told_by_name_whatever_they_have_done() -> None:
    names: list[set[str]] = []
    for busiest in (3, 900):
        out = Samples("run", "policy")
        for lane in range(1000):
            out.add("moelab_lane_busy_seconds_total", 5.0 if lane == busiest else 0.0, lane=str(lane))
        names.append({key[-1] for family in out.families() for key in family.samples})
    assert names[0] == names[1]


def test_thousands_of_experts_are_told_in_a_few_series() -> None:
    load = [[(layer * 7 + expert) % 97 for expert in range(4000)] for layer in range(61)]
    out = Samples("run", "policy")
    tell_load(out, range(3, 64), load)
    by_name = {family.metric.name: family.samples for family in out.families()}
    assert {name: len(samples) for name, samples in by_name.items()} == {
        "moelab_expert_load_tokens_total": 8, "moelab_load_skew_ratio": 8, "moelab_top_expert_tokens_total": TOP}
    assert sum(by_name["moelab_expert_load_tokens_total"].values()) == sum(map(sum, load))
    assert set(by_name["moelab_top_expert_tokens_total"].values()) == {96}
    assert fullest(load) == [(row, expert) for row in range(61) for expert in range(4000)
                             if load[row][expert] == 96][:TOP]


@pytest.mark.parametrize(("layers", "groups"), [
    ([], []), ([4], ["4"]), ([1, 3], ["1", "3"]), (list(range(16)), [f"{i}-{i + 1}" for i in range(0, 16, 2)]),
])
def test_groups_of_layers_are_named_by_their_ends(layers: list[int], groups: list[str]) -> None:
    assert list(dict.fromkeys(group_of(layers))) == groups
    assert len(group_of(layers)) == len(layers)


def test_a_machine_of_256_units_with_hostile_names_stays_within_its_bounds() -> None:
    out = Samples(HOSTILE[0], HOSTILE[2])
    for unit, name in itertools.product(range(256), HOSTILE):
        lane = f"{unit}{name}"
        out.add("moelab_lane_busy_seconds_total", 1.0, lane=lane)
        for cause in HOSTILE[:5]:
            out.add("moelab_lane_stall_seconds_total", 1.0, lane=lane, cause=cause)
            out.add("moelab_link_bytes_total", 1, link=lane, cause=cause)
    for family in out.families():
        assert len(family.samples) <= family.metric.most_series
        assert all(len(label) <= LONGEST_VALUE for key in family.samples for label in key)
    assert sum(metric.most_series for metric in METRICS) < 10_000
    text = Exposition(out.families).text("")[0].decode()
    assert sum(found(text, "moelab_lane_busy_seconds_total")) == 256 * len(HOSTILE)
    written = "".join(openmetrics([Instant(0, out)]))
    read = {family.name: family for family in text_string_to_metric_families(written)}
    assert sum(sample.value for sample in read["moelab_link_bytes"].samples) == 256 * len(HOSTILE) * 5


# What is written


def example() -> Samples:
    """One of everything."""
    out = Samples("a run", 'lru(slots="8")')
    for i, metric in enumerate(METRICS):
        if metric.kind == "histogram":
            spread = Spread()
            for seconds in (1e-7, 1e-6, 0.003, 500.0):
                spread.add(seconds)
            out.spread(metric.name, spread)
        else:
            for name in HOSTILE[:BOUNDS[metric.labels[0]] if metric.labels else 1]:
                out.add(metric.name, i + 0.5, **dict.fromkeys(metric.labels, name))
    return out


def test_prometheus_own_lint_has_nothing_to_say() -> None:
    text = Exposition(example().families).text("")[0].decode()
    done = promtool("check", "metrics", given=text)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_both_writers_say_the_same() -> None:
    """Ours, with timestamps, and the library's: families, samples and values."""
    samples = example()
    library = Exposition(samples.families).text("application/openmetrics-text; version=1.0.0")[0].decode()
    ours = "".join(openmetrics([Instant(1_500, samples)]))

    def plain(text: str) -> set[tuple[object, ...]]:
        return {(family.name, family.type, sample.name, *sorted(sample.labels.items()), sample.value)
                for family in text_string_to_metric_families(text) for sample in family.samples}

    assert plain(ours) == plain(library)
    assert {float(sample.timestamp) for family in text_string_to_metric_families(ours)
            for sample in family.samples} == {1.5}


def test_a_histogram_counts_up_and_ends_at_its_count() -> None:
    text = Exposition(example().families).text("")[0].decode()
    buckets = found(text, "moelab_ttft_seconds_bucket")
    assert buckets == sorted(buckets)
    assert len(buckets) == len(BUCKETS_S) + 1
    assert (buckets[0], buckets[-1]) == (2, 4)  # a duration at a bound belongs below it
    assert value(text, "moelab_ttft_seconds_count") == 4
    assert value(text, "moelab_ttft_seconds_sum") == pytest.approx(500.0030011)


def test_two_policies_stand_in_one_family() -> None:
    several = []
    for policy in ("lru(slots=4)", "lru(slots=8)"):
        out = Samples("cache", policy)
        out.add("moelab_emulated_seconds_total", 1.0)
        several.append(out)
    text = Exposition(lambda: joined(several)).text("")[0].decode()
    assert text.count("# TYPE moelab_emulated_seconds_total counter") == 1
    assert found(text, "moelab_emulated_seconds_total", run="cache") == [1.0, 1.0]


def test_a_name_or_a_label_that_is_not_in_the_catalogue_is_refused() -> None:
    out = Samples("run", "policy")
    with pytest.raises(KeyError):
        out.add("moelab_unheard_of", 1)
    with pytest.raises(KeyError):
        out.add("moelab_steps_total", 1)
    with pytest.raises(KeyError, match="no label unit"):
        out.add("moelab_steps_total", 1, phase="decode", unit="0")


