"""A daemon with the real msal and msal-extensions.

    client.py [--gate] CONFIG CACHE CA SCOPE...     gets a token for each scope, prints a JSON object a line

As the older samples do it: acquire_token_silent first, then acquire_token_for_client.  --gate: says "ready" and waits
for a line first; what goes wrong with one token is printed, and the next one asked for.
"""
import json
import os
import sys

os.environ.pop("REQUESTS_CA_BUNDLE", None)  # they would override verify=
os.environ.pop("CURL_CA_BUNDLE", None)

import msal
from msal_extensions import FilePersistence, PersistedTokenCache

gate = sys.argv[1] == "--gate"
config_path, cache_path, ca, *scopes = sys.argv[2 if gate else 1:]
with open(config_path) as f:
    config = json.load(f)
app = msal.ConfidentialClientApplication(
    config["client_id"], client_credential=config["client_secret"], authority=config["authority"],
    instance_discovery=False, token_cache=PersistedTokenCache(FilePersistence(cache_path)), verify=ca)
if gate:
    print("ready", flush=True)
    sys.stdin.readline()
for scope in scopes or config["scope"]:
    try:
        result = app.acquire_token_silent([scope], account=None) or app.acquire_token_for_client(scopes=[scope])
    except Exception as e:
        if not gate:
            raise
        result = {"error": repr(e)}
    print(json.dumps({"scope": scope, "source": result.get("token_source"), "error": result.get("error"),
                      "access_token": result.get("access_token")}), flush=True)
