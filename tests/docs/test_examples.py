"""The commands that the docs show do what the docs say, to the letter but for what a page leaves out with `...`."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docs.examples import Command, File, check, matches, steps

PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")
               if "```console" in path.read_text(encoding="utf-8"))


def checked(*arguments: str) -> str:
    """What the pages say wrongly: in a process of its own, since commands change folders and look at sys.stdout."""
    done = subprocess.run([sys.executable, "-m", "tests.docs.examples", *arguments], cwd=ROOT, text=True,
                          capture_output=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def test_the_tutorial_and_the_how_tos_have_commands() -> None:
    assert {"docs/tutorial.md", "docs/how-to/trace.md", "docs/how-to/policy.md"} <= set(PAGES)


@pytest.mark.slow
def test_pages_print_what_they_say() -> None:
    assert checked(*PAGES) == ""


@pytest.mark.soak
@pytest.mark.parametrize("page", PAGES)
def test_a_page_prints_what_it_says_with_its_longer_commands(page: str) -> None:
    assert checked("--soak", page) == ""


PAGE = """
```yaml title="mine.yaml"
a: 1
```

```console
$ cat mine.yaml
a: 1
$ printf 'one\\ntwo 2.5 s\\nthree\\n' \\
    | cat
one
two ... s
...
$ false
(exit code 1)
```

<!-- soak -->
```console
$ echo late
late
```
"""


def test_a_page_is_read_as_files_commands_and_outputs(tmp_path: Path) -> None:
    file, *commands = steps(PAGE)
    assert file == File("mine.yaml", "a: 1\n")
    assert [(step.line, step.soak) for step in commands if isinstance(step, Command)] == [
        ("cat mine.yaml", False), ("printf 'one\\ntwo 2.5 s\\nthree\\n' | cat", False), ("false", False),
        ("echo late", True)]
    page = tmp_path / "page.md"
    page.write_text(PAGE, encoding="utf-8")
    assert check(page, soak=True) == []


def test_another_output_is_told_and_can_be_written_into_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace("\na: 1\n$", "\na: 2\n$").replace("late\n```", "early\n```"), encoding="utf-8")
    (wrong,) = check(page, soak=False)
    assert wrong.startswith("page.md: $ cat mine.yaml\nthe page says:\na: 2\nit prints:\na: 1\n")
    assert len(check(page, soak=True, write=True)) == 2
    assert page.read_text(encoding="utf-8") == PAGE


@pytest.mark.parametrize(("expected", "printed", "same"), [
    ([], ["more"], False), (["..."], [], True), (["a", "..."], ["a"], True), (["a", "...", "b"], ["a", "x", "b"], True),
    (["a (...)"], ["a (b)"], True), (["a (...)"], ["a b"], False), (["a"], ["a", "b"], False)])
def test_an_ellipsis_stands_for_lines_or_for_part_of_one(expected: list[str], printed: list[str], same: bool) -> None:
    assert matches(expected, printed) is same
