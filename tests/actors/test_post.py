"""Datagrams between players: nothing is lost, and nobody waits for a reader that does not read."""

from pathlib import Path

from actors.post import LARGEST, Post


def test_messages_come_whole_and_in_order(tmp_path: Path) -> None:
    with Post(str(tmp_path), "a") as a, Post(str(tmp_path), "b") as b:
        a.send("b", [1, 2])
        a.send("b", list(range(LARGEST + 1)))
        b.wait(1.0)
        assert b.receive() == [[1, 2], list(range(LARGEST)), [LARGEST]]
        assert b.receive() == []


def test_what_a_full_box_does_not_take_is_kept_in_order(tmp_path: Path) -> None:
    with Post(str(tmp_path), "a") as a, Post(str(tmp_path), "b") as b:
        for number in range(5000):
            a.send("b", [number])
        assert a.keeps
        got: list[list[int]] = []
        while len(got) < 5000:
            got += b.receive()
            a.flush()
        assert got == [[number] for number in range(5000)]
        assert not a.keeps


def test_a_reader_that_has_gone_holds_nobody_up(tmp_path: Path) -> None:
    with Post(str(tmp_path), "a") as a:
        with Post(str(tmp_path), "b"):
            pass
        a.send("b", [1])
        assert not a.keeps


def test_a_box_is_woken_without_a_message(tmp_path: Path) -> None:
    with Post(str(tmp_path), "a") as a:
        a.wake()
        a.wait(10.0)
        assert a.receive() == []
