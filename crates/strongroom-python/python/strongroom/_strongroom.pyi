# The native half of the package. It has no public names.

from typing import Any, Callable, Dict, List, Literal, Mapping, Optional, Tuple, Union, final

version: str

def is_sealed(path: str) -> bool: ...

@final
class Persistence:
    @staticmethod
    def file(path: str) -> Persistence: ...
    @staticmethod
    def sealed(path: str) -> Persistence: ...
    @staticmethod
    def secret_service(
        signal_location: str,
        schema_name: str,
        attributes: Mapping[str, str],
        label: str,
        collection: Optional[str],
        deadline: float,
    ) -> Persistence: ...
    # Each of these three is there on its own platform only.
    @staticmethod
    def keychain(signal_location: str, service_name: str, account_name: str) -> Persistence: ...
    @staticmethod
    def data_protection(path: str, entropy: str) -> Persistence: ...
    def load(self) -> Optional[str]: ...
    def save(self, content: str) -> None: ...
    def remove(self) -> None: ...
    @property
    def kind(self) -> str: ...
    @property
    def protection(self) -> str: ...
    @property
    def reasons(self) -> List[str]: ...

@final
class Lock:
    @staticmethod
    def acquire(path: str, timeout: float) -> Lock: ...
    def release(self) -> None: ...

@final
class Lead:
    @property
    def state(self) -> Literal["taken", "ended", "busy", "unavailable"]: ...
    def release(self) -> None: ...

@final
class Cache:
    def __new__(
        cls,
        persistence: object,
        location: str,
        is_encrypted: bool,
        lock_path: str,
        lock_timeout: float,
        dialect: Optional[str] = None,
    ) -> Cache: ...
    @staticmethod
    def serialized(cache: object) -> Cache: ...
    def known(
        self, kind: str, target: object, query: object, now: Optional[float]
    ) -> Optional[List[Dict[str, Any]]]: ...
    def search(
        self, kind: str, target: List[str], query: Dict[str, Any], now: Optional[float]
    ) -> List[Dict[str, Any]]: ...
    def change(
        self, entries: List[Tuple[str, str, str, bool]], now: Optional[int], sweep: bool
    ) -> None: ...
    def entry(self, kind: str, key: str) -> Optional[Dict[str, Any]]: ...
    def lead(
        self, environment: str, client_id: str, realm: str, target: List[str], patience: float
    ) -> Lead: ...
    def refresh(self) -> None: ...
    def serialize(self) -> str: ...
    def deserialize(self, text: str) -> None: ...
    @property
    def protection(self) -> str: ...

@final
class Credential:
    @staticmethod
    def secret(secret: str) -> Credential: ...
    @staticmethod
    def pem(
        private_key: str,
        passphrase: Optional[str],
        thumbprint: Optional[str],
        public_certificate: Optional[str],
    ) -> Credential: ...
    @staticmethod
    def pfx(
        path: str, passphrase: Optional[str], send_chain: bool, public_certificate: Optional[str]
    ) -> Credential: ...
    @staticmethod
    def assertion(assertion: Union[str, bytes]) -> Credential: ...
    @staticmethod
    def provider(function: Callable[[Dict[str, str]], Union[str, bytes]]) -> Credential: ...

@final
class Transport:
    @staticmethod
    def http(ca_file: Optional[str], proxy: Optional[str]) -> Transport: ...
    @staticmethod
    def foreign(http_client: object) -> Transport: ...

@final
class Pending:
    def wait(self) -> Any: ...
    def poll(self, wake: Callable[[], object]) -> Optional[Tuple[Any]]: ...
    def cancel(self) -> None: ...

class Application:
    def _set_up(
        self,
        *,
        client_id: str,
        authority: str,
        credential: Credential,
        cache: Optional[Cache],
        transport: Optional[Transport],
        timeout: Optional[float],
        app_name: Optional[str],
        app_version: Optional[str],
        client_capabilities: List[str],
        client_claims: Optional[str],
        azure_region: Optional[str],
        instance_discovery: bool,
        known_authorities: List[str],
        renewal: str,
        extended_lifetime: Optional[float],
    ) -> None: ...
    def _for_client(
        self,
        scopes: List[str],
        claims_challenge: Optional[str] = None,
        fmi_path: Optional[str] = None,
        forwarded_client_claims: Optional[str] = None,
        **kwargs: Any,
    ) -> Union[Dict[str, Any], Pending]: ...
    def _silent_for_client(self, scopes: List[str]) -> Union[Dict[str, Any], Pending]: ...
    def _silent_for_user(self, scopes: List[str], home_account_id: str) -> Pending: ...
    def _accounts(self) -> Pending: ...
    def _remove_account(self, home_account_id: str, environment: str) -> Pending: ...
    def _remove_tokens(self) -> Pending: ...
    def _ended(self) -> Pending: ...
    def _ended_within(self, patience: float) -> None: ...

class BlockingApplication(Application):
    def acquire_token_for_client(
        self,
        scopes: List[str],
        claims_challenge: Optional[str] = None,
        fmi_path: Optional[str] = None,
        forwarded_client_claims: Optional[str] = None,
        **kwargs: Any,
    ) -> Dict[str, Any]: ...
