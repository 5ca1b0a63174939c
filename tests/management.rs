//! Story: the first owner sets the place up: organizations, spaces, service accounts, API tokens, roles.

use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::support::{World, role, run};

async fn world() -> &'static World {
    static WORLD: OnceCell<World> = OnceCell::const_new();
    WORLD.get_or_init(World::new).await
}

const VIEWER: &str = "{ viewer { mrn kind name roles permissions scopeMrn expiresAt } }";

#[test]
fn the_given_bootstrap_token_is_the_platform_owner() {
    run(async {
        let world = world().await;
        let viewer = world.graphql(VIEWER, json!({})).await;
        let viewer = &viewer["viewer"];
        assert_eq!(viewer["roles"], json!([role("owner")]));
        assert_eq!(viewer["scopeMrn"], json!("//platform.api.mondoo.app"));
        assert_eq!(viewer["expiresAt"], Value::Null);
        assert!(viewer["mrn"].as_str().unwrap().starts_with("//iam.api.mondoo.app/apitokens/"), "{viewer}");
        assert!(viewer["permissions"].as_array().unwrap().len() > 10, "{viewer}");
        // Both paths are the same API, under any spelling of the scheme.
        let request = world.http.post(format!("{}/graphql", world.server.url)).json(&json!({ "query": VIEWER }));
        let reply = crate::support::Reply::to(request.header("authorization", format!("bearer {}", world.admin))).await;
        assert_eq!((reply.status, &reply.json()["data"]["viewer"]), (200, viewer));
        assert!(!world.server.log().contains(&world.admin), "the token is in no log");
    });
}

#[test]
fn a_generated_bootstrap_token_is_printed_exactly_once() {
    run(async {
        let mut world = World::with(|setup| {
            setup.unset("SALLYPORT_BOOTSTRAP_TOKEN");
        })
        .await;
        let printed = world.server.stdout();
        let tokens: Vec<&str> =
            printed.lines().map(str::trim).filter(|line| line.len() >= 20 && !line.contains(' ')).collect();
        assert_eq!(tokens.len(), 1, "{printed}");
        let token = tokens[0].to_owned();
        let viewer = world.graphql_as(&token, VIEWER, json!({})).await;
        assert_eq!(viewer["viewer"]["roles"], json!([role("owner")]));
        assert!(!world.server.log().contains(&token), "the token is in no log");
        assert_eq!(world.refused(VIEWER, json!({})).await.code, "UNAUTHENTICATED");

        world.server.terminate();
        // A token given later is not taken: the database is not empty any more.
        world.server.environment.insert("SALLYPORT_BOOTSTRAP_TOKEN".to_owned(), world.admin.clone());
        world.server.start_again().await;
        assert_eq!(world.server.stdout(), printed, "nothing is printed at the second start");
        world.graphql_as(&token, VIEWER, json!({})).await;
        assert_eq!(world.refused(VIEWER, json!({})).await.code, "UNAUTHENTICATED");
    });
}

#[test]
fn organizations_and_spaces_have_the_ids_their_creator_chose() {
    run(async {
        let world = world().await;
        let organization = "mutation($input: CreateOrganizationInput!) { createOrganization(input: $input) { mrn } }";
        let space = "mutation($input: CreateSpaceInput!) { createSpace(input: $input) { mrn } }";
        let made =
            world.graphql(organization, json!({ "input": { "name": "ACME GmbH & Co", "id": "acme-1.a_b" } })).await;
        let mrn = "//captain.api.mondoo.app/organizations/acme-1.a_b";
        assert_eq!(made["createOrganization"]["mrn"], json!(mrn));
        let input = json!({ "name": "Shop", "orgMrn": mrn, "id": "Shop_2026", "description": "The shop" });
        let made = world.graphql(space, json!({ "input": input })).await;
        assert_eq!(made["createSpace"]["mrn"], json!("//captain.api.mondoo.app/spaces/Shop_2026"));

        let taken = world.refused(organization, json!({ "input": { "name": "Other", "id": "acme-1.a_b" } })).await;
        assert_eq!(taken.code, "ALREADY_EXISTS", "{taken:?}");
        assert_eq!(world.refused(space, json!({ "input": input })).await.code, "ALREADY_EXISTS");
        // Names are labels, never unique.
        world.graphql(organization, json!({ "input": { "name": "ACME GmbH & Co" } })).await;
        for id in ["abc", "with space", "a/b", "ümlaut", &"x".repeat(201)] {
            let refusal = world.refused(organization, json!({ "input": { "name": "n", "id": id } })).await;
            assert_eq!(
                (refusal.code.as_str(), refusal.field.as_str()),
                ("INVALID_ARGUMENT", "id"),
                "{id}: {refusal:?}"
            );
        }
        let refusal = world.refused(organization, json!({ "input": { "name": " " } })).await;
        assert_eq!((refusal.code.as_str(), refusal.field.as_str()), ("INVALID_ARGUMENT", "name"));
        let nowhere = json!({ "name": "n", "orgMrn": "//captain.api.mondoo.app/organizations/none" });
        let refusal = world.refused(space, json!({ "input": nowhere })).await;
        assert!(matches!(refusal.code.as_str(), "NOT_FOUND" | "INVALID_ARGUMENT"), "{refusal:?}");
    });
}

#[test]
fn an_api_token_is_shown_once_and_works_until_it_is_deleted() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let generate = "mutation($input: GenerateAPITokenInput!) { generateAPIToken(input: $input) { mrn token } }";
        let input = json!({ "name": "CI", "scopeMrn": place.organization, "description": "d", "roles": [{ "mrn": role("viewer") }] });
        let made = world.graphql(generate, json!({ "input": input })).await;
        let (mrn, token) = (&made["generateAPIToken"]["mrn"], made["generateAPIToken"]["token"].as_str().unwrap());
        let viewer = world.graphql_as(token, VIEWER, json!({})).await;
        assert_eq!((&viewer["viewer"]["mrn"], &viewer["viewer"]["name"]), (mrn, &json!("CI")));
        assert_eq!(viewer["viewer"]["scopeMrn"], json!(place.organization));
        assert!(!world.server.log().contains(token));
        let again = world.graphql(generate, json!({ "input": input })).await;
        assert_ne!(again["generateAPIToken"]["token"], json!(token));

        let delete = "mutation($mrn: String!) { deleteAPIToken(input: {mrn: $mrn}) { __typename } }";
        world.graphql(delete, json!({ "mrn": mrn })).await;
        assert_eq!(world.refused_as(Some(token), VIEWER, &json!({})).await.code, "UNAUTHENTICATED");
        assert_eq!(world.refused(delete, json!({ "mrn": mrn })).await.code, "NOT_FOUND");
    });
}

#[test]
fn nobody_grants_beyond_their_own_permissions() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let editor = world.api_token(&place.space, &["editor"]).await;
        let bind =
            "mutation($input: CreateWIFAuthBindingInput) { createWIFAuthBinding(input: $input) { binding { mrn } } }";
        let binding = |scope: &str, name: &str| json!({ "input": { "scopeMrn": scope, "name": "n", "issuerUri": world.issuer.uri(), "subject": name, "roles": [role(name)] } });
        for name in ["agent", "viewer", "editor"] {
            world.graphql_as(&editor, bind, binding(&place.space, name)).await;
        }
        let refusal = world.refused_as(Some(&editor), bind, &binding(&place.space, "owner")).await;
        assert_eq!(refusal.code, "PERMISSION_DENIED", "{refusal:?}");
        // A grant at the space reaches nothing above it.
        let above = world.refused_as(Some(&editor), bind, &binding(&place.organization, "agent")).await;
        assert_eq!(above.code, "NOT_FOUND", "{above:?}");
        let generate = "mutation($input: GenerateAPITokenInput!) { generateAPIToken(input: $input) { mrn } }";
        let input = json!({ "input": { "name": "n", "scopeMrn": place.space, "roles": [{ "mrn": role("owner") }] } });
        assert_eq!(world.refused_as(Some(&editor), generate, &input).await.code, "PERMISSION_DENIED");
        let create = "mutation($input: CreateServiceAccountInput!) { createServiceAccount(input: $input) { mrn } }";
        assert_eq!(world.refused_as(Some(&editor), create, &input).await.code, "PERMISSION_DENIED");
        // One at the organization reaches every space of it.
        let owner = world.api_token(&place.organization, &["owner"]).await;
        world
            .graphql_as(
                &owner,
                bind,
                json!({ "input": { "scopeMrn": place.space, "name": "n", "issuerUri": world.issuer.uri(),
                                               "subject": "from above", "roles": [role("owner")] } }),
            )
            .await;
    });
}

#[test]
fn unknown_roles_are_named() {
    run(async {
        let world = world().await;
        let place = world.place().await;
        let generate = "mutation($input: GenerateAPITokenInput!) { generateAPIToken(input: $input) { mrn } }";
        let create = "mutation($input: CreateServiceAccountInput!) { createServiceAccount(input: $input) { mrn } }";
        for mutation in [generate, create] {
            for name in ["//iam.api.mondoo.app/roles/king", "//iam.api.mondoo.app/roles/Owner", "owner/", ""] {
                let input = json!({ "input": { "name": "n", "scopeMrn": place.space, "roles": [{ "mrn": name }] } });
                let refusal = world.refused(mutation, input).await;
                assert_eq!(refusal.code, "INVALID_ARGUMENT", "{name}: {refusal:?}");
                assert!(refusal.field.starts_with("roles"), "{name}: {refusal:?}");
            }
        }
    });
}
