"""The real msal renews its own token, and looks through the cache when everything that it did not renew has expired.

    scan_after_expiry.py CACHE ENVIRONMENT       prints a JSON object: whether msal still finds its token
"""
import json
import sys

import msal

cache = msal.SerializableTokenCache()
with open(sys.argv[1]) as f:
    cache.deserialize(f.read())
query = {"client_id": "client-id", "environment": sys.argv[2], "realm": "tid", "home_account_id": None}


def find(scope, now):
    return list(cache.search("AccessToken", target=[scope], query=query, now=now))


(own,) = find("s", 1800000001)
cache.add({
    "client_id": "client-id", "scope": ["s"], "environment": sys.argv[2], "grant_type": "client_credentials",
    "token_endpoint": f"https://{sys.argv[2]}/tid/oauth2/v2.0/token",
    "response": {"access_token": "renewed", "expires_in": 3600, "token_type": "Bearer"},
}, now=int(own["expires_on"]) - 60)
later = int(own["expires_on"]) + 60
find("something else", later)  # looks through all, and deletes what has expired
print(json.dumps({"found": [entry["secret"] for entry in find("s", later)]}))
