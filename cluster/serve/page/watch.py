"""The page itself, and what its script asks for: made anew at most once a second, however many look."""

import asyncio
import time

from cluster.observe.report.markup import join, tag
from cluster.observe.report.page import page
from cluster.serve.contract import BusyError, Machine
from cluster.serve.page.parts import shown
from cluster.serve.page.past import Past

REFRESH_S = 1.0
SHARE = 0.03
"""The most of one core that making it may take: where it takes long, it is made less often."""
MOST_LOOKS = 64
"""Answers in a second; more are refused."""

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
           "Content-Security-Policy": "frame-ancestors 'none'", "X-Frame-Options": "DENY"}
"""Beside the policy that the page itself holds: nobody may put it into a frame."""

SCRIPT = """(()=>{const by=id=>document.getElementById(id),box=by("live"),said=by("said"),ask=by("ask"),key=by("key"),
halt=by("halt"),where=location.pathname.replace(/\\/*$/,"/")+"live";let token="",wait=1000,timer=0,stopped=false;
const say=text=>{said.textContent=text;said.hidden=!text};
const look=async()=>{clearTimeout(timer);if(!document.hidden&&!stopped){try{
const answer=await fetch(where,{cache:"no-store",signal:AbortSignal.timeout(10000),
headers:token?{Authorization:"Bearer "+token}:{}});
if(answer.ok){const opened=[...box.querySelectorAll("details")].map(d=>d.open);box.innerHTML=await answer.text();
[...box.querySelectorAll("details")].forEach((d,i)=>{d.open=!!opened[i]});ask.hidden=true;halt.hidden=false;say("");wait=1000}
else if(answer.status===401){box.replaceChildren();ask.hidden=false;halt.hidden=true;
say(token?"That is not the token.":"This machine asks for its token.");token="";return}
else{say("The machine refuses to be looked at just now ("+answer.status+").");wait=5000}
}catch{say("The machine does not answer: what stands here is what it said last.");wait=5000}}
timer=setTimeout(look,wait)};
const enter=()=>{token=key.value.trim();key.value="";if(token)look()};
by("enter").addEventListener("click",enter);key.addEventListener("keydown",e=>{if(e.key==="Enter")enter()});
halt.addEventListener("click",()=>{stopped=!stopped;halt.textContent=stopped?"Go on":"Hold";if(!stopped)look()});
document.addEventListener("visibilitychange",()=>{if(!document.hidden)look()});look()})()"""
"""Asks every second while the page is seen. The token is kept in the script's memory only, and goes as a header."""


def shell() -> str:
    """The page: it holds nothing of the machine, so that it may be open to who has no token yet."""
    asked = tag("p", tag("label", "Token ", tag("input", id="key", type="password", autocomplete="off")), " ",
                tag("button", "Look", id="enter", type="button"), id="ask", hidden="")
    body = (tag("p", id="said", class_="alarm", role="status", hidden=""), asked,
            tag("p", tag("button", "Hold", id="halt", type="button", hidden="")), tag("div", id="live"),
            tag("noscript", tag("p", "This page asks for its numbers by a script; /metrics tells the same as text.")))
    return page("A served machine", "Live numbers of moelab serve. Seconds are those of the emulated machine.",
                join(body), scripts=(SCRIPT,), connect="'self'")


class Watch:
    """What is shown of one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self._past = machine, Past()
        self._one = asyncio.Lock()
        self._shown, self._due_s = b"", 0.0
        self._second, self._looks = 0, 0

    async def look(self) -> bytes:
        """The numbers as markup, at most a second old. BusyError where too many look."""
        now_s = time.monotonic()
        if int(now_s) != self._second:
            self._second, self._looks = int(now_s), 0
        self._looks += 1
        if self._looks > MOST_LOOKS:
            raise BusyError(f"{MOST_LOOKS} looks a second are answered: ask again later")
        async with self._one:
            if time.monotonic() >= self._due_s:
                self._shown, took_s = await asyncio.to_thread(self._make)
                self._due_s = time.monotonic() + max(REFRESH_S * 0.9, took_s / SHARE)
        return self._shown

    def _make(self) -> tuple[bytes, float]:
        """The markup, and the processor time that it took."""
        began_s = time.thread_time()
        machine, figures = self._machine, self._machine.figures()
        self._past.note(figures)
        markup = shown(machine.model, machine.identity, machine.status(), figures, self._past)
        return markup.encode("utf-8"), time.thread_time() - began_s
