"""Layers of a run beside its result, and their pictures."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from cluster.main import enter
from cluster.observe.flight import read_flight
from cluster.observe.layers import LAYERS_FILE, MOST_SPANS, Layers, _fewer, layers_of, read_layers, stored_layers
from cluster.observe.report.gantt import MOST_BYTES, SCRIPT, gantt, gantts, pictures
from cluster.observe.report.page import page
from cluster.observe.result import Result
from emulation.errors import InputError

from .conftest import LAYERS, changed, feed, policy_of, run


@pytest.fixture(scope="module")
def layers() -> Layers:
    scheduler, _ = run(policy_of("on_demand"), feed())
    return layers_of(changed(read_flight(scheduler), steps=tuple(scheduler.steps)), "0" * 64)


def test_the_middle_layer_of_a_decode_and_of_a_prefill_step_come_first(layers: Layers) -> None:
    first = layers.layers[:2]
    assert [(each.phase, each.layer) for each in first] == [("decode", (LAYERS - 1) // 2), ("prefill", 1)]
    assert first[1].step == 0
    assert first[1].tokens == 9
    assert {each.layer for each in layers.layers} == set(range(LAYERS))


def test_spans_are_those_of_the_flight(layers: Layers) -> None:
    scheduler, _ = run(policy_of("on_demand"), feed())
    flight = read_flight(scheduler)
    at = layers.layers[0]
    own = [i for i in range(len(at.spans)) if at.spans.is_own[i]]
    assert len(own) > 5
    for i in own:
        op = at.spans.op[i]
        row = np.flatnonzero((flight.rows.op == op) & (flight.rows.lane == at.spans.lane[i]))
        assert (flight.rows.from_ps[row] - at.begin_ps).tolist() == [at.spans.from_ps[i]]
        assert (flight.rows.to_ps[row] - at.begin_ps).tolist() == [at.spans.to_ps[i]]
        assert flight.labels.step[op] == at.step
        assert flight.labels.expert[op] == at.spans.expert[i]


def test_the_critical_path_has_no_hole_and_ends_with_the_layer(layers: Layers) -> None:
    at = layers.layers[0]
    path = sorted({(at.spans.from_ps[i], at.spans.to_ps[i]) for i in range(len(at.spans)) if at.spans.on_path[i]})
    reached = 0
    for from_ps, to_ps in path:
        assert from_ps <= reached + 10**6  # a link's latency is length behind its hold
        reached = max(reached, to_ps)
    assert reached >= at.length_ps
    assert len(at.decisions_ps) == 1


def test_many_spans_become_fewer_and_lose_no_operation() -> None:
    n = 20_000
    at = np.arange(n)
    table = np.stack([at % 3, 0 * at, 10 * at, 10 * at + 9, at, at % 2, at, 0 * at + 2, 0 * at + 1, 0 * at, 0 * at + 1])
    found = _fewer(table, 10 * n)
    assert found.shape[1] <= MOST_SPANS
    assert found[10].sum() == n
    assert found[7].sum() == 2 * n
    assert (found[3] - found[2]).max() < 10 * n / 32


def test_a_result_has_them_beside_it_and_they_are_the_same_when_read(small: Result, tmp_path: Path) -> None:
    small.write(tmp_path)
    found = stored_layers(tmp_path, small.digest)
    assert found is not None
    assert found == small.layers()
    assert found.to_json() == (tmp_path / LAYERS_FILE).read_text()
    assert stored_layers(tmp_path / "result.json", small.digest) == found
    (tmp_path / LAYERS_FILE).unlink()
    assert stored_layers(tmp_path, small.digest) is None


@pytest.mark.parametrize(("change", "said"), [
    ({"schema_version": 9}, "schema version 9"), ({"digest": "f" * 64}, "belongs to another result"),
    ({"tracks": []}, "a lane that it does not list"), ({"whats": ["expert"]}, "a what that it does not list"),
    ({"more": 1}, "more: Extra inputs")])
def test_a_file_that_is_wrong_is_refused_in_a_sentence(layers: Layers, change: dict[str, object], said: str) -> None:
    data = json.loads(layers.to_json()) | change
    with pytest.raises(InputError, match=said):
        read_layers(json.dumps(data).encode(), "0" * 64)


def test_columns_of_different_lengths_are_refused(layers: Layers) -> None:
    data = json.loads(layers.to_json())
    data["layers"][0]["spans"]["op"].pop()
    with pytest.raises(InputError, match="different lengths"):
        read_layers(json.dumps(data).encode(), "0" * 64)


def test_what_is_not_there_is_told_with_what_is() -> None:
    scheduler, _ = run(policy_of("on_demand"), feed())
    flight = changed(read_flight(scheduler), steps=tuple(scheduler.steps))
    assert layers_of(flight, "", step=3, layer=2).layers[0].step == 3
    with pytest.raises(InputError, match="step 3 has no layer 7 with experts: it has 0, 1, 2"):
        layers_of(flight, "", step=3, layer=7)
    with pytest.raises(InputError, match="no step 99"):
        layers_of(flight, "", step=99)


def test_a_picture_shows_every_span_where_it_was(layers: Layers) -> None:
    at = layers.layers[1]
    markup = gantt(layers, at)
    drawn = ElementTree.fromstring(f"<div>{markup}</div>".replace(' hidden=""', "").replace("&nbsp;", " "))
    bars = [rect for rect in drawn.iter("rect") if rect.find("title") is not None and rect.get("y") != "28"]
    assert len(bars) == len(at.spans)
    for i, rect in enumerate(bars):
        begin = max(at.spans.from_ps[i], 0) / at.length_ps
        assert float(str(rect.get("x")).rstrip("%")) == pytest.approx(100 * begin, abs=1e-3)
        assert f"op {at.spans.op[i]}" in str(rect.findtext("title"))
    assert len(re.findall("a plan came, at", markup)) == len(at.decisions_ps)


def test_names_of_a_machine_are_escaped_and_nothing_comes_from_elsewhere(layers: Layers) -> None:
    hostile = "<script>alert(1)</script>"
    tracks = [track.model_copy(update={"lane": f"{hostile}{i}", "device": hostile})
              for i, track in enumerate(layers.tracks)]
    whole = page("x", "", gantts(layers.model_copy(update={"tracks": tuple(tracks)})), scripts=(SCRIPT,))
    assert "alert(1)" in whole
    assert hostile not in whole
    assert "http" not in whole.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    assert whole == page("x", "", gantts(layers.model_copy(update={"tracks": tuple(tracks)})), scripts=(SCRIPT,))


def test_a_run_without_a_phase_says_so_and_many_runs_are_not_all_drawn(layers: Layers) -> None:
    prefill = layers.model_copy(update={"layers": layers.layers[1:2]})
    assert "No layer of a decode step is drawn: the run has none." in gantts(prefill)
    fit = MOST_BYTES // len(gantts(prefill))
    drawn = pictures({str(i): prefill for i in range(fit + 2)} | {"none": None})
    assert [("<svg" in markup) for markup in drawn.values()] == [True] * fit + [False] * 2


RUN = """
machine: {name: edge-gpu-ndp, options: {units: 2}}
model: {name: qwen3-30b-a3b, layers: 2}
policy: expert_parallel
workload: {work: synthetic, generator: {name: zipf, skew: 0.6}, batch: 2, prompt_tokens: 4, output_tokens: 4}
report: false
"""


def test_the_command_draws_what_is_kept_and_else_carries_the_run_out_again(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_text(RUN)
    assert enter(["run", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "out")]) == 0
    command = ["gantt", str(tmp_path / "out"), "--out", str(tmp_path / "page.html")]
    capsys.readouterr()
    assert enter(command) == 0
    assert "goes again" not in capsys.readouterr().out
    kept = (tmp_path / "page.html").read_text()
    assert kept.count("<figure>") == 2
    (tmp_path / "out" / LAYERS_FILE).unlink()
    assert enter(command) == 0
    assert "goes again" in capsys.readouterr().out
    assert (tmp_path / "page.html").read_text() == kept
    assert enter([*command, "--step", "2", "--layer", "1"]) == 0
    assert "Step 2 (decode, 2 tokens), layer 1, lane by lane" in (tmp_path / "page.html").read_text()
    assert enter([*command, "--step", "2", "--layer", "5"]) == 3
    assert "step 2 has no layer 5 with experts: it has 0, 1" in capsys.readouterr().err
