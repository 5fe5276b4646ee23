# What this package needs to know of `msal`, which has no types of its own.

import threading
from typing import Any, Callable, Dict, Mapping, Optional, Set

class TokenCache:
    class CredentialType:
        ACCESS_TOKEN: str
        ACCESS_TOKEN_EXTENDED: str
        REFRESH_TOKEN: str
        ACCOUNT: str
        ID_TOKEN: str
        APP_METADATA: str

    class AuthorityType:
        ADFS: str
        MSSTS: str

    key_makers: Dict[str, Callable[..., str]]
    _lock: threading.RLock

    def __init__(self) -> None: ...
    @staticmethod
    def _is_matching(
        entry: Mapping[str, Any], query: Mapping[str, Any], target_set: Optional[Set[str]] = None
    ) -> bool: ...
    def _get_app_metadata(self, environment: str, client_id: str, default: Any = None) -> Any: ...
    def add(self, event: Mapping[str, Any], **kwargs: Any) -> None: ...
    def remove_rt(self, rt_item: Mapping[str, Any]) -> None: ...
    def update_rt(self, rt_item: Mapping[str, Any], new_rt: str) -> None: ...
    def remove_at(self, at_item: Mapping[str, Any]) -> None: ...
    def remove_idt(self, idt_item: Mapping[str, Any]) -> None: ...
    def remove_account(self, account_item: Mapping[str, Any]) -> None: ...

class SerializableTokenCache(TokenCache):
    has_state_changed: bool
