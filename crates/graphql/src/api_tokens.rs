//! API tokens: standing bearer secrets. The secret is shown once; only its hash is kept.

use async_graphql::{Context, InputObject, Object, SimpleObject};
use sallyport_credentials::secret::generate_api_token;
use sallyport_domain::id::ApiTokenId;
use sallyport_domain::mrn::{MrnDomain, Resource};
use sallyport_domain::principal::ApiToken as DomainToken;
use sallyport_domain::role::Permission;
use sallyport_domain::scope::Scope;
use sallyport_store::{Page, Write};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::access::{Caller, Planned};
use crate::error::{Error, Result};
use crate::inputs::{RoleInput, check_label, role_mrns, shown_roles};
use crate::paging::{self, COUNTED, PageInfo, cost};
use crate::roles::RoleReference;

/// A standing bearer secret, without the secret.
#[derive(SimpleObject, Clone, Debug)]
#[graphql(name = "APIToken")]
pub(crate) struct ApiToken {
    /// Its MRN.
    mrn: String,
    /// A label.
    name: String,
    /// Free text.
    description: Option<String>,
    /// MRN of its scope, where its roles hold.
    scope_mrn: String,
    /// Its roles.
    roles: Vec<RoleReference>,
    /// When it was created (RFC 3339).
    created_at: String,
    /// MRN of who created it; null for the first one of the installation.
    created_by: Option<String>,
}

impl ApiToken {
    fn new(mrns: &MrnDomain, token: &DomainToken) -> Self {
        Self {
            mrn: mrns.format(&Resource::ApiToken(token.scope.clone(), token.id)),
            name: token.name.clone(),
            description: token.description.clone(),
            scope_mrn: mrns.scope(&token.scope),
            roles: RoleReference::all(mrns, &token.roles),
            created_at: token.created_at.to_rfc3339(),
            created_by: Some(token.created_by.clone()).filter(|by| !by.is_empty()),
        }
    }
}

/// For the record of changes: neither the secret nor its hash.
fn recorded(mrns: &MrnDomain, token: &DomainToken) -> Value {
    json!({
        "name": token.name,
        "description": token.description,
        "roles": shown_roles(mrns, &token.roles),
    })
}

/// One page of API tokens.
#[derive(Debug)]
pub(crate) struct ApiTokenList {
    scope: Scope,
    page: Page<DomainToken>,
}

/// One page of API tokens.
#[Object(name = "ListAPITokensPayload")]
impl ApiTokenList {
    /// The API tokens, oldest first; never their secrets.
    async fn api_tokens(&self, context: &Context<'_>) -> Result<Vec<ApiToken>> {
        let mrns = Caller::of(context)?.mrns();
        Ok(self.page.items.iter().map(|token| ApiToken::new(mrns, token)).collect())
    }

    /// How many API tokens the scope has in all.
    #[graphql(complexity = "COUNTED")]
    async fn total_count(&self, context: &Context<'_>) -> Result<u64> {
        Ok(Caller::of(context)?.services.store.count_api_tokens(&self.scope).await?)
    }

    /// Where this page ends.
    async fn page_info(&self) -> PageInfo {
        (&self.page).into()
    }
}

/// An API token to be made.
#[derive(InputObject, Clone, Debug)]
#[graphql(name = "GenerateAPITokenInput")]
pub(crate) struct GenerateInput {
    /// A label, at most 256 bytes.
    name: String,
    /// MRN of its scope; your own when left out.
    scope_mrn: Option<String>,
    /// Free text, at most 4,096 bytes.
    description: Option<String>,
    /// Its roles, at least one; those you use now when left out.
    roles: Option<Vec<RoleInput>>,
}

/// A new API token.
#[derive(SimpleObject, Clone)]
#[graphql(name = "GenerateAPITokenPayload")]
pub(crate) struct GeneratePayload {
    /// Its MRN.
    mrn: String,
    /// The secret, shown this once.
    token: String,
    /// The token without the secret.
    api_token: ApiToken,
}

/// An API token to be deleted.
#[derive(InputObject, Clone, Debug)]
#[graphql(name = "DeleteAPITokenInput")]
pub(crate) struct DeleteInput {
    /// Its MRN.
    mrn: String,
}

/// What was deleted.
#[derive(SimpleObject, Clone, Debug)]
#[graphql(name = "DeleteAPITokenPayload")]
pub(crate) struct DeletePayload {
    /// MRN of the API token that is gone.
    mrn: String,
}

/// The queries.
#[derive(Default)]
pub(crate) struct ApiTokenQuery;

#[Object]
impl ApiTokenQuery {
    /// The API tokens of exactly this scope; never their secrets.
    #[graphql(name = "listAPITokens", complexity = "cost(first, child_complexity)")]
    async fn list_api_tokens(
        &self,
        context: &Context<'_>,
        #[graphql(desc = "MRN of the scope.")] scope_mrn: String,
        #[graphql(desc = "Items of the page, 1 to 1,000; 50 when left out.")] first: Option<i64>,
        #[graphql(desc = "The endCursor of the page before.")] after: Option<String>,
    ) -> Result<Option<ApiTokenList>> {
        let caller = Caller::of(context)?;
        let scope = caller.scope("scopeMrn", &scope_mrn)?;
        let request = paging::request(first, after)?;
        let snapshot = caller.snapshot()?;
        caller.access(&snapshot)?.require(Permission::ApiTokensRead, &scope, "scope")?;
        let page = caller.services.store.list_api_tokens(&scope, &request).await?;
        Ok(Some(ApiTokenList { scope, page }))
    }
}

/// The mutations.
#[derive(Default)]
pub(crate) struct ApiTokenMutation;

#[Object]
impl ApiTokenMutation {
    /// Generates an API token. Its secret is shown this once.
    #[graphql(name = "generateAPIToken", complexity = "50 + child_complexity")]
    async fn generate_api_token(&self, context: &Context<'_>, input: GenerateInput) -> Result<Option<GeneratePayload>> {
        let caller = Caller::of(context)?;
        let scope = match &input.scope_mrn {
            Some(mrn) => caller.scope("scopeMrn", mrn)?,
            None => caller.principal.scope.clone(),
        };
        let id = ApiTokenId(caller.services.new_id());
        let now = caller.now();
        let (secret, secret_hash) = generate_api_token(&*caller.services.entropy);
        let (token, _) = caller
            .mutate(|access| {
                access.require_federation(Permission::ApiTokensManage, &scope, "scope")?;
                check_label(&input.name, input.description.as_deref())?;
                let asked = match &input.roles {
                    // Left out means all of them, so none at all must not.
                    Some(roles) if roles.is_empty() => {
                        return Err(Error::invalid(
                            "roles",
                            "must not be empty; leave it out for the roles you use now",
                        ));
                    }
                    Some(_) => role_mrns(input.roles.clone()),
                    None => shown_roles(caller.mrns(), &access.principal.roles),
                };
                let roles = access.roles("roles", &asked, &scope)?;
                access.may_grant("roles", &roles, &scope)?;
                let token = DomainToken {
                    id,
                    scope: scope.clone(),
                    name: input.name.clone(),
                    description: input.description.clone(),
                    roles,
                    secret_hash,
                    created_at: now,
                    created_by: caller.principal.mrn.clone(),
                };
                let record = (None, Some(recorded(caller.mrns(), &token)));
                let target = Resource::ApiToken(scope.clone(), id);
                let audit = caller.audit(access.snapshot, "generateAPIToken", &target, &scope, record);
                let value = ApiToken::new(caller.mrns(), &token);
                Ok(Planned { writes: vec![Write::PutApiToken(token), audit], value })
            })
            .await?;
        Ok(Some(GeneratePayload { mrn: token.mrn.clone(), token: secret.expose_secret().to_owned(), api_token: token }))
    }

    /// Deletes an API token; it stops working at once.
    #[graphql(name = "deleteAPIToken", complexity = "50 + child_complexity")]
    async fn delete_api_token(&self, context: &Context<'_>, input: DeleteInput) -> Result<Option<DeletePayload>> {
        let caller = Caller::of(context)?;
        let missing = || Error::not_found("API token");
        let Some(Resource::ApiToken(scope, id)) = caller.mrns().parse(&input.mrn) else { return Err(missing()) };
        caller
            .mutate(|access| {
                access.require_federation(Permission::ApiTokensManage, &scope, "API token")?;
                let token = access.snapshot.api_token(id).filter(|token| token.scope == scope).ok_or_else(missing)?;
                let record = (Some(recorded(caller.mrns(), token)), None);
                let target = Resource::ApiToken(scope.clone(), id);
                let audit = caller.audit(access.snapshot, "deleteAPIToken", &target, &scope, record);
                Ok(Planned { writes: vec![Write::DeleteApiToken(id), audit], value: () })
            })
            .await?;
        Ok(Some(DeletePayload { mrn: input.mrn }))
    }
}
