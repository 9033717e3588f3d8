"""Map a function over the items of a stage: here, or in processes. One failure does not end the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TypeVar

from srraw_tools.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_items(
    function: Callable[[Item], Result], items: Iterable[Item], jobs: int = 1
) -> Iterator[tuple[Item, Result | UserError]]:
    """Yield (item, result or the user's error) as they come; with one job, in order.

    Args:
        function: a function of a module (not a lambda), so that processes can find it.
        jobs: processes; 1 runs everything here. Any exception but a UserError is our bug and is raised.
    """
    items = list(items)
    if jobs <= 1 or len(items) <= 1:
        for item in items:
            yield item, _outcome(function, item)
        return
    # A fresh interpreter: forking a process that holds OpenCV's or OpenMP's threads can hang.
    with ProcessPoolExecutor(min(jobs, len(items)), mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(_outcome, function, item): item for item in items}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _outcome(function: Callable[[Item], Result], item: Item) -> Result | UserError:
    try:
        return function(item)
    except UserError as error:
        return error
