// Reads an issuer's discovery documents with a strict OpenID client. Usage: node discover.mjs ISSUER. Prints the metadata
// it accepted, {oidc, oauth2}.
import * as client from 'openid-client';

const issuer = new URL(process.argv[2]);
const execute = [client.allowInsecureRequests];
const found = {};
for (const algorithm of ['oidc', 'oauth2']) {
  const configuration = await client.discovery(issuer, 'anyone', undefined, client.None(), { algorithm, execute });
  found[algorithm] = configuration.serverMetadata();
}
console.log(JSON.stringify(found));
