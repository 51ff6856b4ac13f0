"""The site of the docs is built without a link that leads nowhere, and asks no other host for anything."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "deploy" / "site"))

import fields
import reference


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)], cwd=ROOT,
                          env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def pages(site: Path) -> Iterator[tuple[Path, str]]:
    for file in sorted(site.rglob("*.html")):
        yield file, file.read_text(encoding="utf-8")


@pytest.mark.slow
def test_it_is_built_strictly_asks_no_other_host_and_has_what_a_newcomer_looks_for(site: Path) -> None:
    fetched = re.compile(r"<(?:link|script|img|iframe|source)\b[^>]*?(?:src|href)=\"?((?:https?:)?//[^\"\s>]+)")
    found = {file.name: urls for file, text in pages(site) if (urls := fetched.findall(text))}
    assert found == {}
    assert "@import" not in "".join(file.read_text(encoding="utf-8") for file in site.rglob("*.css"))
    assert (site / "search" / "search_index.json").stat().st_size > 100_000
    # What was a file of the repository is a page, and links to it lead there.
    assert "cluster-observe-schema-py.html" in (site / "repository" / "readme.html").read_text()
    assert "class View" in re.sub(r"<[^>]+>", "", (site / "repository" / "emulation-view-py.html").read_text())
    nav = [next(iter(part)) for part in yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]]
    for name in ("Tutorial", "Concepts", "How-to", "The four systems", "Reference", "Fidelity", "Project"):
        assert name in nav
        assert name in (site / "index.html").read_text(encoding="utf-8")


def test_the_reference_is_the_same_again_and_names_every_option_field_and_policy() -> None:
    made = reference.pages()
    assert made == reference.pages()
    for option in ("--policies A,B", "--http-port N", "--retry-failed", "--batch"):
        assert option in made["reference/command-line.md"]
    for code in ("0", "2", "3", "4", "5", "6", "70", "130"):
        assert f"| `{code}` |" in made["reference/command-line.md"]
    from schedulers.registry import policy_names

    assert [name for name in policy_names() if f"\n### {name}\n" not in made["reference/policy.md"]] == []
    assert "| `memory_bandwidth` | [quantity](hardware.md#quantities), B/s |" in made["reference/hardware.md"]
    assert "| `makespan_ps` | whole number | When the last step ended" in made["reference/result.md"]
    for page in ("run", "hardware"):
        rows = [line for line in made[f"reference/{page}.md"].splitlines() if line.startswith("| `")]
        bare = [row for row in rows if row.endswith("|  |")]
        assert len(bare) * 2 < len(rows), bare


def test_what_a_docstring_says_of_fields_is_taken_apart() -> None:
    whole, told = fields.meanings("One run. seed: of all draws. first_s, last_s: a window; max_*: bounds (of bytes).\n"
                                  "  `out`: where. Paths: are relative.",
                                  ["seed", "first_s", "last_s", "max_ops", "out"])
    assert whole == "One run."
    assert told == {"seed": "Of all draws.", "first_s": "A window", "last_s": "A window",
                    "max_ops": "Bounds (of bytes).", "out": "Where. Paths: are relative."}
