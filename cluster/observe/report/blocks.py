"""What a page is made of: sections, figures with the table behind them, tables, legends, sentences."""

from collections.abc import Sequence

from cluster.observe.report.colours import TITLES, fill, in_order
from cluster.observe.report.markup import NOTHING, Markup, join, tag


def section(name: str, title: str, *children: str) -> Markup:
    """A part of the page that a link reaches by its name."""
    return tag("section", tag("h2", title), *children, id=name)


def sentences(lines: Sequence[str]) -> Markup:
    """Sentences, one below the other."""
    return tag("ul", *(tag("li", line) for line in lines), class_="told") if lines else NOTHING


def note(words: str) -> Markup:
    """A sentence beside a picture: what it shows, or how to read it."""
    return tag("p", words, class_="note")


def absent(why: str) -> Markup:
    """A part that is left out, with the reason."""
    return tag("p", why, class_="absent")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> Markup:
    """A table that scrolls within itself where it is wide; its first `words` columns hold words, others numbers."""
    kinds = [None if i < words else "num" for i in range(len(head))]
    top = tag("tr", *(tag("th", cell, scope="col", class_=kind) for cell, kind in zip(head, kinds, strict=True)))
    body = [tag("tr", *(tag("td", cell, class_=kind) for cell, kind in zip(row, kinds, strict=True))) for row in rows]
    return tag("div", tag("table", tag("thead", top), tag("tbody", *body)), class_="scroll", tabindex="0")


def folded(title: str, *children: str, opened: bool = False) -> Markup:
    """What is shown when it is asked for."""
    return tag("details", tag("summary", title), *children, open="" if opened else None)


def figure(title: str, *children: str, behind: Markup = NOTHING) -> Markup:
    """A picture under a title that says what is seen, and the table behind it."""
    return tag("figure", tag("figcaption", title), *children, *([folded("as a table", behind)] if behind else []))


def chip(class_: str) -> Markup:
    """A spot of a colour."""
    return tag("svg", tag("rect", width="100%", height="100%", class_=class_), class_="chip", aria_hidden="true",
               width=12, height=12)


def legend(entries: Sequence[tuple[str, str]]) -> Markup:
    """(class, words) of each colour of a picture."""
    return tag("ul", *(tag("li", chip(class_), words) for class_, words in entries), class_="legend")


def family_legend(names: Sequence[str]) -> Markup:
    """The legend of families of work and waiting, in their order."""
    return legend([(f"f-{name}", TITLES[name]) for name in in_order(names)])


def label_legend(labels: Sequence[str]) -> Markup:
    """The legend of the families that labels belong to."""
    return family_legend([fill(label).removeprefix("f-") for label in labels])


def facts(rows: Sequence[tuple[str, str]]) -> Markup:
    """Names and values, side by side."""
    return tag("dl", *(join([tag("dt", name), tag("dd", value)]) for name, value in rows), class_="facts")
