"""What daemons do to each other and what happens to them: many at once, with msal_extensions among them, and killed.

Each is a process of its own with the real ``msal``. What a provider answers is made up, so that there are enough scopes.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import time

import pytest

import strongroom

pytest.importorskip("msal")

LONG = bool(os.environ.get("STRONGROOM_TEST_LONG"))
# Set for all interpreters but the first, where the same again would tell nothing new.
BRIEF = bool(os.environ.get("STRONGROOM_TEST_BRIEF"))
PROCESSES, TOKENS = (3, 5) if BRIEF else (8, 25)

# Arguments: where the cache is, of what kind, and what the scopes begin with.
DAEMON = """
import json, os, sys
import msal

location, kind, name = sys.argv[1:4]
more = {}
if kind == "theirs":
    import msal_extensions
else:
    import strongroom as msal_extensions
    more = {"lock_timeout": 120}
if kind == "sealed":
    persistence = msal_extensions.build_encrypted_persistence(location)
else:
    persistence = msal_extensions.FilePersistence(location)
cache = msal_extensions.PersistedTokenCache(persistence, **more)

class Provider:
    '''Gives everybody everything.'''

    class Answer:
        status_code, headers = 200, {}

        def __init__(self, **content):
            self.text = json.dumps(content)

        def raise_for_status(self):
            pass

    def get(self, url, **kwargs):
        host = "https://login.microsoftonline.com/tenant"
        return self.Answer(authorization_endpoint=host, token_endpoint=f"{host}/oauth2/v2.0/token", issuer=host)

    def post(self, url, data=None, **kwargs):
        return self.Answer(access_token=f"token for {data['scope']}", expires_in=3600, token_type="Bearer")

    def close(self):
        pass

app = msal.ConfidentialClientApplication(
    "client",
    client_credential="secret",
    authority="https://login.microsoftonline.com/tenant",
    instance_discovery=False,
    http_client=Provider(),
    token_cache=cache,
)

def scope(number):
    return f"api://{name}/{number}/.default"

def fetch(number):
    result = app.acquire_token_for_client([scope(number)])
    assert result["access_token"] == f"token for {scope(number)}", result
    return result["token_source"]
"""


def start(program, *arguments):
    command = [sys.executable, "-c", DAEMON + program, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def run(program, *arguments):
    process = start(program, *arguments)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output


def scopes_in(location):
    with open(location, encoding="utf-8") as file:
        return {entry["target"] for entry in json.load(file)["AccessToken"].values()}


def scopes_of(side, processes=PROCESSES, tokens=TOKENS):
    return {f"api://{side}-{n}/{m}/.default" for n in range(processes) for m in range(tokens)}


@pytest.mark.parametrize("kind", ["file", "sealed"])
def test_many_processes_lose_nothing(location, kind):
    # Sealing makes no difference to the locks.
    processes, tokens = (PROCESSES, TOKENS) if kind == "file" else (3, 5)
    program = f"assert {{fetch(number) for number in range({tokens})}} == {{'identity_provider'}}"
    running = [start(program, location, kind, f"ours-{n}") for n in range(processes)]
    for process in running:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    if kind == "file":
        assert scopes_in(location) == scopes_of("ours")
    program = f"print([fetch(number) for number in range({tokens})].count('cache'))"
    assert [run(program, location, kind, f"ours-{n}") for n in range(3)] == [f"{tokens}\n"] * 3
    left = sorted(os.listdir(os.path.dirname(location)))
    assert left == ["home", "token_cache.bin", "token_cache.bin.lock"]


BESIDE = """
import select, time
from collections import Counter

outcomes = Counter()
for number in range(int(sys.argv[4])):
    try:
        fetch(number)
        outcomes["stored"] += 1
    except Exception as error:
        # What they fail at is theirs.
        if kind != "theirs":
            raise
        outcomes[type(error).__name__] += 1
if kind != "theirs":
    # As a daemon does, it goes on looking for its tokens, and puts back what a peer has erased; at last when no peer
    # writes any more.
    mine = {scope(number) for number in range(int(sys.argv[4]))}
    look = lambda: mine <= {entry["target"] for entry in cache.search("AccessToken")}
    while not select.select([sys.stdin], [], [], 0.05)[0]:
        look()
    deadline = time.monotonic() + 60
    while not look():
        assert time.monotonic() < deadline, "lost"
        time.sleep(0.05)
print(dict(outcomes))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe cannot be waited for there")
def test_beside_msal_extensions_nothing_of_ours_is_lost(location, capsys):
    pytest.importorskip("msal_extensions")
    pytest.importorskip("portalocker")
    running = {
        (side, n): start(BESIDE, location, side, f"{side}-{n}", TOKENS)
        for n in range(PROCESSES)
        for side in ("ours", "theirs")
    }
    theirs = []
    # Theirs first: ours live on until they have ended.
    for (side, _), process in sorted(running.items(), reverse=True):
        output, errors = process.communicate("done" if side == "ours" else None, timeout=300)
        assert side == "theirs" or process.returncode == 0, errors
        if side == "theirs":
            theirs.append(output.strip())
    found = scopes_in(location)
    assert scopes_of("ours") <= found
    kept = len(scopes_of("theirs") & found)
    with capsys.disabled():
        print(f"\nof {PROCESSES * TOKENS} tokens of msal_extensions {kept} are left; its processes: {', '.join(theirs)}")


WRITER = """
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[4]), 10**9):
    fetch(number)
    # What was acknowledged must not be lost.
    print(number, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe cannot be waited for there")
@pytest.mark.parametrize("kind", ["file", "sealed"])
def test_a_writer_that_is_killed_loses_nothing_that_was_acknowledged(location, kind):
    rounds = 100 if LONG else 1 if BRIEF else 4
    next_number = 0
    for _ in range(rounds):
        process = start(WRITER, location, kind, "killed", next_number)
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        process.stdin.write("go\n")
        process.stdin.flush()
        # Any moment will do: hundreds of them are tried in the long run.
        for _ in range(random.randrange(4)):
            process.stdout.readline()
        select.select([], [], [], random.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
        next_number = max([next_number, *(int(line) + 1 for line in output.split("\n") if line)])
        if kind == "file" and os.path.exists(location):
            assert isinstance(json.loads(open(location, encoding="utf-8").read() or "{}"), dict), "it is never torn"
        # The next start: what was acknowledged is there, and it can be written to at once.
        program = "print([fetch(number) for number in range(int(sys.argv[4]))].count('cache')); fetch(10**9)"
        assert run(program, location, kind, "killed", next_number) == f"{next_number}\n"
    assert not [name for name in os.listdir(os.path.dirname(location)) if ".corrupt-" in name]


KILLED = """
import signal

class Killed(type(persistence)):
    '''One whose process does not survive a certain save.'''

    def save(self, content):
        if sys.argv[4] == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        super().save(content)
        if sys.argv[4] == "after":
            os.kill(os.getpid(), signal.SIGKILL)

fetch(0)
app.token_cache = msal_extensions.PersistedTokenCache(Killed(location))
fetch(1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("kind", ["file", "sealed"])
@pytest.mark.parametrize("moment, found", [("before", 1), ("after", 2)])
def test_a_writer_that_is_killed_under_the_lock_leaves_the_state_before_or_after(location, kind, moment, found):
    process = start(KILLED, location, kind, "killed", moment)
    process.communicate(timeout=60)
    assert process.returncode == -9
    # It had the lock, and its lock file is still there.
    assert os.path.exists(location + ".lockfile")
    program = "print([fetch(number) for number in range(3)].count('cache'))"
    assert run(program, location, kind, "killed") == f"{found}\n"
    assert not os.path.exists(location + ".lockfile")


HOLDER = """
with msal_extensions.CrossPlatLock(location + ".lockfile"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_who_waits_for_a_lock_whose_holder_is_killed_gets_it(location):
    holder = start(HOLDER, location, "file", "x")
    assert holder.stdout.readline() == "held\n"
    waiting = start("print('waiting', flush=True)\nprint(fetch(0))", location, "file", "x")
    assert waiting.stdout.readline() == "waiting\n"
    while not os.path.exists(location + ".lock"):
        assert waiting.poll() is None
        time.sleep(0.01)
    holder.kill()
    # A process that nobody has asked for its end still seems to live.
    holder.wait()
    output, errors = waiting.communicate(timeout=60)
    assert (waiting.returncode, output) == (0, "identity_provider\n"), errors


def in_pool(number, location=None):
    """What a worker does with a cache of its own, or with that of its parent."""
    from conftest import app_token_event, app_token_query

    cache = _inherited if location is None else strongroom.PersistedTokenCache(strongroom.FilePersistence(location))
    cache.add(app_token_event(f"worker-{number}"))
    return len(list(cache.search("AccessToken", target=["s1"], query=app_token_query(f"worker-{number}"))))


_inherited = None


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_multiprocessing_use_the_cache_of_a_file(method, location, monkeypatch):
    import multiprocessing

    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"there is no {method} on this platform")
    from conftest import app_token_event

    cache = strongroom.PersistedTokenCache(strongroom.FilePersistence(location))
    cache.add(app_token_event("parent"))
    # A child finds its own modules and the test's.
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    with multiprocessing.get_context(method).Pool(3) as pool:
        assert pool.starmap(in_pool, [(number, location) for number in range(9)]) == [1] * 9
        # It does not go to another process; there one makes its own.
        with pytest.raises(TypeError, match="cannot be pickled"):
            pool.apply(print, (cache,))
    assert len(list(cache.search("AccessToken"))) == 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this platform")
def test_workers_that_are_forked_use_the_cache_of_their_parent(location, monkeypatch):
    import multiprocessing

    from conftest import app_token_event

    cache = strongroom.PersistedTokenCache(strongroom.FilePersistence(location))
    cache.add(app_token_event("parent"))
    monkeypatch.setattr(sys.modules[__name__], "_inherited", cache)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map(in_pool, range(9)) == [1] * 9
    assert len(list(cache.search("AccessToken"))) == 10
