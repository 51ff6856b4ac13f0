"""The page of a served machine: its live numbers, and who may see them."""

import hashlib
import re
import threading
from base64 import b64encode
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser

import httpx
import pytest

from cluster.serve.contract import Identity, Status
from cluster.serve.page.parts import LATENCIES, shown
from cluster.serve.page.past import SAMPLES, SLICES, Past
from cluster.serve.page.watch import MOST_LOOKS
from tests.cluster.serve.http_rig import Behind, behind_http
from tests.cluster.serve.serve_rig import config

TOKEN = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def behind() -> Iterator[Behind]:
    with behind_http(config(), token=TOKEN) as found:
        yield found


@pytest.fixture(scope="module")
def client(behind: Behind) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=behind.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as found:
        yield found


class Balanced(HTMLParser):
    """Fails where tags do not match."""

    VOID = ("meta", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(text: str) -> Balanced:
    page = Balanced()
    page.feed(text)
    assert page.open == []
    return page


def test_the_page_is_open_and_holds_nothing_and_the_numbers_need_the_token(behind: Behind) -> None:
    front = httpx.get(f"{behind.url}/")
    assert front.status_code == 200
    assert front.headers["content-type"].startswith("text/html")
    for told in (behind.machine.model, TOKEN, "edge-gpu-ndp", "expert_parallel"):
        assert told not in front.text
    assert httpx.get(f"{behind.url}/live").status_code == 401
    assert httpx.get(f"{behind.url}/live", params={"token": TOKEN}).status_code == 401


def test_only_our_own_script_and_style_may_run_and_nobody_may_frame_it(behind: Behind) -> None:
    front = httpx.get(f"{behind.url}/")
    page = parsed(front.text)
    rules = next(str(of["content"]) for tag, of in page.seen if of.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in rules
    assert "unsafe" not in rules
    assert "connect-src 'self'" in rules
    inline = re.findall(r"<(?:script|style)>(.*?)</(?:script|style)>", front.text, re.DOTALL)
    assert len(inline) >= 3
    for text in inline:
        assert b64encode(hashlib.sha256(text.encode()).digest()).decode() in rules
    assert not [name for _, of in page.seen for name in of if name.startswith("on") or name in ("src", "style")]
    assert front.headers["content-security-policy"] == "frame-ancestors 'none'"


def test_the_numbers_are_those_of_metrics(behind: Behind, client: httpx.Client) -> None:
    client.post("/v1/completions", json={"prompt": [1, 2, 3], "max_tokens": 7, "ignore_eos": True})
    told, figures = client.get("/live"), behind.machine.figures()
    parsed(told.text)
    text = unescape(re.sub("<[^>]*>", "|", told.text))
    assert "embedded on edge-gpu-ndp, expert_parallel, " in text
    assert "in seconds of the emulated machine" in text
    tokens = figures["tokens"]
    assert f"{tokens['prompt']:,}, {tokens['output']:,}" in text  # type: ignore[index]
    assert f"|steps||{figures['steps']:,}|" in text
    load = figures["load"]
    of_layer = sum(load["prefill"][0]) + sum(load["decode"][0])  # type: ignore[index]
    assert f"layer 0: {of_layer:,} routed tokens" in text
    assert told.headers["cache-control"] == "no-store"


def test_many_who_look_share_one_look_and_too_many_are_told_to_wait(behind: Behind, client: httpx.Client) -> None:
    asked = behind.machine.figures
    calls = list[int]()

    def counted() -> object:
        calls.append(threading.get_ident())
        return asked()

    behind.machine.figures = counted  # type: ignore[method-assign,assignment]
    try:
        found = [client.get("/live") for _ in range(MOST_LOOKS + 16)]
    finally:
        behind.machine.figures = asked  # type: ignore[method-assign]
    codes = [answer.status_code for answer in found]
    seconds = sum(answer.elapsed.total_seconds() for answer in found)
    assert {*codes} <= {200, 429}
    assert len(calls) <= 2 + seconds / 0.9
    if seconds < 0.9:
        assert 429 in codes


def test_a_machine_that_has_just_begun_is_shown_without_a_number_made_up(behind: Behind) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    empty = {**dict(behind.machine.figures()), "emulated_s": 0.0, "busy_s": {hostile: 0.0}, "links": {}, "kv": None,
             "load": None, "phases": {}, "prefetch": {"issued": 0, "useful": 0, "late": 0},
             "requests": dict.fromkeys(("asked", "refused", "stop", "length", "cancelled"), 0),
             "tokens": dict.fromkeys(("prompt", "output", "prefill", "decode"), 0),
             **{name: {"count": 0, "buckets": []} for name, _ in LATENCIES}}
    status = Status("starting", "wall", 1000.0, 0, 0, 0, 0, 0, 0, 0, 0, (hostile,))
    told = shown(hostile, Identity("r", hostile, hostile, "bf16", "local", "1"), status, empty, Past())
    parsed(told)
    assert hostile not in told
    assert "nan" not in told
    for words in ("Nothing was answered yet", "No emulated time has passed", "emulated second takes 1,000 real ones"):
        assert words in told


def test_the_past_is_bounded_and_rates_are_of_emulated_time() -> None:
    past = Past()
    for i in range(3 * SAMPLES):
        past.note({"emulated_s": i * 0.5, "tokens": {"output": 10 * i, "prefill": 0}, "busy_s": {"a": 0.25 * i}})
        past.note({"emulated_s": i * 0.5, "tokens": {"output": 10 * i, "prefill": 0}, "busy_s": {"a": 0.25 * i}})
    assert past.rate("output") == pytest.approx(20)
    assert past.busy() == {"a": pytest.approx(0.5)}
    slices, slice_s = past.slices()
    assert len(slices["output"]) == SLICES
    assert slice_s * SLICES == pytest.approx(0.5 * (SAMPLES - 1))
    assert slices["output"] == pytest.approx([20] * SLICES)
