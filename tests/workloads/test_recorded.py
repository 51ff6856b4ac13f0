"""Files of recorded requests: read as they stand, and refused with the file and the line."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulation.errors import InputError, MoelabError
from workloads.recorded import read_requests

GOOD = '{"arrival_s": 0.5, "prompt_tokens": 100, "output_tokens": 20}'


def written(folder: Path, *lines: str) -> Path:
    (folder / "r.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "r.jsonl"


def test_requests_are_read_exactly_and_put_in_order(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD, "", '{"arrival_s": 1e-12, "prompt_tokens": 3, "output_tokens": 1}',
                   '{"arrival_s": 0.1, "prompt_tokens": 9, "output_tokens": 1, "prefix": "a", "prefix_tokens": 8}',
                   '{"arrival_s": 0.1, "prompt_tokens": 10, "output_tokens": 2, "prefix": "a", "prefix_tokens": 8}')
    found = read_requests(path)
    assert found.arrival_ps.tolist() == [1, 10**11, 10**11, 5 * 10**11]
    assert found.prompt_tokens.tolist() == [3, 9, 10, 100]
    assert found.output_tokens.tolist() == [1, 1, 2, 20]
    assert found.prefix.tolist() == [-1, 0, 0, -1]
    assert found.prefix_tokens.tolist() == [0, 8, 8, 0]
    assert len(read_requests(path, 2)) == 2


def test_arrivals_may_be_left_out_where_they_are_drawn(tmp_path: Path) -> None:
    path = written(tmp_path, '{"prompt_tokens": 3, "output_tokens": 1}')
    assert read_requests(path, arrivals=False).arrival_ps.tolist() == [0]


@pytest.mark.parametrize(("line", "sentence"), [
    ("[1]", "is no JSON object"), ("{", "is no JSON"), ("\xff", "line 2"), ("[" * 5000, "is no JSON|nested too deeply"),
    ('{"prompt_tokens": 3, "output_tokens": 1}', "arrival_s is missing"),
    ('{"arrival_s": -1, "prompt_tokens": 3, "output_tokens": 1}', "arrival_s is -1"),
    ('{"arrival_s": "1", "prompt_tokens": 3, "output_tokens": 1}', 'arrival_s is "1"'),
    ('{"arrival_s": NaN, "prompt_tokens": 3, "output_tokens": 1}', "NaN is no number"),
    ('{"arrival_s": 1e999999999, "prompt_tokens": 3, "output_tokens": 1}', "out of all bounds"),
    ('{"arrival_s": 1e30, "prompt_tokens": 3, "output_tokens": 1}', "arrival_s is"),
    ('{"arrival_s": 1, "prompt_tokens": 0, "output_tokens": 1}', "prompt_tokens is 0; it is a whole number from 1"),
    ('{"arrival_s": 1, "prompt_tokens": 2.5, "output_tokens": 1}', "prompt_tokens is 2.5"),
    ('{"arrival_s": 1, "prompt_tokens": true, "output_tokens": 1}', "prompt_tokens is true"),
    ('{"arrival_s": 1, "prompt_tokens": 3, "output_token": 1}', "unknown key 'output_token'; did you mean"),
    ('{"arrival_s": 1, "prompt_tokens": 3, "output_tokens": 1, "prefix": "a"}', "prefix_tokens is missing"),
    ('{"arrival_s": 1, "prompt_tokens": 3, "output_tokens": 1, "prefix_tokens": 1}', "prefix is missing"),
    ('{"arrival_s": 1, "prompt_tokens": 3, "output_tokens": 1, "prefix": "a", "prefix_tokens": 3}', "longer than the"),
    ('{"arrival_s": 1, "prompt_tokens": 9, "output_tokens": 1, "prefix": "p", "prefix_tokens": 3}', "2 on an earlier"),
    ('{"arrival_s": 1, ' + " " * 70_000 + '"prompt_tokens": 3}', "is longer than 65536 bytes")])
def test_what_is_wrong_is_told_with_its_line(line: str, sentence: str, tmp_path: Path) -> None:
    first = '{"arrival_s": 1, "prompt_tokens": 3, "output_tokens": 1, "prefix": "p", "prefix_tokens": 2}'
    with pytest.raises(InputError, match=sentence) as caught:
        read_requests(written(tmp_path, first, line))
    assert "r.jsonl line 2" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_few_and_none_and_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds 1 requests, and workload\.serving\.requests asks for 2"):
        read_requests(written(tmp_path, GOOD), 2)
    with pytest.raises(InputError, match="holds no request"):
        read_requests(written(tmp_path, ""))
    with pytest.raises(InputError, match="cannot be read"):
        read_requests(tmp_path)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_requests_or_one_sentence(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("odd") / "r.jsonl"
    path.write_bytes(data)
    told = ""
    try:
        read_requests(path)
    except MoelabError as error:
        told = str(error)
    assert "\n" not in told
