#!/usr/bin/env python3
"""What a hit costs in Python, and which share of it is the cache's: hits_python.py CONFIG CACHE N

Processor time, which other work of the machine changes little: a hit waits for nothing.  Applications that differ by their
cache alone take turns, batch by batch, in one process, so that noise strikes all alike.  One of them has a cache that does nothing: its `search` hands out an entry that was prepared.  What another
takes longer than that one is what its cache costs.  `search_us` is `search` alone, with MSAL's own arguments.
Prints one JSON line: {"NAME": {"us", "min", "max", "cache_us", "search_us"}}.
"""
import json
import os
import statistics
import sys
import time

os.environ.pop("REQUESTS_CA_BUNDLE", None)  # they would override verify=
os.environ.pop("CURL_CA_BUNDLE", None)

import msal
import msal_extensions
import strongroom

BATCHES, BATCH = 41, 1000


class Nothing(msal.SerializableTokenCache):
    """A cache that costs nothing."""

    entry = None

    def search(self, credential_type, **kwargs):
        return iter((self.entry,))


def main():
    with open(sys.argv[1]) as f:
        config = json.load(f)
    path, n = sys.argv[2], int(sys.argv[3])
    scopes = [f"api://bench-{n // 2}/.default"]
    asked = {}

    class Asked(Nothing):
        """Keeps what MSAL asks."""

        def search(self, credential_type, **kwargs):
            asked.update(kwargs)
            return iter((self.entry,))

    memory = msal.SerializableTokenCache()
    with open(path) as f:
        memory.deserialize(f.read())
    Nothing.entry = next(e for e in memory._cache["AccessToken"].values() if e["target"] == scopes[0])
    caches = {
        "msal, a cache that does nothing": Nothing(),
        "msal, in memory": memory,
        "msal, msal-extensions": msal_extensions.PersistedTokenCache(msal_extensions.FilePersistence(path)),
        "msal, ours": strongroom.PersistedTokenCache(strongroom.FilePersistence(path)),
    }
    build = lambda client, cache: client(
        config["client_id"], client_credential=config["client_secret"], authority=config["authority"],
        instance_discovery=False, token_cache=cache, verify=config["ca"])
    apps = {name: build(msal.ConfidentialClientApplication, cache) for name, cache in caches.items()}
    build(msal.ConfidentialClientApplication, Asked()).acquire_token_for_client(scopes=scopes)
    apps["our client"] = build(strongroom.ConfidentialClientApplication, strongroom.FilePersistence(path))

    loops = {(name, "us"): lambda app=app: app.acquire_token_for_client(scopes=scopes)["access_token"]
             for name, app in apps.items()}
    for name, cache in caches.items():
        loops[name, "search_us"] = lambda cache=cache: next(cache.search("AccessToken", **asked))["secret"]
    for call in loops.values():
        assert call() == Nothing.entry["secret"]
        time.sleep(0.2)   # until the time of the file is old enough to be believed
    samples = {loop: [] for loop in loops}
    for batch in range(BATCHES + 1):
        for loop, call in loops.items():
            t = time.thread_time()
            for _ in range(BATCH):
                call()
            if batch:
                samples[loop].append((time.thread_time() - t) / BATCH * 1e6)
    rows = {}
    for (name, what), values in samples.items():
        row = rows.setdefault(name, {})
        row[what] = round(statistics.median(values), 2)
        if what == "us":
            row.update(min=round(min(values), 2), max=round(max(values), 2))
            beyond = [a - b for a, b in zip(values, samples["msal, a cache that does nothing", "us"])]
            if name in caches:
                row["cache_us"] = round(statistics.median(beyond), 2)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
