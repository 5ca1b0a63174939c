//! Who may do what, and everything that is managed besides bindings.

#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

mod common;

use std::fmt::Write as _;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use common::{OWNER, World, role_mrn};
use sallyport_graphql::GraphqlOptions;
use serde_json::{Value, json};

/// A service account, a provider on the test's own issuer, and a trust between the two; their MRNs.
async fn trust(world: &World, scope: &str, role: &str) -> (String, String, String) {
    let account = world
        .run(
            "mutation($s: String!, $r: String!) { createServiceAccount(input: {scopeMrn: $s, name: \"deployer\", roles: [{mrn: $r}]}) { mrn } }",
            json!({ "s": scope, "r": role_mrn(role) }),
        )
        .await["createServiceAccount"]["mrn"]
        .as_str()
        .unwrap()
        .to_owned();
    let provider = world
        .run(
            "mutation($s: String!, $i: String!) { createWIFProvider(input: {scopeMrn: $s, name: \"ci\", kind: CUSTOM_OIDC, issuerUri: $i}) { provider { mrn } } }",
            json!({ "s": scope, "i": world.issuer.uri() }),
        )
        .await["createWIFProvider"]["provider"]["mrn"]
        .as_str()
        .unwrap()
        .to_owned();
    let trust = world
        .run(
            "mutation($a: String!, $p: String!) { createWIFTrust(input: {serviceAccountMrn: $a, providerMrn: $p, name: \"t\", subject: \"robot\"}) { trust { mrn expiration } } }",
            json!({ "a": account, "p": provider }),
        )
        .await["createWIFTrust"]["trust"]
        .take();
    assert_eq!(trust["expiration"], 1800);
    (account, provider, trust["mrn"].as_str().unwrap().to_owned())
}

/// Every operation, as the golden table calls it. `$x` is a thing made for this one call, by the document of the same name in
/// [`FRESH`]; the other variables are always the same.
const OPERATIONS: [(&str, &str); 51] = [
    ("viewer", "{ viewer { mrn } }"),
    ("listOrganizations", "{ listOrganizations { totalCount } }"),
    ("getOrganization", "query($o: String!) { getOrganization(mrn: $o) { name } }"),
    ("listSpaces", "query($o: String!) { listSpaces(orgMrn: $o) { spaces { mrn } } }"),
    ("getSpace", "query($s: String!) { getSpace(mrn: $s) { name } }"),
    ("builtInRoles", "{ builtInRoles { mrn } }"),
    ("listRoles", "query($o: String!) { listRoles(orgMrn: $o) { roles { mrn } } }"),
    ("getRole", "query($r: String!) { getRole(mrn: $r) { mrn } }"),
    ("listServiceAccounts", "query($s: String!) { listServiceAccounts(scopeMrn: $s) { serviceAccounts { mrn } } }"),
    ("getServiceAccount", "query($a: String!) { getServiceAccount(mrn: $a) { mrn } }"),
    ("listAPITokens", "query($s: String!) { listAPITokens(scopeMrn: $s) { apiTokens { mrn } } }"),
    ("listWIFAuthBindings", "query($s: String!) { listWIFAuthBindings(scopeMrn: $s) { bindings { mrn } } }"),
    ("getWIFAuthBinding", "query($b: String!) { getWIFAuthBinding(mrn: $b) { binding { mrn } } }"),
    ("listWIFProviders", "query($s: String!) { listWIFProviders(scopeMrn: $s) { providers { mrn } } }"),
    ("getWIFProvider", "query($p: String!) { getWIFProvider(mrn: $p) { provider { mrn } } }"),
    ("listWIFSubjects", "query($p: String!) { listWIFSubjects(providerMrn: $p) { subjects { subject } } }"),
    ("listWIFTrusts", "query($s: String!) { listWIFTrusts(scopeMrn: $s) { trusts { mrn } } }"),
    ("getWIFTrust", "query($t: String!) { getWIFTrust(mrn: $t) { trust { mrn } } }"),
    ("listExchanges", "query($s: String!) { listExchanges(scopeMrn: $s) { exchanges { reference } } }"),
    ("listAuditEntries", "query($s: String!) { listAuditEntries(scopeMrn: $s) { entries { id } } }"),
    ("exportEvents", "query($s: String!) { exportEvents(scopeMrn: $s) { events } }"),
    ("testWIFCondition", "{ testWIFCondition(expression: \"true\", claims: {}) { matched } }"),
    ("simulateExchange", "query($t: String!) { simulateExchange(input: {claims: {}, audience: $t}) { granted } }"),
    ("wifPresets", "{ wifPresets { kind } }"),
    (
        "buildWIFCondition",
        "{ buildWIFCondition(kind: CUSTOM_OIDC, fields: [{key: \"subject\", value: \"x\"}]) { condition } }",
    ),
    ("createOrganization", "mutation { createOrganization(input: {name: \"x\"}) { mrn } }"),
    ("updateOrganization", "mutation($o: String!) { updateOrganization(input: {mrn: $o, name: \"x\"}) { mrn } }"),
    ("deleteOrganization", "mutation($o: String!) { deleteOrganization(mrn: $o) { mrn } }"),
    ("createSpace", "mutation($o: String!) { createSpace(input: {name: \"x\", orgMrn: $o}) { mrn } }"),
    ("updateSpace", "mutation($s: String!) { updateSpace(input: {mrn: $s, description: \"x\"}) { mrn } }"),
    ("deleteSpace", "mutation($s: String!) { deleteSpace(mrn: $s) { mrn } }"),
    (
        "createRole",
        "mutation($o: String!, $n: String!) { createRole(input: {orgMrn: $o, name: $n, permissions: [\"agent.report\"]}) { mrn } }",
    ),
    ("updateRole", "mutation($r: String!) { updateRole(input: {mrn: $r, title: \"x\"}) { mrn } }"),
    ("deleteRole", "mutation($x: String!) { deleteRole(mrn: $x) { mrn } }"),
    (
        "createServiceAccount",
        "mutation($s: String!) { createServiceAccount(input: {scopeMrn: $s, name: \"x\"}) { mrn } }",
    ),
    (
        "updateWIFSubject",
        "mutation($p: String!) { updateWIFSubject(input: {providerMrn: $p, subject: \"x\", disabled: true}) { subject { subject } } }",
    ),
    ("updateServiceAccount", "mutation($a: String!) { updateServiceAccount(input: {mrn: $a, name: \"x\"}) { mrn } }"),
    (
        "deleteServiceAccounts",
        "mutation($s: String!, $x: String!) { deleteServiceAccounts(input: {scopeMrn: $s, mrns: [$x]}) { mrns } }",
    ),
    (
        "generateAPIToken",
        "mutation($s: String!, $agent: String!) { generateAPIToken(input: {scopeMrn: $s, name: \"x\", roles: [{mrn: $agent}]}) { mrn } }",
    ),
    ("deleteAPIToken", "mutation($x: String!) { deleteAPIToken(input: {mrn: $x}) { mrn } }"),
    (
        "createWIFAuthBinding",
        "mutation($s: String!, $n: String!) { createWIFAuthBinding(input: {scopeMrn: $s, name: \"x\", issuerUri: \"https://127.0.0.1:1\", subject: $n}) { binding { mrn } } }",
    ),
    (
        "updateWIFAuthBinding",
        "mutation($b: String!) { updateWIFAuthBinding(input: {mrn: $b, name: \"x\"}) { binding { mrn } } }",
    ),
    ("removeWIFAuthBinding", "mutation($x: String!) { removeWIFAuthBinding(mrn: $x) { mrn } }"),
    (
        "createWIFProvider",
        "mutation($s: String!) { createWIFProvider(input: {scopeMrn: $s, name: \"x\", kind: AWS_STS, dryRun: true}) { provider { mrn } } }",
    ),
    (
        "updateWIFProvider",
        "mutation($p: String!) { updateWIFProvider(input: {mrn: $p, description: \"x\"}) { provider { mrn } } }",
    ),
    ("removeWIFProvider", "mutation($p: String!) { removeWIFProvider(mrn: $p) { mrn } }"),
    (
        "createWIFTrust",
        "mutation($a: String!, $p: String!) { createWIFTrust(input: {serviceAccountMrn: $a, providerMrn: $p, name: \"x\", subject: \"x\"}) { trust { mrn } } }",
    ),
    (
        "updateWIFTrust",
        "mutation($t: String!) { updateWIFTrust(input: {mrn: $t, description: \"x\"}) { trust { mrn } } }",
    ),
    ("removeWIFTrust", "mutation($x: String!) { removeWIFTrust(mrn: $x) { mrn } }"),
    (
        "generateIDToken",
        "mutation($a: String!) { generateIDToken(input: {audience: \"x\", serviceAccountMrn: $a}) { expiresAt } }",
    ),
    ("revokeCredentials", "mutation($t: String!) { revokeCredentials(mrn: $t) { mrn } }"),
];

/// What the platform's owner makes for an operation that uses it up, and where its MRN is in the answer.
const FRESH: [(&str, &str, &str); 5] = [
    (
        "deleteRole",
        "mutation($o: String!, $n: String!) { createRole(input: {orgMrn: $o, name: $n, permissions: []}) { mrn } }",
        "/createRole/mrn",
    ),
    (
        "deleteServiceAccounts",
        "mutation($s: String!) { createServiceAccount(input: {scopeMrn: $s, name: \"x\"}) { mrn } }",
        "/createServiceAccount/mrn",
    ),
    (
        "deleteAPIToken",
        "mutation($s: String!, $agent: String!) { generateAPIToken(input: {scopeMrn: $s, name: \"x\", roles: [{mrn: $agent}]}) { mrn } }",
        "/generateAPIToken/mrn",
    ),
    (
        "removeWIFAuthBinding",
        "mutation($s: String!, $n: String!) { createWIFAuthBinding(input: {scopeMrn: $s, name: \"x\", issuerUri: \"https://127.0.0.1:1\", subject: $n}) { binding { mrn } } }",
        "/createWIFAuthBinding/binding/mrn",
    ),
    (
        "removeWIFTrust",
        "mutation($a: String!, $p: String!) { createWIFTrust(input: {serviceAccountMrn: $a, providerMrn: $p, name: \"x\", subject: \"x\"}) { trust { mrn } } }",
        "/createWIFTrust/trust/mrn",
    ),
];

/// The golden table: role × operation × where the principal's scope lies from what it is done to. `full` and `used`: it may,
/// once what stands in the way is gone.
#[tokio::test(flavor = "multi_thread")]
async fn role_times_operation_times_scope() {
    let world = World::new().await;
    let (organization, space) = world.space("acme-org", "acme-space").await;
    let (other, elsewhere) = world.space("evil-org", "evil-space").await;
    let (account, provider, trust) = trust(&world, &space, "agent").await;
    let made = world
        .run(
            "mutation($s: String!, $o: String!) {
                createWIFAuthBinding(input: {scopeMrn: $s, name: \"b\", issuerUri: \"https://127.0.0.1:1\", subject: \"b\"}) { binding { mrn } }
                createRole(input: {orgMrn: $o, name: \"own\", permissions: [\"scopes.read\"]}) { mrn }
            }",
            json!({ "s": space, "o": organization }),
        )
        .await;
    let (binding, role) = (&made["createWIFAuthBinding"]["binding"]["mrn"], &made["createRole"]["mrn"]);

    let fields = world.run("{ __schema { types { name fields { name } } } }", json!({})).await;
    let roots = fields["__schema"]["types"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|t| t["name"] == "Query" || t["name"] == "Mutation");
    let mut all: Vec<&str> = roots
        .flat_map(|root| root["fields"].as_array().unwrap())
        .map(|field| field["name"].as_str().unwrap())
        .collect();
    let mut shown = OPERATIONS.map(|(name, _)| name);
    all.sort_unstable();
    shown.sort_unstable();
    assert_eq!(shown[..], all[..], "every operation of the schema has its line in OPERATIONS");

    let mut table = format!("{:<22}", "");
    let mut principals = Vec::new();
    for (level, scope) in [
        ("plat", "//platform.api.mondoo.app"),
        ("org", &*organization),
        ("space", &*space),
        ("other", &*other),
        ("else", &*elsewhere),
    ] {
        for role in ["agent", "viewer", "editor", "owner"] {
            principals.push(world.token(scope, role).await);
            let _ = write!(table, "{:<9}", format!("{level}.{}", &role[..2]));
        }
    }
    let mut number = 0;
    for (name, document) in OPERATIONS {
        let _ = write!(table, "\n{name:<22}");
        for bearer in &principals {
            number += 1;
            let mut variables = json!({
                "s": space, "o": organization, "p": provider, "t": trust, "a": account, "b": binding, "r": role,
                "n": format!("n{number}"), "agent": role_mrn("agent"),
            });
            if let Some((_, make, at)) = FRESH.iter().find(|(of, ..)| *of == name) {
                let made = world.run(make, declared(make, &variables)).await;
                variables["x"] = made.pointer(at).unwrap().clone();
            }
            let answer = world.run_as(bearer, document, declared(document, &variables)).await;
            let outcome = match answer["errors"][0]["extensions"]["code"].as_str() {
                None if answer.get("errors").is_none() => "yes",
                Some("PERMISSION_DENIED") => "denied",
                Some("NOT_FOUND") => "-",
                Some("INVALID_ARGUMENT") => "invalid",
                Some("FAILED_PRECONDITION") if answer.to_string().contains("not empty") => "full",
                Some("FAILED_PRECONDITION") if answer.to_string().contains("still use") => "used",
                other => other.unwrap_or("?"),
            };
            let _ = write!(table, "{outcome:<9}");
        }
    }
    let table: Vec<&str> = table.lines().map(str::trim_end).collect();
    insta::assert_snapshot!(table.join("\n"));
}

/// Of these variables those that the document declares.
fn declared(document: &str, variables: &Value) -> Value {
    let all = variables.as_object().unwrap().iter();
    Value::Object(
        all.filter(|(name, _)| document.contains(&format!("${name}:"))).map(|(n, v)| (n.clone(), v.clone())).collect(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn not_found_and_not_allowed_are_the_same_answer() {
    let world = World::new().await;
    let (_, space) = world.space("acme-org", "acme-space").await;
    let (_, elsewhere) = world.space("evil-org", "evil-space").await;
    let (account, provider, trust) = trust(&world, &space, "agent").await;
    let stranger = world.token(&elsewhere, "owner").await;
    for (document, there) in [
        ("query($m: String!) { listWIFAuthBindings(scopeMrn: $m) { totalCount } }", &space),
        ("query($m: String!) { getWIFTrust(mrn: $m) { trust { mrn } } }", &trust),
        ("query($m: String!) { getWIFProvider(mrn: $m) { provider { mrn } } }", &provider),
        ("query($m: String!) { getServiceAccount(mrn: $m) { mrn } }", &account),
        ("mutation($m: String!) { removeWIFTrust(mrn: $m) { mrn } }", &trust),
        ("mutation($m: String!) { removeWIFProvider(mrn: $m) { mrn } }", &provider),
        ("mutation($m: String!) { deleteSpace(mrn: $m) { mrn } }", &space),
    ] {
        // The same shape, but nothing there: another last character.
        let mut missing = (*there).clone();
        let last = if missing.pop() == Some('0') { '1' } else { '0' };
        missing.push(last);
        let forbidden = world.run_as(&stranger, document, json!({ "m": there })).await;
        let absent = world.run_as(&stranger, document, json!({ "m": missing })).await;
        assert_eq!(forbidden, absent, "{document}");
        assert_eq!(forbidden["errors"][0]["extensions"]["code"], "NOT_FOUND", "{forbidden}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gives_more_than_they_have() {
    let world = World::new().await;
    let (organization, space) = world.space("acme-org", "acme-space").await;
    let (account, provider, owned) = trust(&world, &space, "owner").await;
    let editor = world.token(&space, "editor").await;
    let owner = world.token(&space, "owner").await;
    let bind = "mutation($s: String!, $r: [String!]) { createWIFAuthBinding(input: {scopeMrn: $s, name: \"x\", issuerUri: \"https://127.0.0.1:1\", subject: \"x\", roles: $r}) { binding { mrn roles } } }";
    let denied = |answer: (String, String, String)| assert_eq!(answer.0, "PERMISSION_DENIED", "{answer:?}");
    denied(world.refused_as(&editor, bind, json!({ "s": space, "r": [role_mrn("owner")] })).await);
    let made = world.run_as(&editor, bind, json!({ "s": space, "r": [role_mrn("editor")] })).await;
    let binding = made["data"]["createWIFAuthBinding"]["binding"]["mrn"].as_str().expect("made").to_owned();
    let widen = "mutation($m: String!, $r: [String!]) { updateWIFAuthBinding(input: {mrn: $m, roles: $r}) { binding { roles } } }";
    denied(world.refused_as(&editor, widen, json!({ "m": binding, "r": [role_mrn("owner")] })).await);
    // What an owner gave an owner's roles, an editor changes neither by the trust, nor by its account, nor by its provider.
    denied(
        world
            .refused_as(
                &editor,
                "mutation($t: String!) { updateWIFTrust(input: {mrn: $t, subject: \"mallory\"}) { trust { mrn } } }",
                json!({ "t": owned }),
            )
            .await,
    );
    denied(world.refused_as(&editor, "mutation($a: String!, $p: String!) { createWIFTrust(input: {serviceAccountMrn: $a, providerMrn: $p, name: \"x\", subject: \"mallory\"}) { trust { mrn } } }", json!({ "a": account, "p": provider })).await);
    let keys = json!({ "p": provider, "k": world.issuer.jwks() });
    let swap = "mutation($p: String!, $k: JSON) { updateWIFProvider(input: {mrn: $p, jwks: $k}) { provider { mrn keySource } } }";
    denied(world.refused_as(&editor, swap, keys.clone()).await);
    let swapped = world.run_as(&owner, swap, keys).await;
    assert_eq!(swapped["data"]["updateWIFProvider"]["provider"]["keySource"], "JWKS", "{swapped}");
    // A role of one's own making cannot reach further either.
    let define = "mutation($o: String!, $p: [String!]!) { createRole(input: {orgMrn: $o, name: \"tokens\", permissions: $p}) { mrn } }";
    let made = world.run(define, json!({ "o": organization, "p": ["roles.manage", "roles.read", "serviceaccounts.read", "serviceaccounts.manage"] })).await;
    let role = made["createRole"]["mrn"].as_str().unwrap();
    let keeper = world
        .run("mutation($o: String!, $r: String!) { generateAPIToken(input: {name: \"x\", scopeMrn: $o, roles: [{mrn: $r}]}) { token } }", json!({ "o": organization, "r": role }))
        .await["generateAPIToken"]["token"]
        .as_str()
        .unwrap()
        .to_owned();
    denied(
        world
            .refused_as(
                &keeper,
                "mutation($r: String!) { updateRole(input: {mrn: $r, permissions: [\"idtokens.issue\"]}) { mrn } }",
                json!({ "r": role }),
            )
            .await,
    );
    denied(
        world
            .refused_as(
                &keeper,
                "mutation($a: String!) { updateServiceAccount(input: {mrn: $a, name: \"x\"}) { mrn } }",
                json!({ "a": account }),
            )
            .await,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn providers_are_checked_while_the_admin_waits() {
    let world = World::new().await;
    let (_, space) = world.space("acme-org", "acme-space").await;
    let document = "mutation($i: CreateWIFProviderInput!) { createWIFProvider(input: $i) { provider { mrn kind issuerUri algorithms replay keySource warnings } } }";
    let mut found = String::new();
    for input in [
        json!({ "kind": "CUSTOM_OIDC" }),
        json!({ "kind": "CUSTOM_OIDC", "issuerUri": "https://127.0.0.1:1" }),
        json!({ "kind": "CUSTOM_OIDC", "issuerUri": "https://token.actions.githubusercontent.com" }),
        json!({ "kind": "CUSTOM_OIDC", "issuerUri": "https://sallyport.example" }),
        json!({ "kind": "AWS_STS", "issuerUri": "https://sts.example.com" }),
        json!({ "kind": "AWS_STS", "jwksUri": "https://sts.example.com" }),
        json!({ "kind": "SPIFFE", "issuerUri": "spiffe://prod.acme.internal" }),
        json!({ "kind": "CUSTOM_OIDC", "issuerUri": "https://a.example", "jwks": { "keys": [] } }),
        json!({ "kind": "CUSTOM_OIDC", "issuerUri": "https://a.example", "jwks": { "keys": [{ "kty": "oct", "k": "c2VjcmV0" }] } }),
        json!({ "kind": "CUSTOM_OIDC", "issuerUri": "https://a.example", "algorithms": ["HS256"] }),
        json!({ "kind": "CUSTOM_OIDC", "issuerUri": "https://a.example", "maxTokenAgeSeconds": 0 }),
        json!({ "kind": "CUSTOM_OIDC", "issuerUri": "https://a.example", "requireAudienceHeader": true }),
        json!({ "kind": "NONSENSE" }),
    ] {
        let mut whole = input.clone();
        whole["scopeMrn"] = json!(space);
        whole["name"] = json!("p");
        let (code, field, message) = world.refused_as(OWNER, document, json!({ "i": whole })).await;
        let _ = writeln!(found, "{input}\n  {code} {field}: {message}");
    }
    insta::assert_snapshot!(found);
    // The kind fixes the issuer; AWS needs no network.
    let made = world.run(document, json!({ "i": { "scopeMrn": space, "name": "aws", "kind": "AWS_STS" } })).await;
    assert_eq!(made["createWIFProvider"]["provider"]["issuerUri"], "https://sts.amazonaws.com");
    let again = json!({ "i": { "scopeMrn": space, "name": "aws", "kind": "AWS_STS", "issuerUri": "https://sts.amazonaws.com/" } });
    assert_eq!(world.refused(document, again).await, "ALREADY_EXISTS issuerUri");
    // A dry run checks, and saves nothing.
    let trial = json!({ "i": { "scopeMrn": space, "name": "ci", "kind": "CUSTOM_OIDC", "issuerUri": world.issuer.uri(), "dryRun": true } });
    world.run(document, trial).await;
    let listed =
        world.run("query($s: String!) { listWIFProviders(scopeMrn: $s) { totalCount } }", json!({ "s": space })).await;
    assert_eq!(listed["listWIFProviders"]["totalCount"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_keep_what_they_leave_out_and_removal_asks_for_order() {
    let world = World::new().await;
    let (organization, space) = world.space("acme-org", "acme-space").await;
    let (account, provider, trust) = trust(&world, &space, "viewer").await;
    let updated = world
        .run(
            "mutation($t: String!, $r: [String!]) { updateWIFTrust(input: {mrn: $t, condition: \"claims.sub == 'robot'\", scopedRoles: $r}) {
                trust { name subject condition scopedRoles expiration disabled warnings } } }",
            json!({ "t": trust, "r": [role_mrn("owner")] }),
        )
        .await["updateWIFTrust"]["trust"]
        .take();
    assert_eq!(updated["subject"], "robot");
    assert!(updated["warnings"].to_string().contains("owner"), "{updated}");
    let cleared = world
        .run("mutation($t: String!) { updateWIFTrust(input: {mrn: $t, condition: \"\", scopedRoles: [], subject: null, disabled: true}) { trust { subject condition scopedRoles disabled } } }", json!({ "t": trust }))
        .await["updateWIFTrust"]["trust"]
        .take();
    assert_eq!(cleared, json!({ "subject": "robot", "condition": null, "scopedRoles": [], "disabled": true }));
    for (document, variables) in [
        ("mutation($m: String!) { removeWIFProvider(mrn: $m) { mrn } }", json!({ "m": provider })),
        ("mutation($m: String!) { deleteSpace(mrn: $m) { mrn } }", json!({ "m": space })),
        ("mutation($m: String!) { deleteOrganization(mrn: $m) { mrn } }", json!({ "m": organization })),
    ] {
        assert_eq!(world.refused(document, variables).await, "FAILED_PRECONDITION ");
    }
    // Accounts take their trusts with them; then the rest can go, from the leaves up.
    world
        .run(
            "mutation($s: String!, $a: [String!]!) { deleteServiceAccounts(input: {scopeMrn: $s, mrns: $a}) { mrns } }",
            json!({ "s": space, "a": [account] }),
        )
        .await;
    assert_eq!(
        world.refused("query($m: String!) { getWIFTrust(mrn: $m) { trust { mrn } } }", json!({ "m": trust })).await,
        "NOT_FOUND "
    );
    world.run("mutation($m: String!) { removeWIFProvider(mrn: $m) { mrn } }", json!({ "m": provider })).await;
    world.run("mutation($m: String!) { deleteSpace(mrn: $m) { mrn } }", json!({ "m": space })).await;
    world.run("mutation($m: String!) { deleteOrganization(mrn: $m) { mrn } }", json!({ "m": organization })).await;
    let audit = world
        .run("{ listAuditEntries(scopeMrn: \"//platform.api.mondoo.app\", first: 100) { entries { action before after } totalCount } }", json!({}))
        .await["listAuditEntries"]
        .take();
    let actions: Vec<&str> =
        audit["entries"].as_array().unwrap().iter().map(|e| e["action"].as_str().unwrap()).collect();
    insta::assert_snapshot!(actions.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_come_once_and_go_at_once() {
    let world = World::new().await;
    let (_, space) = world.space("acme-org", "acme-space").await;
    let token = world.token(&space, "viewer").await;
    let me = world.run_as(&token, "{ viewer { kind name scopeMrn roles expiresAt } }", json!({})).await;
    assert_eq!(
        me["data"]["viewer"],
        json!({ "kind": "API_TOKEN", "name": "test", "scopeMrn": space, "roles": [role_mrn("viewer")], "expiresAt": null })
    );
    let listed = world
        .run(
            "query($s: String!) { listAPITokens(scopeMrn: $s) { apiTokens { mrn } totalCount } }",
            json!({ "s": space }),
        )
        .await;
    let mrn = &listed["listAPITokens"]["apiTokens"][0]["mrn"];
    world.run("mutation($m: String!) { deleteAPIToken(input: {mrn: $m}) { mrn } }", json!({ "m": mrn })).await;
    assert_eq!(world.refused_as(&token, "{ viewer { mrn } }", json!({})).await.0, "UNAUTHENTICATED");
    assert_eq!(
        world.refused("mutation($m: String!) { deleteAPIToken(input: {mrn: $m}) { mrn } }", json!({ "m": mrn })).await,
        "NOT_FOUND "
    );
    let made = world.run("mutation($s: String!) { generateIDToken(input: {audience: \"https://gcp.example\", expiration: 60}) { token expiresAt } x: createServiceAccount(input: {scopeMrn: $s, name: \"a\"}) { mrn certificate privateKey apiEndpoint roles { mrn } } }", json!({ "s": space })).await;
    let issued = made["generateIDToken"]["token"].as_str().unwrap();
    let services = &world.services;
    let claims =
        services.keys.load().verify_id_token(issued, &services.installation.public_url, services.now()).unwrap();
    assert_eq!(
        (claims.sub.as_str(), claims.aud.as_str(), claims.exp - claims.iat),
        ("//platform.api.mondoo.app", "https://gcp.example", 60)
    );
    assert!(made["x"]["privateKey"].as_str().unwrap().contains("PRIVATE KEY"));
    assert_eq!(made["x"]["roles"], json!([{ "mrn": role_mrn("agent") }]));
}

#[tokio::test(flavor = "multi_thread")]
async fn simulation_shows_every_check() {
    let world = World::new().await;
    let (_, space) = world.space("acme-org", "acme-space").await;
    let (_, _, trust) = trust(&world, &space, "viewer").await;
    let document = "query($i: SimulateExchangeInput!) { simulateExchange(input: $i) { granted trustMrn roles reason checks { name outcome } } }";
    let claims = |subject: &str| {
        let now = world.services.now().seconds();
        json!({ "iss": world.issuer.uri(), "sub": subject, "aud": space, "iat": now, "exp": now + 600 })
    };
    let granted = world.run(document, json!({ "i": { "claims": claims("robot"), "audience": space } })).await;
    let granted = &granted["simulateExchange"];
    assert_eq!(granted["granted"], true, "{granted}");
    assert_eq!(granted["trustMrn"], trust);
    assert_eq!(granted["roles"], json!([role_mrn("viewer")]));
    let refused = world.run(document, json!({ "i": { "claims": claims("mallory"), "audience": trust } })).await;
    assert_eq!(refused["simulateExchange"]["reason"], "subject");
    for wrong in [json!({}), json!({ "claims": {}, "subjectToken": "x" })] {
        assert_eq!(world.refused(document, json!({ "i": wrong })).await, "INVALID_ARGUMENT subjectToken");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_learn_nothing_and_only_json_is_read() {
    let world = World::with(GraphqlOptions { introspection: false, graphiql: true }).await;
    let post = |path: &'static str, content_type: &'static str, bearer: Option<&str>, body: &str| {
        let request = Request::post(path).header("content-type", content_type);
        let request = match bearer {
            Some(bearer) => request.header("authorization", format!("Bearer {bearer}")),
            None => request,
        };
        request.body(Body::from(body.to_owned())).unwrap()
    };
    let unauthenticated =
        |answer: &Value| assert_eq!(answer["errors"][0]["extensions"]["code"], "UNAUTHENTICATED", "{answer}");
    for body in [
        r#"{"query":"{viewer{mrn}}"}"#,
        r#"{"query":"{veiwer{mrn}}"}"#,
        r#"{"query":"{__schema{types{name}}}"}"#,
        "junk",
    ] {
        for bearer in [None, Some("wrong"), Some("a.b.c")] {
            let (status, answer) = world.send(post("/graphql", "application/json", bearer, body)).await;
            assert_eq!(status, StatusCode::OK);
            unauthenticated(&answer);
        }
    }
    let (status, _) = world.send(post("/query", "text/plain", Some(OWNER), r#"{"query":"{viewer{mrn}}"}"#)).await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let (status, _) = world.send(post("/query", "application/json", Some(OWNER), &" ".repeat(1_100_000))).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let get = |accept: &str| {
        Request::get("/graphql?query={viewer{mrn}}").header("accept", accept).body(Body::empty()).unwrap()
    };
    assert_eq!(world.send(get("application/json")).await.0, StatusCode::METHOD_NOT_ALLOWED);
    let (status, page) = world.send(get("text/html")).await;
    assert!(status == StatusCode::OK && page.as_str().unwrap().contains("GraphiQL"));
    // Introspection off: neither the schema nor hints of it.
    let hidden = world.run_as(OWNER, "{ __schema { types { name } } }", json!({})).await;
    assert!(hidden["data"]["__schema"].is_null(), "{hidden}");
    let hint = world.run_as(OWNER, "{ veiwer { mrn } }", json!({})).await;
    assert!(!hint.to_string().contains("Did you mean"), "{hint}");
    let aliases: String = (0..1_000).map(|i| format!("a{i}: viewer {{ mrn }} ")).collect();
    assert_eq!(world.refused(&format!("{{ {aliases} }}"), json!({})).await, "RESOURCE_EXHAUSTED ");
}
