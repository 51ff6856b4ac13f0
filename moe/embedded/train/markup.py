"""Plain text out of HTML and Mallard pages."""

import re
from html.parser import HTMLParser

_SKIPPED = frozenset({"script", "style", "svg", "head", "nav", "footer", "info", "button", "aside", "header"})
_BLOCKS = frozenset(
    "p div li ul ol dl dt dd h1 h2 h3 h4 h5 h6 table tr br hr pre section title item note steps list page code".split()
)
_VOID = frozenset("br hr img meta link input area base col embed source track wbr".split())
_SKIPPED_CLASSES = frozenset({"navheader", "navfooter", "docnav", "toc", "fancy_toc", "nosearch", "menu"})


class _TextOf(HTMLParser):
    """Collects the running text; every block element ends a line, `pre` keeps its own."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._open: list[tuple[str, bool]] = []
        self._skip = 0
        self._pre = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _BLOCKS:
            self.pieces.append("\n")
        if tag in _VOID:
            return
        classes = set((dict(attrs).get("class") or "").split())
        skipped = tag in _SKIPPED or bool(classes & _SKIPPED_CLASSES)
        self._open.append((tag, skipped))
        self._skip += skipped
        self._pre += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if tag not in (name for name, _ in self._open):
            return
        while self._open:
            name, skipped = self._open.pop()
            self._skip -= skipped
            self._pre -= name == "pre"
            if name == tag:
                break
        if tag in _BLOCKS:
            self.pieces.append("\n")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _BLOCKS:
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if self._skip:
            return
        self.pieces.append(data if self._pre else re.sub(r"\s+", " ", data))


def text_of_markup(markup: str) -> str:
    """The text of a page without navigation, head and scripts: one line a block, no blank runs."""
    parser = _TextOf()
    parser.feed(markup)
    parser.close()
    text = "".join(parser.pieces)
    text = re.sub(r"[ \t\xa0]+\n", "\n", text)
    text = re.sub(r"\n[ \xa0]+(?=\S)", "\n", text) if "\n  " not in text else text
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
