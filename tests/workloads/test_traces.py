"""Trace files: what is written is read again, and what is wrong is told in one sentence."""

import dataclasses
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulation.errors import InputError, MoelabError
from emulation.trace import NO_EXPERT, Trace
from emulation.units import PS_PER_S
from emulation.view import DROPPED
from workloads import traces
from workloads.foreign import convert, with_steps
from workloads.statistics import by_layer, info
from workloads.traces import read_trace, write_trace


def small() -> Trace:
    """Two sequences, a prefill of three tokens and one decode step, two layers, four experts, top-2."""
    experts = np.array([[[0, 1], [2, 3]], [[1, 2], [3, 0]], [[0, 2], [1, 3]], [[0, 1], [1, 2]], [[3, 2], [0, 1]]],
                       np.uint16)
    forecast = experts.copy()
    forecast[:, 0] = NO_EXPERT
    forecast[0, 1, 0] = 1
    return Trace("tiny", 4, np.array([0, 1], np.uint16), experts, np.full(experts.shape, 0.5, np.float32),
                 np.array([0, 0, 0, 1, 1], np.int32), np.array([0, 0, 1, 0, 1], np.int32),
                 np.array([0, 1, 0, 2, 1], np.int32), np.array([0, 0, 0, 1, 1], np.uint8), forecast)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    write_trace(tmp_path / "t.npz", small())
    again = read_trace(tmp_path / "t.npz")
    assert again.model == "tiny"
    assert again.num_experts == 4
    for name, column in small().arrays().items():
        assert again.arrays()[name].dtype == column.dtype
        assert np.array_equal(again.arrays()[name], column), name
    assert [file.name for file in tmp_path.iterdir()] == ["t.npz"]


def test_arrivals_are_kept_in_picoseconds(tmp_path: Path) -> None:
    timed = dataclasses.replace(small(), time=np.array([0, 0, 2 * PS_PER_S, 0, 2 * PS_PER_S], np.int64))
    write_trace(tmp_path / "t.npz", timed)
    time = read_trace(tmp_path / "t.npz").time
    assert time is not None
    assert (time.dtype, time.tolist()) == (np.int64, [0, 0, 2 * PS_PER_S, 0, 2 * PS_PER_S])
    assert info(timed)["last_arrival_s"] == 2.0


def test_what_is_no_file_of_a_size_that_anyone_records_is_not_read(tmp_path: Path,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(InputError, match="a folder, a device or a pipe"):
        read_trace(tmp_path / "pipe.npz")
    with pytest.raises(InputError, match=r"ends in \.json"):
        write_trace(tmp_path / "trace.json", small())
    write_trace(tmp_path / "trace.npz", small())
    monkeypatch.setattr(traces, "LARGEST_BYTES", 500)
    with pytest.raises(InputError, match="500 bytes in 64 are the most that is read"):
        read_trace(tmp_path / "trace.npz")


def test_the_same_trace_is_the_same_bytes(tmp_path: Path) -> None:
    write_trace(tmp_path / "a.npz", small())
    write_trace(tmp_path / "b.npz", small())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_steps_carry_their_routing_and_the_last_token_of_each_sequence() -> None:
    (prefill, first), (decode, second) = small().steps(homes=(5, 7))
    assert prefill.sequence.tolist() == [0, 0, 1]
    assert prefill.home.tolist() == [5, 5, 7]
    assert prefill.ends.tolist() == [False, True, True]
    assert first.layer(1).experts.tolist() == [[2, 3], [3, 0], [1, 3]]
    assert decode.position.tolist() == [2, 1]
    assert second.guess(0) is None
    guess = first.guess(1)
    assert guess is not None
    assert guess.experts.tolist() == [[1, 3], [3, 0], [1, 3]]


def test_a_place_that_no_expert_fills_is_dropped() -> None:
    trace = small()
    trace.experts[0, 0, 1] = NO_EXPERT
    step, routed = next(trace.steps())
    assert routed.layer(0).experts[0].tolist() == [0, DROPPED]
    assert routed.layer(0).pairs.token.tolist() == [0, 1, 1, 2, 2]
    assert len(step) == 3


def test_info_counts_by_hand() -> None:
    told = info(small())
    assert told["tokens"] == 5
    assert told["prefill_tokens"] == 3
    assert told["max_over_mean"] == pytest.approx((3 / 2.5 + 3 / 2.5) / 2)
    # Sequence 0: tokens (0,1|2,3) (1,2|3,0) (0,1|1,2); sequence 1: (0,2|1,3) (3,2|0,1). Pairs of neighbours: layer 0
    # shares 1 of 2, 1 of 2, 1 of 2; layer 1 shares 1, 0, 1 of 2.
    assert told["shared_with_last"] == pytest.approx(5 / 12)
    # Layer 0: pairs 01 12 02 01 23, of 5 * 4 ordered pairs of tokens 2 share one. Loads 3 3 3 1 of 10 make a chance of
    # 2 * (0.28**2 - 0.0244) / 0.72**2 to share one. Layer 1: pairs 23 03 13 12 01, all different.
    assert told["coactivation_lift"] == pytest.approx((2 / 20) / (2 * (0.28**2 - 0.0244) / 0.72**2) / 2)
    # Cosines. Layer 0: (1 2 1 0)(1 1 0 0), (1 0 1 0)(0 0 1 1); layer 1: (1 0 1 2)(0 1 1 0), (0 1 0 1)(1 1 0 0).
    assert told["prefill_decode_similarity"] == pytest.approx((3 / 12**0.5 + 1 / 2 + 1 / 12**0.5 + 1 / 2) / 4)
    first, second = by_layer(small())
    assert first["shared_with_last"] == pytest.approx(1 / 2)
    assert second["shared_with_last"] == pytest.approx(1 / 3)
    assert (first["layer"], first["max_over_mean"], second["coactivation_lift"]) == (0, pytest.approx(6 / 5), 0.0)
    assert told["forecast_hit_rate"] == pytest.approx(9 / 10)
    assert (first["forecast_hit_rate"], second["forecast_hit_rate"]) == (None, pytest.approx(9 / 10))


def test_plain_routing_becomes_decode_steps_of_neighbouring_runs() -> None:
    experts = np.arange(7 * 1 * 1).reshape(7, 1, 1)
    trace = with_steps(experts, "m", 7, batch=2)
    assert trace.step.tolist() == [0, 0, 1, 1, 2, 2]
    assert trace.experts[:, 0, 0].tolist() == [0, 3, 1, 4, 2, 5]
    assert trace.sequence.tolist() == [0, 1, 0, 1, 0, 1]


def test_hd_moe_json_is_read(tmp_path: Path) -> None:
    file = tmp_path / "routing.json"
    file.write_text(json.dumps({"0": {"0": [1, 2], "1": [0, 3]}, "1": {"0": [2, 3], "1": [1, 0]}}))
    trace = convert(file, model="m", num_experts=4, batch=1)
    assert trace.experts.tolist() == [[[1, 2], [0, 3]], [[2, 3], [1, 0]]]


@pytest.mark.parametrize(("change", "told"), [
    (lambda c: c.pop("step"), "no column 'step'"),
    (lambda c: c.update(format_version=np.int64(9)), "format_version 9"),
    (lambda c: c.update(experts=c["experts"][:, 0]), "it must be integers [tokens, layers, top_k]"),
    (lambda c: c.update(num_experts=np.int64(3)), "routes to expert 3, but has num_experts 3"),
    (lambda c: c.update(sequence=c["sequence"][:2]), "one for each token"),
    (lambda c: c.update(step=c["step"][::-1]), "step goes back at token"),
    (lambda c: c.update(phase=c["phase"] + 2), "0 (prefill) or 1 (decode)"),
    (lambda c: c.update(weights=c["weights"] * np.nan), "no number"),
    (lambda c: c.update(forecast=c["forecast"][:1]), "forecast is uint16 ["),
    (lambda c: c.update(forecast=c["forecast"] * 0 + 4), "forecasts expert 4, but has num_experts 4"),
    (lambda c: c.update(forecast=c["forecast"] * 1.0), "it must be integers ["),
    (lambda c: c.update(format_version=np.array("x")), "format_version x"),
    (lambda c: c.update(num_experts=np.array([4, 4])), "num_experts is int64 [2]; it must be integers []"),
    (lambda c: c.update(num_experts=np.int64(2**40)), "num_experts holds 1099511627776; it is 1 to 65535"),
    (lambda c: c.update(experts=c["experts"] * 0), "token 0 visits expert 0 twice in layer 0"),
    (lambda c: c.update(weights=np.full(c["experts"].shape, "x")), "it must be numbers"),
    (lambda c: c.update(weights=np.full(c["experts"].shape, 1e300)), "no number"),
    (lambda c: c.update(sequence=c["sequence"].astype(np.int64) - 9), "sequence holds -9; it is 0 to 2147483647"),
    (lambda c: c.update(position=c["position"].astype(np.int64) + 2**40), "position holds 1099511627776"),
    (lambda c: c.update(step=c["step"].astype(np.int64) + 2**40), "step holds 1099511627776"),
    (lambda c: c.update(layer_ids=np.array([1, 70000])), "layer_ids holds 70000"),
    (lambda c: c.update(tokens=np.array(["a"] * len(c["step"]))), "tokens is <U1"),
    (lambda c: c.update(step=c["step"] * 0, sequence=np.arange(len(c["step"])) % 2),
     "the tokens of sequence 0 do not stand together in step 0"),
    (lambda c: c.update(layer_ids=np.array([1, 0])), "names 2 layers, ascending"),
    (lambda c: c.update(time=np.zeros(5)), "time is float64 [5]; it must be integers [5]"),
    (lambda c: c.update(time=np.array([0, 0, 5, 1, 5])), "sequence 0 arrives at two times"),
    (lambda c: c.update({f"more{i}": np.zeros(1) for i in range(64)}), "64 are the most that is read"),
])
def test_a_wrong_column_is_one_sentence(tmp_path: Path, change: Any, told: str) -> None:
    columns: dict[str, Any] = {**small().arrays(), "num_experts": np.int64(4), "format_version": np.int64(1)}
    change(columns)
    np.savez(tmp_path / "bad.npz", **columns)
    with pytest.raises(InputError) as caught:
        read_trace(tmp_path / "bad.npz")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("experts", "told"), [
    (np.full((4, 2, 2), 70000), "routes to expert 70000, but has num_experts 8"),
    (np.zeros((4, 2, 2)), "experts is float64 [4, 2, 2]; it must be integers"),
    (np.zeros((4, 2), np.int64), "experts is int64 [4, 2]; it must be integers"),
    (np.int64(3), "0 tokens do not make a decode step"),
    (np.zeros((4, 2, 2), np.int64), "token 0 visits expert 0 twice"),
])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_routing_that_is_none_is_not_converted(experts: Any, told: str, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"r.{suffix}"
    if suffix == "npy":
        np.save(file, experts)
    else:
        np.savez(file, experts=experts)
    with pytest.raises(InputError) as caught:
        convert(file, model="m", num_experts=8, batch=1)
    assert told in str(caught.value)


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="could not be written: File exists"):
        write_trace(tmp_path / "file" / "t.npz", small())
    write_trace(tmp_path / ("n" * 250 + ".npz"), small())


def test_pickled_columns_are_refused(tmp_path: Path) -> None:
    class Boom:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "ran"),))

    np.savez(tmp_path / "evil.npz", experts=np.array([Boom()], dtype=object))
    with pytest.raises(InputError, match="no trace file"):
        read_trace(tmp_path / "evil.npz")
    assert not (tmp_path / "ran").exists()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_file_never_gives_a_traceback(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "t.npz"
    write_trace(path, small())
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(raw[:data.draw(st.integers(1, len(raw)))]))
    told = ""
    try:
        read_trace(path)
    except MoelabError as error:
        told = str(error)
    assert "\n" not in told


def test_nothing_is_left_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: io.BufferedWriter, **_: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(InputError, match="No space left"):
        write_trace(tmp_path / "t.npz", small())
    assert list(tmp_path.iterdir()) == []


def test_real_mixtral_routing_has_the_published_skew_and_locality(shared: Path) -> None:
    for name in ("coding", "math", "reasoning", "writing"):
        told = info(convert(shared / "traces" / f"mixtral-8x7b_{name}.npz", model="mixtral-8x7b", num_experts=8,
                            batch=1))
        assert 1.28 <= float(str(told["max_over_mean"])) <= 1.40
        assert 0.35 <= float(str(told["shared_with_last"])) <= 0.37
