"""Train the byte-level BPE vocabulary and turn the texts into packed token files.

`python -m moe.embedded.train.build_tokenizer` reads `corpora/text` and writes the tokenizer beside the model and
`corpora/tokens/<domain>.<split>.xz` (little-endian uint16, one end-of-text token after each document).
"""

import json
import lzma
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from moe.embedded.train.fetch_corpora import DOMAINS, ROOT

VOCABULARY = 4096
END_OF_TEXT = "<|endoftext|>"
SAMPLE_BYTES = 4_000_000
MODEL = Path(__file__).resolve().parents[1]


def read_documents(domain: str, split: str, root: Path = ROOT) -> list[str]:
    """The documents of one domain and split, in the order they were written."""
    data = (root / "text" / f"{domain}.{split}").read_bytes()
    return [document.decode() for document in data.split(b"\0")[:-1]]


def _sample() -> Iterator[str]:
    """The same number of bytes from each domain, spread evenly over its documents."""
    for domain in DOMAINS:
        documents = read_documents(domain, "train")
        total = sum(len(text.encode()) for text in documents)
        stride = max(1, round(total / SAMPLE_BYTES))
        yield from documents[::stride]


def train_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=16,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample(), trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1024,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def pack(tokenizer: Tokenizer, root: Path = ROOT) -> None:
    """Write the token files and `tokens/meta.json` with the bytes and tokens of each."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    (root / "tokens").mkdir(exist_ok=True)
    meta: dict[str, dict[str, dict[str, int]]] = {}
    for domain in DOMAINS:
        meta[domain] = {}
        for split in ("train", "heldout"):
            documents = read_documents(domain, split, root)
            ids: list[int | None] = []
            for encoding in tokenizer.encode_batch_fast(documents, add_special_tokens=False):
                ids.extend(encoding.ids)
                ids.append(end)
            packed = np.asarray(ids, dtype="<u2").tobytes()
            (root / "tokens" / f"{domain}.{split}.xz").write_bytes(lzma.compress(packed, preset=1))
            size = sum(len(text.encode()) for text in documents)
            meta[domain][split] = {"bytes": size, "tokens": len(ids), "documents": len(documents)}
        print(domain, meta[domain], flush=True)
    (root / "tokens" / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")


def main() -> None:
    tokenizer = train_tokenizer()
    save_tokenizer(tokenizer, MODEL)
    pack(tokenizer)


if __name__ == "__main__":
    main()
