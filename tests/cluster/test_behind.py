"""Work done behind and asked for ahead: in order, bounded, and no failure is lost."""

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError

import pytest

from cluster.behind import Ahead, Behind


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


@pytest.mark.parametrize("again", ["do", "wait", "leave"])
def test_a_failure_that_was_passed_over_is_raised_again(again: str) -> None:
    def fails() -> None:
        raise ValueError("the first")

    def passes_over(behind: Behind) -> None:
        behind.do(fails)
        with pytest.raises(ValueError, match="the first"):
            behind.wait()
        if again == "do":
            behind.do(print)
        elif again == "wait":
            behind.wait()

    with pytest.raises(ValueError, match="the first"), Behind(3) as behind:
        passes_over(behind)


def test_what_failed_behind_comes_before_what_came_of_it() -> None:
    begun = threading.Event()

    def fails() -> None:
        begun.set()
        raise IndexError

    def leaves() -> None:
        with Behind(3) as behind:
            behind.do(fails)
            begun.wait()
            raise RuntimeError("something else")

    with pytest.raises(IndexError) as found:
        leaves()
    assert isinstance(found.value.__cause__, RuntimeError)


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


def counted(to: int) -> Callable[[], int | None]:
    numbers = iter(range(to))
    return lambda: next(numbers, None)


@pytest.mark.parametrize("one_thread", [False, True])
def test_everything_is_asked_for_once_and_in_order(one_thread: bool) -> None:
    with Ahead(counted(30), one_thread=one_thread) as ahead:
        taken = []
        while (number := ahead.take()) is not None:
            taken.append(number)
            ahead.hand_on()
    assert taken == list(range(30))


def test_the_next_thing_is_asked_for_while_the_last_is_worked_on() -> None:
    asked = [threading.Event(), threading.Event(), threading.Event()]
    events = iter(asked)

    def ask() -> int | None:
        event = next(events, None)
        if event is not None:
            event.set()
        return None if event is None else 1

    with Ahead(ask) as ahead:
        assert ahead.take() == 1
        assert asked[1].wait(10)
        assert not asked[2].is_set()


@pytest.mark.parametrize("one_thread", [False, True])
def test_who_asks_for_the_time_waits_until_the_last_thing_is_handed_on(one_thread: bool) -> None:
    done, seen = 0, list[int]()

    def ask() -> int | None:
        ahead.until_handed_on()
        seen.append(done)
        return None if len(seen) == 20 else 1

    with Ahead(ask, one_thread=one_thread) as ahead:
        while ahead.take() is not None:
            done += 1
            ahead.hand_on()
    assert seen == list(range(20))


def test_who_leaves_with_an_error_leaves_nobody_waiting() -> None:
    told: list[type[BaseException]] = []

    def ask() -> int | None:
        try:
            ahead.until_handed_on()
        except CancelledError as error:
            told.append(type(error))
            raise
        return 1

    def leaves() -> None:
        with ahead:
            ahead.take()
            raise KeyboardInterrupt

    ahead = Ahead(ask)
    with pytest.raises(KeyboardInterrupt):
        leaves()
    assert told == [CancelledError]


def test_what_fails_when_asked_for_is_raised_by_take() -> None:
    answers = iter([1])

    def ask() -> int | None:
        found = next(answers, None)
        if found is None:
            raise ValueError("no more")
        return found

    with Ahead(ask) as ahead:
        assert ahead.take() == 1
        with pytest.raises(ValueError, match="no more"):
            ahead.take()
