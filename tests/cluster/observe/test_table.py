"""Tables for a terminal, and the tidy frame."""

import sys

import pytest
from rich.console import Console

from cluster.observe.result import Result
from cluster.observe.table import bytes_text, compare_table, number_text, percent_text, stall_groups, time_text, winner
from emulation.errors import MoelabError

from .conftest import feed, result_of


def shown(table: object) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115
    with console.file:
        console.print(table)
    return console.export_text()


def cells(text: str, first: str) -> list[str]:
    """The cells of the row that begins with a word."""
    row = next(line for line in text.splitlines() if line.startswith(f"│ {first} "))
    return [cell.strip() for cell in row.strip("│").split("│")]


@pytest.fixture(scope="module")
def policies() -> dict[str, Result]:
    return {"on_demand": result_of("on_demand"), "cpu_static": result_of("cpu_static", parameters={"slots": 3}),
            "cpu_precalc": result_of("cpu_precalc", parameters={"slots": 3})}


def test_the_table_shows_what_a_reader_came_for() -> None:
    result = result_of("lru", feed(0, (0, 10**9)), {"slots": 3})
    text = shown(result.table())
    assert result.ttft is not None
    assert result.tpot is not None
    assert cells(text, "TTFT")[1:3] == [time_text(result.ttft.mean_s), time_text(result.ttft.p50_s)]
    assert cells(text, "TPOT")[-1] == "2"
    assert cells(text, "decode")[4] == number_text(result.phases["decode"].tokens_per_s)
    assert cells(text, "h2d") == ["h2d", bytes_text(result.traffic[0].bytes["demand"]),
                                  bytes_text(result.traffic[0].total_bytes)]
    gpu = result.devices[0]
    shares = [cell for line in text.splitlines() if line.startswith("│ gpu ") and "stream" in line
              for cell in line.strip("│").split("│")[2:]]
    assert shares[0].strip() == percent_text(gpu.busy_ps / result.horizon_ps)
    assert sum(float(cell.strip().removesuffix(" %")) for cell in shares) == pytest.approx(100, abs=0.5)
    assert cells(text, "times the bound") == ["times the bound", f"{result.makespan_ps / 10**8:.4g}"]
    assert "100 MB" in text
    assert "approximation: one lane a copy engine" in text
    assert result.digest[:16] in text


def test_a_comparison_gives_ratios_to_the_first_and_marks_the_best(policies: dict[str, Result]) -> None:
    text = shown(compare_table(policies))
    times = {name: result.makespan_ps for name, result in policies.items()}
    fastest = min(times, key=lambda name: times[name])
    assert winner(policies) == fastest != "on_demand"
    assert f"{fastest} (fastest)" in text
    assert text.count("(fastest)") == 1
    row = cells(text, "time")
    assert row[1] == time_text(times["on_demand"] / 10**12)
    for cell, name in zip(row[2:], list(policies)[1:], strict=True):
        mark = " *" if times[name] == times[fastest] else ""
        ratio = times[name] / times["on_demand"]
        assert cell == f"{time_text(times[name] / 10**12)} ({ratio:.3g}x){mark}"
    assert "*" not in "".join(cells(text, "bytes over links"))
    changed = policies["cpu_precalc"].phases
    substituted, dropped = (sum(getattr(p, key) for p in changed.values()) for key in ("substituted", "dropped"))
    assert cells(text, "exact") == ["exact", "yes", "yes", f"no: {substituted} pairs substituted, {dropped} dropped"]


def test_equals_are_all_marked_and_the_first_is_the_fastest(small: Result) -> None:
    text = shown(compare_table({"a": small, "b": small}))
    assert all(cell.endswith("*") for cell in cells(text, "decode tok/s")[1:])
    assert "a (fastest)" in text
    assert "b (fastest)" not in text


def test_stalls_in_groups_sum_to_the_same() -> None:
    stall = {"issue": 1, "sync": 2, "demand load": 4, "behind prefetch": 8, "expert": 16, "dispatch": 32, "no work": 64}
    found = stall_groups(stall)
    assert {group: ps for group, ps in found.items() if ps} == {
        "compute": 16, "host": 3, "loads": 12, "activations": 32, "no work": 64}
    assert sum(found.values()) == sum(stall.values())


@pytest.mark.parametrize(("value_s", "text"), [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (4.5e-6, "4.5 µs"), (3e-9, "3 ns"),
                                               (0.0, "0 ns"), (None, "-")])
def test_times_read_in_their_unit(value_s: float | None, text: str) -> None:
    assert time_text(value_s) == text


def test_the_frame_holds_every_figure_once(small: Result) -> None:
    pytest.importorskip("pandas", reason="the frame needs pandas")
    frame = small.to_pandas()
    assert list(frame.columns) == ["part", "name", "figure", "unit", "value"]
    assert not frame.duplicated(["part", "name", "figure"]).any()
    assert not frame.value.isna().any()
    row = frame[(frame.part == "phase") & (frame.name == "decode") & (frame.figure == "time")]
    assert (row.unit.item(), row.value.item()) == ("s", small.phases["decode"].time_ps / 10**12)
    stalls = frame[(frame.part == "stall") & (frame.name == "stream")]
    assert stalls.value.sum() == pytest.approx(small.lanes[1].stall_ps / 10**12)
    assert frame[(frame.part == "memory") & (frame.figure == "peak")].unit.tolist() == ["B", "B"]


def test_without_pandas_the_frame_is_refused_in_a_sentence(small: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)  # an import of it fails, as where it is not installed
    with pytest.raises(MoelabError, match="to_pandas needs pandas: pip install 'moelab\\[tables\\]'"):
        small.to_pandas()


def test_numbers_are_written_out_and_never_with_an_exponent() -> None:
    assert [number_text(value) for value in (None, 0.36251, 47.2649, 999.94, 14806.67, 107915.01)] == [
        "-", "0.3625", "47.26", "999.9", "14,807", "107,915"]


def test_two_runs_that_differ_in_machine_or_precision_have_different_heads(small: Result) -> None:
    chosen = small.model_copy(update={"config": {"precision": "int4", "machine_options": {"units": 6}}})
    head = f"{small.model} at int4 on {small.machine}, units=6"
    assert shown(compare_table({"a": chosen, "b": chosen})).splitlines()[0].strip() == head
    assert head in shown(chosen.table())
    assert cells(shown(compare_table({"a": small, "b": chosen})), "digest") == [
        "digest", small.digest[:16], chosen.digest[:16]]
