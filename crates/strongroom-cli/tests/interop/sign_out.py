"""Signs a user out with the real msal, without a network.

    sign_out.py CACHE HOST TENANT CLIENT_ID HOME_ACCOUNT_ID
"""
import json
import sys

import msal
from msal_extensions import FilePersistence, PersistedTokenCache

cache_path, host, tenant, client_id, home_account_id = sys.argv[1:]


class Answer:
    status_code = 200
    headers = {}

    def __init__(self, url):
        authority = f"https://{host}/{tenant}"
        self.text = json.dumps({"authorization_endpoint": authority + "/oauth2/v2.0/authorize",
                                "token_endpoint": authority + "/oauth2/v2.0/token", "issuer": authority + "/v2.0"})

    def raise_for_status(self):
        pass


class Discovery:
    """All that msal asks for before it signs out."""

    def get(self, url, **kwargs):
        return Answer(url)

    def post(self, url, **kwargs):
        raise AssertionError("no token is asked for")

    def close(self):
        pass


app = msal.ConfidentialClientApplication(
    client_id, client_credential="secret", authority=f"https://{host}/{tenant}", instance_discovery=False,
    http_client=Discovery(), token_cache=PersistedTokenCache(FilePersistence(cache_path)))
accounts = [account for account in app.get_accounts() if account["home_account_id"] == home_account_id]
for account in accounts:
    app.remove_account(account)
print(json.dumps({"accounts": len(accounts), "left": len(app.get_accounts())}), flush=True)
