"""Mapping over items: failures stay with their item, whoever does the work, and an interrupt ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from srraw_tools.align import align_sequences
from srraw_tools.errors import UserError
from srraw_tools.files import read_json
from srraw_tools.pack import pack_sequences
from srraw_tools.parallel import map_items

ROOT = Path(__file__).parents[1]


def work(item, *, folder=None):
    """What an item says: fail, die, be a bug, sleep, or tell about a path."""
    if item == "fail":
        raise UserError("This one fails.", "Leave it.", wrong_use=True)
    if item == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "bug":
        raise ZeroDivisionError("ours")
    if isinstance(item, tuple):
        Path(item[0]).write_text(str(os.getpid()))
        time.sleep(item[1])
    if isinstance(item, Path):
        return item, folder
    return item


def outcomes(**how):
    return dict(map_items(work, ["a", "fail", "b", "c"], **how))


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_failure_stays_with_its_item(jobs):
    found = outcomes(jobs=jobs)
    assert isinstance(found["fail"], UserError)
    assert (str(found["fail"]), found["fail"].exit_code) == ("This one fails. Leave it.", 2)
    assert {item: found[item] for item in "abc"} == {"a": "a", "b": "b", "c": "c"}


def test_a_process_that_dies_costs_its_item_only():
    items = ["a", "die", "b", "die", "c", "d"]
    found = list(map_items(work, items, jobs=2))
    assert sorted(item for item, _ in found) == sorted(items)
    for item, outcome in found:
        if item == "die":
            assert "died (SIGKILL)" in str(outcome)
            assert "--jobs" in outcome.hint
        else:
            assert outcome == item


@pytest.mark.parametrize("jobs", [1, 2])
def test_our_own_bugs_are_raised(jobs):
    with pytest.raises((ZeroDivisionError, RuntimeError), match="ours"):
        list(map_items(work, ["bug", "a"], jobs=jobs))


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(files):
    for _ in range(600):
        if all(file.exists() and file.read_text() for file in files):
            return
        time.sleep(0.05)
    raise AssertionError(f"{files} did not appear")


def test_whoever_stops_iterating_ends_the_work(tmp_path):
    files = [tmp_path / "one", tmp_path / "two"]
    outcomes = map_items(work, ["a", *((str(file), 600) for file in files)], jobs=3)
    assert next(outcomes) == ("a", "a")
    wait_for(files)
    outcomes.close()
    assert not any(is_running(int(file.read_text())) for file in files)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_an_interrupt_ends_the_work_without_words_from_the_processes(tmp_path):
    files = [tmp_path / "one", tmp_path / "two"]
    code = (
        "import signal, test_parallel as t\n"
        "if __name__ == '__main__':\n"
        # What a script runs in the background ignores interrupts, and so would this.
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"    list(t.map_items(t.work, [(str(f), 600) for f in {[str(f) for f in files]}], jobs=2))"
    )
    (tmp_path / "program.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    program = subprocess.Popen(
        [sys.executable, tmp_path / "program.py"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(files)
    os.killpg(program.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, said = program.communicate(timeout=60)
    assert program.returncode == -signal.SIGINT
    assert said.count("Traceback") == 1  # its own
    assert not any(is_running(int(file.read_text())) for file in files)


# --- a cluster --------------------------------------------------------------------------------------------


@contextmanager
def running_cluster(folder, *, workers):
    """A Dask scheduler and workers in processes of their own: its address, and its process."""
    pytest.importorskip("distributed", reason="Dask's distributed is not installed")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "OMP_NUM_THREADS": "1",
    }
    known, local = folder / "scheduler.json", ["--host", "127.0.0.1", "--no-dashboard"]
    started = []

    def start(name, *arguments):
        command = [sys.executable, "-m", f"distributed.cli.dask_{name}", *local, *arguments]
        started.append(subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL))

    try:
        start("scheduler", "--port", "0", "--scheduler-file", str(known))
        wait_for([known])
        for _ in range(workers):
            start("worker", "--nthreads", "1", "--scheduler-file", str(known))
        yield read_json(known)["address"], started[0]
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(30)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The address of a Dask scheduler with two workers, whose working folder is another."""
    with running_cluster(tmp_path_factory.mktemp("cluster"), workers=2) as (address, _):
        yield address


def test_a_failure_stays_with_its_item_on_a_cluster(cluster):
    found = outcomes(scheduler=cluster)
    assert (str(found["fail"]), found["fail"].exit_code) == ("This one fails. Leave it.", 2)
    assert [found[item] for item in "abc"] == ["a", "b", "c"]


def test_relative_paths_are_absolute_on_a_cluster(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ((item, outcome),) = map_items(partial(work, folder=Path("out")), [Path("in")], scheduler=cluster)
    assert item == Path("in")
    assert outcome == (tmp_path / "in", tmp_path / "out")


def test_an_item_that_kills_its_workers_is_reported(cluster):
    found = dict(map_items(work, ["die", "a", "b"], scheduler=cluster))
    assert "died, again and again" in str(found["die"])
    assert (found["a"], found["b"]) == ("a", "b")


def test_an_item_whose_worker_is_killed_is_worked_on_again(cluster, tmp_path):
    file = tmp_path / "pid"
    found = map_items(work, [(str(file), 3)], scheduler=cluster)

    def kill():
        wait_for([file])
        os.kill(int(file.read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    ((item, outcome),) = found
    killer.join()
    assert outcome == item


def test_a_scheduler_that_is_lost_ends_the_run_in_one_sentence(tmp_path):
    file = tmp_path / "pid"
    with running_cluster(tmp_path, workers=1) as (address, scheduler):
        found = map_items(work, ["a", (str(file), 5)], scheduler=address)
        assert next(found) == ("a", "a")
        wait_for([file])
        scheduler.kill()
        with pytest.raises(UserError, match="was lost"):
            next(found)


def test_our_own_bugs_are_raised_from_a_cluster(cluster):
    with pytest.raises(ZeroDivisionError, match="ours"):
        list(map_items(work, ["bug"], scheduler=cluster))


def test_sequences_are_aligned_on_a_cluster_as_here(cluster, sequences, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [Path("sequences/00001"), Path("sequences/00002"), Path("sequences/nowhere")]
    there = dict(align_sequences(folders, zooms=(8,), scheduler=cluster))
    assert list(there) != []
    assert isinstance(there[folders[2]], UserError)
    here = dict(align_sequences(folders[:2], zooms=(8,), out=tmp_path / "here"))
    for folder in folders[:2]:
        assert (folder / "alignment.json").is_file()
        assert there[folder].pairs == here[folder].pairs
    again = dict(align_sequences(folders[:2], zooms=(8,), scheduler=cluster))
    assert all(result.skipped for result in again.values())


def test_pairs_are_packed_on_a_cluster_as_here(cluster, sequences, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [Path("sequences/00001"), Path("sequences/00002")]
    list(align_sequences(folders, zooms=(8,)))
    for name, where in (("there.h5", {"scheduler": cluster}), ("here.h5", {})):
        records = list(pack_sequences(folders, out=Path(name), zooms=(8,), **where))
        assert [record.status for record in records] == ["packed"] * 2
    assert Path("there.h5").read_bytes() == Path("here.h5").read_bytes()
    assert not list(tmp_path.glob("*.parts"))


@pytest.mark.parametrize(
    ("address", "says", "status"),
    [("nonsense", "is no address", 2), ("tcp://127.0.0.1:9", "No Dask scheduler answers", 1)],
)
def test_a_cluster_that_cannot_be_reached_is_one_sentence(monkeypatch, address, says, status):
    pytest.importorskip("distributed", reason="Dask's distributed is not installed")
    monkeypatch.setattr("srraw_tools.parallel.CONNECT_S", 1.0)
    with pytest.raises(UserError, match=says) as caught:
        list(map_items(work, ["a"], scheduler=address))
    assert caught.value.exit_code == status


def test_a_cluster_without_workers_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("srraw_tools.parallel.CONNECT_S", 1.0)
    with (
        running_cluster(tmp_path, workers=0) as (address, _),
        pytest.raises(UserError, match="has no workers"),
    ):
        list(map_items(work, ["a"], scheduler=address))


def test_without_distributed_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"srraw\[cluster\]"):
        list(map_items(work, ["a"], scheduler="tcp://127.0.0.1:9"))


def test_processes_and_a_cluster_exclude_each_other():
    with pytest.raises(UserError, match="not both"):
        list(map_items(work, ["a"], jobs=2, scheduler="tcp://127.0.0.1:9"))
