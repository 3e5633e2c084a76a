"""Work in the background: in order, all of it, and errors come back."""

import threading
import time

import pytest

from spd.background import Background


def test_everything_is_done_in_order_before_it_closes() -> None:
    done: list[int] = []
    with Background(capacity=2) as work:
        for i in range(20):
            work.submit(lambda i=i: done.append(i))
    assert done == list(range(20))
    assert not [t for t in threading.enumerate() if t.name == "background"]


def test_whoever_hands_in_too_much_waits() -> None:
    gate = threading.Event()
    with Background(capacity=1) as work:
        work.submit(gate.wait)
        work.submit(lambda: None)  # fills the queue once the first is being done
        late = threading.Thread(target=lambda: [work.submit(lambda: None) for _ in range(2)])
        late.start()
        time.sleep(0.05)
        assert late.is_alive()
        gate.set()
        late.join(5)
        assert not late.is_alive()


@pytest.mark.parametrize("how", ["submit", "flush", "close"])
def test_an_error_comes_back_and_what_follows_is_not_done(how: str) -> None:
    done: list[int] = []
    work = Background()

    def fail() -> None:
        raise OSError("no space left")

    work.submit(fail)
    work._queue.join()
    with pytest.raises(OSError, match="no space left"):
        {"submit": lambda: work.submit(lambda: done.append(1)), "flush": work.flush, "close": work.close}[how]()
    assert not done
    work.close()


def test_work_behind_a_failed_piece_is_left_out() -> None:
    done: list[int] = []
    gate = threading.Event()
    work = Background(capacity=4)

    def fail() -> None:
        gate.wait()
        raise ValueError("broken")

    work.submit(fail)
    work.submit(lambda: done.append(1))
    gate.set()
    with pytest.raises(ValueError, match="broken"):
        work.close()
    assert not done


def test_the_error_of_the_block_is_not_hidden_by_one_of_the_work() -> None:
    with pytest.raises(KeyError) as caught, Background() as work:  # noqa: PT012
        work.submit(lambda: [][0])  # type: ignore[misc]
        raise KeyError("own")
    assert any("IndexError" in note for note in caught.value.__notes__)


def test_without_a_thread_it_is_done_at_once() -> None:
    work = Background(threaded=False)
    done: list[int] = []
    work.submit(lambda: done.append(1))
    assert done == [1]
    with pytest.raises(ZeroDivisionError):
        work.submit(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    work.close()
