"""The page of results: well-formed, complete in itself, the same bytes each time, and nothing that no result says."""

import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from cluster.commands.report import named
from cluster.main import enter
from cluster.observe.report.report import report
from cluster.observe.report.trust import run_yaml
from cluster.observe.result import Result
from cluster.observe.table import bytes_text, percent_text, time_text
from emulation.units import seconds

RESULT_OF = Callable[..., Result]
HOSTILE = "</title><script src=//evil.example/x.js></script><img src=x onerror=alert(1)>'\"&amp;"
RUN = """
machine: {name: edge-gpu-ndp, options: {units: 2}}
model: {name: qwen3-30b-a3b, layers: 2}
policy: expert_parallel
against: [on_demand]
workload: {work: synthetic, generator: {name: zipf, skew: 0.6}, batch: 8, prompt_tokens: 4, output_tokens: 3}
"""
VOID = ("meta", "br", "hr", "input", "link", "col")


class Balance(HTMLParser):
    """Checks that each element is closed where it should be; collects texts, tables, attributes and content."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.rows: list[list[str]] = []
        self.names: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if len({name for name, _ in attrs}) != len(attrs):
            self.wrong.append(f"<{tag}> has an attribute twice")
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th", "strong") and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def parsed(page: str) -> Balance:
    found = Balance()
    found.feed(page)
    found.close()
    assert found.wrong == []
    assert found.open == []
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison that the command wrote, in the folder `out`."""
    place = tmp_path_factory.mktemp("compared")
    (place / "mine.yaml").write_text(RUN, encoding="utf-8")
    assert enter(["run", str(place / "mine.yaml"), "--out", str(place / "out")]) == 0
    return place


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Result]:
    return {name: Result.read(folder / "out" / name) for name in ("expert_parallel", "on_demand")}


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "out" / "report.html").read_text(encoding="utf-8")


def test_a_comparison_leaves_its_page_and_the_command_makes_the_same_again(
        folder: Path, page: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert enter(["report", str(folder / "out"), "--out", str(folder / "again.html")]) == 0
    assert (folder / "again.html").read_text(encoding="utf-8") == page
    assert "2 results" in capsys.readouterr().out
    assert "One layer, lane by lane" in page
    assert len(page.encode("utf-8")) < 600_000


def test_the_page_is_well_formed_and_every_picture_is_xml_that_says_what_it_shows(page: str) -> None:
    found = parsed(page)
    pictures = re.findall(r"<svg\b(?:(?!</?svg\b).)*(?:<svg\b.*?</svg>(?:(?!</?svg\b).)*)*</svg>", page, re.DOTALL)
    assert len(pictures) > 20
    for picture in pictures:
        root = ET.fromstring(picture)
        if root.get("aria-hidden") != "true":
            assert root.get("role") == "img"
            assert root.get("aria-label")
            assert root.find("title") is not None
    ids = [value for _, name, value in found.attributes if name == "id"]
    assert len(ids) == len(dict.fromkeys(ids))
    linked = [value for tag, name, value in found.attributes if (tag, name) == ("a", "href")]
    assert [value for value in linked if value is None or value.removeprefix("#") not in ids] == []


def test_nothing_comes_from_elsewhere(page: str) -> None:
    found = parsed(page)
    assert [value for _, name, value in found.attributes if name in ("src", "srcset", "action", "data", "style")] == []
    assert [name for _, name, _ in found.attributes if name.startswith("on")] == []
    assert not re.search(r"url\(|@import|https?://", page.partition("</style>")[0])
    for name in ("link", "iframe", "img", "object", "embed", "base", "form"):
        assert name not in found.names


def test_its_figures_are_those_of_the_results(page: str, results: dict[str, Result]) -> None:
    rows = parsed(page).rows
    for name, result in results.items():
        assert result.bound is not None
        assert result.ttft is not None
        assert [name, time_text(seconds(result.makespan_ps)), time_text(seconds(result.bound.lb_ps))] in rows
        assert [name, time_text(result.ttft.p50_s)] in rows
        for link in result.traffic:
            if link.total_bytes:
                assert any(row[:3] == [link.link, link.source, link.target] and row[-1] == f"{link.total_bytes:,}"
                           for row in rows)
        for held in result.memory:
            assert any(row[0] == held.device and bytes_text(held.capacity_bytes) in row for row in rows)
        for lane in result.lanes:
            if lane.busy_ps:
                busy = [lane.lane, time_text(seconds(lane.busy_ps))]
                shown = [row for row in rows if len(row) == 4 and row[:2] == busy]
                assert [row[2] for row in shown] == [percent_text(lane.busy_ps / (lane.busy_ps + lane.stall_ps))]
        for constant in result.provenance:
            assert any(row[-1] == constant.source and row[2] == constant.value for row in rows)
        for line in (*result.approximations, result.digest):
            assert line in unescape(page)
    load = next(iter(results.values())).load
    for layer, row in zip(load.layers, load.decode, strict=True):
        assert any(found[:2] == [str(layer), f"{sum(row):,}"] for found in rows)


def test_stacked_widths_of_the_critical_path_are_its_shares(page: str, results: dict[str, Result]) -> None:
    longest = max(r.phases["decode"].time_ps / r.phases["decode"].steps for r in results.values())
    section = re.search(r"<figcaption>decode: critical path.*?</figure>", page, re.DOTALL)
    assert section is not None
    drawn = [ET.fromstring(svg) for svg in re.findall(r'<svg role="img".*?</svg>', section.group(), re.DOTALL)]
    assert len(drawn) == len(results)
    for picture, result in zip(drawn, results.values(), strict=True):
        widths = [float(str(rect.get("width")).rstrip("%")) for rect in picture.iter("rect")
                  if "seg" in str(rect.get("class"))]
        decode = result.phases["decode"]
        assert sum(widths) == pytest.approx(100 * decode.time_ps / decode.steps / longest, abs=0.05)


def test_what_others_wrote_stays_text(results: dict[str, Result]) -> None:
    first = next(iter(results.values()))
    hostile = first.model_copy(update={
        "policy": HOSTILE, "model": HOSTILE, "machine": HOSTILE, "approximations": (HOSTILE,),
        "config": {**first.config, "title": HOSTILE},
        "provenance": tuple(row.model_copy(update={"source": HOSTILE}) for row in first.provenance),
        "traffic": tuple(row.model_copy(update={"link": HOSTILE}) for row in first.traffic)})
    written = report({HOSTILE: hostile, "other": first})
    found, plain = parsed(written), parsed(report({"a": first, "other": first}))
    assert found.names.count("script") == plain.names.count("script") == 1
    assert "img" not in found.names
    assert not any(name.startswith("on") for _, name, _ in found.attributes)
    assert "<script src" not in written


def test_a_page_is_the_same_bytes_whatever_carried_the_run_out(results: dict[str, Result]) -> None:
    first = next(iter(results.values()))
    elsewhere = first.model_copy(update={"host": first.host.model_copy(update={
        "transport": "ray", "workers": 9, "ports": {"a": 1}, "times": {"a": 1.0}})})
    assert report({"a": first}) == report({"a": elsewhere})
    assert first.to_html() == report({first.policy: first})


def test_one_run_writes_its_page_unless_it_is_told_not_to(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = [str(folder / "mine.yaml"), "--set", "against=[]", "--set", "timeline.max_ops=0", "--out",
            str(folder / "one")]
    assert enter(["run", *more, "--no-report"]) == 0
    assert sorted(path.name for path in (folder / "one").iterdir()) == ["result.json"]
    before = Result.read(folder / "one").digest
    assert enter(["run", *more]) == 0
    assert (folder / "one" / "report.html").is_file()
    assert Result.read(folder / "one").digest == before
    capsys.readouterr()
    assert enter(["run", *more, "--no-report"]) == 0
    assert "an earlier run's report.html" in capsys.readouterr().out


def test_the_file_that_a_page_shows_makes_the_run_again(folder: Path, results: dict[str, Result]) -> None:
    first = results["on_demand"]
    (folder / "again.yaml").write_text(run_yaml(first), encoding="utf-8")
    assert yaml.safe_load(run_yaml(first))["policy"]["name"] == "on_demand"
    more = ["--set", "timeline.max_ops=0", "--out", str(folder / "twice")]
    assert enter(["run", str(folder / "again.yaml"), *more]) == 0
    assert Result.read(folder / "twice").digest == first.digest


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["report", "nowhere"], "nowhere"),
    (["report", "."], "has no result.json, nor has any folder in it"),
    (["report", "{out}", "--out", "."], "is a folder")])
def test_wrong_places_are_told_in_a_sentence(arguments: list[str], sentence: str, folder: Path, tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert enter([word.format(out=folder / "out") for word in arguments]) in (2, 3)
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_results_are_named_by_what_tells_them_apart(results: dict[str, Result]) -> None:
    first, second = results.values()
    assert list(named([first, second], ["a", "b"])) == ["expert_parallel", "on_demand"]
    other = first.model_copy(update={"machine": "elsewhere"})
    assert list(named([first, other], ["a", "b"])) == ["expert_parallel on edge-gpu-ndp",
                                                       "expert_parallel on elsewhere"]
    assert list(named([first, first], ["x/a", "y/b"])) == ["a", "b"]
    assert list(named([first, first], ["x/a", "y/a"])) == ["x/a", "y/a"]


WIDTH = """<script>addEventListener("load",()=>{for(const fold of document.querySelectorAll("details"))fold.open=true;
parent.postMessage([innerWidth,document.documentElement.scrollWidth].join(),"*")})</script>"""
TELEPHONE = """<!DOCTYPE html><title>none</title><script>addEventListener("message",e=>{document.title=e.data})</script>
<iframe src="page.html" width="390" height="2000" style="border:0"></iframe>"""


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium: apt-get install chromium")
def test_nothing_reaches_beyond_a_telephone_even_with_every_fold_open(page: str, tmp_path: Path) -> None:
    bare = re.sub(r"<meta http-equiv[^>]*>", "", page).replace("</body>", f"{WIDTH}</body>")
    (tmp_path / "page.html").write_text(bare, encoding="utf-8")
    (tmp_path / "telephone.html").write_text(TELEPHONE, encoding="utf-8")
    done = subprocess.run(["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                           "--disable-background-networking", f"--user-data-dir={tmp_path}/profile",
                           "--virtual-time-budget=5000", "--dump-dom", (tmp_path / "telephone.html").as_uri()],
                          capture_output=True, text=True, timeout=120, check=True)
    told = re.search(r"<title>(\d+),(\d+)</title>", done.stdout)
    assert told is not None, done.stdout[:200]
    wide, reaches = int(told.group(1)), int(told.group(2))
    assert 0 < reaches <= wide <= 390
