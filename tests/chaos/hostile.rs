//! Inputs that must be refused, by the thousand: tokens and requests bent by chance, at both doors and at the API.
//!
//! Chance has a seed, which a failure names; `SALLYPORT_CHAOS_SEED` replays it. Every generator makes only what must be
//! refused: where a mutation might happen to mean the same as before, what it starts from is worthless already.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fastrand::Rng;
use futures::StreamExt as _;
use prost::Message as _;
use sallyport_testkit::{AccessKey, Algorithm, CallerIdentity, Issuer, PresignOptions, Signer, Sts, presign};
use serde_json::{Value, json};

use super::report::{self, Fault, Figures, Rounds};
use super::scenario;
use crate::support::proto::ExchangeRequest;
use crate::support::{
    Binding, Place, Reply, World, claims, claims_of, form, free_port, header_of, now, resign, sign_claims,
};

/// Inputs of one round.
const ROUND: usize = 1_500;
/// Requests under way at a time.
const WIDTH: usize = 8;
/// The subject that the binding lets in.
const VIP: &str = "chaos:vip";
const AWS: &str = "https://sts.amazonaws.com";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// What attackers know and have: everything but a key or token that is good here.
struct Target {
    world: World,
    /// Trusted by the target's provider.
    issuer: Issuer,
    /// Trusted by another tenant's.
    other_issuer: Issuer,
    /// Keeps running as long as this does.
    _sts: Sts,
    place: Place,
    other_place: Place,
    binding: Binding,
    other_binding: Binding,
    /// Honest tokens, of which only the first is for the target.
    honest: Vec<String>,
    /// A credential of each sort that works, and one of another tenant.
    bearer: String,
    document: Value,
    other_document: Value,
    /// Session keys that STS knows: of the role that is let in, and of another account.
    key: AccessKey,
    other_key: AccessKey,
}

/// One input.
enum Input {
    /// A token through Mondoo's RPC in JSON: scope, issuer, token.
    Json(String, String, String),
    /// The same in protobuf.
    Protobuf(String, String, String),
    /// A token at the OAuth endpoint: client ID, token type, token.
    Form(String, &'static str, String),
    /// A body as it is, to a path with a content type.
    Raw(&'static str, &'static str, Vec<u8>),
    /// A bearer at the API.
    Bearer(String),
}

impl Target {
    async fn new() -> Self {
        let port = free_port();
        let world = World::with(|setup| {
            let hosts = ["sts.amazonaws.com", "sts.eu-west-1.amazonaws.com"];
            let entries = hosts.map(|host| format!("{host}:443=127.0.0.1:{port}")).join(",");
            setup.set("SALLYPORT_OUTBOUND_RESOLVE", &entries);
        })
        .await;
        let sts = Sts::builder(now).port(port).start(&world.authority).await.expect("an STS");
        let issuer = Issuer::builder().start(&world.authority).await.expect("an issuer");
        let other_issuer = world.another_issuer().await;
        let (place, other_place) = (world.place().await, world.place().await);
        let bind = async |place: &Place, issuer: &str, subject: &str| {
            let input = json!({ "scopeMrn": place.space, "name": "hostile", "issuerUri": issuer, "subject": subject });
            world.bind(input).await
        };
        let binding = bind(&place, issuer.uri(), VIP).await;
        let other_binding = bind(&other_place, other_issuer.uri(), VIP).await;
        bind(&other_place, issuer.uri(), "chaos:other").await;
        bind(&place, AWS, "arn:aws:sts::123456789012:assumed-role/Deploy/*").await;
        let (key, other_key) = (AccessKey::temporary(), AccessKey::temporary());
        sts.add_identity(key.clone(), CallerIdentity::assumed_role("123456789012", "Deploy", "run"));
        sts.add_identity(other_key.clone(), CallerIdentity::assumed_role("999999999999", "Deploy", "run"));

        let honest = [(VIP, &place), ("chaos:other", &other_place), ("chaos:nobody", &place), (VIP, &other_place)];
        let honest: Vec<String> =
            honest.into_iter().map(|(subject, place)| issuer.mint(claims(&issuer, subject, &place.space))).collect();
        let reply = world.exchange(&place.space, issuer.uri(), &honest[0]).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let document = crate::support::document(&reply);
        let bearer = world.access_token(&binding.client_id, &honest[0]).await;
        let token = other_issuer.mint_with(Algorithm::Es256, claims(&other_issuer, VIP, &other_place.space));
        let reply = world.exchange(&other_place.space, other_issuer.uri(), &token).await;
        let other_document = crate::support::document(&reply);
        Self {
            world,
            issuer,
            other_issuer,
            _sts: sts,
            place,
            other_place,
            binding,
            other_binding,
            honest,
            bearer,
            document,
            other_document,
            key,
            other_key,
        }
    }

    /// That honest ones are let in: so the others are refused for what is wrong with them.
    async fn assert_honest(&self) {
        let token = self.issuer.mint(claims(&self.issuer, VIP, &self.place.space));
        let rpc = self.world.exchange(&self.place.space, self.issuer.uri(), &token).await;
        let oauth = self.world.oauth(&self.binding.client_id, &token, &[]).await;
        let aws = presign(&self.key, &PresignOptions::mondoo(now())).to_string();
        let aws = self.world.exchange(&self.place.space, AWS, &aws).await;
        assert_eq!((rpc.status, oauth.status, aws.status), (200, 200, 200), "{}", aws.text());
        assert_eq!(self.world.ping(&self.bearer).await, 200);
    }

    /// Makes one input; its family is for the failure's message.
    fn input(&self, chance: &mut Rng) -> (&'static str, Input) {
        match chance.u8(..12) {
            0 => ("bits flipped", self.at_a_door(chance, |t, c| flipped(&t.honest[0], c))),
            1 => ("cut or extended", self.at_a_door(chance, |t, c| cut_or_extended(&t.honest[0], c))),
            2 => ("parts swapped", self.at_a_door(chance, Self::swapped)),
            3 => ("signed by a stranger", self.at_a_door(chance, Self::foreign)),
            4 => ("algorithm confused", self.at_a_door(chance, Self::confused)),
            5 => ("header tricks", self.at_a_door(chance, Self::header_trick)),
            6 => ("wrong claims", self.at_a_door(chance, Self::wrong_claims)),
            7 => ("members twice, or of a wrong type", self.at_a_door(chance, Self::malformed_claims)),
            8 => ("meant for somebody else", self.misdirected(chance)),
            9 => ("AWS", self.aws(chance)),
            10 => ("noise", self.noise(chance)),
            _ => ("bearers", Input::Bearer(self.bearers(chance))),
        }
    }

    fn at_a_door(&self, chance: &mut Rng, token: impl FnOnce(&Self, &mut Rng) -> String) -> Input {
        let token = token(self, chance);
        self.at(chance, token)
    }

    fn at(&self, chance: &mut Rng, token: String) -> Input {
        let (space, uri) = (self.place.space.clone(), self.issuer.uri().to_owned());
        match chance.u8(..3) {
            0 => Input::Json(space, uri, token),
            1 => Input::Protobuf(space, uri, token),
            _ => Input::Form(self.binding.client_id.clone(), JWT, token),
        }
    }

    /// Header, payload and signature of honest tokens, the signature never of the payload's.
    fn swapped(&self, chance: &mut Rng) -> String {
        let count = self.honest.len();
        let payload = chance.usize(..count);
        let signature = (payload + chance.usize(1..count)) % count;
        let part = |of: usize, which: usize| self.honest[of].split('.').nth(which).unwrap_or_default();
        format!("{}.{}.{}", part(chance.usize(..count), 0), part(payload, 1), part(signature, 2))
    }

    fn foreign(&self, chance: &mut Rng) -> String {
        let algorithm = pick(chance, &Algorithm::ALL);
        let mut header = json!({ "alg": algorithm.name(), "typ": "JWT" });
        // As if by one of the issuer's own keys, fitting or not, or by none in particular.
        match chance.u8(..3) {
            0 => header["kid"] = json!(self.issuer.kid(Algorithm::Rs256)),
            1 => header["kid"] = json!(self.issuer.kid(Algorithm::Es256)),
            _ => {}
        }
        self.issuer.mint_raw(header, self.vip().as_bytes(), &Signer::Foreign(algorithm))
    }

    fn confused(&self, chance: &mut Rng) -> String {
        let kid = self.issuer.kid(Algorithm::Rs256);
        let pem = self.issuer.public_key_pem(Algorithm::Rs256);
        let jwk = self.issuer.jwks()["keys"][0].to_string();
        let alg =
            pick(chance, &["none", "None", "NONE", "nOnE", "HS256", "HS384", "HS512", "RS256", "ES256", "PS256", ""]);
        let signer = match chance.u8(..7) {
            0 => Signer::None,
            1 => Signer::Hmac(pem.into_bytes()),
            2 => Signer::Hmac(pem.trim_end().as_bytes().to_vec()),
            3 => Signer::Hmac(jwk.into_bytes()),
            4 => Signer::Hmac(Vec::new()),
            5 => Signer::Mixed(Algorithm::Rs256, Algorithm::Ps384),
            _ => Signer::Bytes(vec![chance.u8(..); chance.usize(..513)]),
        };
        self.issuer.mint_raw(json!({ "alg": alg, "kid": kid, "typ": "JWT" }), self.vip().as_bytes(), &signer)
    }

    fn header_trick(&self, chance: &mut Rng) -> String {
        let algorithm = Algorithm::Es256;
        let mut header = self.issuer.header(algorithm);
        let stranger = &self.other_issuer;
        let (name, value, honestly) = match chance.u8(..9) {
            0 => ("crit", json!(["exp"]), true),
            1 => ("b64", json!(false), true),
            2 => ("zip", json!("DEF"), true),
            3 => ("padding", json!("x".repeat(5_000)), true),
            4 => ("jwk", stranger.jwks()["keys"][0].clone(), false),
            5 => ("jku", json!(stranger.jwks_uri()), false),
            6 => ("x5u", json!(stranger.jwks_uri()), false),
            7 => ("x5c", json!(["MIIB"]), false),
            _ => ("kid", json!(format!("invented-{}", chance.u64(..))), false),
        };
        header[name] = value;
        if honestly {
            return self.issuer.mint_raw(header, self.vip().as_bytes(), &Signer::Current(algorithm));
        }
        // By the key that the header brings along.
        stranger.mint_raw(header, self.vip().as_bytes(), &Signer::Current(algorithm))
    }

    /// Rightly signed by the trusted issuer, and not for us.
    fn wrong_claims(&self, chance: &mut Rng) -> String {
        let mut claims = claims(&self.issuer, VIP, &self.place.space);
        let uri = self.issuer.uri();
        let space = self.place.space.as_str();
        match chance.u8(..4) {
            0 => {
                let near = [
                    "chaos:vi",
                    "chaos:vip ",
                    " chaos:vip",
                    "CHAOS:VIP",
                    "chaos:vip\u{0}",
                    "chaos:vıp",
                    "chaos:vip/x",
                    "x:chaos:vip",
                    "chaos:*",
                    "*",
                    "chaos:vip\nchaos:vip",
                    "chaos%3Avip",
                ];
                claims["sub"] = json!(pick(chance, &near));
            }
            1 => {
                let near = [
                    json!(format!("{space}/")),
                    json!(space.to_uppercase()),
                    json!(&space[..space.len() - 1]),
                    json!([]),
                    json!(["x"]),
                    json!(""),
                    json!(self.place.organization),
                    json!(self.other_place.space),
                    json!(self.other_binding.client_id),
                    json!("*"),
                    json!("https://elsewhere.example"),
                ];
                claims["aud"] = pick(chance, &near);
            }
            2 => {
                let near = [
                    uri.to_uppercase(),
                    format!("{uri}//"),
                    format!("{uri}/x"),
                    format!("{uri}?"),
                    format!("{uri}#"),
                    uri.replace("https://", "http://"),
                    uri.replace("https://", "https://x@"),
                    format!(" {uri}"),
                    self.other_issuer.uri().to_owned(),
                    self.world.server.url.clone(),
                    String::new(),
                ];
                claims["iss"] = json!(pick(chance, &near));
            }
            _ => {
                let now = now();
                let far = 60 + chance.i64(..1_000_000);
                let name = pick(chance, &["exp", "iat", "nbf"]);
                claims[name] = json!(if name == "exp" { now - far } else { now + far });
            }
        }
        self.issuer.mint_with(Algorithm::Es256, claims)
    }

    /// Rightly signed, in JSON that two readers may read differently.
    fn malformed_claims(&self, chance: &mut Rng) -> String {
        let text = self.vip();
        let name = pick(chance, &["sub", "iss", "aud", "exp", "iat"]);
        let payload = match chance.u8(..5) {
            0 => text.replacen('{', &format!("{{\"{name}\":\"somebody else\","), 1),
            1 => text.replacen('{', &format!("{{\"{}\":\"somebody else\",", name.to_uppercase()), 1),
            2 => format!("{text}{}", pick(chance, &["x", "{}", "\u{0}", ",", "]"])),
            3 => {
                let mut claims: Value = serde_json::from_str(&text).expect("JSON");
                let wrong = [json!(null), json!(true), json!({}), json!([[]]), json!([5])];
                claims[name] = pick(chance, &wrong);
                claims.to_string()
            }
            _ => text.replacen('{', &format!("{{\"deep\":{}1{},", "[".repeat(40), "]".repeat(40)), 1),
        };
        let algorithm = Algorithm::Es256;
        self.issuer.mint_raw(self.issuer.header(algorithm), payload.as_bytes(), &Signer::Current(algorithm))
    }

    /// Good tokens at the wrong place.
    fn misdirected(&self, chance: &mut Rng) -> Input {
        let (issuer, other) = (self.issuer.uri().to_owned(), self.other_issuer.uri().to_owned());
        let stranger = self.other_issuer.mint_with(
            Algorithm::Es256,
            claims(&self.other_issuer, VIP, &pick(chance, &[&self.place, &self.other_place]).space),
        );
        let honest = self.honest[0].clone();
        let (here, there) = (self.place.space.clone(), self.other_place.space.clone());
        match chance.u8(..9) {
            0 => Input::Json(here, issuer, stranger),
            1 => Input::Json(here, other, stranger),
            2 => Input::Form(self.binding.client_id.clone(), JWT, stranger),
            3 => Input::Json(there, issuer, honest),
            4 => Input::Form(self.other_binding.client_id.clone(), JWT, honest),
            5 => Input::Json(self.place.organization.clone(), issuer, honest),
            6 => Input::Json("//platform.api.mondoo.app".to_owned(), issuer, honest),
            7 => Input::Protobuf(here, AWS.to_owned(), honest),
            _ => Input::Json(flipped(&there, chance), flipped(&other, chance), stranger),
        }
    }

    fn aws(&self, chance: &mut Rng) -> Input {
        let options = PresignOptions::mondoo(now());
        let hosts = [
            "sts.amazonaws.com.evil.example",
            "evil.example",
            "127.0.0.1",
            "s3.amazonaws.com",
            "sts.amazonaws.com.",
            "sts.nowhere-9.amazonaws.com",
            "sts.amazonaws.com@evil.example",
            "STS.amazonaws.com\r\nX: y",
            "[::1]",
        ];
        let urls = [
            "https://sts.amazonaws.com/?Action=AssumeRole&Version=2011-06-15",
            "https://sts.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15&Action=AssumeRole",
            "https://sts.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-16",
            "https://sts.amazonaws.com:8443/?Action=GetCallerIdentity&Version=2011-06-15",
            "http://sts.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15",
            "https://sts.amazonaws.com/path?Action=GetCallerIdentity&Version=2011-06-15",
            "https://x@sts.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15",
            "https://sts.amazonaws.com\\@evil.example/?Action=GetCallerIdentity&Version=2011-06-15",
            "file:///etc/passwd",
        ];
        let document = match chance.u8(..10) {
            0 => presign(&self.key, &options.host(pick(chance, &hosts))),
            1 => presign(&self.key, &options.url(pick(chance, &urls))),
            2 => presign(
                &self.key,
                &options.method(pick(chance, &["PUT", "DELETE", "HEAD", "CONNECT", "post", "POST / HTTP/1.1\r\n"])),
            ),
            3 => presign(&self.key, &options.service("s3")),
            4 => presign(&self.key, &options.region("eu-west-1")),
            5 => presign(&self.key, &options.unsigned_header("X-Amz-Security-Token", "x")),
            6 => {
                let names =
                    ["X-Forwarded-Host", "Connection", "Transfer-Encoding", "X-Amz-Target", "Host", "Forwarded"];
                presign(&self.key, &options.header(pick(chance, &names), "evil.example"))
            }
            7 => presign(&self.key, &PresignOptions::mondoo(now() - 3_600 - chance.i64(..1_000_000))),
            8 => presign(&self.other_key, &options),
            // What starts from a key that STS does not know may be bent in any way.
            _ => {
                let document = presign(&AccessKey::temporary(), &options).to_string();
                let bent = if chance.bool() { flipped(&document, chance) } else { cut_or_extended(&document, chance) };
                return self.aws_at(chance, bent);
            }
        };
        self.aws_at(chance, document.to_string())
    }

    fn aws_at(&self, chance: &mut Rng, document: String) -> Input {
        if chance.bool() {
            Input::Json(self.place.space.clone(), AWS.to_owned(), document)
        } else {
            Input::Form(self.place.space.clone(), "urn:ietf:params:aws:token-type:aws4_request", document)
        }
    }

    /// Whole requests bent; the token in them is worthless.
    fn noise(&self, chance: &mut Rng) -> Input {
        let token = self.issuer.sign_with_foreign_key(Algorithm::Es256, claims(&self.issuer, VIP, &self.place.space));
        let (space, uri) = (&self.place.space, self.issuer.uri());
        const RPC: &str = "/SecureTokenService/ExchangeExternalToken";
        let (path, content_type, body) = match chance.u8(..3) {
            0 => {
                let body = json!({ "audience": space, "issuer_uri": uri, "jwt_token": token });
                (RPC, "application/json", body.to_string().into_bytes())
            }
            1 => (RPC, "application/protobuf", protobuf(space, uri, &token)),
            _ => {
                let client = self.binding.client_id.as_str();
                let fields = [
                    ("grant_type", EXCHANGE),
                    ("subject_token", &token),
                    ("subject_token_type", JWT),
                    ("client_id", client),
                ];
                ("/auth/v1/token", "application/x-www-form-urlencoded", form(&fields).into_bytes())
            }
        };
        let mut body = body;
        match chance.u8(..4) {
            0 => body.truncate(chance.usize(..body.len())),
            1 => body = (0..chance.usize(..2_000)).map(|_| chance.u8(..)).collect(),
            2 => {
                let at = chance.usize(..body.len());
                let again = body[at..].to_vec();
                body.extend(again);
            }
            _ => {
                for _ in 0..chance.usize(1..20) {
                    let at = chance.usize(..body.len());
                    body[at] ^= 1 << chance.u8(..8);
                }
            }
        }
        Input::Raw(path, content_type, body)
    }

    fn bearers(&self, chance: &mut Rng) -> String {
        let (header, claims) = (header_of(&self.bearer), claims_of(&self.bearer));
        let (victim, own) = (self.document["mrn"].clone(), &self.other_document);
        let visible = |text: String| text.replace(|c: char| !c.is_ascii_graphic(), "~");
        match chance.u8(..8) {
            0 => visible(flipped(&self.bearer, chance)),
            1 => visible(cut_or_extended(&self.bearer, chance)),
            2 => {
                let mut claims = claims;
                claims["sub"] = json!(victim);
                resign(&self.bearer, &header, &claims)
            }
            3 => {
                let none = URL_SAFE_NO_PAD.encode(json!({ "alg": "none", "typ": "at+jwt" }).to_string());
                format!("{none}.{}.", self.bearer.split('.').nth(1).unwrap_or_default())
            }
            4 => pick(chance, &self.honest),
            // With a key of one's own, in somebody else's name.
            5 => {
                let now = now();
                let claims = json!({ "sub": victim, "iss": "mondoo/ams", "iat": now, "nbf": now, "exp": now + 60 });
                sign_claims(own, &json!({ "alg": "ES384", "kid": victim, "typ": "JWT" }), &claims)
            }
            6 => {
                let now = now();
                let claims = json!({ "sub": victim, "iss": "mondoo/ams", "iat": now, "nbf": now, "exp": now + 60 });
                sign_claims(own, &json!({ "alg": "ES384", "kid": own["mrn"], "typ": "JWT" }), &claims)
            }
            _ => (0..chance.usize(1..200)).map(|_| chance.alphanumeric()).collect(),
        }
    }

    /// The payload that would be let in, were it rightly signed.
    fn vip(&self) -> String {
        claims(&self.issuer, VIP, &self.place.space).to_string()
    }

    /// Presents it; the answer, if any.
    async fn present(&self, input: Input) -> Option<Reply> {
        let post = |path: &str| self.world.http.post(format!("{}{path}", self.world.server.url));
        let rpc = "/SecureTokenService/ExchangeExternalToken";
        let request = match input {
            Input::Json(scope, issuer, token) => {
                post(rpc).json(&json!({ "audience": scope, "issuer_uri": issuer, "jwt_token": token }))
            }
            Input::Protobuf(scope, issuer, token) => {
                post(rpc).header("content-type", "application/protobuf").body(protobuf(&scope, &issuer, &token))
            }
            Input::Form(client, kind, token) => {
                // A scope instead of a client ID names all the trusts of that scope.
                let locator = if client.starts_with("//") { "audience" } else { "client_id" };
                let fields = [
                    ("grant_type", EXCHANGE),
                    ("subject_token", &token),
                    ("subject_token_type", kind),
                    (locator, &client),
                ];
                post("/auth/v1/token").header("content-type", "application/x-www-form-urlencoded").body(form(&fields))
            }
            Input::Raw(path, content_type, body) => post(path).header("content-type", content_type).body(body),
            Input::Bearer(token) => {
                post("/AgentManager/PingPong").header("content-type", "application/protobuf").bearer_auth(token)
            }
        };
        Reply::of(request).await.ok()
    }
}

fn protobuf(scope: &str, issuer: &str, token: &str) -> Vec<u8> {
    let (audience, issuer_uri, jwt_token) = (scope.to_owned(), issuer.to_owned(), token.to_owned());
    ExchangeRequest { audience, issuer_uri, jwt_token, ..ExchangeRequest::default() }.encode_to_vec()
}

fn pick<T: Clone>(chance: &mut Rng, among: &[T]) -> T {
    among[chance.usize(..among.len())].clone()
}

/// A few bits of a text turned over; never the same text.
fn flipped(text: &str, chance: &mut Rng) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut places: Vec<usize> = (0..bytes.len()).collect();
    chance.shuffle(&mut places);
    for at in places.into_iter().take(chance.usize(1..4)) {
        // Seven bits, so that ASCII stays ASCII.
        bytes[at] ^= 1 << chance.u8(..7);
    }
    String::from_utf8(bytes).expect("ASCII")
}

fn cut_or_extended(text: &str, chance: &mut Rng) -> String {
    let cut = chance.usize(..text.len());
    match chance.u8(..4) {
        0 => text[..cut].to_owned(),
        1 => text[cut.max(1)..].to_owned(),
        2 => format!("{text}{}", pick(chance, &["=", ".", "A", "..", ".e30", "\u{0}", "%00", "+", "é"])),
        _ => format!("{}{}", &text[..cut], pick(chance, &[".", "..", "=", "AAAA", "{", "\u{feff}"])),
    }
}

#[test]
fn bent_tokens_and_requests_are_refused_by_the_thousand() {
    scenario(Fault::HostileInputs, async {
        let target = Target::new().await;
        let seed = std::env::var("SALLYPORT_CHAOS_SEED").map_or_else(
            |_| u64::try_from(now()).expect("after 1970"),
            |seed| seed.parse().expect("SALLYPORT_CHAOS_SEED is a number"),
        );
        let mut chance = Rng::with_seed(seed);
        let mut rounds = Rounds::of(Fault::HostileInputs, 1);
        target.assert_honest().await;
        let (fetched, began) = (target.issuer.jwks_fetches(), std::time::Instant::now());
        while rounds.more() {
            let inputs = (0..ROUND).map(|_| target.input(&mut chance));
            let answers = futures::stream::iter(inputs)
                .map(|(family, input)| {
                    let target = &target;
                    async move { (family, target.present(input).await) }
                })
                .buffered(WIDTH);
            let mut answers = std::pin::pin!(answers.enumerate());
            let mut figures = Figures::default();
            while let Some((number, (family, reply))) = answers.next().await {
                figures.times += 1;
                let (round, place) =
                    (rounds.done(), format!("seed {seed}, round {}, {number}: {family}", rounds.done()));
                let reply = reply.unwrap_or_else(|| panic!("{place}: no answer in round {round}"));
                match reply.status {
                    200 => figures.honoured.push(format!("{place}: {}", reply.text())),
                    400..=499 => {}
                    _ => panic!("{place}: {} {}", reply.status, reply.text()),
                }
            }
            report::add(Fault::HostileInputs, figures);
            target.assert_honest().await;
        }
        // Invented key ids made it fetch no more often than domain.md says: two, and one every 30 s; and its own refreshes.
        let fetches = target.issuer.jwks_fetches() - fetched;
        let allowed = 3 + began.elapsed().as_secs() / 30 + began.elapsed().as_secs() / 60;
        assert!(fetches <= allowed, "{fetches} fetches of the key set");
        let log = target.world.server.log();
        assert!(!log.contains("panicked"), "seed {seed}: the server panicked\n{log}");
    });
}
