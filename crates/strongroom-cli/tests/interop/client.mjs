// A daemon with the real @azure/msal-node and @azure/msal-node-extensions.
//
//     client.mjs MODULES CONFIG CACHE SCOPE...
//
// MODULES: the folder with their node_modules.  Says "ready", waits for a line, then gets a token for each scope and
// prints a JSON object a line.  The trust root is in NODE_EXTRA_CA_CERTS.
import fs from "node:fs";
import { createRequire } from "node:module";
import readline from "node:readline";

const [modules, configPath, cachePath, ...scopes] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const { ConfidentialClientApplication } = require("@azure/msal-node");
const { FilePersistence, PersistenceCachePlugin } = require("@azure/msal-node-extensions");

const config = JSON.parse(fs.readFileSync(configPath, "utf8"));
const app = new ConfidentialClientApplication({
  auth: {
    clientId: config.client_id, clientSecret: config.client_secret, authority: config.authority,
    knownAuthorities: [new URL(config.authority).host],
  },
  cache: { cachePlugin: new PersistenceCachePlugin(await FilePersistence.create(cachePath)) },
});
console.log("ready");
await new Promise((go) => readline.createInterface({ input: process.stdin }).once("line", go));
for (const scope of scopes) {
  let result = {};
  try {
    const { fromCache, accessToken } = await app.acquireTokenByClientCredential({ scopes: [scope] });
    result = { source: fromCache ? "cache" : "identity_provider", access_token: accessToken };
  } catch (e) {
    result = { error: `${e.errorCode ?? e.name}: ${e.message}` };
  }
  console.log(JSON.stringify({ scope, ...result }));
}
process.stdin.destroy();
