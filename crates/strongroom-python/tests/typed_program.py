"""Not a test: a program that uses every public name with its types. ./test has mypy and pyright check it."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Optional, Type

import strongroom
from strongroom import persistence
from strongroom.cache_lock import CrossPlatLock, LockError
from strongroom.persistence import BasePersistence


class Mine(BasePersistence):
    is_encrypted = True

    def save(self, content: str) -> None:
        del content

    def load(self) -> str:
        raise persistence.PersistenceNotFound(location="here")

    def time_last_modified(self) -> float:
        return 0.0

    def get_location(self) -> str:
        return "here"


class MyCache(strongroom.PersistedTokenCache):
    def modify(
        self, credential_type: str, old_entry: Any, new_key_value_pairs: Optional[Any] = None
    ) -> None:
        super().modify(credential_type, old_entry, new_key_value_pairs)


def use(location: str) -> str:
    plain: strongroom.FilePersistence = strongroom.FilePersistence(location)
    plain.touch()
    encrypted: BasePersistence = strongroom.build_encrypted_persistence(location)
    kinds: List[Type[BasePersistence]] = [
        strongroom.FilePersistenceWithDataProtection,
        strongroom.KeychainPersistence,
        strongroom.LibsecretPersistence,
        strongroom.SealedFilePersistence,
    ]
    for one in (plain, encrypted, Mine(), strongroom.LibsecretPersistence(location, attributes={"a": "b"}, label="c")):
        one.save(one.load())
        modified: float = one.time_last_modified()
        flag: bool = one.is_encrypted
        print(one.get_location(), modified, flag, kinds)
    sealed = strongroom.SealedFilePersistence(location)
    reasons: List[str] = sealed.reasons
    cache = MyCache(encrypted, lock_location=None, lock_timeout=1.5)
    found: Iterator[Dict[str, Any]] = cache.search(
        cache.CredentialType.ACCESS_TOKEN, target=["s"], query={"home_account_id": None}, now=1.0
    )
    for entry in found:
        cache.remove_at(entry)
    cache.add({}, now=1000)
    cache.deserialize(cache.serialize())
    changed: bool = cache.has_state_changed
    try:
        with CrossPlatLock("lock", timeout=1) as lock:
            print(lock, reasons, changed)
    except (LockError, persistence.PersistenceError) as error:
        print(error)
    return cache.protection + strongroom.__version__


def sign_in(location: str, key: str) -> Optional[str]:
    with strongroom.ConfidentialClientApplication(
        "client",
        {"private_key": key, "thumbprint": "00"},
        authority="https://login.microsoftonline.com/tenant",
        token_cache=strongroom.FilePersistence(location),
        timeout=(1, 2.5),
        known_authorities=["host"],
        renewal="inline",
    ) as app:
        for account in app.get_accounts(username="ann"):
            silent: Optional[Dict[str, Any]] = app.acquire_token_silent(["s"], account)
            app.remove_account(account)
            print(silent)
        try:
            result: Dict[str, Any] = app.acquire_token_for_client(["s"], claims_challenge=None, fmi_path="a/b")
        except strongroom.MsalServiceError as error:
            return error.remedy
        app.remove_tokens_for_client()
    return str(result.get("access_token"))


async def sign_in_at_once(cache: strongroom.PersistedTokenCache) -> str:
    async with strongroom.aio.ConfidentialClientApplication(
        "client", "secret", "https://login.microsoftonline.com/tenant", token_cache=cache
    ) as app:
        found: Optional[Dict[str, Any]] = await app.acquire_token_silent_with_error(["s"], None)
        result = found or await app.acquire_token_for_client(["s"])
        await app.close()
    return str(result["token_source"])
