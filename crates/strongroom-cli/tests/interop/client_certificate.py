"""A daemon with the real msal that signs in with a certificate.

    client_certificate.py FORM KEY CERTIFICATE THUMBPRINT CONFIG CACHE CA FMI_PATH

FORM is the form of the credential: certificate, thumbprint or both.  Prints a JSON object for a plain token and one for
a token with the FMI path.
"""
import json
import os
import sys

os.environ.pop("REQUESTS_CA_BUNDLE", None)  # they would override verify=
os.environ.pop("CURL_CA_BUNDLE", None)

import msal
from msal_extensions import FilePersistence, PersistedTokenCache

form, key, certificate, thumbprint, config_path, cache_path, ca, fmi_path = sys.argv[1:]
with open(config_path) as f:
    config = json.load(f)
with open(key) as f:
    credential = {"private_key": f.read()}
if form in ("certificate", "both"):
    with open(certificate) as f:
        credential["public_certificate"] = f.read()
if form in ("thumbprint", "both"):
    credential["thumbprint"] = thumbprint
app = msal.ConfidentialClientApplication(
    config["client_id"], client_credential=credential, authority=config["authority"],
    instance_discovery=False, token_cache=PersistedTokenCache(FilePersistence(cache_path)), verify=ca)
for more in {}, {"fmi_path": fmi_path}:
    result = app.acquire_token_for_client(scopes=config["scope"], **more)
    print(json.dumps({"source": result.get("token_source"), "error": result.get("error_description"),
                      "access_token": result.get("access_token")}))
