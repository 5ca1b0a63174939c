//! What every door of the program shares: configuration, keys, the verifier, the record, the clock.

use std::sync::Arc;

use arc_swap::ArcSwap;
use sallyport_credentials::KeyRing;
use sallyport_domain::clock::{Clock, Timestamp};
use sallyport_domain::entropy::{Entropy, uuid_v7};
use sallyport_domain::matching::Installation;
use sallyport_identity::verifier::Verifier;
use sallyport_store::{Configuration, Recorder, Store};
use uuid::Uuid;

use crate::address::TrustedProxies;
use crate::limits::Limits;
use crate::overload::Overload;
use crate::turns::Turns;

/// The shared parts. Cheap to clone behind an [`Arc`]; nothing in here is global.
pub struct Services {
    /// Names and policy of this installation.
    pub installation: Installation,
    /// The current snapshot of all configuration.
    pub configuration: Arc<Configuration>,
    /// The database, for what is not configuration.
    pub store: Store,
    /// Where exchanges are recorded.
    pub recorder: Recorder,
    /// Verifies subject tokens.
    pub verifier: Arc<Verifier>,
    /// Signing keys; swapped when they rotate.
    pub keys: ArcSwap<KeyRing>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
    /// Whose forwarding headers are believed.
    pub trusted_proxies: TrustedProxies,
    /// Rate limits, and the allowance for recording what strangers send.
    pub limits: Limits,
    /// Whether there is more to do than can be done.
    pub overload: Overload,
    /// Turns of the processor for the management API.
    pub turns: Turns,
}

impl Services {
    /// Now.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A fresh UUIDv7.
    pub fn new_id(&self) -> Uuid {
        uuid_v7(self.now(), &*self.entropy)
    }
}
