//! What is put on record: exchanges and management changes, and how both look to a collector.
//!
//! The shape outside is OCSF (Open Cybersecurity Schema Framework) 1.6.0 with its `datetime` profile: an exchange is an
//! Authentication event (class 3002), a management change an API Activity event (class 6003). What OCSF has no place for is
//! under `unmapped`. One function makes it, whoever asks; nothing in it is a secret, and of a token only its hash.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::decision::Check;
use crate::exchange::{ExchangeRecord, Protocol};
use crate::id::OrganizationId;
use crate::matching::Installation;
use crate::mrn::{MrnDomain, Resource};
use crate::scope::Scope;

/// The version of OCSF that is spoken.
pub const OCSF_VERSION: &str = "1.6.0";

/// One management change. Never holds a secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuditEntry {
    /// A fresh UUIDv7.
    pub id: Uuid,
    /// When it was done.
    pub time: Timestamp,
    /// MRN of the principal who did it; the platform's for what the program or its operator did.
    pub actor: String,
    /// What was done: the name of the mutation, or of the command.
    pub action: String,
    /// MRN of what it was done to.
    pub target: String,
    /// The scope of the target.
    pub scope: Scope,
    /// The organization that scope belongs to, when it is not the platform.
    pub organization: Option<OrganizationId>,
    /// What it was before; `None` when it was made.
    pub before: Option<Value>,
    /// What it is now; `None` when it was removed.
    pub after: Option<Value>,
    /// The request's `x-request-id`; `None` for what came from no request.
    pub request_id: Option<String>,
    /// Where the request came from, where that is known.
    pub source_ip: Option<String>,
}

/// Something that is on record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// An exchange, granted or refused.
    Exchange(Box<ExchangeRecord>),
    /// A management change.
    Change(Box<AuditEntry>),
}

impl Event {
    /// When it was put on record.
    pub const fn time(&self) -> Timestamp {
        match self {
            Self::Exchange(record) => record.time,
            Self::Change(entry) => entry.time,
        }
    }

    /// Its id: an exchange's reference, or the audit entry's id.
    pub const fn id(&self) -> Uuid {
        match self {
            Self::Exchange(record) => record.id.0,
            Self::Change(entry) => entry.id,
        }
    }

    /// The event in OCSF, under this installation's names.
    pub fn to_ocsf(&self, installation: &Installation) -> Value {
        match self {
            Self::Exchange(record) => exchange(record, installation),
            Self::Change(entry) => change(entry, &installation.mrns),
        }
    }
}

/// `type_id` of an OCSF user that is no person.
const SERVICE: u8 = 4;

fn exchange(record: &ExchangeRecord, installation: &Installation) -> Value {
    let mrns = &installation.mrns;
    let scope = mrns.scope(&record.scope);
    let trust = record.trust.map(|id| mrns.format(&Resource::Trust(record.scope.clone(), id)));
    let account = record.service_account.map(|id| mrns.format(&Resource::ServiceAccount(record.scope.clone(), id)));
    let credential = record.service_account.zip(record.credential.as_ref());
    let subject = if record.subject.is_empty() { "unknown" } else { &record.subject };
    let reason = record.reason.as_deref().unwrap_or("unknown");

    let mut event = classified(
        (3, "Identity & Access Management"),
        (3002, "Authentication"),
        (99, "token_exchange", "Other"),
        record.time,
    );
    outcome(&mut event, record.granted);
    if !record.granted {
        put(&mut event, "status_code", json!(reason));
        put(&mut event, "status_detail", json!(reason));
    }
    let message = match &account {
        Some(account) if record.granted => format!("{subject} became {account}"),
        _ => format!("{subject} was refused: {reason}"),
    };
    put(&mut event, "message", json!(message));
    put(&mut event, "metadata", metadata("exchanges", record.id.to_string(), &scope, None));
    put(&mut event, "actor", {
        let provider = record.provider.map(|id| id.to_string());
        json!({
            "user": { "name": subject, "type": "Service", "type_id": SERVICE },
            "idp": without_nulls(json!({ "name": record.issuer, "uid": provider })),
        })
    });
    put(
        &mut event,
        "user",
        without_nulls(json!({ "name": subject, "uid": account, "type": "Service", "type_id": SERVICE })),
    );
    put(&mut event, "service", json!({ "name": "Sallyport", "uid": trust.as_deref().unwrap_or(&scope) }));
    if let Some(ip) = record.source_ip {
        put(&mut event, "src_endpoint", json!({ "ip": ip.to_string() }));
    }
    let (protocol_id, protocol) = match record.protocol {
        Protocol::Oauth => (6, "OAUTH 2.0"),
        Protocol::Rpc => (99, "ExchangeExternalToken"),
    };
    put(&mut event, "auth_protocol_id", json!(protocol_id));
    put(&mut event, "auth_protocol", json!(protocol));
    put(&mut event, "is_remote", json!(true));
    if let Some((account, credential)) = credential {
        let mrn = mrns.format(&Resource::Credential(record.scope.clone(), account, credential.id));
        let session = json!({
            "uid": mrn,
            "issuer": installation.public_url,
            "created_time": millis(record.time),
            "created_time_dt": record.time.to_rfc3339(),
            "expiration_time": millis(credential.expires_at),
            "expiration_time_dt": credential.expires_at.to_rfc3339(),
        });
        put(&mut event, "session", session);
    }
    let checks: Vec<Value> = record.checks.iter().map(check).collect();
    let unmapped = without_nulls(json!({
        "scope_mrn": scope,
        "trust_mrn": trust,
        "credential_kind": record.credential.as_ref().map(|c| c.kind.name()),
        "roles": record.credential.as_ref().map(|c| &c.roles),
        "token_sha256": record.token_hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
        "checks": checks,
    }));
    put(&mut event, "unmapped", unmapped);
    Value::Object(event)
}

fn check(check: &Check) -> Value {
    serde_json::to_value(check).unwrap_or_default()
}

fn change(entry: &AuditEntry, mrns: &MrnDomain) -> Value {
    let scope = mrns.scope(&entry.scope);
    let activity = activity(&entry.action);
    let mut event = classified(
        (6, "Application Activity"),
        (6003, "API Activity"),
        (activity.0, activity.1, activity.1),
        entry.time,
    );
    outcome(&mut event, true);
    put(&mut event, "message", json!(format!("{} of {} by {}", entry.action, entry.target, entry.actor)));
    put(&mut event, "metadata", metadata("changes", entry.id.to_string(), &scope, entry.request_id.as_deref()));
    let (type_id, sort) = match mrns.parse(&entry.actor) {
        Some(Resource::ServiceAccount(..)) => (SERVICE, "Service"),
        Some(Resource::ApiToken(..)) => (99, "API token"),
        _ => (3, "System"),
    };
    put(&mut event, "actor", json!({ "user": { "uid": entry.actor, "type": sort, "type_id": type_id } }));
    let request = entry.request_id.as_ref().map(|id| json!({ "uid": id }));
    let api = json!({ "operation": entry.action, "service": { "name": "Sallyport" }, "request": request });
    put(&mut event, "api", without_nulls(api));
    put(
        &mut event,
        "src_endpoint",
        match &entry.source_ip {
            Some(ip) => json!({ "ip": ip }),
            None => json!({ "name": "sallyport" }),
        },
    );
    let target = mrns.parse(&entry.target).map(|target| kind(&target));
    put(&mut event, "resources", json!([without_nulls(json!({ "uid": entry.target, "type": target }))]));
    put(
        &mut event,
        "unmapped",
        without_nulls(json!({ "scope_mrn": scope, "before": entry.before, "after": entry.after })),
    );
    Value::Object(event)
}

/// OCSF's word for what an action does; every action begins with a verb.
fn activity(action: &str) -> (u8, &'static str) {
    let begins = |verbs: &[&str]| verbs.iter().any(|verb| action.starts_with(verb));
    if begins(&["create", "generate", "bootstrap"]) {
        (1, "Create")
    } else if begins(&["update", "rotate", "reseal"]) {
        (3, "Update")
    } else if begins(&["remove", "delete", "revoke"]) {
        (4, "Delete")
    } else {
        (99, "Other")
    }
}

/// The domain's word for what an MRN names.
const fn kind(resource: &Resource) -> &'static str {
    match resource {
        Resource::Scope(scope) => scope.level(),
        Resource::ServiceAccount(..) => "service account",
        Resource::Credential(..) => "credential",
        Resource::Role(_) => "role",
        Resource::Binding(..) => "binding",
        Resource::Provider(..) => "provider",
        Resource::Trust(..) => "trust",
        Resource::ApiToken(..) => "API token",
    }
}

/// What every event begins with: category, class and activity by number and name (the activity also by OCSF's caption).
fn classified(
    category: (u8, &str),
    class: (u32, &str),
    activity: (u8, &str, &str),
    time: Timestamp,
) -> Map<String, Value> {
    let event = json!({
        "category_uid": category.0,
        "category_name": category.1,
        "class_uid": class.0,
        "class_name": class.1,
        "activity_id": activity.0,
        "activity_name": activity.1,
        "type_uid": class.0 * 100 + u32::from(activity.0),
        "type_name": format!("{}: {}", class.1, activity.2),
        "severity_id": 1,
        "severity": "Informational",
        "time": millis(time),
        "time_dt": time.to_rfc3339(),
    });
    match event {
        Value::Object(event) => event,
        _ => Map::new(),
    }
}

fn outcome(event: &mut Map<String, Value>, success: bool) {
    put(event, "status_id", json!(if success { 1 } else { 2 }));
    put(event, "status", json!(if success { "Success" } else { "Failure" }));
}

fn metadata(log: &str, uid: String, tenant: &str, correlation: Option<&str>) -> Value {
    without_nulls(json!({
        "version": OCSF_VERSION,
        "profiles": ["datetime"],
        "product": { "name": "Sallyport", "vendor_name": "Sallyport", "version": env!("CARGO_PKG_VERSION") },
        "log_name": log,
        "uid": uid,
        "tenant_uid": tenant,
        "correlation_uid": correlation,
    }))
}

fn put(event: &mut Map<String, Value>, name: &str, value: Value) {
    event.insert(name.to_owned(), value);
}

/// An object without the members that are not there.
fn without_nulls(mut value: Value) -> Value {
    if let Value::Object(members) = &mut value {
        members.retain(|_, member| !member.is_null());
    }
    value
}

/// OCSF's `timestamp_t`.
const fn millis(time: Timestamp) -> i64 {
    time.micros().div_euclid(1_000)
}

#[cfg(test)]
mod tests;
