"""Work that a thread does in order while training goes on: a short queue, errors that come back, nothing left behind.

*Performance Optimization Opportunities* lists writing checkpoints and figures from a thread. Its own queue has no end,
its thread is thrown away with the process, and an error in it is never seen. Here the queue is bounded, so that whoever
hands work in waits when the disk cannot follow; the first error is raised at the next call; and closing waits until all
is written.
"""

import queue
import threading
from abc import abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

__all__ = ["Background", "Closing"]

# Not Self: the shape checker of the tests does not take it.
_Own = TypeVar("_Own", bound="Closing")


class Closing:
    """What is closed at the end of a `with` block; an error of the block is not hidden by one of closing."""

    @abstractmethod
    def close(self) -> None:
        """Does what is left to be done."""

    def __enter__(self: _Own) -> _Own:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except BaseException as own:
            if error is None:
                raise
            error.add_note(f"besides, closing the {type(self).__name__} failed: {own!r}")


class Background(Closing):
    """A thread that does one thing after the other, or no thread at all.

    Args:
        threaded: whether there is a thread; without one everything is done at once, by the caller.
        capacity: things that may wait.
        name: of the thread.

    >>> done = []
    >>> with Background() as work:
    ...     work.submit(lambda: done.append(1))
    ...     work.submit(lambda: done.append(2))
    >>> done
    [1, 2]
    """

    def __init__(self, *, threaded: bool = True, capacity: int = 2, name: str = "background") -> None:
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(capacity)
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        if threaded:
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()

    def submit(self, work: Callable[[], None]) -> None:
        """Hands work in; waits while the queue is full.

        Args:
            work: called once, after everything that was handed in before.

        Raises:
            BaseException: what an earlier piece of work raised, or without a thread this one.
        """
        self._raise()
        if self._thread is None:
            work()
        else:
            self._queue.put(work)

    def flush(self) -> None:
        """Waits until everything that was handed in is done.

        Raises:
            BaseException: what a piece of work raised.
        """
        self._queue.join()
        self._raise()

    def close(self) -> None:
        """Does what is left, and ends the thread.

        Raises:
            BaseException: what a piece of work raised.
        """
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        self._raise()

    def _run(self) -> None:
        while True:
            work = self._queue.get()
            try:
                if work is None:
                    return
                # After an error the rest is not done: it may build on what failed.
                if self._error is None:
                    work()
            except BaseException as error:  # noqa: BLE001  # raised again where the next work is handed in
                self._error = error
            finally:
                self._queue.task_done()

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
