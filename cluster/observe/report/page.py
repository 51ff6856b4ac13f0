"""The shell of a page: one stylesheet, one small script, and a policy that lets nothing in from elsewhere."""

import hashlib
from base64 import b64encode
from collections.abc import Sequence

from cluster.observe.report.colours import classes, variables
from cluster.observe.report.markup import NOTHING, Markup, join, tag

_LIGHT = "color-scheme:light;--page:#fff;--card:#f7f8fa;--ink:#1b1f24;--soft:#57606a;--rule:#d5dae0;--track:#e8ebef;" \
         "--on:#fff;--link:#0959aa;--best:#1b1f24;--rest:#8b96a3;--alarm:#a3182f;"
_DARK = "color-scheme:dark;--page:#12151a;--card:#1a1f26;--ink:#e6e9ed;--soft:#a0aab5;--rule:#333b45;--track:#262d36;" \
        "--on:#0b0e12;--link:#7ab8ff;--best:#e6e9ed;--rest:#6c7885;--alarm:#ff8f9a;"

_RULES = """
*{box-sizing:border-box}
html{background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif;-webkit-text-size-adjust:100%}
body{max-width:1120px;margin:0 auto;padding:20px 20px 60px;overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 4px}h2{font-size:1.2rem;margin:36px 0 8px}
h3{font-size:1rem;margin:20px 0 4px}
a{color:var(--link)}code{font:13px ui-monospace,monospace}
header{display:flex;gap:12px;justify-content:space-between;align-items:flex-start}header>div{min-width:0}
button{font:inherit;color:inherit;background:var(--card);border:1px solid var(--rule);border-radius:6px;
padding:3px 10px;cursor:pointer;white-space:nowrap}
.sub,.note,.absent{color:var(--soft);margin:4px 0}.absent{border-left:3px solid var(--rule);padding-left:10px}
.verdict{font-size:1.1rem;background:var(--card);border:1px solid var(--rule);border-radius:8px;
padding:12px 16px;margin:16px 0}
.verdict p{margin:0 0 6px}.verdict p:last-child{margin:0}.alarm{color:var(--alarm)}
nav ul,.legend{list-style:none;display:flex;flex-wrap:wrap;gap:4px 14px;padding:0;margin:8px 0;font-size:.87rem}
.told{padding-left:20px;margin:6px 0}
.chip{margin-right:6px;vertical-align:-1px;border-radius:2px;outline:1px solid var(--rule)}
figure{margin:14px 0;padding:12px 14px;background:var(--card);border:1px solid var(--rule);border-radius:8px}
figcaption{font-weight:600;margin-bottom:8px}
.grid2{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:0 16px;align-items:start}
.bars{display:grid;grid-template-columns:fit-content(40%) minmax(60px,1fr) max-content;gap:4px 10px;align-items:center}
.bar{display:contents}
.bar .name{text-align:right;line-height:1.2}.bar .value{font-variant-numeric:tabular-nums;line-height:1.2}
.bar svg{display:block}
.plot{display:grid;grid-template-columns:auto minmax(0,1fr);margin:6px 0}
.plot svg{display:block}.plot>svg{overflow:visible}
text{fill:var(--ink);font:11.5px system-ui,sans-serif}.axis text{fill:var(--soft)}
.in{fill:var(--on);text-anchor:middle;dominant-baseline:central;pointer-events:none}
.f-idle+.in{fill:var(--ink)}.track{fill:var(--track)}.best{fill:var(--best)}.rest{fill:var(--rest)}.mark{fill:var(--alarm)}.seg{stroke:var(--card);stroke-width:1px}
.line{stroke-width:2px;vector-effect:non-scaling-stroke}.grid{stroke:var(--rule)}
.limit{stroke:var(--alarm);stroke-dasharray:5 4;stroke-width:1.5px}
.cell{stroke-width:1px;fill:none;shape-rendering:crispEdges}.over{fill:none;stroke:none;pointer-events:all}
rect.q0{stroke:none}.over:hover{fill:var(--ink);fill-opacity:.12}
.scroll{overflow-x:auto;max-width:100%}.bars+.scroll{margin-top:8px}
table{border-collapse:collapse;font-size:.87rem;margin:6px 0}
th,td{text-align:left;padding:3px 12px 3px 0;border-bottom:1px solid var(--rule);vertical-align:top}
th{font-weight:600}.num{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
td:not(.num){overflow-wrap:anywhere;min-width:7em}
details{margin:8px 0}summary{cursor:pointer;color:var(--soft);font-size:.87rem}
details.run{border-top:1px solid var(--rule);padding-top:10px}details.run>summary{font-size:1.1rem;color:var(--ink)}
.facts{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:2px 16px;margin:8px 0;font-size:.9rem}
.facts dt{color:var(--soft)}.facts dd{margin:0}
footer{margin-top:40px;color:var(--soft);font-size:.87rem}
@media(max-width:600px){body{padding:14px 12px 40px}h1{font-size:1.25rem}figure{padding:10px}
.bars{display:block}
.bar{display:grid;grid-template-columns:1fr auto;gap:2px 8px;margin:8px 0}.bar .name{text-align:left}
.bar .value{order:2}
.bar svg{order:3;grid-column:1/3}.bar .name{order:1}}
@media print{@page{size:A4;margin:14mm}body{max-width:none;padding:0}html{font-size:12px}nav,button{display:none}
figure,.bar,tr{break-inside:avoid}h2,h3,figcaption{break-after:avoid}details:not([open]){display:none}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}.scroll{overflow:visible}.num{white-space:normal}}
"""

STYLE = "".join((
    f":root{{{_LIGHT}{variables(False)}}}",
    f"@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{_DARK}{variables(True)}}}}}",
    f"@media screen{{:root[data-theme=dark]{{{_DARK}{variables(True)}}}}}", classes(), _RULES.replace("\n", "")))

THEME = """(()=>{const root=document.documentElement,button=document.getElementById("theme"),key="moelab-theme";
const stored=()=>{try{return localStorage.getItem(key)}catch{return null}};
const keep=v=>{try{localStorage.setItem(key,v)}catch{}};
const dark=()=>(root.dataset.theme||(matchMedia("(prefers-color-scheme: dark)").matches?"dark":"light"))==="dark";
const show=()=>{button.textContent=dark()?"Light":"Dark"};
const was=stored();if(was==="light"||was==="dark")root.dataset.theme=was;
button.hidden=false;show();
button.addEventListener("click",()=>{root.dataset.theme=dark()?"light":"dark";keep(root.dataset.theme);show()})})()"""
"""Lets a reader choose light or dark; where the browser stores nothing for a page, the choice lasts as long as it."""


def page(title: str, subtitle: str, body: str, *, scripts: Sequence[str] = (), connect: str = "'none'") -> str:
    """A whole document of UTF-8. scripts: more of our own; connect: what they may fetch, as in a content security
    policy (of a page that is served: 'self')."""
    texts = (THEME, *scripts)
    allowed = " ".join(_hash(script) for script in texts)
    rules = (f"default-src 'none'; style-src {_hash(STYLE)}; script-src {allowed}; connect-src {connect}; "
             "img-src 'none'; base-uri 'none'; form-action 'none'")
    head = tag("head", tag("meta", charset="utf-8"),
               tag("meta", http_equiv="Content-Security-Policy", content=rules),
               tag("meta", name="viewport", content="width=device-width,initial-scale=1"),
               tag("meta", name="referrer", content="no-referrer"),
               tag("title", title), tag("style", Markup(STYLE)))
    top = tag("header", tag("div", tag("h1", title), tag("p", subtitle, class_="sub") if subtitle else NOTHING),
              tag("button", "Dark", id="theme", type="button", hidden="", aria_label="switch between light and dark"))
    told = join(tag("script", Markup(script)) for script in texts)
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', top, tag('main', body), told), lang='en')}\n"


def contents(entries: Sequence[tuple[str, str]]) -> Markup:
    """Links to sections: (name, words)."""
    return tag("nav", tag("ul", *(tag("li", tag("a", words, href=f"#{name}")) for name, words in entries)),
               aria_label="contents")


def _hash(inline: str) -> str:
    """How a content security policy names an inline style or script."""
    return f"'sha256-{b64encode(hashlib.sha256(inline.encode('utf-8')).digest()).decode('ascii')}'"
