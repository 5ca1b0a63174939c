//! What was revoked, removed or disabled, and must stay so whatever happens afterwards.

use std::sync::Arc;

use sallyport_testkit::Issuer;
use serde_json::{Value, json};

use super::RECOVERY;
use super::ledger::{Credential, Door, Gate, Ledger};
use crate::support::{Ping, Reply, World, eventually, sign};

/// The ways in which access ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum How {
    /// The credentials alone are revoked; new ones may be had.
    Revoked,
    /// The binding is removed.
    Removed,
    /// The trust is disabled.
    TrustDisabled,
    /// The service account is disabled.
    AccountDisabled,
    /// The provider is disabled.
    ProviderDisabled,
}

impl How {
    /// All of them.
    pub(crate) const ALL: [Self; 5] =
        [Self::Revoked, Self::Removed, Self::TrustDisabled, Self::AccountDisabled, Self::ProviderDisabled];
}

/// Something that works, and what it has handed out.
pub(crate) struct Doomed {
    how: How,
    gate: Gate,
    /// MRN of what is to be changed.
    target: String,
    credentials: Vec<Credential>,
}

impl Doomed {
    /// A place of its own, with one credential from each door that was seen to work.
    pub(crate) async fn new(how: How, world: &World, issuer: &Arc<Issuer>, ledger: &Ledger) -> Self {
        let (gate, target) = match how {
            How::Revoked | How::Removed => {
                let gate = Gate::new(world, issuer).await;
                let target = gate.mrn.to_string();
                (gate, target)
            }
            How::TrustDisabled | How::AccountDisabled | How::ProviderDisabled => {
                let place = world.place().await;
                let account = world.service_account(&place.space, &["agent"]).await["mrn"].take();
                let provider = world.provider(&place.space, issuer.uri()).await;
                let input = json!({ "serviceAccountMrn": account, "providerMrn": provider, "name": "chaos",
                                    "subject": "chaos:load:*" });
                let (trust, client_id) = world.trust(input).await;
                let gate = Gate::to(&place.space, &client_id, &trust, issuer);
                let target = match how {
                    How::AccountDisabled => account.as_str().expect("an MRN").to_owned(),
                    How::ProviderDisabled => provider,
                    _ => trust,
                };
                (gate, target)
            }
        };
        let mut credentials = Vec::new();
        for door in Door::ALL {
            let (status, credential) = gate.attempt(&world.server.url, door, ledger).await;
            let credential = credential.unwrap_or_else(|| panic!("{how:?}, {door:?}: {status:?}"));
            assert_eq!(present(world, &credential).await, Some(200), "{how:?}, {door:?}");
            credentials.push(credential);
        }
        Self { how, gate, target, credentials }
    }

    /// Ends it through this replica, which may have to be asked again while another holds it up.
    pub(crate) async fn end(self, world: &World) -> Ended {
        let update = |what: &str, shown: &str| {
            format!("mutation($mrn: String!) {{ update{what}(input: {{mrn: $mrn, disabled: true}}) {{ {shown} }} }}")
        };
        let document = match self.how {
            How::Revoked => {
                for credential in &self.credentials {
                    revoke(world, credential).await;
                }
                return Ended { how: self.how, gate: self.gate, credentials: self.credentials };
            }
            How::Removed => "mutation($mrn: String!) { removeWIFAuthBinding(mrn: $mrn) { mrn } }".to_owned(),
            How::TrustDisabled => update("WIFTrust", "trust { disabled }"),
            How::AccountDisabled => update("ServiceAccount", "mrn"),
            How::ProviderDisabled => update("WIFProvider", "provider { disabled }"),
        };
        let variables = json!({ "mrn": self.target });
        eventually("the end is acknowledged", RECOVERY, async || {
            let answer = world.query(Some(&world.admin), &document, &variables).await.json();
            let code = answer.pointer("/errors/0/extensions/code").and_then(Value::as_str);
            match code {
                None => Some(()),
                Some("UNAVAILABLE") => None,
                // An earlier try whose answer was 503 may have done it.
                Some("NOT_FOUND") if self.how == How::Removed => Some(()),
                Some(_) => panic!("{answer}"),
            }
        })
        .await;
        Ended { how: self.how, gate: self.gate, credentials: self.credentials }
    }
}

/// Something that must not work any more.
pub(crate) struct Ended {
    how: How,
    gate: Gate,
    credentials: Vec<Credential>,
}

impl Ended {
    /// Asks a replica for all of it; what it still honours, which must be nothing. 503 is no refusal: then it is asked again.
    pub(crate) async fn honoured(&self, replica: &World, ledger: &Ledger) -> Vec<String> {
        let mut honoured = Vec::new();
        for credential in &self.credentials {
            let status = eventually("an answer about an ended credential", RECOVERY, async || {
                present(replica, credential).await.filter(|status| *status != 503)
            })
            .await;
            if status != 401 {
                honoured.push(format!("{}: {:?}: a credential: {status}", replica.server.url, self.how));
            }
        }
        if self.how == How::Revoked {
            return honoured;
        }
        for door in Door::ALL {
            let status = eventually("an answer about an ended way in", RECOVERY, async || {
                self.gate.attempt(&replica.server.url, door, ledger).await.0.filter(|status| *status != 503)
            })
            .await;
            if !matches!(status, 400 | 403) {
                honoured.push(format!("{}: {:?}: {door:?}: {status}", replica.server.url, self.how));
            }
        }
        honoured
    }
}

/// Presents a credential; the status of `PingPong`, unless the connection broke: a server that wakes up closes those that
/// were idle for too long, whatever is on its way to it.
pub(crate) async fn present(world: &World, credential: &Credential) -> Option<u16> {
    let bearer = match credential {
        Credential::KeyPair(document) => sign(document, Ping::Hash(b"")),
        Credential::AccessToken(token) => token.clone(),
    };
    let request = world.http.post(format!("{}/AgentManager/PingPong", world.server.url)).bearer_auth(bearer);
    Reply::of(request.header("content-type", "application/protobuf")).await.ok().map(|reply| reply.status)
}

/// Revokes a credential: a key pair by its name, on an admin's word; an access token by possession.
async fn revoke(world: &World, credential: &Credential) {
    let (token, bearer) = match credential {
        Credential::KeyPair(document) => (document["mrn"].as_str().expect("an MRN"), Some(world.admin.as_str())),
        Credential::AccessToken(token) => (token.as_str(), None),
    };
    eventually("the revocation is acknowledged", RECOVERY, async || {
        let reply = world.post_form("/auth/v1/revoke", &[("token", token)], bearer).await;
        (reply.status == 200).then_some(())
    })
    .await;
}
