"""Keeps a token in azure-identity's own persistent cache, or finds it there. No request is made."""

import sys

from azure.identity import TokenCachePersistenceOptions
from azure.identity._persistent_cache import _load_persistent_cache

cache = _load_persistent_cache(TokenCachePersistenceOptions(allow_unencrypted_storage=True))
if sys.argv[1] == "add":
    cache.add({
        "client_id": "client", "scope": ["scope"], "grant_type": "client_credentials", "data": {}, "params": {},
        "token_endpoint": "https://login.microsoftonline.com/tenant/oauth2/v2.0/token",
        "response": {"access_token": "of azure-identity", "expires_in": 3600, "token_type": "Bearer"},
    })
query = {"client_id": "client", "environment": "login.microsoftonline.com", "realm": "tenant"}
print([entry["secret"] for entry in cache.search("AccessToken", target=["scope"], query=query)])
