"""Whose tokens a credential gives: what sets it apart from every other one."""

from __future__ import annotations

import enum
import functools
import hashlib
import json
import os
import platform
import sys
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple, cast
from urllib.parse import urlsplit

from . import _sign_in

_Facts = Dict[str, Any]
# What changes while a program runs, as what can be written as JSON. Nothing in it: not known.
_State = Callable[[], Any]


class Identity(NamedTuple):
    """Whose tokens they are, in the words of the cache."""

    name: str
    # Of all that does not change.
    digest: str
    environment: str
    realm: str
    # Whether another credential with the same id gives tokens of the same identity.
    is_certain: bool
    states: Tuple[_State, ...]

    def client_id(self) -> Optional[str]:
        """The id of the one whose tokens the credential gives now; None if that cannot be told.

        No application has such an id, so no other program finds these tokens, and none of them is
        found here.
        """
        digest = self.digest
        if self.states:
            states = [state() for state in self.states]
            if not all(states):
                return None
            digest = hashlib.sha256(_json([digest, states])).hexdigest()
        return f"{self.name}:{digest[:32]}"


def identity_of(credential: object, given: Optional[str] = None) -> Identity:
    """Whose tokens ``credential`` gives, or ``given``, where the program says it."""
    if given is None:
        whose, name = _whose(credential), type(credential).__name__
    elif given:
        whose, name = _Whose({"identity": given}), "identity"
    else:
        raise ValueError("an identity has a name: identity must not be empty")
    application: Dict[str, Any] = _application(credential) or {}
    # Of secrets and assertions, too, nothing but a hash is kept.
    if whose.is_certain:
        digest = hashlib.sha256(_json(whose.facts)).hexdigest()
    else:
        # There may be a password among the attributes, which nobody is to guess from the id.
        digest = hashlib.pbkdf2_hmac(
            "sha256", _json(whose.facts), b"strongroom.azure", _ROUNDS
        ).hex()
    return Identity(
        name,
        digest,
        urlsplit(_authority(credential) or "").hostname or "login.microsoftonline.com",
        application.get("tenant_id", "organizations"),
        whose.is_certain,
        whose.states,
    )


_ROUNDS = 100_000


class _Whose(NamedTuple):
    """What is known of a credential, and whether that says whose tokens it gives."""

    facts: _Facts
    is_certain: bool = True
    states: Tuple[_State, ...] = ()


def _whose(credential: object) -> _Whose:
    kind = type(credential)
    # A subclass may be anybody's.
    reader = _KNOWN.get(kind.__name__) if kind.__module__.startswith("azure.identity.") else None
    whose = reader(credential) if reader else None
    if whose is None:
        return _of_unknown(credential)
    # The credential and its asynchronous form give the same tokens.
    facts = {"class": kind.__name__, "authority": _authority(credential), **whose.facts}
    alone = os.environ.get("AZURE_IDENTITY_DISABLE_MULTITENANTAUTH")
    if alone:
        # Where another tenant is asked for, it gives tokens of its own.
        facts["multitenant"] = alone
    return whose._replace(facts=facts)


def _of_unknown(credential: object) -> _Whose:
    """Whatever this program, for this user, makes of a class with these attributes."""
    kind = type(credential)
    states: List[_State] = []
    # Children of multiprocessing have the program under another name.
    module = "__main__" if kind.__module__ == "__mp_main__" else kind.__module__
    facts: _Facts = {
        "class": f"{module}.{kind.__qualname__}",
        "file": _file_of(sys.modules.get(kind.__module__)),
        # One without a file has no name, and shares nothing with other processes.
        "program": _file_of(sys.modules.get("__main__")) or _PROCESS,
        "interpreter": sys.executable,
        "machine": _machine(),
        "user": _user(),
        "environment": _of_environment(),
        "attributes": _Attributes(kind, states).of(credential),
    }
    return _Whose(facts, False, tuple(states))


_PROCESS = os.urandom(16).hex()


class _Attributes:
    """What can be seen of a credential of an unknown class, as what can be written as JSON."""

    _DEEPEST = 6

    def __init__(self, kind: type, states: List[_State]) -> None:
        self._package = kind.__module__.split(".")[0]
        self._states = states
        # How many were before it, and itself, so that no other object has its place.
        self._seen: Dict[int, Tuple[int, object]] = {}

    def of(self, owner: object, depth: int = 0) -> Any:
        """Those of ``owner``, by name."""
        self._see(owner)
        found: Dict[str, Any] = dict(getattr(owner, "__dict__", None) or {})
        for kind in type(owner).__mro__:
            slots = kind.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if name.startswith("__") and not name.endswith("__"):
                    name = f"_{kind.__name__.lstrip('_')}{name}"
                if name not in ("__dict__", "__weakref__") and hasattr(owner, name):
                    found[name] = getattr(owner, name)
        return {str(name): self._value(value, depth + 1) for name, value in found.items()}

    def _value(self, value: Any, depth: int) -> Any:
        if isinstance(value, enum.Enum):
            return [type(value).__qualname__, value.name]
        if value is None or isinstance(value, (str, int, float)):
            return value
        if isinstance(value, (bytes, bytearray)):
            return ["bytes", value.hex()]
        if isinstance(value, os.PathLike):
            return ["path", os.fsdecode(cast("os.PathLike[str]", value))]
        kind = _kind(value)
        name = f"{kind.__module__}.{kind.__qualname__}"
        if id(value) in self._seen:
            return [name, self._seen[id(value)][0]]
        if depth > self._DEEPEST:
            return [name]
        self._see(value)
        if isinstance(value, Mapping):
            return [name, self._sorted(value.items(), depth)]
        if isinstance(value, (set, frozenset)):
            return [name, self._sorted(value, depth)]
        if isinstance(value, (list, tuple)):
            return [name, [self._value(one, depth + 1) for one in cast(List[Any], value)]]
        if isinstance(value, type):
            return [name, value.__module__, value.__qualname__]
        if isinstance(value, functools.partial):
            partial = cast(Any, value)
            return [name, self._value([partial.func, partial.args, partial.keywords], depth)]
        if hasattr(value, "__func__"):
            return [name, self._value([value.__func__, value.__self__], depth)]
        if hasattr(value, "__code__"):
            return [name, self._function(value, depth)]
        if hasattr(value, "get_token") or hasattr(value, "get_token_info"):
            return [name, self._credential(value, depth)]
        # Those of strangers, such as a session or a logger, see half of the process.
        if kind.__module__.split(".")[0] == self._package or hasattr(kind, "__dataclass_fields__"):
            return [name, self.of(value, depth)]
        if name == "types.SimpleNamespace":
            return [name, self.of(value, depth)]
        return [name]

    def _see(self, value: object) -> None:
        self._seen.setdefault(id(value), (len(self._seen), value))

    def _sorted(self, values: Any, depth: int) -> Any:
        return sorted((self._value(one, depth + 1) for one in values), key=_json)

    def _function(self, function: Any, depth: int) -> Any:
        bound: List[Any] = [function.__defaults__, function.__kwdefaults__]
        for cell in function.__closure__ or ():
            try:
                bound.append(cell.cell_contents)
            except ValueError:
                # It has nothing in it yet.
                bound.append(None)
        return [function.__module__, function.__qualname__, self._value(bound, depth)]

    def _credential(self, credential: object, depth: int) -> Any:
        kind = type(credential)
        if kind.__module__.startswith("azure.identity.") and kind.__name__ in _KNOWN:
            whose = _whose(credential)
            self._states.extend(whose.states)
            return whose.facts
        return self.of(credential, depth)


def _kind(value: object) -> type:
    return type(value)


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _file_of(module: Any) -> Optional[str]:
    file = getattr(module, "__file__", None)
    return os.path.realpath(file) if isinstance(file, str) else None


def _user() -> Any:
    return os.getuid() if sys.platform != "win32" else os.environ.get("USERNAME")


def _of_environment() -> _Facts:
    names = ("AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_USERNAME", "AZURE_AUTHORITY_HOST")
    return {name: os.environ.get(name) for name in names}


def _of_application(credential: object) -> Optional[_Whose]:
    facts = _application(credential)
    return None if facts is None else _Whose(facts)


def _of_named_user(credential: object) -> Optional[_Whose]:
    facts, user = _application(credential), getattr(credential, "_username", None)
    return None if facts is None or not user else _Whose({**facts, "username": user})


def _of_signed_in_user(credential: object) -> Optional[_Whose]:
    """A user who signs in by hand: it could be anybody, if there is no record of who it was."""

    def account() -> Any:
        return getattr(getattr(credential, "_auth_record", None), "home_account_id", None)

    facts = _application(credential)
    # Where the record is not enough, somebody else may sign in.
    return _Whose(facts, True, (account,)) if facts is not None and account() else None


def _on_behalf_of(credential: object) -> Optional[_Whose]:
    facts, assertion = _application(credential), getattr(credential, "_assertion", None)
    if facts is None or not isinstance(assertion, str):
        return None
    return _Whose({**facts, "assertion": hashlib.sha256(assertion.encode()).hexdigest()})


def _of_pipeline(credential: object) -> Optional[_Whose]:
    facts = _application(getattr(credential, "_client_assertion_credential", None))
    connection = getattr(credential, "_service_connection_id", None)
    return None if facts is None or not connection else _Whose({**facts, "connection": connection})


def _of_azure_cli(credential: object) -> Optional[_Whose]:
    subscription = getattr(credential, "subscription", None)
    return _of_tool(credential, functools.partial(_sign_in.azure_cli, subscription))


def _of_azure_developer_cli(credential: object) -> Optional[_Whose]:
    return _of_tool(credential, _sign_in.azure_developer_cli)


def _of_azure_powershell(credential: object) -> Optional[_Whose]:
    return _of_tool(credential, _sign_in.azure_powershell)


def _of_tool(credential: object, state: _State) -> _Whose:
    """Whoever is signed in here, in another program."""
    facts: _Facts = {"machine": _machine(), "user": _user()}
    for name in ("tenant_id", "subscription"):
        facts[name] = getattr(credential, name, None) or None
    facts["allowed"] = sorted(getattr(credential, "_additionally_allowed_tenants", None) or [])
    return _Whose(facts, True, (state,))


def _of_shared_token_cache(credential: object) -> Optional[_Whose]:
    held = getattr(credential, "_credential", None)
    if held is None or getattr(held, "_custom_cache", True):
        return None
    facts: _Facts = {"machine": _machine(), "user": _user()}
    for name in ("_tenant_id", "_username"):
        facts[name] = getattr(held, name, None)
    account = getattr(getattr(held, "_auth_record", None), "home_account_id", None)
    if account or facts["_username"]:
        return _Whose({**facts, "home_account_id": account})
    return _Whose(facts, True, (_sign_in.shared_token_cache,))


def _of_broker(credential: object) -> Optional[_Whose]:
    """Whoever is signed in to the system. Without the broker it never gives a token."""
    return None if getattr(credential, "_broker_credential", credential) else _Whose({})


def _of_what_it_holds(credential: object) -> Optional[_Whose]:
    held = getattr(credential, "_credential", None)
    if held is None:
        # It never gives a token.
        return _Whose({})
    whose = _whose(held)
    return whose._replace(facts={"holds": whose.facts})


def _of_a_chain(credential: object) -> Optional[_Whose]:
    """Whoever of them answers: they are those whom the program accepts, in this order."""
    members = getattr(credential, "credentials", None)
    if not members:
        return None
    all_of_them = [_whose(member) for member in members]
    facts: _Facts = {"credentials": [one.facts for one in all_of_them]}
    if type(credential).__name__ == "DefaultAzureCredential":
        facts["environment"] = _of_environment()
    states = [state for one in all_of_them for state in one.states]

    def signed_in() -> Any:
        # Where nobody is signed in, another one answers.
        now = [state() for state in states]
        return None if None in now else now

    is_certain = all(one.is_certain for one in all_of_them)
    return _Whose(facts, is_certain, (signed_in,) if states else ())


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
        return _Whose(named)
    # That of the machine.
    site = os.environ.get("WEBSITE_HOSTNAME")
    if type(credential).__name__ == "AppServiceCredential" and site:
        return _Whose({"site": site})
    names = ("IDENTITY_ENDPOINT", "MSI_ENDPOINT", "AZURE_POD_IDENTITY_AUTHORITY_HOST")
    # Applications of one machine may have identities of their own, by what they show for them.
    shown = ("IDENTITY_HEADER", "MSI_SECRET")
    facts = {name: os.environ.get(name) for name in names + shown}
    return _Whose({"machine": _machine(), **facts})


def _of_nobody(credential: object) -> Optional[_Whose]:
    del credential
    return _Whose({})


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


def _authority(credential: object) -> Optional[str]:
    for name in ("", "_client", "_credential", "_client_assertion_credential"):
        holder = getattr(credential, name, None) if name else credential
        for one in (holder, getattr(holder, "_client", None)):
            authority = getattr(one, "_authority", None)
            if isinstance(authority, str) and authority:
                return authority.lower()
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
    "AzureCliCredential": _of_azure_cli,
    "AzureDeveloperCliCredential": _of_azure_developer_cli,
    "AzureMLCredential": _of_managed_identity,
    "AzurePipelinesCredential": _of_pipeline,
    "AzurePowerShellCredential": _of_azure_powershell,
    "BrokerCredential": _of_broker,
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
    "SharedTokenCacheCredential": _of_shared_token_cache,
    "UsernamePasswordCredential": _of_named_user,
    "VisualStudioCodeCredential": _of_broker,
    "WorkloadIdentityCredential": _of_application,
}
