//! A tenant: an organization with one of everything, and everyone who can act in it.

use serde_json::{Value, json};

use super::schema::{Kind, Names, Schema};
use super::{Ping, World, role, sign};

/// An organization with one of everything, all of it called by one word.
pub(crate) struct Tenant {
    /// The word: part of every id, name and description that the tenant chose.
    pub(crate) word: &'static str,
    /// Its things.
    pub(crate) names: Names,
    /// The organization's owner.
    pub(crate) owner: Caller,
    /// The space's owner.
    pub(crate) space_owner: Caller,
    /// A workload that is the organization's owner, by access token.
    pub(crate) federated: Caller,
    /// That token.
    pub(crate) access_token: String,
    /// A workload that is the space's owner, by key pair.
    pub(crate) key_pair: Caller,
    /// A service account that is the space's owner, by its standing key.
    pub(crate) standing: Caller,
    /// A client ID of a binding of the organization.
    pub(crate) organization_client: String,
}

/// Somebody who can prove who they are.
pub(crate) struct Caller {
    /// Who, for messages.
    pub(crate) who: String,
    proof: Proof,
}

enum Proof {
    Bearer(String),
    /// Signs each request with the key of this document.
    Key(Value),
}

impl Caller {
    /// Somebody with an API token.
    pub(crate) fn with_token(who: &str, token: String) -> Self {
        Self { who: who.to_owned(), proof: Proof::Bearer(token) }
    }

    /// The private key, of somebody who signs.
    pub(crate) fn private_key(&self) -> Option<&str> {
        match &self.proof {
            Proof::Bearer(_) => None,
            Proof::Key(document) => document["private_key"].as_str(),
        }
    }

    /// What goes after `Bearer` in one request.
    pub(crate) fn bearer(&self) -> String {
        match &self.proof {
            Proof::Bearer(token) => token.clone(),
            Proof::Key(document) => sign(document, Ping::NoHash),
        }
    }
}

impl Tenant {
    /// Founds it.
    pub(crate) async fn new(world: &World, word: &'static str) -> Self {
        let (organization_id, space_id) = (format!("{word}-organization"), format!("{word}-space"));
        let create = "mutation($w: String!, $id: String!) { createOrganization(input: {name: $w, id: $id}) { mrn } }";
        let made = world.graphql(create, json!({ "w": word, "id": organization_id })).await;
        let organization = text(&made["createOrganization"]["mrn"]);
        let owner_token = world.api_token(&organization, &["owner"]).await;
        let act = async |document: &str, variables: Value| world.graphql_as(&owner_token, document, variables).await;

        let create = "mutation($w: String!, $id: String!, $o: String!) { \
                      createSpace(input: {name: $w, id: $id, orgMrn: $o, description: $w}) { mrn } }";
        let made = act(create, json!({ "w": word, "id": space_id, "o": organization })).await;
        let space = text(&made["createSpace"]["mrn"]);
        let create = "mutation($o: String!, $w: String!) { \
                      createRole(input: {orgMrn: $o, name: $w, title: $w, permissions: [\"scopes.read\"]}) { mrn } }";
        let own_role = text(&act(create, json!({ "o": organization, "w": word })).await["createRole"]["mrn"]);
        let create = "mutation($s: String!, $w: String!, $r: [RoleInput!]) { createServiceAccount(input: \
                      {scopeMrn: $s, name: $w, description: $w, roles: $r}) { mrn certificate privateKey } }";
        let roles = json!([{ "mrn": role("owner") }, { "mrn": own_role }]);
        let account = act(create, json!({ "s": space, "w": word, "r": roles })).await["createServiceAccount"].take();
        let generate = "mutation($s: String!, $w: String!, $r: [RoleInput!]) { generateAPIToken(input: \
                        {scopeMrn: $s, name: $w, description: $w, roles: $r}) { mrn token } }";
        let token = act(generate, json!({ "s": space, "w": word, "r": [{ "mrn": role("owner") }] })).await;
        let create = "mutation($s: String!, $w: String!, $i: String!) { createWIFProvider(input: \
                      {scopeMrn: $s, name: $w, description: $w, kind: CUSTOM_OIDC, issuerUri: $i}) { provider { mrn } } }";
        let made = act(create, json!({ "s": organization, "w": word, "i": world.issuer.uri() })).await;
        let provider = text(&made["createWIFProvider"]["provider"]["mrn"]);
        let create = "mutation($a: String!, $p: String!, $w: String!) { createWIFTrust(input: {serviceAccountMrn: $a, \
                      providerMrn: $p, name: $w, description: $w, subject: $w}) { trust { mrn clientId } } }";
        let made = act(create, json!({ "a": account["mrn"], "p": provider, "w": word })).await;
        let trust = made["createWIFTrust"]["trust"].clone();
        let bind = "mutation($s: String!, $w: String!, $i: String!, $r: [String!]) { createWIFAuthBinding(input: \
                    {scopeMrn: $s, name: $w, description: $w, issuerUri: $i, subject: $w, roles: $r, \
                    mappings: [{key: \"jwt_claims.repository\", value: \"acme/shop\"}]}) { binding { mrn clientId } } }";
        let bound = async |scope: &str| {
            let variables = json!({ "s": scope, "w": word, "i": world.issuer.uri(), "r": [role("owner")] });
            act(bind, variables).await["createWIFAuthBinding"]["binding"].take()
        };
        let (binding, above) = (bound(&space).await, bound(&organization).await);

        // Exchanges, granted and refused, at both doors.
        let organization_client = text(&above["clientId"]);
        let granted = world.oauth(&organization_client, &world.token(word, &organization), &[]).await;
        assert_eq!(granted.status, 200, "{}", granted.text());
        let access_token = text(&granted.json()["access_token"]);
        let key_pair = world.credential(&space, &world.token(word, &space)).await;
        let refused = world.exchange(&space, world.issuer.uri(), &world.token("nobody", &space)).await;
        assert_eq!(refused.status, 403, "{}", refused.text());

        let names = Names::from([
            (Kind::Organization, organization.clone()),
            (Kind::Space, space.clone()),
            (Kind::Role, own_role),
            (Kind::Account, text(&account["mrn"])),
            (Kind::ApiToken, text(&token["generateAPIToken"]["mrn"])),
            (Kind::Provider, provider),
            (Kind::Trust, text(&trust["mrn"])),
            (Kind::Binding, text(&binding["mrn"])),
            (Kind::Credential, text(&key_pair["mrn"])),
            (Kind::ClientId, text(&trust["clientId"])),
            (Kind::Exchange, refused.reference()),
        ]);
        let standing = json!({ "mrn": account["mrn"], "private_key": account["privateKey"] });
        let caller = |who: &str, proof: Proof| Caller { who: format!("{word}'s {who}"), proof };
        Self {
            word,
            names,
            owner: caller("organization owner", Proof::Bearer(owner_token)),
            space_owner: caller("space owner", Proof::Bearer(text(&token["generateAPIToken"]["token"]))),
            federated: caller("workload with an access token", Proof::Bearer(access_token.clone())),
            access_token,
            key_pair: caller("workload with a key pair", Proof::Key(key_pair)),
            standing: caller("service account", Proof::Key(standing)),
            organization_client,
        }
    }

    /// All of them.
    pub(crate) fn callers(&self) -> [&Caller; 5] {
        [&self.owner, &self.space_owner, &self.federated, &self.key_pair, &self.standing]
    }

    /// All that this caller can read: every query, with every name of the tenant that it takes, every field.
    pub(crate) async fn crawl(
        &self,
        world: &World,
        schema: &Schema,
        caller: &Caller,
        cursors: &[String],
    ) -> Vec<String> {
        let mut seen = Vec::new();
        for operation in schema.operations().iter().filter(|operation| !operation.mutation) {
            let mut calls = vec![schema.variables(operation, &self.names, &[])];
            for reference in &operation.references {
                let named = reference.kinds.iter().map(|kind| (reference, self.names[kind].as_str()));
                calls.extend(named.map(|given| schema.variables(operation, &self.names, &[given])));
            }
            if operation.pages {
                let from = |cursor: &String| {
                    let mut variables = calls[0].clone();
                    variables["after"] = json!(cursor);
                    variables
                };
                calls.extend(cursors.iter().map(from).collect::<Vec<_>>());
            }
            for variables in calls {
                seen.push(sorted(&world.query(Some(&caller.bearer()), &operation.document, &variables).await.text()));
            }
        }
        seen
    }
}

/// A text that must be there.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

/// The same JSON with its members in order: fields that are looked up side by side arrive in any.
pub(crate) fn sorted(text: &str) -> String {
    fn sort(value: &mut Value) {
        match value {
            Value::Object(members) => {
                members.sort_keys();
                members.values_mut().for_each(sort);
            }
            Value::Array(items) => items.iter_mut().for_each(sort),
            _ => {}
        }
    }
    let Ok(mut value) = serde_json::from_str::<Value>(text) else { return text.to_owned() };
    sort(&mut value);
    value.to_string()
}
