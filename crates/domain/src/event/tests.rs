//! One golden snapshot for every kind of event: a change of what collectors see shows in review.

use super::*;
use crate::decision::{CheckName, completed};
use crate::exchange::{CredentialKind, IssuedCredential};
use crate::id::{ApiTokenId, CredentialId, ExchangeId, ProviderId, ServiceAccountId, SpaceId, TrustId};
use crate::matching::AudiencePolicy;

const TIME: Timestamp = Timestamp::from_micros(1_795_391_894_123_456);

fn id(number: u128) -> Uuid {
    Uuid::from_u128(0x01a2_05a9_0ddb_7000_8000_0000_0000_0000 + number)
}

fn installation() -> Installation {
    Installation {
        public_url: "https://sallyport.example".into(),
        tenant_domain: "sallyport.example".into(),
        mrns: MrnDomain::new("api.mondoo.app").unwrap(),
        audience_policy: AudiencePolicy::Strict,
    }
}

fn space() -> Scope {
    Scope::Space(SpaceId::parse("acme-prod").unwrap())
}

fn refused() -> ExchangeRecord {
    let checks = completed(vec![
        Check::passed(CheckName::Signature),
        Check::failed(CheckName::Subject).expected("repo:acme/shop:*").actual("repo:mallory/shop:ref:refs/heads/main"),
        Check::failed(CheckName::Condition).detail("no such key: environment"),
    ]);
    ExchangeRecord {
        id: ExchangeId(id(1)),
        time: TIME,
        scope: space(),
        organization: OrganizationId::parse("acme-org"),
        granted: false,
        reason: Some("subject".into()),
        protocol: Protocol::Oauth,
        trust: Some(TrustId(id(2))),
        binding: false,
        provider: Some(ProviderId(id(3))),
        service_account: None,
        issuer: "https://token.actions.githubusercontent.com".into(),
        subject: "repo:mallory/shop:ref:refs/heads/main".into(),
        source_ip: Some([203, 0, 113, 7].into()),
        token_hash: [0xAB; 32],
        credential: None,
        checks,
        replay: None,
    }
}

fn granted(kind: CredentialKind, protocol: Protocol) -> ExchangeRecord {
    ExchangeRecord {
        granted: true,
        reason: None,
        protocol,
        service_account: Some(ServiceAccountId(id(4))),
        subject: "repo:acme/shop:ref:refs/heads/main".into(),
        credential: Some(IssuedCredential {
            id: CredentialId(id(1)),
            kind,
            expires_at: TIME.plus_seconds(3_600),
            roles: vec!["//iam.api.mondoo.app/roles/agent".into()],
            public_key: (kind == CredentialKind::KeyPair).then(|| vec![4; 97]),
        }),
        checks: vec![Check::passed(CheckName::Subject).expected("repo:acme/shop:*")],
        ..refused()
    }
}

fn unverified() -> ExchangeRecord {
    ExchangeRecord {
        reason: Some("signature".into()),
        protocol: Protocol::Rpc,
        trust: None,
        subject: String::new(),
        source_ip: None,
        checks: vec![Check::failed(CheckName::Signature).detail("no key of the issuer has this id")],
        ..refused()
    }
}

fn changed(action: &str, before: Option<Value>, after: Option<Value>) -> AuditEntry {
    let mrns = installation().mrns;
    AuditEntry {
        id: id(9),
        time: TIME,
        actor: mrns.format(&Resource::ApiToken(Scope::Platform, ApiTokenId(id(7)))),
        action: action.into(),
        target: mrns.format(&Resource::Binding(space(), TrustId(id(2)))),
        scope: space(),
        organization: OrganizationId::parse("acme-org"),
        before,
        after,
        request_id: Some("request-1".into()),
        source_ip: Some("198.51.100.2".into()),
    }
}

fn shown(event: &Event) -> String {
    let text = serde_json::to_string_pretty(&event.to_ocsf(&installation())).unwrap();
    text.replace(&format!("\"version\": \"{}\"", env!("CARGO_PKG_VERSION")), "\"version\": \"VERSION\"")
}

fn exchanged(record: ExchangeRecord) -> String {
    shown(&Event::Exchange(Box::new(record)))
}

fn managed(entry: AuditEntry) -> String {
    shown(&Event::Change(Box::new(entry)))
}

#[test]
fn exchanges_are_authentication_events() {
    insta::assert_snapshot!("exchange_refused", exchanged(refused()));
    insta::assert_snapshot!("exchange_unverified", exchanged(unverified()));
    insta::assert_snapshot!("exchange_access_token", exchanged(granted(CredentialKind::AccessToken, Protocol::Oauth)));
    insta::assert_snapshot!("exchange_key_pair", exchanged(granted(CredentialKind::KeyPair, Protocol::Rpc)));
    insta::assert_snapshot!("exchange_id_token", exchanged(granted(CredentialKind::IdToken, Protocol::Oauth)));
}

#[test]
fn management_changes_are_api_activity_events() {
    let old = json!({ "name": "ci", "subject": "repo:acme/shop:*" });
    let new = json!({ "name": "ci", "subject": "repo:acme/shop:ref:refs/heads/main" });
    insta::assert_snapshot!("change_created", managed(changed("createWIFAuthBinding", None, Some(new.clone()))));
    insta::assert_snapshot!(
        "change_updated",
        managed(changed("updateWIFAuthBinding", Some(old.clone()), Some(new.clone())))
    );
    insta::assert_snapshot!("change_removed", managed(changed("removeWIFAuthBinding", Some(old), None)));
    let account = installation().mrns.format(&Resource::ServiceAccount(space(), ServiceAccountId(id(4))));
    let revoked = AuditEntry {
        target: format!("{account}/credentials/{}", id(1)),
        actor: account,
        ..changed("revokeCredentials", None, None)
    };
    insta::assert_snapshot!("change_revoked", managed(revoked));
    let platform = installation().mrns.scope(&Scope::Platform);
    let rotated = AuditEntry {
        actor: platform.clone(),
        target: platform,
        scope: Scope::Platform,
        organization: None,
        request_id: None,
        source_ip: None,
        ..changed("rotateKeys", Some(json!({ "token": [] })), Some(new))
    };
    insta::assert_snapshot!("change_rotated", managed(rotated));
}

/// What a secret would look like has no way in: of a key pair not even the public key is told, of a token only the hash.
#[test]
fn no_event_tells_more_of_a_token_than_its_hash() {
    let text = exchanged(granted(CredentialKind::KeyPair, Protocol::Rpc));
    assert!(text.contains(&"ab".repeat(32)), "{text}");
    assert!(!text.contains("public_key"), "{text}");
}

#[test]
fn times_before_1970_do_not_wrap() {
    assert_eq!(millis(Timestamp::from_micros(-1)), -1);
}
