"""The lock file by itself."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time

import pytest

import strongroom


def test_the_file_is_there_while_it_is_held_says_by_whom_and_is_gone_afterwards(location):
    lock = strongroom.CrossPlatLock(location)
    for _ in range(2):
        with lock:
            pid, name = open(location, encoding="utf-8").read().split(" ", 1)
            assert int(pid) == os.getpid() and name
        assert not os.path.exists(location)


def test_who_does_not_get_it_gets_a_lock_error_that_every_handler_catches(location):
    handlers = [strongroom.LockError, RuntimeError]
    try:
        import msal_extensions

        handlers.append(msal_extensions.LockError)
    except ImportError:
        pass
    for handler in handlers:
        with strongroom.CrossPlatLock(location):
            with pytest.raises(handler) as raised:
                with strongroom.CrossPlatLock(location, timeout=0.05):
                    pass
        assert str(os.getpid()) in str(raised.value) and raised.value.code == "locked"
    from strongroom import cache_lock, filelock

    assert cache_lock.LockError is filelock.LockError is strongroom.LockError


def test_the_directory_must_be_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        with strongroom.CrossPlatLock(str(tmp_path / "folder" / "lock")):
            pass


def test_it_is_released_by_an_exception(location):
    with pytest.raises(LookupError):
        with strongroom.CrossPlatLock(location):
            raise LookupError
    assert not os.path.exists(location)


def test_what_a_killed_program_has_left_is_taken_over(location, python):
    program = """
import os, sys, strongroom
with strongroom.CrossPlatLock(sys.argv[1]):
    os.kill(os.getpid(), 9)
"""
    assert python(program, location, check=False).returncode == -9
    assert os.path.exists(location)
    with strongroom.CrossPlatLock(location, timeout=1):
        pass


def test_msal_extensions_waits_for_it_and_it_waits_for_msal_extensions(location):
    theirs = pytest.importorskip("msal_extensions")
    pytest.importorskip("portalocker")
    with theirs.CrossPlatLock(location):
        with pytest.raises(strongroom.LockError):
            with strongroom.CrossPlatLock(location, timeout=0.05):
                pass
    with strongroom.CrossPlatLock(location):
        import portalocker

        with pytest.raises(portalocker.exceptions.LockException):
            with portalocker.Lock(location, flags=portalocker.LOCK_EX | portalocker.LOCK_NB, timeout=0):
                pass


def work(path, marks, seconds):
    with strongroom.CrossPlatLock(path):
        with open(marks, "a", encoding="utf-8") as file:
            file.write(f"< {os.getpid()}\n")
            file.flush()
            time.sleep(seconds)
            file.write(f"> {os.getpid()}\n")


@pytest.mark.parametrize("number, seconds", [(4, 0.1), (40, 0.0)])
def test_those_who_hold_it_never_interleave(number, seconds, location, tmp_path):
    marks = str(tmp_path / "marks")
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    running = [context.Process(target=work, args=(location, marks, seconds)) for _ in range(number)]
    for process in running:
        process.start()
    for process in running:
        process.join()
        assert process.exitcode == 0
    lines = open(marks, encoding="utf-8").read().split("\n")[:-1]
    assert len(lines) == 2 * number
    for begin, end in zip(lines[::2], lines[1::2]):
        assert begin[0] == "<" and end[0] == ">" and begin[1:] == end[1:]


def test_ctrl_c_ends_the_waiting_with_a_keyboard_interrupt(location):
    program = """
import sys, strongroom
try:
    print("waiting", flush=True)
    with strongroom.CrossPlatLock(sys.argv[1], timeout=600):
        pass
except KeyboardInterrupt:
    print("interrupted")
"""
    with strongroom.CrossPlatLock(location):
        process = subprocess.Popen([sys.executable, "-c", program, location], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "waiting\n"
        deadline = time.monotonic() + 60
        # So that it is the lock that is waited for. A signal that comes sooner is a KeyboardInterrupt as well.
        time.sleep(0.2)
        process.send_signal(2)
        output, _ = process.communicate(timeout=max(1, deadline - time.monotonic()))
        assert output == "interrupted\n"
    with strongroom.CrossPlatLock(location, timeout=1):
        pass
