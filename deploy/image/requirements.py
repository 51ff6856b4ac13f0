"""Print what an image installs: the dependencies of pyproject.toml with those of some extras, one a line.

    requirements.py EXTRA,EXTRA

So that the layer with gigabytes of packages depends on pyproject.toml and constraints.txt, and on no line of code.
"""

import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def requirements(extras: list[str]) -> list[str]:
    """Dependencies of the project and of extras; an extra that asks for the project's own extras is not followed."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    offered = project["optional-dependencies"]
    unknown = [extra for extra in extras if extra not in offered]
    if unknown:
        raise SystemExit(f"requirements.py: pyproject.toml has no extra {unknown[0]!r}, only {', '.join(offered)}")
    return [*project["dependencies"], *(line for extra in extras for line in offered[extra])]


if __name__ == "__main__":
    print("\n".join(requirements([extra for extra in sys.argv[1].split(",") if extra])))
