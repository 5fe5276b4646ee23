#!/usr/bin/env python3
"""A whole process that has one token of a warm cache: warm_python.py LIBRARY CLIENT SECRET AUTHORITY CA SCOPE CACHE

LIBRARY: msal (with msal-extensions), cache (msal with Strongroom's cache), client (Strongroom's client alone).
"""
import sys

library, client_id, secret, authority, ca, scope, path = sys.argv[1:]
if library == "msal":
    from msal import ConfidentialClientApplication
    from msal_extensions import FilePersistence, PersistedTokenCache
    cache = PersistedTokenCache(FilePersistence(path))
elif library == "cache":
    from msal import ConfidentialClientApplication
    from strongroom import FilePersistence, PersistedTokenCache
    cache = PersistedTokenCache(FilePersistence(path))
else:
    from strongroom import ConfidentialClientApplication, FilePersistence
    cache = FilePersistence(path)

app = ConfidentialClientApplication(
    client_id, client_credential=secret, authority=authority, instance_discovery=False, token_cache=cache, verify=ca)
result = app.acquire_token_for_client(scopes=[scope])
assert result["token_source"] == "cache", result
