"""The worked example of the docs in small: its machines, equal in power, and its picture."""

import json
import xml.etree.ElementTree as Xml
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.config.names import locate
from cluster.main import enter
from studies.decide.decision import Decision


def small(folder: Path) -> Path:
    """The study as shipped, of the model's first two layers, at two places, with four draws of what swings most."""
    data: dict[str, Any] = yaml.safe_load(locate("decide", "decision", "qwen3_cxl_or_chiplet").read_text("utf-8"))
    data["run"]["model"] = {"name": "qwen3-30b-a3b", "layers": 2}
    data["run"]["workload"] |= {"prompt_tokens": 16, "output_tokens": 3}
    data["over"] = {"precision": ["bf16"], "workload.batch": [1, 64]}
    data["uncertainty"] |= {"samples": 4, "again": 0, "break_even": False}
    data["candidates"]["cxl_ndp"]["policies"] = ["resident", "tensor_parallel"]
    data["candidates"]["chiplets"] |= {"policies": ["tensor_parallel"], "search": {}}
    path = folder / "small.yaml"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


@pytest.mark.slow
def test_the_worked_example_in_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = small(tmp_path)
    assert enter(["decide", str(study), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    made = Decision.read(tmp_path / "out")
    assert made.verdict[0] in " ".join(capsys.readouterr().out.split())
    assert (made.runs.search, made.runs.samples) == (2 * 3, 2 * 2 * 4)
    assert made.equal is not None
    amounts = {one.name: one.amount.value for one in made.candidates if one.amount is not None}
    assert amounts == {"cxl_ndp": 700 + 2 * 75 + 35, "chiplets": 6 * 150}
    assert [one.options for one in made.candidates] == [{"units": 2}, {"cols": 3, "rows": 2}]
    for place in made.places:
        assert [outcome.status for outcome in place.outcomes] == ["ran", "ran"]
        assert place.stability is not None
        assert sum(place.stability.wins.values()) == 4
    drawn = Xml.fromstring((tmp_path / "out" / "decision.svg").read_text("utf-8"))
    said = drawn.findtext("{http://www.w3.org/2000/svg}desc") or ""
    assert all(f"{place.label}: {place.winner} wins" in said for place in made.places)
