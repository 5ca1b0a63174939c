//! What the unit tests share: keys, a ring, and a forger that signs whatever it is told to.

use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sallyport_domain::clock::Timestamp;
use sallyport_domain::entropy::SystemEntropy;
use sallyport_domain::id::CredentialId;
use uuid::Uuid;

use crate::access_token::{AccessTokenClaims, WifClaims};
use crate::keys::{Purpose, SlotState, StoredKey, generate};
use crate::master_key::MasterKey;
use crate::ring::KeyRing;

pub(crate) const NOW: Timestamp = Timestamp::from_seconds(1_795_000_000);
pub(crate) const ISSUER: &str = "https://sallyport.example";
pub(crate) const ACCOUNT: &str =
    "//agents.api.mondoo.app/spaces/hungry-poet-123456/serviceaccounts/00000000-0000-7000-8000-000000000001";
pub(crate) const SCOPE: &str = "//captain.api.mondoo.app/spaces/hungry-poet-123456";

pub(crate) struct Installation {
    pub(crate) master: MasterKey,
    pub(crate) keys: Vec<StoredKey>,
    pub(crate) ring: KeyRing,
}

impl Installation {
    pub(crate) fn new() -> Self {
        let master = MasterKey::generate(&SystemEntropy).unwrap();
        let keys: Vec<StoredKey> = Purpose::ALL
            .into_iter()
            .map(|purpose| StoredKey {
                state: SlotState::Current,
                ..generate(purpose, NOW, &SystemEntropy, &master).unwrap()
            })
            .collect();
        let ring = KeyRing::open(&keys, &master).unwrap();
        Self { master, keys, ring }
    }

    pub(crate) fn stored(&self, purpose: Purpose) -> &StoredKey {
        self.keys.iter().find(|key| key.purpose == purpose).unwrap()
    }

    /// The encoded header that our own tokens carry.
    pub(crate) fn access_header(&self) -> String {
        format!(r#"{{"alg":"EdDSA","typ":"at+jwt","kid":"{}"}}"#, self.stored(Purpose::AccessToken).id)
    }

    /// A token with any header and payload, properly signed with the access token key.
    pub(crate) fn sign_as_access(&self, header: &str, payload: &str) -> String {
        forge(header, payload, |input| self.ring.access_signer.as_ref().unwrap().key.sign(input))
    }
}

pub(crate) fn installation() -> &'static Installation {
    static ONE: OnceLock<Installation> = OnceLock::new();
    ONE.get_or_init(Installation::new)
}

pub(crate) fn forge<S: AsRef<[u8]>>(header: &str, payload: &str, sign: impl FnOnce(&[u8]) -> S) -> String {
    let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = sign(input.as_bytes());
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
}

pub(crate) fn access_claims() -> AccessTokenClaims<'static> {
    AccessTokenClaims {
        iss: ISSUER.into(),
        sub: ACCOUNT.into(),
        aud: ISSUER.into(),
        client_id: "keen-otter-12345@sallyport.example/wfe".into(),
        scope: "agent viewer".into(),
        iat: NOW.seconds(),
        exp: NOW.seconds() + 3_600,
        jti: CredentialId(Uuid::from_u128(7)),
        roles: vec!["//iam.api.mondoo.app/roles/agent".into(), "//iam.api.mondoo.app/roles/viewer".into()].into(),
        wif: WifClaims {
            issuer: "https://token.actions.githubusercontent.com".into(),
            subject: "repo:acme/app:ref:refs/heads/main".into(),
            provider: "//iam.api.mondoo.app/wifproviders/00000000-0000-7000-8000-000000000002".into(),
            trust: "//iam.api.mondoo.app/wiftrusts/00000000-0000-7000-8000-000000000003".into(),
        },
        c1wfc: [("actor".to_owned(), "octocat".to_owned())].into(),
    }
}
