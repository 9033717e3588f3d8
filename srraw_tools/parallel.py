"""Map a function over the items of a stage: here, in processes, or on a Dask cluster.

One failure does not end the others, not even that of a whole process.
"""

from __future__ import annotations

import queue
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from srraw_tools import __version__
from srraw_tools.errors import UserError

if TYPE_CHECKING:
    from distributed import Client, Future

Item = TypeVar("Item")
Result = TypeVar("Result")

CONNECT_S = 10.0  # within which a Dask scheduler must answer
NO_WORKERS_S = 60.0  # without any worker, after which a cluster is given up


def map_items(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    jobs: int = 1,
    scheduler: str | None = None,
) -> Iterator[tuple[Item, Result | UserError]]:
    """Yield (item, result or the user's error) as they come; with one job, in order.

    An item whose process dies (killed, or out of memory) is yielded with an error that says so. Whoever stops
    iterating, by an interrupt for one, ends the work at once.

    Args:
        function: a function of a module (not a lambda), or a partial of one, so that processes can find it.
        jobs: processes; 1 runs everything here. Any exception but a UserError is our bug and is raised.
        scheduler: address of a Dask scheduler, such as tcp://host:8786, on whose workers everything runs
            instead. They must see the same files under the same absolute paths.

    Raises:
        UserError: the cluster cannot be used, or is lost.
    """
    items = list(items)
    if scheduler is not None:
        if jobs > 1:
            raise UserError("Give either --jobs or --scheduler, not both.", wrong_use=True)
        yield from _on_cluster(function, items, scheduler)
    elif jobs > 1 and len(items) > 1:
        yield from _in_processes(function, items, min(jobs, len(items)))
    else:
        for item in items:
            yield item, _outcome(function, item)


def _outcome(function: Callable[[Item], Result], item: Item) -> Result | UserError:
    try:
        return function(item)
    except UserError as error:
        return error


# --- processes --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Worker:
    process: BaseProcess
    connection: Connection


def _in_processes(
    function: Callable[[Item], Result], items: list[Item], jobs: int
) -> Iterator[tuple[Item, Result | UserError]]:
    waiting = deque(items)
    idle: list[_Worker] = []
    busy: dict[Connection, tuple[_Worker, Item]] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < jobs:
                worker, item = idle.pop() if idle else _start(function), waiting.popleft()
                busy[worker.connection] = worker, item
                with suppress(OSError):  # it died: there will be no answer
                    worker.connection.send(item)
            for connection in wait(list(busy)):
                worker, item = busy[connection]
                try:
                    outcome, bug = connection.recv()
                except (EOFError, OSError):
                    outcome, bug = _last_words(worker, item), None
                    connection.close()
                else:
                    idle.append(worker)
                del busy[connection]
                if bug is not None:
                    raise RuntimeError(f"Working on {item} failed.\n{bug}")
                yield item, outcome
    finally:
        for worker, _ in busy.values():
            worker.process.terminate()
        for worker in [*idle, *(worker for worker, _ in busy.values())]:
            worker.connection.close()  # at which one that is idle ends by itself
            worker.process.join()


def _start(function: Callable[[Item], Result]) -> _Worker:
    # A fresh interpreter: forking a process that holds OpenCV's or OpenMP's threads can hang.
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()  # so that its death is the end of what can be read here
    with suppress(OSError):
        ours.send(function)
    return _Worker(process, ours)


def _serve(connection: Connection) -> None:
    """In the other process: answer every item with (outcome, None), or (None, traceback) of our own bug."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asked, which ends this one
    with suppress(EOFError, OSError):  # nobody is asking any more
        function = connection.recv()
        while True:
            item = connection.recv()
            try:
                answer = _outcome(function, item), None
            except Exception:
                answer = None, traceback.format_exc()
            connection.send(answer)


def _last_words(worker: _Worker, item: Any) -> UserError:
    worker.process.join()
    known = {-int(number): number.name for number in signal.Signals}
    status = known.get(worker.process.exitcode, f"exit status {worker.process.exitcode}")
    return UserError(
        f"The process that worked on {item} died ({status}).",
        "Memory may have run out: run it again with fewer --jobs.",
    )


# --- cluster ----------------------------------------------------------------------------------------------


def _on_cluster(
    function: Callable[[Item], Result], items: list[Item], scheduler: str
) -> Iterator[tuple[Item, Result | UserError]]:
    client = _connect(scheduler)
    finished: queue.SimpleQueue[Future] = queue.SimpleQueue()
    task = partial(_outcome, _with_absolute_paths(function))
    pending = {client.submit(task, _absolute(item), pure=False): item for item in items}
    try:
        for future in pending:
            future.add_done_callback(finished.put)
        unmanned_s = 0.0
        while pending:
            try:
                future = finished.get(timeout=1.0)
            except queue.Empty:
                unmanned_s = 0.0 if client.scheduler_info().get("workers") else unmanned_s + 1.0
                if unmanned_s >= NO_WORKERS_S:
                    raise _no_workers(scheduler) from None
                continue
            item = pending.pop(future)
            yield item, _result_of(future, item, scheduler)
    finally:
        with suppress(OSError, TimeoutError):  # the scheduler may be gone
            client.cancel(list(pending), force=True)
            client.close(timeout=CONNECT_S)


def _connect(scheduler: str) -> Client:
    """A client of a scheduler that has workers, all with this version of srraw."""
    try:
        from distributed import Client
        from distributed.comm import get_address_host_port
    except ImportError as error:
        raise UserError(
            "--scheduler needs Dask's distributed, which is not installed.",
            "Install it with: pip install 'srraw[cluster]'",
            wrong_use=True,
        ) from error
    try:
        get_address_host_port(scheduler)  # a client of an address that is none cannot even be closed
        client = Client(scheduler, timeout=CONNECT_S, set_as_default=False)
    except ValueError as error:
        raise UserError(
            f"'{scheduler}' is no address of a scheduler: {error}.",
            "Give one such as tcp://host:8786.",
            wrong_use=True,
        ) from error
    except OSError as error:
        raise UserError(
            f"No Dask scheduler answers at {scheduler}.", "Start one with 'dask scheduler', and its workers."
        ) from error
    try:
        client.wait_for_workers(1, timeout=CONNECT_S)
        versions = client.run(_version)
    except TimeoutError as error:
        client.close()
        raise _no_workers(scheduler) from error
    except ImportError as error:
        client.close()
        raise UserError(
            f"A worker of {scheduler} cannot load srraw: {error}.", "Install srraw on all of them."
        ) from error
    for worker, version in versions.items():
        if version != __version__:
            client.close()
            raise UserError(
                f"The worker at {worker} has srraw {version}, and this is srraw {__version__}.",
                "Install the same everywhere.",
            )
    return client


def _version() -> str:
    return __version__


def _result_of(future: Future, item: Any, scheduler: str) -> Any:
    from distributed import KilledWorker

    if future.status == "cancelled":
        raise UserError(
            f"The scheduler at {scheduler} was lost.", "What was done stays; run the same again for the rest."
        )
    try:
        return future.result(timeout=NO_WORKERS_S)
    except KilledWorker:
        return UserError(
            f"The workers that worked on {item} died, again and again.", "Memory may have run out on them."
        )
    except TimeoutError:
        return UserError(f"The worker that worked on {item} was lost.", "Run the same again.")


def _no_workers(scheduler: str) -> UserError:
    return UserError(
        f"The scheduler at {scheduler} has no workers.", f"Start some with 'dask worker {scheduler}'."
    )


def _absolute(value: Any) -> Any:
    """Workers are elsewhere: a path relative to this process's folder means nothing to them."""
    return value.absolute() if isinstance(value, Path) else value


def _with_absolute_paths(function: Callable[[Item], Result]) -> Callable[[Item], Result]:
    if not isinstance(function, partial):
        return function
    keywords = {name: _absolute(value) for name, value in function.keywords.items()}
    return partial(function.func, *map(_absolute, function.args), **keywords)
