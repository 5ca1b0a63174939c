//! The decision as a value: every check with its outcome, and what follows from them.
//!
//! The refusal a caller sees, the exchange record, the metrics label and the simulator's answer are all drawn from a
//! [`Decision`]; nobody composes them again.

use serde::{Deserialize, Serialize};

use crate::role::RoleRef;

/// The steps of an exchange, in the order in which their failure is reported.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckName {
    /// A provider and trusts were found for the request.
    Locate,
    /// The subject token has the right shape.
    Decode,
    /// It names the provider's issuer.
    Issuer,
    /// Its signature verifies, or STS vouched for it.
    Signature,
    /// Its algorithm is accepted.
    Algorithm,
    /// It was made for this service.
    Audience,
    /// It is neither too old, nor too young, nor about to end.
    Freshness,
    /// Its subject is accepted.
    Subject,
    /// The claim mappings hold.
    Mappings,
    /// The condition holds.
    Condition,
    /// It comes from an accepted network.
    SourceIp,
    /// Provider, trust, service account and scope are enabled.
    Enabled,
    /// At least one role remains, and every role asked for.
    Roles,
    /// It was not used before, where that counts.
    Replay,
}

impl CheckName {
    /// Every check, in order.
    pub const ALL: [Self; 14] = [
        Self::Locate,
        Self::Decode,
        Self::Issuer,
        Self::Signature,
        Self::Algorithm,
        Self::Audience,
        Self::Freshness,
        Self::Subject,
        Self::Mappings,
        Self::Condition,
        Self::SourceIp,
        Self::Enabled,
        Self::Roles,
        Self::Replay,
    ];

    /// The name in GraphQL, records and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Locate => "locate",
            Self::Decode => "decode",
            Self::Issuer => "issuer",
            Self::Signature => "signature",
            Self::Algorithm => "algorithm",
            Self::Audience => "audience",
            Self::Freshness => "freshness",
            Self::Subject => "subject",
            Self::Mappings => "mappings",
            Self::Condition => "condition",
            Self::SourceIp => "source_ip",
            Self::Enabled => "enabled",
            Self::Roles => "roles",
            Self::Replay => "replay",
        }
    }
}

/// What became of a check.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CheckOutcome {
    /// It held.
    Passed,
    /// It did not hold.
    Failed,
    /// It was not asked for, or could not be reached after an earlier failure.
    Skipped,
}

/// One check. The texts are for admins; a caller never sees them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Check {
    /// Which step.
    pub name: CheckName,
    /// What became of it.
    pub outcome: CheckOutcome,
    /// What was wanted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expected: Option<String>,
    /// What was found.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub actual: Option<String>,
    /// Anything that helps to understand it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
}

/// Longest text kept in one field of a check, in bytes.
const TEXT_KEPT: usize = 512;

impl Check {
    /// A check that held.
    pub const fn passed(name: CheckName) -> Self {
        Self { name, outcome: CheckOutcome::Passed, expected: None, actual: None, detail: None }
    }

    /// A check that did not hold.
    pub const fn failed(name: CheckName) -> Self {
        Self { name, outcome: CheckOutcome::Failed, expected: None, actual: None, detail: None }
    }

    /// A check that was not asked for.
    pub const fn skipped(name: CheckName) -> Self {
        Self { name, outcome: CheckOutcome::Skipped, expected: None, actual: None, detail: None }
    }

    /// Held or not, by `held`.
    pub const fn of(name: CheckName, held: bool) -> Self {
        if held { Self::passed(name) } else { Self::failed(name) }
    }

    /// With what was wanted.
    #[must_use]
    pub fn expected(mut self, text: impl Into<String>) -> Self {
        self.expected = Some(kept(text.into()));
        self
    }

    /// With what was found.
    #[must_use]
    pub fn actual(mut self, text: impl Into<String>) -> Self {
        self.actual = Some(kept(text.into()));
        self
    }

    /// With an explanation.
    #[must_use]
    pub fn detail(mut self, text: impl Into<String>) -> Self {
        self.detail = Some(kept(text.into()));
        self
    }

    /// Whether it was skipped, and there is nothing to be said about that.
    pub fn is_silent(&self) -> bool {
        *self == Self::skipped(self.name)
    }

    /// Whether it failed.
    pub fn is_failed(&self) -> bool {
        self.outcome == CheckOutcome::Failed
    }
}

/// The checks in order, those that were not reached among them as skipped, so that a reader sees the whole list.
pub fn completed(checks: Vec<Check>) -> Vec<Check> {
    let mut slots = CheckName::ALL.map(Check::skipped);
    for check in checks {
        let slot = &mut slots[check.name as usize];
        if !slot.is_failed() {
            *slot = check;
        }
    }
    slots.into()
}

fn kept(mut text: String) -> String {
    if text.len() > TEXT_KEPT {
        let end = (0..=TEXT_KEPT).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Why an exchange was refused, as far as its caller may know (domain.md, "what callers learn").
/// Each protocol maps it exhaustively onto its own codes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The request itself is wrong: what is, and what would be right.
    MalformedRequest(String),
    /// The subject token is not well-formed: a whole sentence about what is wrong with it.
    MalformedToken(String),
    /// The subject token has ended.
    Expired,
    /// The subject token ends too soon: at most this many seconds may be missing to three minutes.
    TooLittleTimeLeft,
    /// The subject token is not valid yet.
    FromTheFuture,
    /// No provider may accept this algorithm.
    AlgorithmNotAllowed,
    /// The token was made for another audience; said only once signature, issuer and subject passed.
    AudienceNotAccepted,
    /// A requested role is not in the grant.
    RolesBeyondGrant,
    /// Everything else: no such issuer or trust, bad signature, condition, address, disabled. One answer for all.
    Denied,
    /// Too many requests; try again after this many seconds.
    RateLimited(u32),
    /// Something the decision needs cannot be reached just now: the issuer, STS, the database, a full queue.
    Unavailable,
}

/// What a grant gives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Terms {
    /// Effective roles; never empty.
    pub roles: Vec<RoleRef>,
    /// Lifetime in seconds.
    pub lifetime: u32,
    /// Claims passed through: name and value.
    pub passthrough: Vec<(String, String)>,
}

/// The outcome of an exchange with all that led to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// Every check of the pipeline, in order.
    pub checks: Vec<Check>,
    /// What was granted, or why not.
    pub outcome: Result<Terms, Refusal>,
}

impl Decision {
    /// The first failed check: the reason of the refusal.
    pub fn reason(&self) -> Option<CheckName> {
        self.checks.iter().find(|c| c.is_failed()).map(|c| c.name)
    }
}
