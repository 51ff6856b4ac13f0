"""The commands that pages of the docs show, run as they stand, and what they print held against what the page says.

    python -m tests.docs.examples [--soak] [--write] [--times] PAGE...

A fenced block `console` holds commands behind `$ `, each with its output below it, stdout and stderr together. A line
`...` there stands for any number of lines, `...` within a line for any text: what depends on the host, or was left out.
A command that ends with another code than 0 has a last line `(exit code N)`. A block with a title, as in
```yaml title="my-run.yaml"```, is a file of that name. `<!-- soak -->` before a block: not in CI. All commands of a
page run in one empty folder, in order, with MOELAB leading to the checkout; moelab's own in this process.
--write puts what was printed into the pages, where it differs; --times says on stderr how long each command took.
"""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
ELLIPSIS = "..."
BLOCK = re.compile(r"^(?P<mark><!-- soak -->\n)?^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n"
                   r"(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class File:
    """A file that a page shows."""

    name: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command of a page, and what it says that is printed. start, end: where the output stands in the page."""

    line: str
    expected: tuple[str, ...]
    start: int
    end: int
    soak: bool


def steps(text: str) -> Iterator[File | Command]:
    """What a page shows, in order."""
    for block in BLOCK.finditer(text):
        if block["title"]:
            yield File(block["title"], block["body"])
        elif block["language"] == "console":
            yield from _commands(block["body"], block.start("body"), block["mark"] is not None)


def _commands(body: str, at: int, soak: bool) -> Iterator[Command]:
    lines = body.splitlines(keepends=True)
    i = 0
    while i < len(lines):
        line = lines[i].removeprefix("$ ").rstrip("\n")
        at += len(lines[i])
        i += 1
        while line.endswith("\\"):
            line = line[:-1] + lines[i].strip()
            at += len(lines[i])
            i += 1
        start, expected = at, []
        while i < len(lines) and not lines[i].startswith("$ "):
            expected.append(lines[i].rstrip())
            at += len(lines[i])
            i += 1
        yield Command(line, tuple(expected), start, at, soak)


def matches(expected: Sequence[str], printed: Sequence[str]) -> bool:
    """Whether what was printed is what the page says."""
    parts = ["(?:.*\n)*?" if line == ELLIPSIS else ".*?".join(map(re.escape, line.split(ELLIPSIS))) + "\n"
             for line in expected]
    return re.fullmatch("".join(parts), "".join(f"{line}\n" for line in printed)) is not None


def carry_out(line: str) -> list[str]:
    """What a command prints, its trailing blanks aside."""
    words = shlex.split(os.path.expandvars(line))
    if words[0] == "moelab" and not re.search(r"[|>;&]", re.sub(r"'[^']*'|\"[^\"]*\"", "", line)):
        from cluster.main import enter

        told = io.StringIO()
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            code = enter(words[1:])
        text = told.getvalue()
    else:
        done = subprocess.run(["sh", "-c", line], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              check=False)
        code, text = done.returncode, done.stdout
    lines = [part.rstrip() for part in text.splitlines()]
    return [*lines, *([f"(exit code {code})"] if code else [])]


def check(page: Path, *, soak: bool, write: bool = False, times: bool = False) -> list[str]:
    """What a page says wrongly: for each command its line, what the page says, and what was printed."""
    text, wrong, changes = page.read_text(encoding="utf-8"), [], []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for step in steps(text):
            if isinstance(step, File):
                Path(step.name).parent.mkdir(parents=True, exist_ok=True)
                Path(step.name).write_text(step.text, encoding="utf-8")
            elif soak or not step.soak:
                began = time.monotonic()
                printed = carry_out(step.line)
                if times:
                    print(f"{time.monotonic() - began:6.2f} s  {step.line[:100]}", file=sys.stderr)
                if not matches(step.expected, printed):
                    changes.append((step, printed))
                    wrong.append("\n".join([f"{page.name}: $ {step.line}", "the page says:", *step.expected,
                                            "it prints:", *printed, ""]))
    if write and changes:
        for step, printed in reversed(changes):
            text = text[:step.start] + "".join(f"{line}\n" for line in printed) + text[step.end:]
        page.write_text(text, encoding="utf-8")
    return wrong


def main(arguments: Sequence[str]) -> int:
    """Check the pages that are named."""
    os.environ |= {"MOELAB": str(ROOT), "COLUMNS": "110"}
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["PYTHONPATH"] = str(ROOT)
    pages = [Path(name).resolve() for name in arguments if not name.startswith("--")]
    wrong = [text for page in pages
             for text in check(page, soak="--soak" in arguments, write="--write" in arguments,
                               times="--times" in arguments)]
    print("\n".join(wrong), end="")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
