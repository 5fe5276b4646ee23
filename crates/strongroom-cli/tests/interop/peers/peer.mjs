// A daemon with the real @azure/msal-node, its cache in a plain file or with @azure/msal-node-extensions.
//
//     peer.mjs MODULES plain|extensions write FOLDER       signs in, an application and a user, into app.bin and user.bin
//     peer.mjs MODULES plain|extensions read FOLDER...     what it finds there
//
// MODULES: the folder with their node_modules.  Prints JSON, a line for each answer; the first line tells the versions.
// The provider, the application and its scopes are in PEER_*, the trust root in NODE_EXTRA_CA_CERTS.  MSAL Node knows
// no proxy, so its network client is ours: it sends each request to the port of PEER_FRONT.
import fs from "node:fs";
import https from "node:https";
import { createRequire } from "node:module";
import path from "node:path";

const [modules, persistence, mode, ...folders] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const { ConfidentialClientApplication } = require("@azure/msal-node");

const env = (name) => process.env[`PEER_${name}`];

const networkClient = {
  sendGetRequestAsync: (url, options) => send("GET", url, options),
  sendPostRequestAsync: (url, options) => send("POST", url, options),
};

function send(method, url, options) {
  const { hostname, pathname, search } = new URL(url);
  const to = { host: "localhost", port: env("FRONT"), servername: hostname, path: pathname + search, method };
  return new Promise((resolve, reject) => {
    const body = options?.body ?? "";
    const headers = { ...options?.headers, host: hostname, "content-length": Buffer.byteLength(body) };
    const request = https.request({ ...to, headers }, async (response) => {
      let text = "";
      for await (const chunk of response.setEncoding("utf8")) text += chunk;
      resolve({ headers: response.headers, status: response.statusCode, body: JSON.parse(text) });
    });
    request.on("error", reject).end(body);
  });
}

// As the samples of MSAL Node do it.
const plainFile = (file) => ({
  async beforeCacheAccess(context) {
    if (fs.existsSync(file)) context.tokenCache.deserialize(fs.readFileSync(file, "utf8"));
  },
  async afterCacheAccess(context) {
    if (context.cacheHasChanged) fs.writeFileSync(file, context.tokenCache.serialize(), { mode: 0o600 });
  },
});

async function plugin(file) {
  if (persistence === "plain") return plainFile(file);
  const { FilePersistence, PersistenceCachePlugin } = require("@azure/msal-node-extensions");
  return new PersistenceCachePlugin(await FilePersistence.create(file));
}

async function client(file) {
  return new ConfidentialClientApplication({
    auth: { clientId: env("CLIENT_ID"), clientSecret: env("CLIENT_SECRET"), authority: env("AUTHORITY") },
    cache: { cachePlugin: await plugin(file) },
    system: { networkClient },
  });
}

async function token(acquire) {
  try {
    const result = await acquire();
    return result ? { token: result.accessToken } : { error: "nothing was found" };
  } catch (e) {
    return { error: e.errorCode ? `${e.errorCode}: ${e.message}` : String(e) };
  }
}

async function appTokens(file) {
  const app = await client(file);
  const acquire = (scope) => token(() => app.acquireTokenByClientCredential({ scopes: [scope] }));
  return { plain: await acquire(env("SCOPE")), second: await acquire(env("SECOND_SCOPE")) };
}

async function write(folder) {
  const said = await appTokens(path.join(folder, "app.bin"));
  const app = await client(path.join(folder, "user.bin"));
  const request = { code: env("CODE"), scopes: [env("USER_SCOPE")], redirectUri: "https://localhost/redirect" };
  said.user = await token(() => app.acquireTokenByCode(request));
  return said;
}

async function read(folder) {
  const said = await appTokens(path.join(folder, "app.bin"));
  const app = await client(path.join(folder, "user.bin"));
  let account;
  try {
    const accounts = await app.getTokenCache().getAllAccounts();
    account = accounts.find(({ homeAccountId }) => homeAccountId === env("ACCOUNT"));
  } catch (e) {
    return { ...said, account: { error: String(e) } };
  }
  said.account = { found: account !== undefined };
  if (account) said.user = await token(() => app.acquireTokenSilent({ account, scopes: [env("USER_SCOPE")] }));
  return said;
}

const names = persistence === "plain" ? ["@azure/msal-node"] : ["@azure/msal-node", "@azure/msal-node-extensions"];
const version = (name) => JSON.parse(fs.readFileSync(`${modules}/node_modules/${name}/package.json`, "utf8")).version;
console.log(JSON.stringify({ versions: names.map((name) => `${name} ${version(name)}`) }));
for (const folder of folders) console.log(JSON.stringify(await (mode === "write" ? write(folder) : read(folder))));
