//! Story: who may what. The golden table of roles is in crates/graphql/tests/management.rs; strangers are in tenants.rs.

use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::support::schema::{Kind, Schema};
use crate::support::tenant::Tenant;
use crate::support::{Reply, World, run};

async fn world() -> &'static World {
    static WORLD: OnceCell<World> = OnceCell::const_new();
    WORLD.get_or_init(World::new).await
}

#[test]
fn who_sees_but_may_not_change_is_told_so() {
    run(async {
        let world = world().await;
        let (schema, tenant) = (Schema::of(world).await, Tenant::new(world, "lemur").await);
        let viewer = world.api_token(&tenant.names[&Kind::Organization], &["viewer"]).await;
        for operation in schema.operations() {
            let variables = schema.variables(&operation, &tenant.names, &[]);
            // Of reading, only the record of changes is not for everybody who reads.
            if operation.mutation || operation.name == "listAuditEntries" {
                let refusal = world.refused_as(Some(&viewer), &operation.document, &variables).await;
                assert_eq!(refusal.code, "PERMISSION_DENIED", "{}: {refusal:?}", operation.name);
            } else {
                let reply = world.query(Some(&viewer), &operation.document, &variables).await;
                assert!(reply.json().get("errors").is_none(), "{}: {}", operation.name, reply.text());
            }
        }
    });
}

#[test]
fn ids_are_compared_case_sensitively() {
    run(async {
        let world = world().await;
        let create = "mutation($id: String!) { createOrganization(input: {name: \"n\", id: $id}) { mrn } }";
        for id in ["Case-Matters", "case-matters"] {
            world.graphql(create, json!({ "id": id })).await;
        }
        let lower = "//captain.api.mondoo.app/organizations/case-matters";
        let token = world.api_token(lower, &["viewer"]).await;
        let list = "query($s: String!) { listWIFAuthBindings(scopeMrn: $s) { totalCount } }";
        world.graphql_as(&token, list, json!({ "s": lower })).await;
        let scope = json!({ "s": "//captain.api.mondoo.app/organizations/Case-Matters" });
        assert_eq!(world.refused_as(Some(&token), list, &scope).await.code, "NOT_FOUND");
        let scope = json!({ "s": "//Captain.api.mondoo.app/organizations/case-matters" });
        assert_eq!(world.refused_as(Some(&token), list, &scope).await.code, "INVALID_ARGUMENT", "no MRN at all");
    });
}

#[test]
fn cross_site_requests_and_oversized_queries_are_refused() {
    run(async {
        let world = world().await;
        let url = format!("{}/query", world.server.url);
        let body = json!({ "query": "{ viewer { mrn } }" }).to_string();
        for content_type in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
            let request = world.http.post(&url).bearer_auth(&world.admin).header("content-type", content_type);
            let reply = Reply::to(request.body(body.clone())).await;
            assert!(reply.status >= 400 && !reply.text().contains("apitokens"), "{content_type}: {}", reply.text());
        }
        let get = format!("{url}?query=%7Bviewer%7Bmrn%7D%7D");
        let reply = Reply::to(world.http.get(get).bearer_auth(&world.admin)).await;
        assert!(reply.status >= 400 && !reply.text().contains("apitokens"), "{}", reply.text());

        let aliases = (0..200).map(|n| format!("a{n}: viewer {{ mrn }} ")).collect::<String>();
        let deep =
            format!("{{ __schema {{ types {{ {} name {} }} }} }}", "fields { type { ".repeat(20), "} } ".repeat(20));
        for document in [format!("{{ {aliases} }}"), deep] {
            let refusal = world.refused(&document, json!({})).await;
            assert_eq!(refusal.code, "RESOURCE_EXHAUSTED", "{refusal:?}");
        }
        let batch: Vec<Value> = (0..100).map(|_| json!({ "query": "{ viewer { mrn } }" })).collect();
        let reply = Reply::to(world.http.post(&url).bearer_auth(&world.admin).json(&batch)).await;
        assert!(reply.status >= 400, "a batch of 100: {}", reply.status);
        assert!(!reply.header("x-request-id").is_empty());
    });
}

#[test]
fn browsers_get_a_console_without_a_token() {
    run(async {
        let world = world().await;
        let reply =
            Reply::to(world.http.get(format!("{}/graphql", world.server.url)).header("accept", "text/html")).await;
        assert_eq!(reply.status, 200);
        assert!(reply.header("content-type").starts_with("text/html"), "{reply:?}");
        assert_eq!(reply.header("x-frame-options"), "DENY");
    });
}
