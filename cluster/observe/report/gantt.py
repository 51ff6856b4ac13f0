"""A layer of a step, lane by lane: what held each lane when, the critical path, and when plans came.

The picture stands as it is; with the script it can be made wider and moved. Positions are shares of the width, so that
words keep their size whatever the width is.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cluster.observe.layers import Layers, LayerSpans
from cluster.observe.report.axes import TIME, axis
from cluster.observe.report.blocks import absent, figure, label_legend, note, table
from cluster.observe.report.colours import fill
from cluster.observe.report.markup import NOTHING, Markup, join, svg, tag
from cluster.observe.table import bytes_text, time_text
from emulation.units import PS_PER_S

ROW, BAR, HEAD, TOP = 19, 14, 20, 44
"""Heights in pixels: of a lane, of its bars, of a device's name, and of axis and critical path above them."""
WIDEST_NAMES = 150
LETTER = 6.4
"""Pixels of a letter of the names of lanes, about."""
MOST_LANES = 16
"""Beyond so many lanes, those that did nothing are left out."""
LEAST, WITH_OUTLINE, DIGIT = 0.04, 0.3, 2.2
"""Shares of the width in per cent: the narrowest bar, one that has an outline, and a digit of an expert's number."""

RULES = """
.gantt{display:grid;grid-template-columns:auto minmax(0,1fr);margin:8px 0}
.gantt .tools{grid-column:1/3;display:flex;flex-wrap:wrap;gap:6px;align-items:center;margin-bottom:6px}
.gantt .tools span{color:var(--soft);font-size:.87rem}.gantt [hidden]{display:none}
.gantt svg{display:block}.gantt b,.gantt .device{font-weight:600}
.pane{overflow-x:auto;overflow-y:hidden;touch-action:pan-x pan-y;cursor:grab}.pane:focus{outline:2px solid var(--link)}
.pane .lane{fill:var(--track);fill-opacity:.55}.pane .other{fill-opacity:.35}
.pane .path{stroke:var(--ink);stroke-width:1.6px}.pane .decision{stroke:var(--ink);stroke-dasharray:2 3}
.pane .mark{text-anchor:middle;fill:var(--ink)}.pane .fault{fill:var(--alarm)}
@media print{.pane{overflow:hidden}.gantt .tools{display:none}}
"""

SCRIPT = """(()=>{const NS="http://www.w3.org/2000/svg",UNITS=[["s",1e12],["ms",1e9],["\\u00b5s",1e6],["ns",1e3],["ps",1]];
for(const g of document.querySelectorAll(".gantt:not(.on)")){g.classList.add("on");
const box=g.querySelector(".pane"),pic=box.querySelector("svg"),ticks=pic.querySelector(".ticks"),len=+g.dataset.ps;
let z=1,pinch=0,drag=null;
const put=(name,attributes,words)=>{const e=document.createElementNS(NS,name);
for(const [k,v] of Object.entries(attributes))e.setAttribute(k,v);if(words)e.textContent=words;ticks.append(e)};
const draw=()=>{const want=len*80/Math.max(pic.getBoundingClientRect().width,80),ten=10**Math.floor(Math.log10(want)),
step=ten*[1,2,5,10].find(f=>f*ten>=want*.999),[unit,size]=UNITS.find(u=>step*4>=u[1])||UNITS[4];ticks.replaceChildren();
for(let i=0;i*step<=len;i++){const x=100*i*step/len+"%";
put("line",{class:"grid",x1:x,x2:x,y1:16,y2:"100%"});
put("text",{x,y:11,"text-anchor":i?i*step>len*.97?"end":"middle":"start"},+(i*step/size).toPrecision(6)+" "+unit)}};
const zoom=(n,x)=>{const at=(box.scrollLeft+x)/z;z=Math.min(256,Math.max(1,n));pic.setAttribute("width",100*z+"%");
box.scrollLeft=at*z-x;draw()};
const middle=()=>box.clientWidth/2,left=e=>e.clientX-box.getBoundingClientRect().left,
apart=e=>Math.hypot(e.touches[0].clientX-e.touches[1].clientX,e.touches[0].clientY-e.touches[1].clientY);
const tools=g.querySelector(".tools");tools.hidden=false;
const acts={in:()=>zoom(z*2,middle()),out:()=>zoom(z/2,middle()),all:()=>zoom(1,0)};
tools.addEventListener("click",e=>{const act=acts[e.target.dataset.act];if(act)act()});
box.addEventListener("keydown",e=>{const act={"+":acts.in,"=":acts.in,"-":acts.out,"0":acts.all}[e.key];
if(act&&!e.ctrlKey&&!e.metaKey){act();e.preventDefault()}});
box.addEventListener("wheel",e=>{if(!e.deltaY||!(e.ctrlKey||document.activeElement===box))return;e.preventDefault();
zoom(z*2**(-Math.sign(e.deltaY)/(e.ctrlKey?6:3)),left(e))},{passive:false});
box.addEventListener("touchstart",e=>{if(e.touches.length===2)pinch=apart(e)/z});
box.addEventListener("touchmove",e=>{if(e.touches.length!==2||!pinch)return;e.preventDefault();
zoom(apart(e)/pinch,(e.touches[0].clientX+e.touches[1].clientX)/2-box.getBoundingClientRect().left)},{passive:false});
box.addEventListener("pointerdown",e=>{if(e.pointerType==="mouse")drag=[e.clientX,box.scrollLeft]});
box.addEventListener("pointermove",e=>{if(drag)box.scrollLeft=drag[1]-e.clientX+drag[0]});
for(const over of ["pointerup","pointerleave"])box.addEventListener(over,()=>{drag=null})}})()"""
"""Zooms by buttons, keys (+, -, 0), the wheel (with Ctrl, or in a picture that was clicked) and two fingers; moves by
scrolling and dragging."""


MOST_BYTES = 300_000
FOR_MORE = "Drawn by `moelab gantt`, of the folder of this run: a page with all runs' layers would be too large."
READ = ("Outlined: on the critical path, which the first row shows by itself. Pale: of another layer. Dotted, with a "
        "triangle: a plan came.")


class _Row(NamedTuple):
    """A server of a lane, and where it is drawn."""

    name: str
    lane: int
    server: int
    y: int


def gantt(layers: Layers, at: LayerSpans, why: str = "") -> Markup:
    """The picture of one layer. why: how it was chosen."""
    heads, rows, height, unseen = _places(layers, at)
    told = [why, _fewer(at), unseen]
    title = (f"Step {at.step} ({at.phase}, {_count(at.tokens, 'token')}), layer {at.layer}, lane by lane: "
             f"{time_text(at.length_ps / PS_PER_S)}")
    labels = [layers.whats[what] for what in at.spans.what]
    return figure(title, *(note(line) for line in told if line), _drawn(layers, at, heads, rows, height, title),
                  label_legend(labels), note(READ), behind=_table(layers, at))


def gantts(layers: Layers) -> Markup:
    """The pictures of a run: the layer of a decode step and of a prefill step that were chosen."""
    parts = list[Markup]()
    for phase in ("decode", "prefill"):
        at = layers.of(phase=phase)
        if at is None:
            among = "the run has none" if layers.is_whole else "there is none among the operations that were kept of it"
            parts.append(absent(f"No layer of a {phase} step is drawn: {among}."))
            continue
        of = "of all" if layers.is_whole else "of those that were kept whole"
        parts.append(gantt(layers, at, f"The {phase} step of median length {of} ({time_text(at.step_ps / PS_PER_S)}), "
                                       "and in it the middle layer with experts."))
    return join(parts)


def pictures(found: Mapping[str, Layers | None]) -> dict[str, Markup]:
    """The pictures of runs by name, until a page has `MOST_BYTES` of them: each takes up to 200 kB."""
    drawn, size = dict[str, Markup](), 0
    for name, layers in found.items():
        if layers is not None:
            picture = gantts(layers) if size < MOST_BYTES else absent(FOR_MORE)
            size += len(picture)
            drawn[name] = absent(FOR_MORE) if drawn and size > MOST_BYTES else picture
    return drawn


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _fewer(at: LayerSpans) -> str:
    drawn, shown = len(at.spans), sum(at.spans.count)
    words = "" if drawn == shown else (f"{drawn} bars stand for {shown} operations: neighbours of one kind that start "
                                       "at nearly the same time are drawn as one.")
    return words if shown == at.of_spans else f"{words} The {at.of_spans - shown} shortest are left out.".strip()


def _places(layers: Layers, at: LayerSpans) -> tuple[list[tuple[str, int]], list[_Row], int, str]:
    """(devices with their height, rows, height of all, what is not shown)."""
    busy = dict.fromkeys(zip(at.spans.lane, at.spans.server, strict=True))
    servers = [(i, server) for i, track in enumerate(layers.tracks) for server in range(track.servers)]
    shown = servers if len(servers) <= MOST_LANES else [each for each in servers if each in busy]
    by_device: dict[str, list[tuple[int, int]]] = {}
    for each in shown:
        by_device.setdefault(layers.tracks[each[0]].device, []).append(each)
    if "links" in by_device:
        by_device["links"] = by_device.pop("links")
    heads, rows, y = list[tuple[str, int]](), list[_Row](), TOP
    for device, its in by_device.items():
        heads.append((device, y + 14))
        y += HEAD
        for lane, server in its:
            track = layers.tracks[lane]
            name = track.lane.removeprefix(f"{device}.").removeprefix(f"{device} ") or track.lane
            rows.append(_Row(name if track.servers == 1 else f"{name} #{server}", lane, server, y))
            y += ROW
    idle = len(servers) - len(shown)
    return heads, rows, y + 4, f"{_count(idle, 'lane')} that did nothing meanwhile: not shown." if idle else ""


def _drawn(layers: Layers, at: LayerSpans, heads: Sequence[tuple[str, int]], rows: Sequence[_Row], height: int,
           title: str) -> Markup:
    longest = max((len(row.name) + 2 for row in rows), default=0)
    longest = max([longest, len("critical path"), *(len(device) for device, _ in heads)])
    wide = min(round(LETTER * longest) + 8, WIDEST_NAMES)
    fits = int((wide - 8) / LETTER)
    names = [tag("text", "critical path", x=0, y=38)]
    names += [tag("text", tag("title", device), _short(device, fits), x=0, y=y, class_="device") for device, y in heads]
    names += [tag("text", tag("title", layers.tracks[row.lane].lane), _short(row.name, fits - 1), x=8, y=row.y + 11)
              for row in rows]
    left = tag("svg", *names, width=wide, height=height, aria_hidden="true")
    picture = svg(title, _ticks(at), *_bars(layers, at, rows), *_marks(at, height), width="100%", height=height)
    button = {"in": "+", "out": "−", "all": "whole layer"}
    says = {"in": "closer", "out": "farther", "all": "the whole layer"}
    tools = tag("div", *(tag("button", words, type="button", data_act=act, aria_label=says[act])
                         for act, words in button.items()),
                tag("span", "or +, -, 0, the wheel and two fingers, once it is clicked"), class_="tools", hidden="")
    return tag("div", tools, left, tag("div", picture, class_="pane", tabindex="0", role="group", aria_label=title),
               class_="gantt", data_ps=at.length_ps)


def _short(name: str, letters: int) -> str:
    return name if len(name) <= letters else f"{name[:letters - 1]}…"


def _percent(ps: int, at: LayerSpans) -> float:
    return 100 * min(max(ps, 0), at.length_ps) / max(at.length_ps, 1)


def _at(percent: float) -> str:
    """A share of the width, exact enough for a picture that is made 256 times as wide."""
    return f"{percent:.4f}".rstrip("0").rstrip(".") + "%"


def _ticks(at: LayerSpans) -> Markup:
    drawn = list[Markup]()
    for value, words in axis(at.length_ps / PS_PER_S, TIME).ticks:
        x = _percent(round(value * PS_PER_S), at)
        anchor = "start" if x < 3 else "end" if x > 97 else "middle"
        drawn += [tag("line", class_="grid", x1=_at(x), x2=_at(x), y1=16, y2="100%"),
                  tag("text", words, x=_at(x), y=11, text_anchor=anchor)]
    return tag("g", *drawn, class_="ticks axis")


def _bars(layers: Layers, at: LayerSpans, rows: Sequence[_Row]) -> list[Markup]:
    spans, y_of = at.spans, {(row.lane, row.server): row.y for row in rows}
    drawn = [tag("rect", class_="lane", x=0, y=row.y, width="100%", height=BAR) for row in rows]
    path = list[tuple[int, Markup]]()
    for i in range(len(spans)):
        label = layers.whats[spans.what[i]]
        begin, end = _percent(spans.from_ps[i], at), _percent(spans.to_ps[i], at)
        y, width = y_of[spans.lane[i], spans.server[i]], max(end - begin, LEAST)
        state = "" if spans.is_own[i] or spans.on_path[i] else " other"
        state += " path" if spans.on_path[i] and width >= WITH_OUTLINE else ""
        told = tag("title", _told(layers, at, i))
        drawn.append(tag("rect", told, class_=fill(label) + state, x=_at(begin), y=y, width=_at(width), height=BAR))
        name = str(spans.expert[i])
        if width >= DIGIT * len(name) + 0.8 and spans.expert[i] >= 0 and spans.count[i] == 1:
            drawn.append(tag("text", name, class_="in", x=_at(begin + width / 2), y=y + BAR // 2))
        if spans.on_path[i]:
            path.append((spans.from_ps[i], tag("rect", told, class_=fill(label), x=_at(begin), y=28, width=_at(width),
                                               height=BAR - 2)))
    return [*drawn, *(bar for _, bar in sorted(path, key=lambda each: each[0]))]


def _told(layers: Layers, at: LayerSpans, i: int) -> str:
    """What one bar is, in a line."""
    spans = at.spans
    label, count = layers.whats[spans.what[i]], spans.count[i]
    begin, held = (time_text(ps / PS_PER_S) for ps in (spans.from_ps[i], spans.to_ps[i] - spans.from_ps[i]))
    parts = [f"{count} x {label} within {held}" if count > 1 else f"{label}: {held}"]
    if spans.expert[i] >= 0 and count == 1:
        parts.append(f"expert {spans.expert[i]}")
    if spans.bytes[i]:
        parts.append(bytes_text(spans.bytes[i]))
    parts += [f"from {begin}", f"op {spans.op[i]}" + (" and others" if count > 1 else "")]
    parts += ["on the critical path"] if spans.on_path[i] else [] if spans.is_own[i] else ["of another layer"]
    return ", ".join(parts)


def _marks(at: LayerSpans, height: int) -> list[Markup]:
    drawn = list[Markup]()
    told = [(ps, f"a plan came, at {time_text(ps / PS_PER_S)}", "mark", "decision") for ps in at.decisions_ps]
    told += [(ps, what, "mark fault", "limit") for ps, what in at.marks]
    for ps, words, class_, line in told:
        x = _at(_percent(ps, at))
        drawn += [tag("line", class_=line, x1=x, x2=x, y1=26, y2=height),
                  tag("text", tag("title", words), "▼", class_=class_, x=x, y=25)]
    return drawn


def _table(layers: Layers, at: LayerSpans) -> Markup:
    """What each lane did meanwhile, in numbers."""
    held: dict[int, list[int]] = {}
    for i in range(len(at.spans)):
        begin, end = max(at.spans.from_ps[i], 0), min(at.spans.to_ps[i], at.length_ps)
        row = held.setdefault(at.spans.lane[i], [0, 0, 0])
        row[0] += at.spans.count[i]
        row[1] += end - begin
        row[2] += (end - begin) * at.spans.on_path[i]
    rows = [(layers.tracks[lane].device, layers.tracks[lane].lane, str(count), time_text(busy / PS_PER_S),
             time_text(path / PS_PER_S) if path else "-") for lane, (count, busy, path) in held.items()]
    return table(("device", "lane", "operations", "held", "on the critical path"), rows, words=2) if rows else NOTHING
