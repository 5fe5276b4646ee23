"""How Python ends while something is still under way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from test_client import AUTHORITY, change_token

import strongroom

ROUNDS = 4

BEGIN = f"""
import sys, threading, time
import strongroom
AUTHORITY = {AUTHORITY!r}
begun = threading.Event()

class Answer:
    status_code, headers, text = 200, {{}}, '{{"access_token":"new","expires_in":7200,"refresh_in":3600}}'

class Http:
    # Short naps: each is a way back into Python, which may have ended meanwhile.
    def post(self, url, **kwargs):
        begun.set()
        while True:
            time.sleep(0.001)

    def get(self, url, **kwargs):
        raise OSError

def busy():
    begun.set()
    while True:
        time.sleep(0.001)
"""

PROVIDER = """
app = strongroom.ConfidentialClientApplication("c", {"client_assertion": busy}, AUTHORITY, http_client=Http(), timeout=0.2)
try:
    app.acquire_token_for_client(["s/.default"])
except TimeoutError:
    print("late")
"""

HTTP_CLIENT = """
app = strongroom.ConfidentialClientApplication("c", "s3cret", AUTHORITY, http_client=Http(), timeout=0.2)
try:
    app.acquire_token_for_client(["s/.default"])
except TimeoutError:
    print("late")
"""

RENEWAL = """
app = strongroom.ConfidentialClientApplication(
    "c", "s3cret", AUTHORITY, http_client=Http(), token_cache=strongroom.FilePersistence(sys.argv[1])
)
assert app.acquire_token_for_client(["s/.default"])["access_token"] == "old"
begun.wait()
print("late")
"""

PERSISTENCE = """
class Mine(strongroom.FilePersistence):
    def save(self, content):
        begun.set()
        while True:
            time.sleep(0.001)

class Http(Http):
    def post(self, url, **kwargs):
        return Answer

app = strongroom.ConfidentialClientApplication(
    "c", "s3cret", AUTHORITY, http_client=Http(), token_cache=Mine(sys.argv[1])
)
assert app.acquire_token_for_client(["s/.default"])["access_token"] == "old"
begun.wait()
print("late")
"""

LOG = """
import logging

class Handler(logging.Handler):
    def emit(self, record):
        if threading.current_thread() is not threading.main_thread():
            begun.set()
            while True:
                time.sleep(0.001)

logging.getLogger("strongroom").addHandler(Handler())
logging.getLogger("strongroom").setLevel("DEBUG")
class Http(Http):
    def post(self, url, **kwargs):
        return Answer
app = strongroom.ConfidentialClientApplication(
    "c", "s3cret", AUTHORITY, http_client=Http(), token_cache=strongroom.FilePersistence(sys.argv[1])
)
assert app.acquire_token_for_client(["s/.default"])["access_token"] == "old"
begun.wait()
print("late")
# A thread that waits in a handler has its lock, which logging would wait for.
logging.raiseExceptions = False
logging._handlerList.clear()
"""


def start(program, *arguments):
    command = [sys.executable, "-c", BEGIN + program, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("program", [PROVIDER, HTTP_CLIENT], ids=["provider", "http_client"])
def test_what_outlives_its_time_out_does_not_bring_python_down(program):
    for process in [start(program) for _ in range(ROUNDS)]:
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, output) == (0, "late\n"), errors


@pytest.mark.parametrize("program", [RENEWAL, PERSISTENCE, LOG], ids=["http_client", "persistence", "log"])
def test_what_goes_on_in_the_background_does_not_bring_python_down(location, program):
    app = strongroom.ConfidentialClientApplication(
        "c", "s3cret", AUTHORITY, http_client=WithOld(), token_cache=strongroom.FilePersistence(location)
    )
    assert app.acquire_token_for_client(["s/.default"])["access_token"] == "old"
    change_token(location, cached_at=-1000, refresh_on=-900)
    for _ in range(ROUNDS):
        process = start(program, location)
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, output) == (0, "late\n"), errors


class Old:
    status_code, headers, text = 200, {}, '{"access_token":"old","expires_in":7200,"refresh_in":3600}'


class WithOld:
    def post(self, url, **kwargs):
        return Old

    def get(self, url, **kwargs):
        raise OSError


@pytest.mark.skipif(sys.platform == "win32", reason="a process of Windows cannot be interrupted alone")
def test_ctrl_c_while_a_provider_is_called_does_not_bring_python_down():
    program = PROVIDER.replace("timeout=0.2", "timeout=60").replace("TimeoutError", "KeyboardInterrupt")
    waiting = "threading.Thread(target=lambda: (begun.wait(), print('begun', flush=True)), daemon=True).start()\n"
    for _ in range(ROUNDS):
        process = start(waiting + program)
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        os.kill(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, output) == (0, "late\n"), errors


def test_threads_that_live_on_after_the_main_one_are_served():
    program = """
class Http(Http):
    def post(self, url, **kwargs):
        return Answer
app = strongroom.ConfidentialClientApplication("c", {"client_assertion": lambda: "a.b.c"}, AUTHORITY, http_client=Http())
def ask():
    threading.main_thread().join()
    print(app.acquire_token_for_client(["s/.default"])["access_token"])
threading.Thread(target=ask).start()
"""
    process = start(program)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "new\n"), errors
