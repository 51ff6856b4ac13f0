"""Texts and tokens of a served model: its own tokenizer's, or plain ones for a shape without weights."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from cluster.serve.contract import AskError

PIECE_BYTES = 4
"""Bytes of UTF-8 that a plain token stands for: about what tokens of English text have."""
WORDS = ("the machine that answers here has no weights and says so with words that mean nothing while what they cost "
         "is timed as if they were meant").split()
KEPT_TOKENS = 32
"""Tokens of an answer that are decoded again and again: its text grows at its end only."""


class Speech(Protocol):
    """What turns texts into tokens and back."""

    ends: frozenset[int]
    """Tokens that end an answer."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation."""

    def decode(self, tokens: list[int]) -> str:
        """The text of an answer."""


def plain_chat(messages: Sequence[Mapping[str, str]]) -> str:
    """A conversation as plain text, for models that have no template of their own."""
    return "".join(f"{message['role']}: {message['content']}\n" for message in messages) + "assistant:"


class Plain:
    """For shapes without weights: a token a piece of four bytes of UTF-8, and answers of words that mean nothing."""

    ends: frozenset[int] = frozenset()

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = max(vocabulary, 2)

    def encode(self, text: str) -> list[int]:
        """One token for each four bytes, the last may have fewer."""
        data = text.encode("utf-8", errors="replace")
        return [int.from_bytes(data[at:at + PIECE_BYTES], "little") % self._vocabulary
                for at in range(0, len(data), PIECE_BYTES)]

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        return self.encode(plain_chat(messages))

    def decode(self, tokens: list[int]) -> str:
        return "".join(f"{' ' if i else ''}{WORDS[token % len(WORDS)]}" for i, token in enumerate(tokens))


class Own:
    """A checkpoint's own tokenizer."""

    def __init__(self, folder: Path, ends: Sequence[int]) -> None:
        from transformers import AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        self.ends = frozenset(ends)

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, verbose=False)["input_ids"])

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        if self._tokenizer.chat_template is None:
            return self.encode(plain_chat(messages))
        try:
            found = self._tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=True,
                                                        return_dict=True)["input_ids"]
        except Exception as error:  # noqa: BLE001 (a template of the checkpoint's: it may refuse in its own ways)
            raise AskError(f"the model's chat template refuses these messages: {error}") from None
        return list(found)

    def decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens))


class Telling:
    """One answer as text, token by token: letters are told whole, stop texts not at all."""

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str]) -> None:
        self._decode, self._stop = decode, [text for text in stop if text]
        self._tokens: list[int] = []
        self._spelled, self._held = 0, ""
        self.stopped = False

    def add(self, token: int, *, last: bool) -> str:
        """What a token adds. last: no other can follow, so nothing is held back. `stopped` says that a stop text is
        complete: the answer ends before it."""
        self._tokens.append(token)
        text = self._decode(self._tokens)
        if last or not text.endswith("\ufffd"):
            self._held += text[self._spelled:]
            self._spelled = max(self._spelled, len(text))
            self._shorten()
        return self._release(last)

    def end(self) -> str:
        """What is held back, where the answer ends without another letter."""
        told, self._held = self._held, ""
        return told

    def _shorten(self) -> None:
        """Decode only the last tokens from now on: enough of them that the text of the next follows from them."""
        if len(self._tokens) > 2 * KEPT_TOKENS:
            self._tokens = self._tokens[-KEPT_TOKENS:]
            self._spelled = len(self._decode(self._tokens))

    def _release(self, last: bool) -> str:
        found = [at for at in (self._held.find(text) for text in self._stop) if at >= 0]
        if found:
            self.stopped = True
            told, self._held = self._held[:min(found)], ""
            return told
        keep = 0 if last else max((_overlap(self._held, text) for text in self._stop), default=0)
        cut = len(self._held) - keep
        told, self._held = self._held[:cut], self._held[cut:]
        return told


def _overlap(text: str, stop: str) -> int:
    """The most letters at the end of a text with which a stop text begins."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
