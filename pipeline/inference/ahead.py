"""An iterator that runs in a thread of its own, a bounded number of items ahead of the one who reads it."""

from __future__ import annotations

from collections.abc import Generator
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import TypeVar

Item = TypeVar("Item")


class _End:
    """Last item of the thread, with the error that ended it, if any."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def read_ahead(items: Generator[Item, None, None], num_ahead: int) -> Generator[Item, None, None]:
    """The same items in the same order, made in a thread. What the thread raises is raised here, after the items
    before it. Closing the generator stops the thread after the item it is at, and closes ``items`` there: close it
    before what ``items`` reads from.
    """
    made: SimpleQueue[Item | _End] = SimpleQueue()
    places = Semaphore(num_ahead)
    is_wanted = True

    def run() -> None:
        end = _End(None)
        try:
            while places.acquire() and is_wanted:
                made.put(next(items))
        except StopIteration:
            pass
        except BaseException as error:  # noqa: BLE001 (raised again in the thread that reads)
            end = _End(error)
        finally:
            items.close()
            made.put(end)

    thread = Thread(target=run, name="clipgru-decode", daemon=True)
    thread.start()
    try:
        while not isinstance(item := made.get(), _End):
            places.release()
            yield item
        if item.error:
            raise item.error
    finally:
        is_wanted = False
        places.release()
        thread.join()
