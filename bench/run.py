#!/usr/bin/env python3
"""Measures the peers, and Strongroom beside them.  See README.md.

    bench/run cold|hit|add|miss|contend|crash|herd|succession|python|floors|all [--rounds R] [--quick] [--ours TEMPLATE]   (sets up first)
    .venv/bin/python run.py …                       (what bench/run calls)

One JSON line per measurement on stdout, then a table.
"""
import argparse
import json
import os
import random
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import ssl

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import make_cache

PY = os.path.join(HERE, ".venv", "bin", "python")
PY = PY if os.path.exists(PY) else sys.executable
NODE = shutil.which("node")
PEER = lambda name: os.path.join(HERE, "peers", name)
HAVE_NODE = NODE is not None and os.path.isdir(os.path.join(HERE, "node_modules", "@azure", "msal-node"))
HAVE_EXT = HAVE_NODE and os.path.isdir(os.path.join(HERE, "node_modules", "@azure", "msal-node-extensions"))
ROWS = []


def emit(row):
    print(json.dumps(row), flush=True)
    ROWS.append(row)


def spread(values, digits=2):
    v = sorted(values)
    r = lambda x: round(x, digits)
    return {"median": r(statistics.median(v)), "min": r(v[0]), "max": r(v[-1]), "runs": len(v)}


def table(rows):
    if not rows:
        return
    keys = []
    for row in rows:
        keys += [k for k in row if k not in keys]
    cells = [keys] + [["" if row.get(k) is None else str(row[k]) for k in keys] for row in rows]
    width = [max(len(line[i]) for line in cells) for i in range(len(keys))]
    print()
    for line in cells:
        print("  ".join(c.ljust(w) for c, w in zip(line, width)).rstrip())


class Bench:
    """A scratch folder on this disk, the STS, the configuration files, a clean environment."""

    def __init__(self, delay=0):
        os.makedirs(os.path.join(HERE, ".work"), exist_ok=True)
        self.dir = tempfile.mkdtemp(dir=os.path.join(HERE, ".work"), prefix="run-")
        self.env = {k: v for k, v in os.environ.items() if k not in (
            "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",     # override msal's verify=
            "PYTHONDONTWRITEBYTECODE", "NODE_OPTIONS")}  # would make a peer slower than it is
        self.sts = subprocess.Popen([PY, os.path.join(HERE, "sts.py"), "--state", os.path.join(HERE, ".work", "sts"),
                                     "--delay", str(delay)], stdout=subprocess.PIPE, env=self.env)
        info = json.loads(self.sts.stdout.readline())
        self.ca, self.port, self.authority = info["ca"], info["port"], info["authority"]
        self.env.update(NODE_EXTRA_CA_CERTS=self.ca, SSL_CERT_FILE=self.ca)
        self.tls = ssl.create_default_context(cafile=self.ca)
        self.config = self.write_config("config.json", self.authority)
        self.public = self.write_config("public.json", "https://login.microsoftonline.com/" + make_cache.TENANT)

    def write_config(self, name, authority):
        p = self.path(name)
        with open(p, "w") as f:
            json.dump({"authority": authority, "instance_discovery": False, "client_id": make_cache.CLIENT, "client_secret": "bench-secret",
                       "scope": [make_cache.scope(0)], "ca": self.ca}, f)
        os.chmod(p, 0o600)
        return p

    def path(self, name):
        return os.path.join(self.dir, name)

    def get(self, what):
        with urllib.request.urlopen(f"https://localhost:{self.port}/{what}", context=self.tls, timeout=10) as r:
            return json.load(r)

    def cache(self, n, dialect="python", environment=None):
        p = self.path(f"cache-{dialect}-{n}-{len(os.listdir(self.dir))}.bin")
        env = environment or {"python": "localhost", "twins": "localhost"}.get(dialect, f"localhost:{self.port}")
        make_cache.write(p, n, dialect, environment=env)
        os.chmod(p, 0o600)
        old = time.time() - 5   # not younger than the process that loads it
        os.utime(p, (old, old))
        return p

    def ours(self, template, **kw):
        known = dict(config=self.config, ca=self.ca, authority=self.authority, port=self.port, dir=self.dir,
                     scope=make_cache.scope(0), **kw) if "scope" not in kw else dict(
                     config=self.config, ca=self.ca, authority=self.authority, port=self.port, dir=self.dir, **kw)
        return [re.sub(r"\{(\w+)\}", lambda m: str(known.get(m[1], m[0])), word) for word in shlex.split(template)]

    def close(self):
        self.sts.terminate()
        self.sts.wait()
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *a):
        self.close()


DEVNULL = os.open(os.devnull, os.O_RDWR)


def timed(argv, env):
    """Wall ms and CPU ms of one process, start to end."""
    actions = [(os.POSIX_SPAWN_DUP2, DEVNULL, 0), (os.POSIX_SPAWN_DUP2, DEVNULL, 1), (os.POSIX_SPAWN_DUP2, DEVNULL, 2)]
    t = time.perf_counter()
    pid = os.posix_spawnp(argv[0], argv, env, file_actions=actions)
    _, status, usage = os.wait4(pid, 0)
    wall = (time.perf_counter() - t) * 1000
    if status:
        raise SystemExit(f"failed with {status}: {' '.join(argv)}")
    return wall, (usage.ru_utime + usage.ru_stime) * 1000


def compiled(name, b):
    """A C program of this folder, or None without a compiler."""
    out = b.path(name)
    return out if shutil.which("gcc") and not subprocess.run(
        ["gcc", "-O2", "-static", "-o", out, os.path.join(HERE, name + ".c")], stderr=subprocess.DEVNULL).returncode else None


def peak_mb(launcher, argv, env):
    """The peak memory of a process, of its own alone; None without the launcher."""
    if not launcher:
        return None
    p = subprocess.run([launcher, *argv], env=env, stdin=DEVNULL, stdout=DEVNULL, stderr=subprocess.PIPE, text=True)
    return round(int(p.stderr.split()[-1]) / 1024, 1)


def run_json(argv, env, timeout=300):
    p = subprocess.run(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout, text=True)
    for line in reversed(p.stdout.splitlines()):
        if line.startswith("{"):
            return json.loads(line)
    return {"errors": ["exit %d: %s" % (p.returncode, (p.stderr.strip().splitlines() or ["no output"])[-1][:120])]}


def compete(contenders, rounds, env):
    """Runs the contenders in turn, rounds times, so that noise strikes all alike."""
    results = {name: [] for name in contenders}
    for r in range(rounds + 1):
        for name, argv in contenders.items():
            sample = timed(argv() if callable(argv) else argv, env)
            if r:   # the first round only warms the page cache
                results[name].append(sample)
    return results


# --- cold -----------------------------------------------------------------------------------------

def cold(args):
    with Bench() as b:
        peak = compiled("peak", b)
        memory = lambda argv: statistics.median([peak_mb(peak, argv, b.env) for _ in range(3)]) if peak else None
        floors = {"/bin/true": ["/bin/true"], "python -c pass": [PY, "-c", "pass"], "node -e 0": [NODE, "-e", "0"],
                  "python -c 'import msal, msal_extensions'": [PY, "-c", "import msal, msal_extensions"],
                  "node, import msal-node only": [NODE, "--input-type=module", "-e", 'await import("@azure/msal-node")']}
        if not HAVE_NODE:
            floors = {name: argv for name, argv in floors.items() if not name.startswith("node")}
        os.chdir(HERE)
        for name, s in compete(floors, max(args.rounds, 7), b.env).items():
            emit({"bench": "cold", "who": name, **spread([x[0] for x in s]),
                  "cpu": round(statistics.median(x[1] for x in s), 1), "MB": memory(floors[name])})
        for n in args.sizes or ([1, 1000] if args.quick else [1, 100, 1000, 10000]):
            c = {"python (1 discovery request)": [PY, PEER("python_daemon.py"), b.config, b.cache(n)],
                 "node, extensions (1 discovery request)": [NODE, PEER("node_daemon.mjs"), b.config, b.cache(n, "node")],
                 "node, simple plugin, public cloud (no network)":
                     [NODE, PEER("node_daemon.mjs"), b.public, b.cache(n, "node", "login.windows.net"), "--plugin", "simple"]}
            if not HAVE_EXT:
                c.pop("node, extensions (1 discovery request)")
            if not HAVE_NODE:
                c.pop("node, simple plugin, public cloud (no network)")
            if args.ours:
                c["ours"] = b.ours(args.ours, cache=b.cache(n), n=n)
            b.get("__reset")
            res = compete(c, args.rounds, b.env)
            if b.get("__stats")["token"]:
                raise SystemExit("cold: a token was requested: not a hit")
            for name, s in res.items():
                emit({"bench": "cold", "who": name, "tokens": n, **spread([x[0] for x in s]),
                      "cpu": round(statistics.median(x[1] for x in s), 1), "MB": memory(c[name])})


# --- hit ------------------------------------------------------------------------------------------

def hit(args):
    with Bench() as b:
        for n in args.sizes or ([1, 1000] if args.quick else [1, 100, 1000, 10000, 100000]):
            runs = []
            for kind in ("memory", "persisted", "reload"):
                if kind != "reload" or n <= 10000:
                    runs.append(("python " + kind, [PY, PEER("hit_python.py"), b.config, b.cache(n), str(n), "--kind", kind]))
                if n <= 10000 and HAVE_EXT:
                    runs.append(("node " + kind, [NODE, PEER("hit_node.mjs"), b.config, b.cache(n, "node"), str(n), kind]))
                if args.ours:
                    runs.append(("ours " + kind, b.ours(args.ours, cache=b.cache(n), n=n, kind=kind, scope=make_cache.scope(n // 2))))
            for name, argv in runs:
                emit({"bench": "hit", "who": name, "tokens": n, "unit": "us", **run_json(argv, b.env)})


# --- add ------------------------------------------------------------------------------------------

def disk_traffic(argv, env, directory):
    """Bytes written below `directory`, and how often, by strace."""
    log = os.path.join(directory, "strace.log")
    subprocess.run(["strace", "-f", "-y", "-qq", "-o", log, "-e",
                    "trace=write,pwrite64,writev,fsync,fdatasync,rename,renameat,renameat2,openat,open"] + argv,
                   env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    out = {"bytes": 0, "writes": 0, "truncating_opens": 0, "renames": 0, "fsyncs": 0}
    with open(log, errors="replace") as f:
        for line in f:
            call = re.match(r"\d+ +(\w+)\(", line)
            if not call or directory not in line or "strace.log" in line:
                continue
            result = re.search(r"= (\d+)", line)
            if call[1] in ("write", "pwrite64", "writev") and result:
                out["bytes"] += int(result[1])
                out["writes"] += 1
            elif call[1].startswith("open") and "O_TRUNC" in line:
                out["truncating_opens"] += 1
            elif call[1].startswith("rename"):
                out["renames"] += 1
            elif call[1] in ("fsync", "fdatasync"):
                out["fsyncs"] += 1
    os.remove(log)
    return out


def add(args):
    with Bench() as b:
        for n in args.sizes or ([1, 1000] if args.quick else [1, 100, 1000, 10000]):
            emit({"bench": "add", "who": "python in process", "tokens": n,
                  **run_json([PY, PEER("add_python.py"), b.config, b.cache(n)], b.env)})
            if HAVE_EXT:
                emit({"bench": "add", "who": "node in process", "tokens": n,
                      **run_json([NODE, PEER("add_node.mjs"), b.config, b.cache(n, "node")], b.env)})
            if args.loop:
                emit({"bench": "add", "who": "ours in process", "tokens": n,
                      **run_json(b.ours(args.loop, cache=b.cache(n), n=n, kind="add"), b.env)})
            processes = {"python process": lambda s: [PY, PEER("python_daemon.py"), b.config, b.cache(n), "--scope", s]}
            if HAVE_EXT:
                processes["node process"] = lambda s: [NODE, PEER("node_daemon.mjs"), b.config, b.cache(n, "node"), "--scope", s]
            if args.ours:
                processes["ours process"] = lambda s: b.ours(args.ours, cache=b.cache(n), scope=s, n=n)
            for name, make in processes.items():
                samples = [timed(make(f"api://add-{i}/.default"), b.env)[0] for i in range(args.rounds)]
                row = {"bench": "add", "who": name, "tokens": n, "ms": round(statistics.median(samples), 2),
                       "min": round(min(samples), 2), "max": round(max(samples), 2)}
                if shutil.which("strace"):
                    row.update(disk_traffic(make("api://add-strace/.default"), b.env, b.dir))
                emit(row)


# --- miss ---

def miss(args):
    """A whole process that gets a token which is not in the cache, beside curl posting the same request."""
    with Bench() as b:
        count = iter(range(1_000_000))
        fresh = lambda: f"api://miss-{next(count)}/.default"
        post = lambda scope: ["curl", "-sS", "--cacert", b.ca, "-d", "client_info=1", "-d", "grant_type=client_credentials",
                              "-d", "client_id=" + make_cache.CLIENT, "-d", "client_secret=bench-secret", "--data-urlencode", "scope=" + scope,
                              b.authority + "/oauth2/v2.0/token"]
        python, node, ours, beside = b.cache(1), b.cache(1, "node"), b.cache(1), b.cache(1)

        def dead(argv):
            """With a lock file whose process is gone."""
            with open(beside + ".lockfile", "w") as f:
                f.write("999999")
            return argv

        c = {"python": lambda: [PY, PEER("python_daemon.py"), b.config, python, "--scope", fresh()]}
        if HAVE_EXT:
            c["node"] = lambda: [NODE, PEER("node_daemon.mjs"), b.config, node, "--scope", fresh()]
        if shutil.which("curl"):
            c["curl, the request alone"] = lambda: post(fresh())
        if args.ours:
            c["ours"] = lambda: b.ours(args.ours, cache=ours, scope=fresh())
            c["ours, a dead lock file"] = lambda: dead(b.ours(args.ours, cache=beside, scope=fresh()))
            c["ours, a hit"] = lambda: b.ours(args.ours, cache=ours, scope=make_cache.scope(0))
            c["ours, a hit, a dead lock file"] = lambda: dead(b.ours(args.ours, cache=beside, scope=make_cache.scope(0)))
        for name, s in compete(c, args.rounds if not args.quick else 3, b.env).items():
            emit({"bench": "miss", "who": name, "unit": "ms", **spread([x[0] for x in s]),
                  "cpu": round(statistics.median(x[1] for x in s), 1)})


# --- contend --------------------------------------------------------------------------------------

def targets(path):
    """The distinct scopes that are in a cache file, or None if it cannot be parsed."""
    try:
        with open(path) as f:
            return {e["target"].split(" ")[0] for e in json.load(f).get("AccessToken", {}).values()}
    except (OSError, ValueError):
        return None


def loop(template, b, cache, scopes):
    """A shell that runs our one-token command once per scope and counts failures."""
    lines = [" ".join(map(shlex.quote, b.ours(template, cache=cache, scope=s))) + " >/dev/null 2>&1 || e=$((e+1))" for s in scopes]
    return ["/bin/sh", "-c", "e=0\n" + "\n".join(lines) + f'\necho "{{\\"tokens\\": $(({len(scopes)}-e)), \\"errors\\": [$e]}}"; exit 0']


def said(job, limit):
    """The last line that a process prints."""
    try:
        return json.loads((job.communicate(timeout=limit)[0].strip() or "{}").splitlines()[-1])
    except subprocess.TimeoutExpired:
        job.kill()
        job.communicate()
        return {"errors": ["timeout"]}


def contend(args):
    k = args.tokens
    cases = [("python", 8, 0, 0), ("node", 0, 8, 0), ("python+node", 4, 4, 0)]
    if args.ours:
        cases += [("ours", 0, 0, 8), ("python+ours", 4, 0, 4), ("node+ours", 0, 4, 4)]
    with Bench() as b:
        for name, np, nn, no in cases:
            if nn and not HAVE_EXT or args.only not in (None, name):
                continue
            survived, wall, failed, reported, torn = [], [], [], [], 0
            for r in range(args.rounds if not args.quick else 2):
                cache = b.path(f"contend-{name}-{r}.bin")
                start = str(time.time() + 4)
                jobs = []
                for p in range(np + nn + no):
                    scopes = [f"api://p{p}-{i}/.default" for i in range(k)]
                    flags = sum((["--scope", s] for s in scopes), [])
                    if p < np:
                        argv = [PY, PEER("python_daemon.py"), b.config, cache, "--start-at", start] + flags
                    elif p < np + nn:
                        argv = [NODE, PEER("node_daemon.mjs"), b.config, cache, "--start-at", start] + flags
                    elif "{prefix}" in args.ours:   # one process, as with the peers
                        argv = b.ours(args.ours, cache=cache, n=k, prefix=f"api://p{p}-", start=start)
                    else:
                        argv = loop(args.ours, b, cache, scopes)
                        argv[2] = f"sleep $(awk 'BEGIN {{ d = {start} - '$(date +%s.%N)'; print (d > 0 ? d : 0) }}')\n" + argv[2]
                    jobs.append(subprocess.Popen(argv, env=b.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True))
                outs = [said(j, args.limit) for j in jobs]
                wall.append(time.time() - float(start))
                found = targets(cache)
                torn += found is None
                survived.append(len(found or ()))
                reported.append(sum(o.get("tokens", 0) for o in outs))
                failed += [e for o in outs for e in o.get("errors", []) if e]
            emit({"bench": "contend", "who": name, "processes": np + nn + no, "each": k, "asked": (np + nn + no) * k,
                  "returned": sorted(reported), "in_file": sorted(survived), "unparseable": torn,
                  "wall_s": spread(wall), "errors": {e: failed.count(e) for e in map(str, sorted(set(map(str, failed))))} or None})


# --- crash ----------------------------------------------------------------------------------------

def crash(args):
    cases = [("python", args.kills or (10 if args.quick else 100)), ("node", args.kills or (5 if args.quick else 30))]
    if args.ours:
        cases.append(("ours", args.kills or (10 if args.quick else 100)))
    with Bench() as b:
        for name, kills in cases:
            if name == "node" and not HAVE_EXT or args.only not in (None, name):
                continue
            torn = empty = lost = acknowledged = vanished = locks = stuck = 0
            dialect = "node" if name == "node" else "python"
            rng = random.Random(7)
            seed = b.cache(args.big, dialect)
            for i in range(kills):
                cache, ack = b.path("crash.bin"), b.path("crash.ack")
                for p in (cache + ".lockfile", ack):
                    if os.path.exists(p):
                        os.remove(p)
                shutil.copy2(seed, cache)
                scopes = [f"api://crash-{i}-{j}/.default" for j in range(200)]
                flags = sum((["--scope", s] for s in scopes), [])
                if name == "python":
                    argv = [PY, PEER("python_daemon.py"), b.config, cache, "--ack", ack] + flags
                elif name == "node":
                    argv = [NODE, PEER("node_daemon.mjs"), b.config, cache, "--ack", ack] + flags
                else:
                    argv = ["/bin/sh", "-c", "\n".join(
                        " ".join(map(shlex.quote, b.ours(args.ours, cache=cache, scope=s))) +
                        f" >/dev/null 2>&1 && echo {shlex.quote(s)} >> {shlex.quote(ack)}" for s in scopes)]
                p = subprocess.Popen(argv, env=b.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
                limit = time.time() + 20
                while not (os.path.exists(ack) and os.path.getsize(ack)) and time.time() < limit and p.poll() is None:
                    time.sleep(0.002)
                if not os.path.exists(ack):
                    stuck += 1
                time.sleep(rng.uniform(0, 0.4))
                try:
                    os.killpg(p.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                p.wait()
                acked = set(open(ack).read().split()) if os.path.exists(ack) else set()
                acknowledged += len(acked)
                locks += os.path.exists(cache + ".lockfile")
                found = targets(cache)
                if found is None:
                    torn += 1
                    empty += os.path.getsize(cache) == 0 if os.path.exists(cache) else 1
                    lost += len(acked)
                    vanished += args.big
                else:
                    lost += len(acked - found)
                    vanished += args.big - len({t for t in found if t.startswith("api://bench-")})
            row = {"bench": "crash", "who": name, "tokens": args.big, "kills": kills, "unparseable": torn, "of_it_empty": empty,
                   # empty: a peer starts over silently; half a document: it fails until a person deletes it
                   "acknowledged": acknowledged, "acknowledged_lost": lost, "old_tokens_lost": vanished, "lockfile_left": locks,
                   "no_progress": stuck}
            emit(row)
        if args.only and args.only != "ours":
            return
        # What the next start does with a torn file.
        if not args.only:
            torn_file = b.cache(args.big)
            os.truncate(torn_file, os.path.getsize(torn_file) // 2)
            t = time.time()
            r = run_json([PY, PEER("python_daemon.py"), b.config, torn_file], b.env)
            emit({"bench": "crash", "who": "python, next start on a torn file", "errors": r.get("errors"), "seconds": round(time.time() - t, 2)})
            left = b.cache(1)
            open(left + ".lockfile", "w").write("999999 python")
            t = time.time()
            r = run_json([PY, PEER("python_daemon.py"), b.config, left, "--scope", "api://fresh/.default"], b.env)
            emit({"bench": "crash", "who": "python, next miss with a dead lockfile", "errors": r.get("errors"), "seconds": round(time.time() - t, 2)})
        if HAVE_EXT and not args.only:
            torn_file = b.cache(args.big, "node")
            os.truncate(torn_file, os.path.getsize(torn_file) // 2)
            r = run_json([NODE, PEER("node_daemon.mjs"), b.config, torn_file], b.env)
            emit({"bench": "crash", "who": "node, next start on a torn file", "errors": r.get("errors")})
            left = b.cache(1, "node")
            open(left + ".lockfile", "w").write("999999")
            t = time.time()
            r = run_json([NODE, PEER("node_daemon.mjs"), b.config, left, "--scope", "api://fresh/.default"], b.env)
            emit({"bench": "crash", "who": "node, next miss with a dead lockfile", "errors": r.get("errors"), "seconds": round(time.time() - t, 2)})
        if args.ours:
            torn_file = b.cache(args.big)
            os.truncate(torn_file, os.path.getsize(torn_file) // 2)
            t = time.time()
            code = subprocess.run(b.ours(args.ours, cache=torn_file), env=b.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
            emit({"bench": "crash", "who": "ours, next start on a torn file", "exit": code, "seconds": round(time.time() - t, 2)})
            left = b.cache(1)
            open(left + ".lockfile", "w").write("999999")
            t = time.time()
            code = subprocess.run(b.ours(args.ours, cache=left, scope="api://fresh/.default"), env=b.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
            emit({"bench": "crash", "who": "ours, next miss with a dead lockfile", "exit": code, "seconds": round(time.time() - t, 2)})


# --- herd -----------------------------------------------------------------------------------------

def herd(args):
    p, t, scope, delay = args.processes, 8, "api://herd/.default", 200
    with Bench(delay=delay) as b:
        cases = [("python", lambda c, s: [PY, PEER("python_daemon.py"), b.config, c, "--scope", scope, "--threads", str(t), "--start-at", s])]
        if HAVE_EXT:
            node = lambda c, s: [NODE, PEER("node_daemon.mjs"), b.config, c, "--scope", scope, "--warm", "--parallel", str(t), "--start-at", s]
            cases.append(("node, extensions", node))
            cases.append(("node, simple plugin", lambda c, s: node(c, s) + ["--plugin", "simple"]))
        if args.ours:   # our command starts `{threads}` askers itself, or the template is run p*t times
            cases.append(("ours", lambda c, s: b.ours(args.ours, cache=c, scope=scope, threads=t, start=s)))
        for name, make in cases:
            if args.only not in (None, name):
                continue
            requests, wall, beyond, failed = [], [], [], []
            for r in range(args.rounds if not args.quick else 2):
                cache = b.cache(1, "node" if name.startswith("node") else "python")
                b.get("__reset")
                alone = name == "ours" and "{threads}" not in args.ours   # a process for each caller, begun at once
                copies = p * t if alone else p
                start = time.time() + (0 if alone else 3 if name == "ours" else 9 if name.startswith("node") else 6)
                ends = []
                jobs = [subprocess.Popen(make(cache, str(start)), env=b.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                        for _ in range(copies)]
                for j in jobs:
                    out = j.communicate(timeout=args.limit)[0].strip()
                    if not alone:
                        said = json.loads(out.splitlines()[-1]) if out else {"errors": ["no output"]}
                        failed += said.get("errors", [])
                        ends.append(said.get("end", 0))
                    elif j.returncode:
                        failed.append(f"exit {j.returncode}")
                wall.append(time.time() - start)
                beyond.append((max(ends, default=0) - start) * 1000 - delay)
                requests.append(b.get("__stats")["token"])
            emit({"bench": "herd", "who": name, "processes": p, "threads": t, "token_requests": spread(requests),
                  "wall_s": spread(wall),
                  # Of callers that all ask at one moment: until the last one has its token, without the provider's time.
                  "beyond_ms": spread(beyond, 1) if beyond and max(beyond) > -delay else None,
                  "errors": {e: failed.count(e) for e in sorted(set(failed))} or None})


# --- python ---------------------------------------------------------------------------------------

def python(args):
    """Strongroom's package for Python beside msal and msal-extensions."""
    if subprocess.run([PY, "-c", "import strongroom"], stderr=subprocess.DEVNULL).returncode:
        raise SystemExit("python: the package is not installed: bench/run python builds it")
    sizes = args.sizes or ([1, 1000] if args.quick else [1, 1000, 100000])
    for name, part in {"start": python_start, "hit": python_hit, "add": python_add, "contend": python_contend}.items():
        if args.only in (None, name):
            with Bench() as b:
                part(args, b, sizes)


def python_start(args, b, sizes):
    """Whole processes, with one token in the cache."""
    os.chdir(b.dir)   # `-c` puts the current folder first on the path: an empty one
    path = b.cache(1)
    warm = lambda library: [PY, PEER("warm_python.py"), library, make_cache.CLIENT, "bench-secret", b.authority, b.ca, make_cache.scope(0), path]
    c = {"python -c pass": [PY, "-c", "pass"], "import strongroom": [PY, "-c", "import strongroom"],
         "a token: msal, msal-extensions": warm("msal"), "a token: msal, our cache": warm("cache"),
         "a token: our client": warm("client")}
    for name, s in compete(c, 3 if args.quick else max(args.rounds, 15), b.env).items():
        emit({"bench": "python", "what": "start", "who": name, "unit": "ms", **spread([x[0] for x in s]),
              "cpu": round(statistics.median(x[1] for x in s), 1)})


def python_hit(args, b, sizes):
    for n in sizes:
        rows = run_json([PY, PEER("hits_python.py"), b.config, b.cache(n), str(n)], b.env)
        bare = rows["msal, a cache that does nothing"]["us"]
        for name, row in rows.items():
            if "cache_us" in row:
                row["share_of_msal"] = f"{row['cache_us'] / bare:.0%}"
            emit({"bench": "python", "what": "hit", "who": name, "tokens": n, "unit": "us", **row})


def python_add(args, b, sizes):
    count = 7 if args.quick else 25
    for n in [n for n in sizes if n <= 10000]:
        for who, library in (("msal-extensions", "msal"), ("ours", "cache")):
            argv = lambda path: [PY, PEER("adds_python.py"), library, path, str(count)]
            samples = [run_json(argv(b.cache(n)), b.env) for _ in range(1 if args.quick else 5)]
            row = {"bench": "python", "what": "add", "who": who, "tokens": n, "unit": "ms", **spread([s["ms"] for s in samples]),
                   "least": min(s["min"] for s in samples), "cpu": statistics.median(s["cpu"] for s in samples)}
            if shutil.which("strace"):
                row.update(per_add(argv, b, n, count))
            emit(row)


def per_add(argv, b, n, count):
    """How often an add takes the lock and replaces the file, by what it does to both of them."""
    path, log = b.cache(n), b.path("strace.log")
    subprocess.run(["strace", "-f", "-qq", "-o", log, "-e", "trace=unlink,unlinkat,rename,renameat,renameat2,open,openat,fsync,fdatasync"] + argv(path),
                   env=b.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with open(log, errors="replace") as f:
        calls = [line for line in f if re.search(r"= \d+", line)]
    quoted = '"' + path + '"'
    count_of = lambda is_one: round(sum(map(is_one, calls)) / count, 2)
    return {"lock_cycles": count_of(lambda c: "unlink" in c and path + ".lockfile" in c),
            "saves": count_of(lambda c: quoted in c and ("O_TRUNC" in c or "rename" in c)),
            "fsyncs": count_of(lambda c: "sync(" in c)}


def python_contend(args, b, sizes):
    """8 processes, one file: `add` alone, and whole applications that ask our token endpoint."""
    k, rounds = args.tokens, 2 if args.quick else args.rounds
    daemon = lambda library, *flags: lambda path, p, start: (
        [PY, PEER("python_daemon.py"), b.config, path, "--library", library, "--start-at", start, *flags]
        + sum((["--scope", f"api://p{p}-{i}/.default"] for i in range(k)), []))
    adds = lambda library: lambda path, p, start: [PY, PEER("adds_python.py"), library, path, str(k), f"api://p{p}-", start]
    cases = {"add: msal-extensions": adds("msal"), "add: ours": adds("cache"),
             "application: msal, msal-extensions": daemon("msal"), "application: msal, our cache": daemon("cache"),
             "application: our client": daemon("client"),
             # What the applications and our token endpoint take for themselves: a cache for each process, no file.
             "application: msal, in memory": daemon("msal", "--memory"), "application: our client, in memory": daemon("client", "--memory")}
    runs = {name: [] for name in cases}
    for r in range(rounds):
        for name, make in cases.items():
            path, start = b.path(f"contend-{len(os.listdir(b.dir))}.bin"), time.time() + 4
            jobs = [subprocess.Popen(make(path, p, str(start)), env=b.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                    for p in range(8)]
            outs = [said(j, args.limit) for j in jobs]
            runs[name].append((time.time() - start, sum(o.get("tokens", 0) for o in outs), len(targets(path) or ()),
                               [e for o in outs for e in o.get("errors", [])]))
    for name, of in runs.items():
        failed = sum((errors for *_, errors in of), [])
        emit({"bench": "python", "what": "contend", "who": name, "asked": 8 * k, "returned": sorted(x[1] for x in of),
              "in_file": sorted(x[2] for x in of), "unit": "s", **spread([x[0] for x in of]),
              "errors": {e: failed.count(e) for e in sorted(set(map(str, failed)))} or None})


# --- succession -----------------------------------------------------------------------------------

def succession(args):
    """Two processes want the same missing token; who leads is killed. How long until the provider is asked by the other."""
    if not args.ours:
        return
    with Bench(delay=10_000) as b:
        took, lasted = [], []
        for r in range(args.rounds):
            cache, scope = b.cache(1), f"api://succession-{r}/.default"
            b.get("__reset")
            b.get("__delay?ms=10000")
            begin = lambda: subprocess.Popen(b.ours(args.ours, cache=cache, scope=scope), env=b.env, stdout=subprocess.DEVNULL)
            requests = lambda: b.get("__stats")["token"]
            leader = begin()
            while requests() < 1:
                time.sleep(0.01)
            follower = begin()
            time.sleep(0.5)      # it waits in the kernel by now
            b.get("__delay?ms=0")
            if requests() != 1:
                raise SystemExit("succession: the second one did not wait")
            killed = time.time()
            leader.kill()
            follower.wait(timeout=args.limit)
            lasted.append((time.time() - killed) * 1000)
            leader.wait()
            took.append((b.get("__stats")["at"] - killed) * 1000)
        emit({"bench": "succession", "who": "ours, killed until asked again", "unit": "ms", **spread(took, 1)})
        emit({"bench": "succession", "who": "ours, killed until the other has the token", "unit": "ms", **spread(lasted, 1)})


# --- floors ---------------------------------------------------------------------------------------

def floors(args):
    with Bench() as b:
        starts = {"/bin/true": ["/bin/true"]}
        with open(b.path("empty.c"), "w") as f:
            f.write("int main(void) { return 0; }\n")
        with open(b.path("empty.rs"), "w") as f:
            f.write("fn main() {}\n")
        for name, cmd in {"empty C, dynamic": ["gcc", "-O2", "empty.c", "-o", "c-dyn"],
                          "empty C, static": ["gcc", "-O2", "-static", "empty.c", "-o", "c-static"],
                          "empty Rust": ["rustc", "-O", "empty.rs", "-o", "rs"],
                          "empty Rust, static": ["rustc", "-O", "-C", "target-feature=+crt-static", "empty.rs", "-o", "rs-static"]}.items():
            if shutil.which(cmd[0]) and not subprocess.run(cmd, cwd=b.dir, stderr=subprocess.DEVNULL).returncode:
                starts[name] = [b.path(cmd[-1])]
        for name, s in compete(starts, 100, b.env).items():
            emit({"bench": "floors", "who": "start: " + name, "unit": "ms", **spread([x[0] for x in s], 3)})
        if shutil.which("gcc") and not subprocess.run(["gcc", "-O2", "-o", b.path("floors"), os.path.join(HERE, "floors.c")]).returncode:
            one = b.cache(1)
            p = subprocess.run([b.path("floors"), b.dir, one], stdout=subprocess.PIPE, text=True)
            for line in p.stdout.splitlines():
                row = json.loads(line)
                emit({"bench": "floors", "who": row["floor"], "unit": "us", "median": row["us"], "min": row["min"], "max": row["max"]})
        for algorithm in ("aes-256-gcm", "sha256"):
            for size in ("2048", "16384"):
                speeds = []
                for _ in range(5):
                    p = subprocess.run(["openssl", "speed", "-seconds", "1", "-bytes", size, "-evp", algorithm],
                                       stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                    speeds.append(float(re.search(r"([\d.]+)k\s*$", p.stdout.strip())[1]) / 1000)
                emit({"bench": "floors", "who": f"{algorithm}, {size} B blocks", "unit": "MB/s", **spread(speeds, 0)})
        tls = subprocess.Popen(["openssl", "s_server", "-quiet", "-www", "-naccept", "1000000",
                                "-cert", os.path.join(HERE, ".work", "sts", "leaf.pem"),
                                "-key", os.path.join(HERE, ".work", "sts", "leaf.key"), "-accept", str(b.port + 1)],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.5)
        for name, port in (("TLS 1.3 handshake with sts.py (Python)", b.port), ("TLS 1.3 handshake with openssl s_server", b.port + 1)):
            per = []
            for _ in range(5):
                p = subprocess.run(["openssl", "s_time", "-connect", f"localhost:{port}", "-new", "-time", "1", "-tls1_3"],
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=b.env)
                m = re.search(r"(\d+) connections in (\d+) real seconds", p.stdout)
                if m and int(m[1]):
                    per.append(int(m[2]) * 1000 / int(m[1]))
            if per:
                emit({"bench": "floors", "who": name, "unit": "ms", **spread(per, 3)})
        tls.terminate()
        tls.wait()
        if shutil.which("curl"):
            post = ["curl", "-sS", "--cacert", b.ca, "-d", "grant_type=client_credentials&client_id=x&client_secret=y&scope=z",
                    b.authority + "/oauth2/v2.0/token"]
            for name, s in compete({"curl: process, TLS handshake, token request": post}, 15, b.env).items():
                emit({"bench": "floors", "who": name, "unit": "ms", **spread([x[0] for x in s])})


ALL = {"floors": floors, "cold": cold, "hit": hit, "add": add, "miss": miss, "contend": contend, "crash": crash, "herd": herd,
       "succession": succession, "python": python}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("what", choices=[*ALL, "all"])
    ap.add_argument("--ours", help="command template, see README.md")
    ap.add_argument("--loop", help="add: template of a program that adds in one process")
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--quick", action="store_true", help="smaller sizes, for a look")
    ap.add_argument("--sizes", type=lambda s: [int(x) for x in s.split(",")], help="cold, hit, add, python: tokens in the file")
    ap.add_argument("--tokens", type=int, default=25, help="contend, python: tokens per process")
    ap.add_argument("--only", help="contend, crash, herd: the one case with this name; python: start, hit, add or contend")
    ap.add_argument("--processes", type=int, default=16, help="herd")
    ap.add_argument("--kills", type=int, help="crash: how many (default 100; node 30)")
    ap.add_argument("--big", type=int, default=2000, help="crash: tokens in the file")
    ap.add_argument("--limit", type=float, default=120, help="seconds before a stuck process is killed")
    args = ap.parse_args()
    if args.what == "all" and args.ours:
        ap.error("--ours differs per subcommand: run them one by one")
    for name in [name for name in ALL if name != "python"] if args.what == "all" else [args.what]:
        start = len(ROWS)
        ALL[name](args)
        table(ROWS[start:])


if __name__ == "__main__":
    main()
