"""Work done behind: in order, bounded, and no failure is lost."""

import threading

import pytest

from cluster.behind import Behind


@pytest.mark.parametrize("depth", [0, 1, 5])
def test_everything_is_done_in_order(depth: int) -> None:
    done: list[int] = []
    with Behind(depth) as behind:
        for i in range(50):
            behind.do(done.append, i)
        behind.wait()
        assert done == list(range(50))
        behind.do(done.append, 50)
    assert done[-1] == 50


def test_with_a_depth_of_none_nothing_is_done_on_another_thread() -> None:
    threads: list[threading.Thread] = []
    with Behind(0) as behind:
        behind.do(lambda: threads.append(threading.current_thread()))
    assert threads == [threading.current_thread()]


def test_who_is_too_far_ahead_waits() -> None:
    go, begun = threading.Event(), threading.Semaphore(0)
    given = 0

    def give(behind: Behind) -> None:
        nonlocal given
        for _ in range(5):
            behind.do(go.wait)
            given += 1
            begun.release()

    with Behind(2) as behind:
        giver = threading.Thread(target=give, args=(behind,))
        giver.start()
        begun.acquire()
        begun.acquire()
        giver.join(0.1)
        assert given == 2
        go.set()
        giver.join()
    assert given == 5


@pytest.mark.parametrize("depth", [0, 3])
def test_a_failure_is_raised_and_nothing_behind_it_is_begun(depth: int) -> None:
    done: list[str] = []

    def fails() -> None:
        raise ValueError("the third")

    def two_more(behind: Behind) -> None:
        behind.do(done.append, "first")
        behind.do(fails)
        behind.do(done.append, "never")
        behind.wait()

    with pytest.raises(ValueError, match="the third"), Behind(depth) as behind:
        two_more(behind)
    assert done == ["first"]


def test_who_leaves_with_an_error_of_his_own_takes_what_is_left_with_him() -> None:
    go, done = threading.Event(), list[str]()

    def leaves() -> None:
        with Behind(3) as behind:
            behind.do(go.wait)
            behind.do(done.append, "never")
            threading.Timer(0.05, go.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leaves()
    assert done == []
