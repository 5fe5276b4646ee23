"""Who is signed in on this machine, in the tools that credentials of azure-identity ask.

Each of these says so as what can be written as JSON: nothing in it (``{}``) if nobody is signed in
there, or the tool keeps it elsewhere; None if it cannot be told. They are called at each look-up,
because a sign-in changes while programs run.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any, Dict, Optional, Tuple, cast

_State = Optional[Dict[str, Any]]


def azure_cli(subscription: Optional[str] = None) -> _State:
    """The user of the subscription that is named, or of the default one."""
    folder = os.environ.get("AZURE_CONFIG_DIR") or _of_home(".azure")
    profile = _document(os.path.join(folder, "azureProfile.json"))
    if not profile:
        return profile
    subscriptions: Any = profile.get("subscriptions")
    if not isinstance(subscriptions, list):
        return None
    for one in map(_object, cast(Any, subscriptions)):
        if one is None:
            return None
        if subscription:
            names = [str(one.get(name)).lower() for name in ("id", "name")]
            is_this = subscription.lower() in names
        else:
            is_this = one.get("isDefault") is True
        if is_this:
            user, tenant = _object(one.get("user")), one.get("tenantId")
            if not user or not user.get("name") or not tenant:
                return None
            clouds = [one.get("environmentName"), os.environ.get("AZURE_CLOUD_NAME")]
            home = one.get("homeTenantId")
            return {"folder": folder, "user": user, "tenants": [tenant, home], "clouds": clouds}
    return {}


def azure_developer_cli() -> _State:
    """The account of ``azd``, or that of the Azure CLI, where it uses that one."""
    if os.environ.get("AZD_AUTH_ENDPOINT"):
        # It asks another program.
        return None
    folder = os.environ.get("AZD_CONFIG_DIR") or _of_home(".azd")
    accounts: Dict[str, Any] = {"folder": folder}
    for name in ("config.json", "auth.json"):
        document = _document(os.path.join(folder, name))
        if document is None:
            return None
        auth = _object(document.get("auth", {}))
        if auth is None:
            return None
        if str(auth.get("useAzCliAuth", "")).lower() == "true":
            return azure_cli()
        if auth.get("account"):
            accounts[name] = auth["account"]
    return accounts if len(accounts) > 1 else {}


def azure_powershell() -> _State:
    """The account of the context that new sessions of PowerShell have."""
    # The tool writes it with a capital letter, and some file systems know no difference.
    for folder in (_of_home(".Azure"), _of_home(".azure")):
        settings = _document(os.path.join(folder, "AzureRmContextSettings.json"))
        if settings is None:
            return None
        path = os.path.join(
            str(settings.get("ContextDirectory") or folder),
            str(settings.get("ContextFile") or "AzureRmContext.json"),
        )
        contexts = _document(path)
        if contexts is None:
            return None
        if not contexts:
            continue
        within = _object(contexts.get("Contexts"))
        if within is None:
            return None
        # Of a session that nobody has signed in to, it is one without an account.
        context = _object(within.get(str(contexts.get("DefaultContextKey")))) or {}
        if not context.get("Account"):
            continue
        account, tenant, cloud = (
            _object(context.get(name)) or {} for name in ("Account", "Tenant", "Environment")
        )
        if not account.get("Id"):
            return None
        return {
            "path": path,
            "account": [account["Id"], account.get("Type")],
            "tenant": tenant.get("Id"),
            "cloud": cloud.get("Name"),
        }
    return {}


def shared_token_cache() -> _State:
    """What the cache that Microsoft's developer tools share looks like from outside.

    It is encrypted. Whoever signs in there or out changes it, and so does a token that is renewed.
    """
    folder = _of_home(".IdentityService")
    local = os.environ.get("LOCALAPPDATA")
    if os.name == "nt" and local:
        folder = os.path.join(local, ".IdentityService")
    files: Dict[str, Any] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.endswith((".lockfile", ".lock")):
                    files[entry.name] = _signature(os.stat(entry.path))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError:
        return None
    return files


def _of_home(name: str) -> str:
    return os.path.join(os.path.expanduser("~"), name)


_Signature = Tuple[int, ...]
# What was read from which file when it looked how. A race costs a look into the file.
_read: Dict[str, Tuple[_Signature, _State]] = {}
# A file that is younger than these seconds may be written again without looking different.
_SETTLED = 2.0


def _document(path: str) -> _State:
    """The object in a file of JSON: an empty one without a file, None if it cannot be read."""
    try:
        status = os.stat(path)
        signature = _signature(status)
        before, known = _read.get(path, ((), None))
        if before == signature:
            return known
        with open(path, encoding="utf-8-sig") as file:
            parsed: Any = json.load(file)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError):
        # It may be in the middle of being written.
        return None
    document = _object(parsed)
    if abs(time.time() - status.st_mtime) > _SETTLED:
        _read[path] = (signature, document)
    return document


def _object(value: Any) -> _State:
    return cast(Dict[str, Any], value) if isinstance(value, dict) else None


def _signature(status: os.stat_result) -> _Signature:
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev)
