"""A daemon: gets a token, from the cache if it can, calls an API, and ends. The next run finds the token.

    python console.py --config config.json                 with our client: nothing else has to be installed
    python console.py --config config.json --client msal   with the real msal, and our cache beneath it

The first run asks the identity provider. Every further one is answered by the cache until the token ends, whichever of the
two clients it is run with.
"""

from __future__ import annotations

import argparse
import json
import ssl
import sys
import urllib.error
import urllib.request

import msalcache
import strongroom


def main() -> int:
    options = arguments()
    with open(options.config, encoding="utf-8") as file:
        config = json.load(file)

    persistence = msalcache.build_persistence(options.cache, fallback_to_plaintext=options.fallback_to_plaintext)
    cache = strongroom.PersistedTokenCache(persistence)
    print(f"cache: {persistence.get_location()}, encrypted: {persistence.is_encrypted} ({cache.protection})")

    if options.client == "msal":
        from msal import ConfidentialClientApplication
    else:
        from strongroom import ConfidentialClientApplication
    app = ConfidentialClientApplication(
        config["client_id"],
        client_credential=client_credential(config),
        authority=config["authority"],
        instance_discovery=config.get("instance_discovery"),
        verify=options.ca_file or True,
        token_cache=cache,
    )

    # First the cache. An application's own token belongs to no account.
    result = app.acquire_token_silent(config["scope"], account=None)
    if not result:
        result = app.acquire_token_for_client(scopes=config["scope"])
    if "access_token" not in result:
        print(f"{result.get('error')}: {result.get('error_description')}", file=sys.stderr)
        return 3
    print(f"token from: {result['token_source']}, good for {result['expires_in']} s")

    if "endpoint" in config:
        status, answer = call(config["endpoint"], result["access_token"], options.ca_file)
        print(f"the API answered {status}: {json.dumps(answer, indent=2)}")
        return 0 if status == 200 else 1
    return 0


def arguments() -> argparse.Namespace:
    description, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="config.json", help="who signs in where, as in MSAL's samples")
    parser.add_argument("--cache", default="token_cache.bin", help="where the tokens are kept")
    parser.add_argument("--client", choices=["strongroom", "msal"], default="strongroom", help="which client asks")
    parser.add_argument("--ca-file", help="root certificates to trust, those of a local provider for example")
    parser.add_argument(
        "--fallback-to-plaintext", action="store_true", help="go on in plain text where nothing can encrypt"
    )
    return parser.parse_args()


def client_credential(config: dict):
    """The application's secret, or its certificate."""
    if "private_key_file" not in config:
        return config.get("client_secret") or config["secret"]
    with open(config["private_key_file"], encoding="utf-8") as file:
        return {"thumbprint": config["thumbprint"], "private_key": file.read()}


def call(endpoint: str, token: str, ca_file: str | None) -> tuple[int, object]:
    """What the API answers to whoever holds this token."""
    if not endpoint.lower().startswith("https://"):
        raise ValueError(f"the endpoint {endpoint!r} is not https: whoever listens could use the token")
    https = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=ca_file))
    opener = urllib.request.build_opener(https, NoRedirects)
    request = urllib.request.Request(endpoint, headers={"Authorization": f"Bearer {token}"})
    try:
        with opener.open(request) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, error.reason


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """urllib would hand the token on to wherever a redirect leads."""

    def redirect_request(self, *_: object) -> None:
        return None


if __name__ == "__main__":
    sys.exit(main())
