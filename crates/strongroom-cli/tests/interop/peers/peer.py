"""A daemon with the real msal and msal-extensions.

    peer.py write FOLDER        signs in, an application and a user, into FOLDER/app.bin and FOLDER/user.bin
    peer.py read FOLDER...      what it finds there

Prints JSON, a line for each answer; the first line tells the versions.  The provider, the application and its scopes
are in PEER_*, the proxy and the trust root where requests looks for them.
"""
import importlib.metadata
import json
import os
import sys

import msal
from msal_extensions import FilePersistence, PersistedTokenCache


def client(path):
    return msal.ConfidentialClientApplication(
        os.environ["PEER_CLIENT_ID"], client_credential=os.environ["PEER_CLIENT_SECRET"],
        authority=os.environ["PEER_AUTHORITY"], token_cache=PersistedTokenCache(FilePersistence(path)))


def scope(name):
    return [os.environ[name]]


def token(acquire):
    try:
        result = acquire() or {"error": "nothing was found"}
    except Exception as e:
        return {"error": repr(e)}
    if "access_token" in result:
        return {"token": result["access_token"]}
    return {"error": result.get("error_description") or result["error"]}


def app_tokens(path):
    app = client(path)
    return {"plain": token(lambda: app.acquire_token_for_client(scope("PEER_SCOPE"))),
            "second": token(lambda: app.acquire_token_for_client(scope("PEER_SECOND_SCOPE")))}


def write(folder):
    said = app_tokens(f"{folder}/app.bin")
    app = client(f"{folder}/user.bin")
    said["user"] = token(lambda: app.acquire_token_by_authorization_code(
        os.environ["PEER_CODE"], scope("PEER_USER_SCOPE"), redirect_uri="https://localhost/redirect"))
    return said


def read(folder):
    said = app_tokens(f"{folder}/app.bin")
    app = client(f"{folder}/user.bin")
    try:
        accounts = [a for a in app.get_accounts() if a["home_account_id"] == os.environ["PEER_ACCOUNT"]]
    except Exception as e:
        said["account"] = {"error": repr(e)}
        return said
    said["account"] = {"found": bool(accounts)}
    if accounts:
        said["user"] = token(lambda: app.acquire_token_silent(scope("PEER_USER_SCOPE"), accounts[0]))
    return said


mode, *folders = sys.argv[1:]
print(json.dumps({"versions": [f"{name} {importlib.metadata.version(name)}" for name in ("msal", "msal-extensions")]}))
for folder in folders:
    print(json.dumps(write(folder) if mode == "write" else read(folder)))
