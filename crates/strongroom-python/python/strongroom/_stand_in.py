"""What ``PersistedTokenCache`` needs of MSAL's cache, for where ``msal`` is not installed.

The entries and their keys are those of MSAL Python 1.39, which the tests compare.
"""

from __future__ import annotations

import time
from _thread import RLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Mapping, Optional, Set, Tuple


class _CredentialType:
    ACCESS_TOKEN = "AccessToken"
    ACCESS_TOKEN_EXTENDED = "atext"
    REFRESH_TOKEN = "RefreshToken"
    ACCOUNT = "Account"
    ID_TOKEN = "IdToken"
    APP_METADATA = "AppMetadata"


class _AuthorityType:
    ADFS = "ADFS"
    MSSTS = "MSSTS"


class SerializableTokenCache:
    """Makes entries of token responses, and says how they are named."""

    CredentialType = _CredentialType
    AuthorityType = _AuthorityType
    has_state_changed = False

    def __init__(self) -> None:
        self._lock = RLock()
        self.key_makers: Dict[str, Callable[..., str]] = {
            _CredentialType.ACCESS_TOKEN: _access_token_key,
            _CredentialType.REFRESH_TOKEN: _refresh_token_key,
            _CredentialType.ID_TOKEN: _id_token_key,
            _CredentialType.ACCOUNT: _account_key,
            _CredentialType.APP_METADATA: _app_metadata_key,
        }

    def modify(
        self,
        credential_type: str,
        old_entry: Mapping[str, Any],
        new_key_value_pairs: Optional[Mapping[str, Any]] = None,
    ) -> None:
        raise NotImplementedError

    def add(self, event: Mapping[str, Any], now: Optional[float] = None) -> None:
        for kind, entry in _entries(event, int(time.time() if now is None else now)):
            self.modify(kind, entry, entry)
        self.has_state_changed = True

    def remove_rt(self, rt_item: Mapping[str, Any]) -> None:
        assert rt_item.get("credential_type") == _CredentialType.REFRESH_TOKEN
        self.modify(_CredentialType.REFRESH_TOKEN, rt_item)

    def update_rt(self, rt_item: Mapping[str, Any], new_rt: str) -> None:
        assert rt_item.get("credential_type") == _CredentialType.REFRESH_TOKEN
        changes = {"secret": new_rt, "last_modification_time": str(int(time.time()))}
        self.modify(_CredentialType.REFRESH_TOKEN, rt_item, changes)

    def remove_at(self, at_item: Mapping[str, Any]) -> None:
        assert at_item.get("credential_type") == _CredentialType.ACCESS_TOKEN
        self.modify(_CredentialType.ACCESS_TOKEN, at_item)

    def remove_idt(self, idt_item: Mapping[str, Any]) -> None:
        assert idt_item.get("credential_type") == _CredentialType.ID_TOKEN
        self.modify(_CredentialType.ID_TOKEN, idt_item)

    def remove_account(self, account_item: Mapping[str, Any]) -> None:
        assert "authority_type" in account_item
        self.modify(_CredentialType.ACCOUNT, account_item)

    def _get(self, credential_type: str, key: str, default: Any = None) -> Any:
        raise NotImplementedError

    def _get_app_metadata(self, environment: str, client_id: str, default: Any = None) -> Any:
        key = self.key_makers[_CredentialType.APP_METADATA](environment=environment, client_id=client_id)
        return self._get(_CredentialType.APP_METADATA, key, default=default)

    @staticmethod
    def _is_matching(
        entry: Mapping[str, Any], query: Mapping[str, Any], target_set: Optional[Set[str]] = None
    ) -> bool:
        asked = dict(query)
        if isinstance(asked.get("environment"), str):
            asked["environment"] = asked["environment"].lower()
        has_fields = all(name in entry and entry[name] == value for name, value in asked.items())
        return has_fields and (not target_set or target_set <= set(entry.get("target", "").split()))


def _access_token_key(
    home_account_id: Optional[str] = None,
    environment: Optional[str] = None,
    client_id: Optional[str] = None,
    realm: Optional[str] = None,
    target: Optional[str] = None,
    ext_cache_key: Optional[str] = None,
    **_: Any,
) -> str:
    kind = "atext" if ext_cache_key else "accesstoken"
    parts = [home_account_id, environment, kind, client_id, realm, target]
    return _joined(parts + [ext_cache_key] if ext_cache_key else parts)


def _refresh_token_key(
    home_account_id: Optional[str] = None,
    environment: Optional[str] = None,
    client_id: Optional[str] = None,
    target: Optional[str] = None,
    **_: Any,
) -> str:
    return _joined([home_account_id, environment, "refreshtoken", client_id, "", target])


def _id_token_key(
    home_account_id: Optional[str] = None,
    environment: Optional[str] = None,
    client_id: Optional[str] = None,
    realm: Optional[str] = None,
    **_: Any,
) -> str:
    return _joined([home_account_id, environment, "idtoken", client_id, realm, ""])


def _account_key(
    home_account_id: Optional[str] = None,
    environment: Optional[str] = None,
    realm: Optional[str] = None,
    **_: Any,
) -> str:
    return _joined([home_account_id, environment, realm])


def _app_metadata_key(
    environment: Optional[str] = None, client_id: Optional[str] = None, **_: Any
) -> str:
    # The one that is not in lower case.
    return f"appmetadata-{environment or ''}-{client_id or ''}"


def _joined(parts: List[Optional[str]]) -> str:
    return "-".join(part or "" for part in parts).lower()


def _entries(event: Mapping[str, Any], now: int) -> List[Tuple[str, Dict[str, Any]]]:
    """The entries that a token response becomes."""
    from urllib.parse import urlsplit

    response, data = event.get("response", {}), event.get("data", {})
    environment: Optional[str] = None
    realm: Optional[str] = None
    if "token_endpoint" in event:
        endpoint = urlsplit(str(event["token_endpoint"]))
        environment, realm = endpoint.hostname, endpoint.path.split("/")[1]
    environment = event.get("environment", environment)
    id_token = response.get("id_token")
    claims = response.get("id_token_claims") or (_decoded(id_token.split(".")[1]) if id_token else {})
    client_info, home_account_id = _account_of(response, claims)
    target = " ".join(sorted(event.get("scope") or []))
    common: Dict[str, Any] = {"home_account_id": home_account_id, "environment": environment}
    entries: List[Tuple[str, Dict[str, Any]]] = []

    if response.get("access_token"):
        rest = int(response["expires_on"]) - now if response.get("expires_on") else 600
        expires_in = int(response.get("expires_in", rest))
        token: Dict[str, Any] = {
            "credential_type": _CredentialType.ACCESS_TOKEN,
            "secret": response["access_token"],
            **common,
            "client_id": event.get("client_id"),
            "target": target,
            "realm": realm,
            "token_type": response.get("token_type", "Bearer"),
            "cached_at": str(now),
            "expires_on": str(now + expires_in),
            "extended_expires_on": str(now + int(response.get("ext_expires_in", expires_in))),
        }
        if "key_id" in data:
            token["key_id"] = data["key_id"]
        extended = _extended_key(data)
        if extended:
            token["ext_cache_key"] = extended
        if "refresh_in" in response:
            token["refresh_on"] = str(now + response["refresh_in"])
        entries.append((_CredentialType.ACCESS_TOKEN, token))

    if client_info and not event.get("skip_account_creation"):
        usual_type = _AuthorityType.ADFS if realm == "adfs" else _AuthorityType.MSSTS
        account: Dict[str, Any] = {
            **common,
            "realm": realm,
            "local_account_id": event.get("_account_id", claims.get("oid", claims.get("sub"))),
            "username": claims.get("preferred_username", claims.get("upn"))
            or data.get("username")
            or event.get("username")
            or "",
            "authority_type": event.get("authority_type", usual_type),
        }
        if event.get("grant_type") in _SIGN_INS:
            account["account_source"] = event["grant_type"]
        entries.append((_CredentialType.ACCOUNT, account))

    if id_token:
        token = {"credential_type": _CredentialType.ID_TOKEN, "secret": id_token, **common}
        token.update(realm=realm, client_id=event.get("client_id"))
        entries.append((_CredentialType.ID_TOKEN, token))

    if response.get("refresh_token"):
        token = {"credential_type": _CredentialType.REFRESH_TOKEN, "secret": response["refresh_token"], **common}
        token.update(client_id=event.get("client_id"), target=target, last_modification_time=str(now))
        if "foci" in response:
            token["family_id"] = response["foci"]
        entries.append((_CredentialType.REFRESH_TOKEN, token))

    app: Dict[str, Any] = {"client_id": event.get("client_id"), "environment": environment}
    if "foci" in response:
        app["family_id"] = response["foci"]
    entries.append((_CredentialType.APP_METADATA, app))
    return entries


_SIGN_INS = frozenset(
    ("broker", "authorization_code", "password", "urn:ietf:params:oauth:grant-type:device_code", "user_fic")
)

# What does not set a token apart: everything else in the body of a request does.
_PLAIN_PARAMETERS = frozenset(
    (
        "client_id grant_type scope claims username password refresh_token code redirect_uri code_verifier device_code "
        "assertion requested_token_use client_assertion client_assertion_type client_secret token_type req_cnf key_id "
        "user_federated_identity_credential user_id client_info"
    ).split()
)


def _extended_key(data: Mapping[str, Any]) -> str:
    """What sets a token apart from a plain one, hashed: each name and value preceded by its length."""
    extra = {name: str(value) for name, value in data.items() if value and name not in _PLAIN_PARAMETERS}
    if not extra:
        return ""
    parts = (part.encode("utf-8") for name in sorted(extra) for part in (name, extra[name]))
    text = b"".join(b"%d:%s" % (len(part), part) for part in parts)
    import base64
    import hashlib

    digest = hashlib.sha256(text).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii").lower()


def _account_of(
    response: Mapping[str, Any], claims: Mapping[str, Any]
) -> Tuple[Mapping[str, Any], Optional[str]]:
    if "client_info" in response:
        info = _decoded(response["client_info"])
        if "uid" in info and "utid" in info:
            return info, f"{info['uid']}.{info['utid']}"
    if claims:
        # AD FS says no more.
        return {"uid": claims["sub"]}, claims["sub"]
    return {}, None


def _decoded(part: str) -> Dict[str, Any]:
    """A part of a JWT. Nothing is verified: it came from the token endpoint itself."""
    import base64
    import json

    decoded: Dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return decoded
