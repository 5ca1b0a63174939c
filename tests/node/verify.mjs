// Verifies a token as a relying party would, knowing nothing but the issuer's URL: discovery, key set, signature,
// issuer, audience, times. Usage: node verify.mjs ISSUER AUDIENCE TOKEN [TYP]. Prints {header, claims, metadata}.
import { createRemoteJWKSet, jwtVerify } from 'jose';

const [issuer, audience, token, typ] = process.argv.slice(2);
const answer = await fetch(`${issuer}/.well-known/openid-configuration`);
if (answer.status !== 200) throw new Error(`discovery answered ${answer.status}`);
const metadata = await answer.json();
if (metadata.issuer !== issuer) throw new Error(`the document is of ${metadata.issuer}`);
const keys = createRemoteJWKSet(new URL(metadata.jwks_uri));
const { payload, protectedHeader } = await jwtVerify(token, keys, { issuer, audience, typ, requiredClaims: ['exp', 'iat', 'sub'] });
console.log(JSON.stringify({ header: protectedHeader, claims: payload, metadata }));
