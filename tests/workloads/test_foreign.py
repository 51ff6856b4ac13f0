"""Routing that other tools return, from hand-made samples of each form."""

import base64
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from emulation.errors import InputError
from workloads.foreign import convert

SAMPLES = Path(__file__).parent / "samples"
FIRST = [[[1, 2], [3, 0]], [[2, 3], [1, 0]], [[3, 1], [2, 0]], [[0, 1], [1, 2]]]
"""Experts of the first request: three prompt tokens and one decoded (of two answered, the last is never routed)."""
SECOND = [[[2, 0], [0, 1]], [[1, 0], [3, 2]], [[3, 2], [0, 3]]]
"""Experts of the second: one prompt token, two decoded."""


@pytest.mark.parametrize(("name", "layer_ids"), [
    ("vllm_completions.jsonl", [1, 2]),
    ("vllm_outputs.jsonl", [1, 2]),
    ("vllm_0_21.json", [0, 1]),
    ("sglang_generate.jsonl", [1, 2]),
    ("sglang_chat.jsonl", [1, 2]),
])
def test_what_servers_return_becomes_prefill_and_decode(name: str, layer_ids: list[int]) -> None:
    """Both requests run as one batch: all prompts in one step, then a token of each that still answers."""
    trace = convert(SAMPLES / name, model="demo", num_experts=4, batch=2, top_k=2)
    assert trace.layer_ids.tolist() == layer_ids  # the dense layer, which servers fill with zeros, is none of them
    assert trace.step.tolist() == [0, 0, 0, 0, 1, 1, 2]
    assert trace.sequence.tolist() == [0, 0, 0, 1, 0, 1, 1]
    assert trace.position.tolist() == [0, 1, 2, 0, 3, 1, 2]
    assert trace.phase.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert trace.experts.tolist() == [*FIRST[:3], SECOND[0], FIRST[3], SECOND[1], SECOND[2]]


def test_batches_follow_each_other() -> None:
    trace = convert(SAMPLES / "vllm_completions.jsonl", model="demo", num_experts=4, batch=1)
    assert trace.step.tolist() == [0, 0, 0, 1, 2, 3, 4]
    assert trace.experts.tolist() == [*FIRST, *SECOND]


def test_hd_moe_json_is_decode_steps() -> None:
    trace = convert(SAMPLES / "hd_moe.json", model="demo", num_experts=4, batch=1)
    assert trace.experts.tolist() == FIRST
    assert trace.phase.tolist() == [1] * 4


def changed(tmp_path: Path, name: str, where: str, value: object) -> Path:
    """The first response of a sample, with one thing in it changed; `where` is a path of keys."""
    document = json.loads((SAMPLES / name).read_text().splitlines()[0])
    *keys, last = where.split(".")
    at = document
    for key in keys:
        at = at[int(key) if key.isdigit() else key]
    at[last] = value
    (tmp_path / "one.json").write_text(json.dumps(document))
    return tmp_path / "one.json"


@pytest.mark.parametrize(("name", "where", "value", "told"), [
    ("vllm_completions.jsonl", "choices.0.routed_experts", None, "has no routed_experts; was the server started"),
    ("vllm_completions.jsonl", "choices.0.routed_experts", "?", "is no base64 text"),
    ("vllm_completions.jsonl", "choices.0.routed_experts", "AAAA", "no routing that moelab can read"),
    ("vllm_completions.jsonl", "choices.0.routed_experts", [[1]], "it must be [tokens, layers, top_k]"),
    ("vllm_completions.jsonl", "usage", {}, "None of them are its prompt"),
    ("vllm_completions.jsonl", "usage.total_tokens", 9, "routed 4 tokens and counts 9"),
    ("sglang_generate.jsonl", "meta_info.completion_tokens", 3, "24 ids are no whole layers of 5 tokens"),
    ("sglang_generate.jsonl", "meta_info.routed_experts", 5, "has no routed_experts"),
    ("sglang_generate.jsonl", "meta_info.prompt_tokens", -1, "no whole layers"),
])
def test_a_response_that_does_not_add_up_is_one_sentence(tmp_path: Path, name: str, where: str, value: object,
                                                         told: str) -> None:
    with pytest.raises(InputError) as caught:
        convert(changed(tmp_path, name, where, value), model="demo", num_experts=4, batch=1, top_k=2)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_flat_ids_need_their_shape() -> None:
    with pytest.raises(InputError, match="give --top-k"):
        convert(SAMPLES / "sglang_generate.jsonl", model="demo", num_experts=4, batch=1)


def hd_moe(rows: dict[str, Any], tmp_path: Path) -> Path:
    file = tmp_path / "routing.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    return file


def test_keys_of_hd_moe_are_numbers_whatever_their_order(tmp_path: Path) -> None:
    rows = {str(token): {str(layer): [token % 8, (token + 1 + layer % 7) % 8] for layer in range(11)}
            for token in range(12)}
    by_text = {key: dict(sorted(layers.items())) for key, layers in sorted(rows.items())}
    plain, sorted_ = (convert(hd_moe(each, tmp_path), model="m", num_experts=8, batch=1) for each in (rows, by_text))
    assert plain.experts[:, 0, 0].tolist() == [token % 8 for token in range(12)]
    assert sorted_.experts.tolist() == plain.experts.tolist()


@pytest.mark.parametrize("rows", [{"0": {"0": [1]}, "5": {"0": [1]}}, {"x": {"0": [1]}}, {"0": {"0": [1], "02": [1]}},
                                  {"0": {"1": [1], "01": [2]}}])
def test_keys_of_hd_moe_with_gaps_or_without_numbers_are_refused(rows: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="count up without a gap"):
        convert(hd_moe(rows, tmp_path), model="m", num_experts=8, batch=1)


def test_a_header_that_claims_more_than_there_is_is_refused(tmp_path: Path) -> None:
    head = "{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000, 2, 2), }".ljust(117) + "\n"
    claimed = b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode()
    file = tmp_path / "vllm.json"
    file.write_text(json.dumps({"choices": [{"routed_experts": base64.b64encode(claimed).decode(),
                                             "prompt_token_ids": [1]}]}), encoding="utf-8")
    with pytest.raises(InputError, match="is no routing that moelab can read"):
        convert(file, model="m", num_experts=8, batch=1)


def test_an_array_in_an_archive_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.npz"
    with zipfile.ZipFile(file, "w") as whole:
        whole.writestr("experts.npy", b"not an array")
    with pytest.raises(InputError, match="no array of numpy's"):
        convert(file, model="m", num_experts=8, batch=1)
