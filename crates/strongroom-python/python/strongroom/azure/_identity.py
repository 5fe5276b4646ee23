"""Whose tokens a credential gives: what sets it apart from every other one."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple
from urllib.parse import urlsplit

_Facts = Dict[str, Any]
# What is known of a credential, and whether that says whose tokens it gives.
_Whose = Tuple[_Facts, bool]


class Identity(NamedTuple):
    """Whose tokens they are, in the words of the cache."""

    # No application has such an id, so no other program finds these tokens, and none of them is
    # found here.
    client_id: str
    environment: str
    realm: str
    # Whether another credential with the same id gives tokens of the same identity.
    is_certain: bool


def identity_of(credential: object, given: Optional[str] = None) -> Identity:
    """Whose tokens ``credential`` gives, or ``given``, where the program says it."""
    if given is None:
        facts, is_certain = _facts(credential)
        name = type(credential).__name__
    elif given:
        name, facts, is_certain = "identity", {"identity": given}, True
    else:
        raise ValueError("an identity has a name: identity must not be empty")
    application: Dict[str, Any] = _application(credential) or {}
    # Of secrets and assertions, too, nothing but a hash is kept.
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return Identity(
        f"{name}:{digest[:32]}",
        urlsplit(str(application.get("authority", ""))).hostname or "login.microsoftonline.com",
        application.get("tenant_id", "organizations"),
        is_certain,
    )


def _facts(credential: object) -> _Whose:
    kind = type(credential)
    # A subclass may be anybody's.
    reader = _KNOWN.get(kind.__name__) if kind.__module__.startswith("azure.identity.") else None
    whose = reader(credential) if reader else None
    # The credential and its asynchronous form give the same tokens.
    if whose is not None:
        return {"class": kind.__name__, **whose[0]}, whose[1]
    facts = {"class": f"{kind.__module__}.{kind.__qualname__}"}
    if kind.__module__ == "__main__":
        facts["program"] = os.path.abspath(
            getattr(sys.modules["__main__"], "__file__", None) or sys.argv[0]
        )
    return facts, False


def _of_application(credential: object) -> Optional[_Whose]:
    facts = _application(credential)
    return None if facts is None else (facts, True)


def _of_named_user(credential: object) -> Optional[_Whose]:
    facts, user = _application(credential), getattr(credential, "_username", None)
    return None if facts is None or not user else ({**facts, "username": user}, True)


def _of_signed_in_user(credential: object) -> Optional[_Whose]:
    """A user who signs in by hand: it could be anybody, if there is no record of who it was."""
    facts = _application(credential)
    if facts is None:
        return None
    account = getattr(getattr(credential, "_auth_record", None), "home_account_id", None)
    if account:
        return {**facts, "home_account_id": account}, True
    return {**facts, "login_hint": getattr(credential, "_login_hint", None)}, False


def _on_behalf_of(credential: object) -> Optional[_Whose]:
    facts, assertion = _application(credential), getattr(credential, "_assertion", None)
    if facts is None or not isinstance(assertion, str):
        return None
    return {**facts, "assertion": hashlib.sha256(assertion.encode()).hexdigest()}, True


def _of_pipeline(credential: object) -> Optional[_Whose]:
    facts = _application(getattr(credential, "_client_assertion_credential", None))
    connection = getattr(credential, "_service_connection_id", None)
    return None if facts is None or not connection else ({**facts, "connection": connection}, True)


def _of_this_machine(credential: object) -> Optional[_Whose]:
    """Whoever is signed in here, in another program."""
    facts: _Facts = {"machine": _machine(), "home": os.path.expanduser("~")}
    facts["user"] = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME")
    for name in ("AZURE_CONFIG_DIR", "AZD_CONFIG_DIR"):
        facts[name] = os.environ.get(name)
    # A wrapper of some versions has it within.
    for one in (credential, getattr(credential, "_credential", None)):
        for name in ("tenant_id", "subscription", "_tenant_id", "_client_id", "_username"):
            value = getattr(one, name, None)
            if isinstance(value, str) and value:
                facts[name.lstrip("_")] = value
    facts["allowed"] = sorted(getattr(credential, "_additionally_allowed_tenants", None) or [])
    return facts, True


def _of_what_it_holds(credential: object) -> Optional[_Whose]:
    held = getattr(credential, "_credential", None)
    if held is None:
        # It never gives a token.
        return {}, True
    facts, is_certain = _facts(held)
    return {"holds": facts}, is_certain


def _of_a_chain(credential: object) -> Optional[_Whose]:
    """Whoever of them answers: they are those whom the program accepts, in this order."""
    members = getattr(credential, "credentials", None)
    if not members:
        return None
    facts = [_facts(member) for member in members]
    return {"credentials": [one for one, _ in facts]}, all(is_certain for _, is_certain in facts)


def _of_managed_identity(credential: object) -> Optional[_Whose]:
    settings: Any = getattr(credential, "_settings", None)
    if settings is None:
        client = getattr(credential, "_client", None)
        settings = {"identity_config": getattr(client, "_identity_config", None)}
    try:
        named: _Facts = {"client_id": settings.get("client_id"), **settings["identity_config"]}
    except TypeError:
        return None
    named = {name: str(value) for name, value in named.items() if value}
    if named:
        return named, True
    # That of the machine.
    site = os.environ.get("WEBSITE_HOSTNAME")
    if type(credential).__name__ == "AppServiceCredential" and site:
        return {"site": site}, True
    names = ("IDENTITY_ENDPOINT", "MSI_ENDPOINT", "AZURE_POD_IDENTITY_AUTHORITY_HOST")
    return {"machine": _machine(), **{name: os.environ.get(name) for name in names}}, True


def _of_nobody(credential: object) -> Optional[_Whose]:
    del credential
    return {}, True


def _application(credential: object) -> Optional[Dict[str, Any]]:
    """Where it signs in, and as which application: by attributes that are private, but old."""
    for holder in (credential, getattr(credential, "_client", None)):
        found = {
            name: getattr(holder, f"_{name}", None)
            for name in ("authority", "tenant_id", "client_id")
        }
        if all(isinstance(value, str) and value for value in found.values()):
            facts: Dict[str, Any] = {name: str(value).lower() for name, value in found.items()}
            # One that may not go to other tenants must not be given what another has brought from
            # there.
            allowed = getattr(holder, "_additionally_allowed_tenants", None)
            return {**facts, "allowed": sorted(allowed or [])}
    return None


def _machine() -> str:
    try:
        with open("/etc/machine-id", encoding="ascii") as file:
            return f"{platform.node()} {file.read().strip()}"
    except (OSError, ValueError):
        return platform.node()


_KNOWN: Dict[str, Callable[[object], Optional[_Whose]]] = {
    "AppServiceCredential": _of_managed_identity,
    "AzureArcCredential": _of_managed_identity,
    "AzureCliCredential": _of_this_machine,
    "AzureDeveloperCliCredential": _of_this_machine,
    "AzureMLCredential": _of_managed_identity,
    "AzurePipelinesCredential": _of_pipeline,
    "AzurePowerShellCredential": _of_this_machine,
    "BrokerCredential": _of_this_machine,
    "CertificateCredential": _of_application,
    "ChainedTokenCredential": _of_a_chain,
    "ClientAssertionCredential": _of_application,
    "ClientSecretCredential": _of_application,
    "CloudShellCredential": _of_managed_identity,
    "DefaultAzureCredential": _of_a_chain,
    "DeviceCodeCredential": _of_signed_in_user,
    "EnvironmentCredential": _of_what_it_holds,
    "FailedDACCredential": _of_nobody,
    "ImdsCredential": _of_managed_identity,
    "InteractiveBrowserCredential": _of_signed_in_user,
    "ManagedIdentityCredential": _of_what_it_holds,
    "OnBehalfOfCredential": _on_behalf_of,
    "ServiceFabricCredential": _of_managed_identity,
    "SharedTokenCacheCredential": _of_this_machine,
    "UsernamePasswordCredential": _of_named_user,
    "VisualStudioCodeCredential": _of_this_machine,
    "WorkloadIdentityCredential": _of_application,
}
