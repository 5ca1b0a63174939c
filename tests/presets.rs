//! Story: each platform of the preset table sends a realistic token, at its own issuer's name, and gets in by a rule that pins
//! the tenant; the same platform's token of somebody else does not.

use sallyport_testkit::{Issuer, platforms};
use serde_json::{Value, json};

use crate::support::{World, free_port, now, run};

type Claims = fn(&platforms::TokenRequest<'_>) -> Value;

/// One platform: kind, issuer (`None`: one of its own on loopback), rule, the tenant's token, a stranger's.
struct Row {
    kind: &'static str,
    issuer: Option<&'static str>,
    condition: &'static str,
    ours: Claims,
    theirs: Claims,
}

const TENANT: &str = "72f988bf-86f1-41af-91ab-2d7cd011db47";

const ROWS: [Row; 10] = [
    Row {
        kind: "GITHUB_ACTIONS",
        issuer: Some("https://token.actions.githubusercontent.com"),
        condition: "claims.repository == 'acme/shop' && claims.ref == 'refs/heads/main'",
        ours: |r| platforms::github_actions(r, "acme/shop", "refs/heads/main"),
        theirs: |r| platforms::github_actions(r, "mallory/shop", "refs/heads/main"),
    },
    Row {
        kind: "GITLAB_CI",
        issuer: Some("https://gitlab.com"),
        condition: "claims.project_path == 'acme/shop' && claims.ref_protected == 'true'",
        ours: |r| platforms::gitlab_ci(r, "acme/shop", "main"),
        theirs: |r| platforms::gitlab_ci(r, "mallory/shop", "main"),
    },
    Row {
        kind: "HCP_TERRAFORM",
        issuer: Some("https://app.terraform.io"),
        condition: "claims.terraform_organization_name == 'acme' && claims.terraform_run_phase == 'apply'",
        ours: |r| platforms::hcp_terraform(r, "acme", "shop", "production", "apply"),
        theirs: |r| platforms::hcp_terraform(r, "mallory", "shop", "production", "apply"),
    },
    Row {
        kind: "GOOGLE_CLOUD",
        issuer: Some("https://accounts.google.com"),
        condition: "claims.sub == '112233445566778899001'",
        ours: |r| platforms::google_cloud(r, "acme", "deployer", "112233445566778899001"),
        theirs: |r| platforms::google_cloud(r, "mallory", "deployer", "999999999999999999999"),
    },
    Row {
        kind: "AZURE",
        issuer: Some("https://sts.windows.net/72f988bf-86f1-41af-91ab-2d7cd011db47"),
        condition: "claims.oid == 'c5b5c8f0-0000-4000-8000-000000000001'",
        ours: |r| platforms::azure(r, TENANT, "c5b5c8f0-0000-4000-8000-000000000001"),
        theirs: |r| platforms::azure(r, TENANT, "c5b5c8f0-0000-4000-8000-000000000002"),
    },
    Row {
        kind: "AWS_IAM_OUTBOUND",
        issuer: Some("https://a1b2c3d4.tokens.sts.global.api.aws"),
        condition: "claims['https://sts.amazonaws.com/'].aws_account == '123456789012' && claims.sub == 'arn:aws:iam::123456789012:role/Deploy'",
        ours: |r| platforms::aws_outbound(r, "123456789012", "Deploy"),
        theirs: |r| platforms::aws_outbound(r, "123456789012", "Other"),
    },
    Row {
        kind: "CIRCLECI",
        issuer: Some("https://oidc.circleci.com/org/9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d"),
        condition: "claims['oidc.circleci.com/project-id'] == '1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed'",
        ours: |r| {
            let organization = "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d";
            platforms::circleci(r, organization, "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed", "refs/heads/main")
        },
        theirs: |r| {
            let organization = "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d";
            platforms::circleci(r, organization, "00000000-bbfd-4b2d-9b5d-ab8dfbbd4bed", "refs/heads/main")
        },
    },
    Row {
        kind: "BUILDKITE",
        issuer: Some("https://agent.buildkite.com"),
        condition: "claims.organization_slug == 'acme' && claims.pipeline_slug == 'shop'",
        ours: |r| platforms::buildkite(r, "acme", "shop", "refs/heads/main"),
        theirs: |r| platforms::buildkite(r, "mallory", "shop", "refs/heads/main"),
    },
    Row {
        kind: "KUBERNETES",
        issuer: None,
        condition: "claims.sub == 'system:serviceaccount:shop:deployer'",
        ours: |r| platforms::kubernetes(r, "shop", "deployer"),
        theirs: |r| platforms::kubernetes(r, "mallory", "deployer"),
    },
    Row {
        kind: "CUSTOM_OIDC",
        issuer: None,
        condition: "claims.sub == 'repo:acme/shop:ref:refs/heads/main'",
        ours: |r| platforms::github_actions(r, "acme/shop", "refs/heads/main"),
        theirs: |r| platforms::github_actions(r, "mallory/shop", "refs/heads/main"),
    },
];

fn host(issuer: &str) -> &str {
    issuer.trim_start_matches("https://").split('/').next().unwrap()
}

/// A trust on the provider with this condition, and what its exchange of each token answers.
async fn statuses(world: &World, scope: &str, provider: &str, condition: &str, tokens: [String; 2]) -> [u16; 2] {
    let account = world.service_account(scope, &["agent"]).await;
    let input =
        json!({ "serviceAccountMrn": account["mrn"], "providerMrn": provider, "name": "t", "condition": condition });
    let (_, client_id) = world.trust(input).await;
    let [ours, theirs] = tokens;
    [world.oauth(&client_id, &ours, &[]).await.status, world.oauth(&client_id, &theirs, &[]).await.status]
}

#[test]
fn every_platform_s_token_gets_its_tenant_in_and_nobody_else() {
    run(async {
        let ports: Vec<u16> = ROWS.iter().map(|_| free_port()).collect();
        let named = ROWS.iter().zip(&ports).filter_map(|(row, port)| Some((row.issuer?, port)));
        let resolve: Vec<String> =
            named.map(|(issuer, port)| format!("{}:443=127.0.0.1:{port}", host(issuer))).collect();
        let world = World::with(|setup| {
            setup.set("SALLYPORT_OUTBOUND_RESOLVE", &resolve.join(","));
        })
        .await;
        let place = world.place().await;
        for (row, port) in ROWS.iter().zip(ports) {
            let builder = Issuer::builder().port(port);
            let builder = if let Some(issuer) = row.issuer { builder.well_known(issuer) } else { builder };
            let issuer = builder.start(&world.authority).await.expect("an issuer");
            let input =
                json!({ "scopeMrn": place.space, "name": row.kind, "kind": row.kind, "issuerUri": issuer.uri() });
            let provider = world.provider_with(input).await;
            let request = issuer.request(now(), world.tenant_host());
            let tokens = [row.ours, row.theirs].map(|claims| issuer.mint(claims(&request)));
            let answered = statuses(&world, &place.space, &provider, row.condition, tokens).await;
            assert_eq!(answered, [200, 400], "{}", row.kind);
        }
    });
}

#[test]
fn a_spiffe_token_needs_no_iss_and_belongs_to_its_trust_domain() {
    run(async {
        let world = World::new().await;
        let place = world.place().await;
        // The keys are uploaded: a trust domain is no address.
        let input = json!({ "scopeMrn": place.space, "name": "spiffe", "kind": "SPIFFE",
                            "issuerUri": "spiffe://prod.acme.internal", "jwks": world.issuer.jwks() });
        let provider = world.provider_with(input).await;
        let request = world.issuer.request(now(), world.tenant_host());
        let tokens = ["spiffe://prod.acme.internal/ns/shop/sa/deployer", "spiffe://evil.internal/ns/shop/sa/deployer"]
            .map(|id| world.issuer.mint(platforms::spiffe(&request, id)));
        let condition = "url(claims.sub).path == '/ns/shop/sa/deployer'";
        assert_eq!(statuses(&world, &place.space, &provider, condition, tokens).await, [200, 400]);
    });
}
