//! The schema: every noun's queries and mutations in one, and the limits it runs under.

use async_graphql::{EmptySubscription, MergedObject, SDLExportOptions, Schema};

use crate::api_tokens::{ApiTokenMutation, ApiTokenQuery};
use crate::audit::AuditQuery;
use crate::bindings::{BindingMutation, BindingQuery};
use crate::conditions::ConditionQuery;
use crate::events::EventQuery;
use crate::exchanges::ExchangeQuery;
use crate::handler::GraphqlOptions;
use crate::id_tokens::IdTokenMutation;
use crate::limits::{COMPLEXITY_MAX, DEPTH_MAX, DIRECTIVES_MAX, NESTING_MAX};
use crate::presets::PresetQuery;
use crate::providers::{ProviderMutation, ProviderQuery};
use crate::revocation::RevocationMutation;
use crate::roles::{RoleMutation, RoleQuery};
use crate::scopes::{ScopeMutation, ScopeQuery};
use crate::service_accounts::{ServiceAccountMutation, ServiceAccountQuery};
use crate::simulation::SimulationQuery;
use crate::subjects::{SubjectMutation, SubjectQuery};
use crate::trusts::{TrustMutation, TrustQuery};
use crate::viewer::ViewerQuery;

/// What can be asked.
#[derive(MergedObject, Default)]
pub(crate) struct Query(
    ViewerQuery,
    ScopeQuery,
    RoleQuery,
    ServiceAccountQuery,
    ApiTokenQuery,
    BindingQuery,
    ProviderQuery,
    SubjectQuery,
    TrustQuery,
    ExchangeQuery,
    SimulationQuery,
    ConditionQuery,
    PresetQuery,
    AuditQuery,
    EventQuery,
);

/// What can be changed. Every mutation is recorded with who did it, and with what it was before.
#[derive(MergedObject, Default)]
pub(crate) struct Mutation(
    ScopeMutation,
    RoleMutation,
    ServiceAccountMutation,
    ApiTokenMutation,
    BindingMutation,
    ProviderMutation,
    SubjectMutation,
    TrustMutation,
    IdTokenMutation,
    RevocationMutation,
);

/// Builds the schema with its limits.
pub(crate) fn build(options: GraphqlOptions) -> Schema<Query, Mutation, EmptySubscription> {
    let builder = Schema::build(Query::default(), Mutation::default(), EmptySubscription)
        .limit_complexity(COMPLEXITY_MAX)
        .limit_depth(DEPTH_MAX)
        .limit_recursive_depth(NESTING_MAX)
        .limit_directives(DIRECTIVES_MAX);
    // Suggestions would tell by and by what introspection is not to tell.
    if options.introspection {
        builder.finish()
    } else {
        builder.disable_introspection().disable_suggestions().finish()
    }
}

/// The schema as text: what `schema.graphql` at the root of the repository holds.
pub fn sdl() -> String {
    build(GraphqlOptions::default()).sdl_with_options(SDLExportOptions::new().prefer_single_line_descriptions())
}
