#!/usr/bin/env python3
"""Tokens that are added to a persisted cache by `add` alone, without a client: adds_python.py LIBRARY CACHE COUNT [PREFIX START]

LIBRARY: msal (msal-extensions), cache (Strongroom).  From START (Unix time) on, the tokens for PREFIX0/.default, PREFIX1/.default, …
Prints {"ms": median of an add, "min", "max", "cpu": milliseconds of the processor for one, "tokens", "errors"}.
"""
import json
import os
import statistics
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import make_cache

library, path, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
prefix, start = (sys.argv[4], float(sys.argv[5])) if len(sys.argv) > 4 else (f"api://new-{os.getpid()}-", 0)
if library == "msal":
    from msal_extensions import FilePersistence, PersistedTokenCache
else:
    from strongroom import FilePersistence, PersistedTokenCache


def event(i):
    return {
        "client_id": make_cache.CLIENT, "scope": [f"{prefix}{i}/.default"], "environment": "localhost",
        "token_endpoint": f"https://localhost/{make_cache.TENANT}/oauth2/v2.0/token", "grant_type": "client_credentials",
        "response": {"access_token": make_cache.secret(i), "expires_in": 3600, "ext_expires_in": 3600, "token_type": "Bearer"},
        "data": {}}


cache = PersistedTokenCache(FilePersistence(path))
next(iter(cache.search("AccessToken", query={"target": "nothing"})), None)   # the document is loaded
events = [event(i) for i in range(count)]
time.sleep(max(0, start - time.time()))
took, errors, began = [], [], time.process_time()
for one in events:
    t = time.perf_counter()
    try:
        cache.add(one)
    except Exception as e:  # what a caller would see
        errors.append(type(e).__name__)
    else:
        took.append((time.perf_counter() - t) * 1000)
print(json.dumps({"ms": round(statistics.median(took), 2), "min": round(min(took), 2), "max": round(max(took), 2),
                  "cpu": round((time.process_time() - began) / count * 1000, 2), "tokens": len(took), "errors": errors} if took else {"tokens": 0, "errors": errors}))
