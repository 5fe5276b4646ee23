"""Requests through an object with the methods of a ``requests.Session``, as MSAL makes them.

It would follow redirects with the application's secret in hand, so it is told not to, and where it has gone is looked at.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple

    Answer = Tuple[int, List[Tuple[str, str]], bytes]

#: No answer of an identity provider is longer.
LONGEST_ANSWER = 1024 * 1024


class HttpClient:
    """What the native half calls for each request, on a thread of its own."""

    def __init__(self, http_client: Any) -> None:
        self._http_client = http_client
        self._limits: Dict[str, Tuple[bool, bool]] = {}

    def __call__(
        self, method: str, url: str, headers: Dict[str, str], form: Optional[str], timeout: Optional[float]
    ) -> Answer:
        arguments: Dict[str, Any] = {"params": {}, "headers": headers}
        if form is not None:
            from urllib.parse import parse_qsl

            arguments["data"] = dict(parse_qsl(form, keep_blank_values=True))
        call = getattr(self._http_client, method)
        takes_redirects, takes_timeout = self._takes(method, call)
        if takes_redirects:
            arguments["allow_redirects"] = False
        if takes_timeout and timeout is not None:
            arguments["timeout"] = timeout
        return _answer(url, call(url, **arguments))

    def _takes(self, method: str, call: Any) -> Tuple[bool, bool]:
        if method not in self._limits:
            import inspect

            try:
                parameters = list(inspect.signature(call).parameters.values())
            except (ValueError, TypeError):
                parameters = []
            names = {one.name for one in parameters}
            any_name = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)
            self._limits[method] = (any_name or "allow_redirects" in names, any_name or "timeout" in names)
        return self._limits[method]


def _answer(url: str, response: Any) -> Answer:
    came_from: Any = getattr(response, "url", None)
    if isinstance(came_from, str) and came_from and _origin(came_from) != _origin(url):
        # Not where it has gone to: that is somebody else's text.
        raise ConnectionError("http_client has followed a redirect to another host: pass one that does not")
    text: str = response.text
    if len(text) > LONGEST_ANSWER:
        raise ConnectionError(f"the answer that http_client has is longer than {LONGEST_ANSWER} characters")
    headers: Any = getattr(response, "headers", None)
    items = headers.items() if hasattr(headers, "items") else ()
    return response.status_code, [(str(name).lower(), str(value)) for name, value in items], text.encode("utf-8", "replace")


def _origin(url: str) -> Tuple[str, Optional[str], Optional[int]]:
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    return parts.scheme, parts.hostname, port or {"https": 443, "http": 80}.get(parts.scheme)
