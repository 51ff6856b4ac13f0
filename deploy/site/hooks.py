"""What mkdocs does with our docs beyond mkdocs: `make docs`.

Three things. The reference is made from the schemas (reference.py) and never committed. A link that leaves docs/, as
to a source file or to DESIGN.md, leads to a page of the site that shows that file, so that the repository's own links
hold in both places. A page that mkdocs.yml names nowhere comes under Topics, or under Reference if it is made.
"""

import os
import posixpath
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [path for path in (str(HERE), str(ROOT)) if path not in sys.path]

import reference  # noqa: E402 (it lies beside this file)

ALWAYS = ("README.md", "DESIGN.md", "CONTRIBUTING.md", "CHANGELOG.md", "deploy/README.md", "configs/README.md",
          "moe/embedded/MODEL_CARD.md")
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
FENCE = re.compile(r"^(`{3,}|~{3,}).*?^\1\s*?$", re.MULTILINE | re.DOTALL)
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".proto": "protobuf", ".json": "json",
             ".md": "markdown", ".sh": "sh"}


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are made, and the files of the repository that pages lead to."""
    for uri, text in reference.pages().items():
        files.append(File.generated(config, uri, content=text))
    texts = {f"docs/{file.src_uri}": file.content_string for file in files.documentation_pages()}
    for path, text in reached(texts).items():
        files.append(File.generated(config, page_of(path), content=text))
    placed = set(named(config["nav"]))
    parts = {name: pages for part in config["nav"] for name, pages in part.items()}
    for uri in sorted(file.src_uri for file in files.documentation_pages()):
        if uri not in placed and not uri.startswith("repository/"):
            parts["Reference" if uri.startswith("reference/") else "Topics"].append(uri)
    config["validation"]["nav"]["omitted_files"] = 10  # what is left are files of the repository, found by links
    return files


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Links of a page as they lie in the site."""
    uri = page.file.src_uri
    here = posixpath.dirname(ORIGINS.get(uri, f"docs/{uri}"))
    return outside_fences(markdown, lambda text: LINK.sub(lambda found: _led(found, here, uri), text))


ORIGINS: dict[str, str] = {}
"""Page of the site -> the file of the repository that it shows."""


def page_of(path: str) -> str:
    """The page that shows a file of the repository."""
    stem, suffix = posixpath.splitext(path)
    name = re.sub(r"[^a-z0-9]+", "-", (stem if suffix == ".md" else path).lower()).strip("-")
    return f"repository/{name}.md"


def reached(texts: Mapping[str, str]) -> dict[str, str]:
    """Path in the repository -> markdown, of all that the pages lead to, and of what that leads to."""
    found: dict[str, str] = {}
    todo = [*ALWAYS, *(target for path, text in texts.items() for target in _leaving(path, text))]
    while todo:
        path = todo.pop(0)
        if path in found:
            continue
        if not (ROOT / path).is_file():
            raise PluginError(f"a page leads to {path}, and the repository has no such file")
        text = (ROOT / path).read_text(encoding="utf-8")
        if path.endswith(".md"):
            found[path] = text
            todo += _leaving(path, text)
        else:
            fence = "`" * max(4, *(len(run) + 1 for run in re.findall(r"`+", text)), 4)
            found[path] = (f"# {path}\n\n{fence}{LANGUAGES.get(posixpath.splitext(path)[1], 'text')}\n"
                           f"{text.rstrip()}\n{fence}\n")
        ORIGINS[page_of(path)] = path
    return found


def outside_fences(text: str, change: Any) -> str:
    """The text, changed but for its fenced blocks."""
    parts, at = [], 0
    for fence in FENCE.finditer(text):
        parts += [change(text[at:fence.start()]), fence.group()]
        at = fence.end()
    return "".join([*parts, change(text[at:])])


def named(nav: Any) -> Iterator[str]:
    """The pages that a navigation names."""
    if isinstance(nav, str):
        yield nav
    for part in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from named(part)


def _leaving(path: str, text: str) -> Iterator[str]:
    """The files outside docs/ that a file's links name."""
    for _, target, _ in LINK.findall(FENCE.sub("", text)):
        whole = _whole(target, posixpath.dirname(path))
        if whole is not None and not whole.startswith("docs/"):
            yield whole


def _whole(target: str, here: str) -> str | None:
    """A link's target from the root of the repository; None where it leads out of it."""
    if re.match(r"[a-z]+:|/", target):
        return None
    whole = posixpath.normpath(posixpath.join(here, target))
    return None if whole.startswith("..") else whole


def _led(found: re.Match[str], here: str, uri: str) -> str:
    whole = _whole(found[2], here)
    if whole is None:
        return found[0]
    page = whole.removeprefix("docs/") if whole.startswith("docs/") else page_of(whole)
    return f"{found[1]}{os.path.relpath(page, posixpath.dirname(uri) or '.')}{found[3]}"
