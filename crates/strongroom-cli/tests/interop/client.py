"""A daemon with the real msal and msal-extensions.

    client.py CONFIG CACHE CA SCOPE...      gets a token for each scope, prints a JSON object a line

As the older samples do it: acquire_token_silent first, then acquire_token_for_client.
"""
import json
import os
import sys

os.environ.pop("REQUESTS_CA_BUNDLE", None)  # they would override verify=
os.environ.pop("CURL_CA_BUNDLE", None)

import msal
from msal_extensions import FilePersistence, PersistedTokenCache

config_path, cache_path, ca, *scopes = sys.argv[1:]
with open(config_path) as f:
    config = json.load(f)
app = msal.ConfidentialClientApplication(
    config["client_id"], client_credential=config["client_secret"], authority=config["authority"],
    instance_discovery=False, token_cache=PersistedTokenCache(FilePersistence(cache_path)), verify=ca)
for scope in scopes or config["scope"]:
    result = app.acquire_token_silent([scope], account=None) or app.acquire_token_for_client(scopes=[scope])
    print(json.dumps({"scope": scope, "source": result.get("token_source"), "error": result.get("error"),
                      "access_token": result.get("access_token")}), flush=True)
