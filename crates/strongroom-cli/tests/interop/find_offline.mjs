// The real @azure/msal-node looks for an application's token in a cache, without a network.
//
//     find_offline.mjs MODULES CACHE HOST       prints a JSON object: the token, or the error
import fs from "node:fs";
import { createRequire } from "node:module";

const [modules, cachePath, host] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const { ConfidentialClientApplication } = require("@azure/msal-node");

const base = `https://${host}/tid`;
const app = new ConfidentialClientApplication({
  auth: {
    clientId: "client-id", clientSecret: "secret", authority: base, knownAuthorities: [host],
    authorityMetadata: JSON.stringify({
      authorization_endpoint: `${base}/authorize`, token_endpoint: `${base}/token`, issuer: base,
      end_session_endpoint: `${base}/logout`, jwks_uri: `${base}/keys`,
    }),
  },
  system: { networkClient: { sendGetRequestAsync: refuse, sendPostRequestAsync: refuse } },
});
async function refuse() {
  throw new Error("it asks the network");
}
app.getTokenCache().deserialize(fs.readFileSync(cachePath, "utf8"));
let result;
try {
  const { fromCache, accessToken } = await app.acquireTokenByClientCredential({ scopes: ["s"] });
  result = { source: fromCache ? "cache" : "identity_provider", access_token: accessToken };
} catch (e) {
  result = { error: `${e.errorCode ?? e.name}: ${e.message}` };
}
console.log(JSON.stringify(result));
