"""What is expected of a native module in somebody else's process."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
import time

import pytest

import strongroom
from conftest import app_token_event, app_token_query, in_child, needs_fork

pytest.importorskip("msal")
AT = "AccessToken"


@pytest.fixture()
def cache(location):
    return strongroom.PersistedTokenCache(strongroom.FilePersistence(location))


@needs_fork
def test_a_forked_child_uses_the_cache_of_its_parent(cache):
    cache.add(app_token_event("parent"))

    def use():
        assert len(list(cache.search(AT, target=["s1"], query=app_token_query("parent")))) == 1
        cache.add(app_token_event("child"))

    assert in_child(use)
    assert len(list(cache.search(AT))) == 2


@needs_fork
def test_a_child_does_not_wait_for_a_thread_that_it_does_not_have(cache):
    """One that held the lock of MSAL's cache when the process was forked."""
    held, done = threading.Event(), threading.Event()

    def hold():
        with cache._lock:
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    try:
        assert in_child(lambda: cache.add(app_token_event()))
    finally:
        done.set()
        thread.join()


@needs_fork
def test_a_child_that_is_forked_in_the_middle_of_other_threads_work_is_not_stuck(cache):
    stop = threading.Event()

    def work(n):
        while not stop.is_set():
            cache.add(app_token_event(f"thread{n}"))
            list(cache.search(AT))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    try:
        for n in range(10):
            assert in_child(lambda: cache.add(app_token_event(f"child{n}")))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    clients = {entry["client_id"] for entry in cache.search(AT)}
    assert {f"child{n}" for n in range(10)} <= clients


@needs_fork
def test_a_child_does_not_release_the_lock_of_its_parent(location):
    with strongroom.CrossPlatLock(location) as lock:
        assert in_child(lambda: lock.__exit__(None, None, None))
        assert os.path.exists(location)
        with pytest.raises(strongroom.LockError):
            with strongroom.CrossPlatLock(location, timeout=0.05):
                pass


def test_threads_share_a_cache(cache):
    errors = []

    def work(n):
        try:
            for m in range(5):
                cache.add(app_token_event(f"client-{n}-{m}"))
                assert list(cache.search(AT, target=["s1"], query=app_token_query(f"client-{n}-{m}")))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(list(cache.search(AT))) == 40


def test_other_threads_run_while_one_waits_for_the_lock(cache, location):
    done = threading.Event()

    def wait():
        cache.add(app_token_event())
        done.set()

    with strongroom.CrossPlatLock(location + ".lockfile"):
        thread = threading.Thread(target=wait)
        thread.start()
        # If the waiting thread kept the GIL, this one would never leave the lock.
        for _ in range(1000):
            assert list(cache.search(AT)) == []
        assert not done.is_set()
    assert done.wait(60)
    thread.join()


def test_ctrl_c_while_a_token_waits_for_the_lock_is_a_keyboard_interrupt(location):
    program = """
import sys, strongroom
sys.path.insert(0, sys.argv[2])
from conftest import app_token_event
cache = strongroom.PersistedTokenCache(strongroom.FilePersistence(sys.argv[1]), lock_timeout=600)
try:
    print("waiting", flush=True)
    cache.add(app_token_event())
except KeyboardInterrupt:
    print("interrupted")
"""
    with strongroom.CrossPlatLock(location + ".lockfile"):
        command = [sys.executable, "-c", program, location, os.path.dirname(__file__)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "waiting\n"
        # Our own lock it has, so what it waits for is the one that is held here.
        while not os.path.exists(location + ".lock"):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(2)
        output, _ = process.communicate(timeout=60)
    assert output == "interrupted\n"
    assert not os.path.exists(location)


def test_log_records_go_to_the_logger_of_that_name(cache, location, caplog):
    caplog.set_level(logging.DEBUG, "strongroom")
    with open(location, "w", encoding="utf-8") as file:
        file.write('{"AccessToken": {')
    cache.add(app_token_event(secret="not to be logged"))
    (record,) = [record for record in caplog.records if "moved aside" in record.getMessage()]
    assert record.levelno == logging.WARNING and record.name.startswith("strongroom.")
    assert location in record.getMessage()
    own = [record.getMessage() for record in caplog.records if record.name.startswith("strongroom")]
    assert not any("not to be logged" in message for message in own)


def test_what_is_not_to_be_logged_is_not_handed_over(cache, location, caplog):
    logging.getLogger("strongroom").setLevel(logging.ERROR)
    try:
        with open(location, "w", encoding="utf-8") as file:
            file.write("{")
        cache.add(app_token_event())
        assert not [record for record in caplog.records if record.name.startswith("strongroom")]
    finally:
        logging.getLogger("strongroom").setLevel(logging.NOTSET)


def test_no_secret_is_in_a_repr_or_in_the_text_of_an_exception(cache, location):
    cache.add(app_token_event(secret="not to be shown"))
    things = [cache, cache._persistence, cache._native, cache._persistence._native, strongroom.CrossPlatLock("x")]
    assert repr(cache) == f"PersistedTokenCache(FilePersistence({location!r}))"
    assert "not to be shown" not in repr(things) + str(things)
    text = open(location, encoding="utf-8").read()
    for damage in (text[:-30], text.replace("{", "[", 1), "\ufeff" + text):
        with open(location, "w", encoding="utf-8") as file:
            file.write(damage)
        with pytest.raises(Exception) as raised:
            list(strongroom.PersistedTokenCache(strongroom.FilePersistence(location)).search(AT))
        assert "not to be shown" not in f"{raised.value!r} {raised.value} {vars(raised.value)}"


def test_nothing_is_pickled_or_copied(cache, location):
    for thing in (cache, cache._persistence, cache._native, strongroom.SealedFilePersistence(location + ".sealed"), strongroom.CrossPlatLock("x")):
        for copier in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot (be )?pickle"):
                copier(thing)


def test_a_process_that_ends_while_a_thread_waits_ends(location, python):
    program = """
import sys, threading, strongroom
sys.path.insert(0, sys.argv[2])
from conftest import app_token_event
cache = strongroom.PersistedTokenCache(strongroom.FilePersistence(sys.argv[1]), lock_timeout=600)
lock = strongroom.CrossPlatLock(sys.argv[1] + ".lockfile")
lock.__enter__()
threading.Thread(target=cache.add, args=(app_token_event(),), daemon=True).start()
print("ended")
"""
    done = python(program, location, os.path.dirname(__file__))
    assert done.stdout == "ended\n" and "panic" not in done.stderr
