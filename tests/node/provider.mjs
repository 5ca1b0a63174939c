// The `oidc-provider` package behind HTTPS: an issuer nobody wrote for Sallyport. Usage: node provider.mjs CERTIFICATE KEY.
// Prints its issuer URL once it listens; goes when standard input closes. The client `ci-job` gets JWT access tokens by
// client_credentials for any resource (RFC 8707); the lifetime is ten minutes.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { exportJWK, generateKeyPair } from 'jose';
import Provider from 'oidc-provider';

const [certificate, key] = process.argv.slice(2);
const server = createServer({ cert: readFileSync(certificate), key: readFileSync(key) });
await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
const issuer = `https://127.0.0.1:${server.address().port}`;

const { privateKey } = await generateKeyPair('ES256', { extractable: true });
const signing = { ...(await exportJWK(privateKey)), kid: 'third-party-1', alg: 'ES256', use: 'sig' };
const provider = new Provider(issuer, {
  jwks: { keys: [signing] },
  cookies: { keys: ['not used by this grant'] },
  clients: [
    {
      client_id: 'ci-job',
      client_secret: 'a secret of the CI platform',
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
      id_token_signed_response_alg: 'ES256',
    },
  ],
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_context, resource) => ({
        scope: 'deploy',
        audience: resource,
        accessTokenTTL: 600,
        accessTokenFormat: 'jwt',
        jwt: { sign: { alg: 'ES256' } },
      }),
    },
  },
  extraTokenClaims: () => ({ project: 'shop', protected: true }),
});
server.on('request', provider.callback());
console.log(issuer);
process.stdin.resume().on('end', () => process.exit(0));
