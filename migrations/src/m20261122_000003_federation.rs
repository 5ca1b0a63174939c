//! Providers, trusts (bindings among them) and when a trust was last used.
//!
//! `trusts.issuer` and `trust_usages.{scope, binding}` repeat what stands elsewhere, so that every order in which
//! bindings can be listed is one walk along one index.

use sea_orm_migration::prelude::*;

use crate::schema::{
    create, drop, flag, id, index, maybe_bytes, maybe_number, maybe_text, number, reference, table, text, unique,
};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        create(
            manager,
            table(
                "providers",
                [
                    id("id").primary_key().take(),
                    text("scope"),
                    text("name"),
                    maybe_text("description"),
                    text("kind"),
                    text("issuer"),
                    text("issuer_key"),
                    text("key_source"),
                    maybe_text("key_data"),
                    text("algorithms"),
                    maybe_number("max_token_age"),
                    maybe_number("max_token_lifetime"),
                    text("replay"),
                    flag("require_audience_header"),
                    flag("disabled"),
                    flag("implicit"),
                    number("version"),
                    text("warnings"),
                    number("created_at"),
                    text("created_by"),
                ],
            ),
            [
                unique("uq_providers_scope_issuer", "providers", ["scope", "issuer_key"]),
                index("providers", ["scope", "created_at", "id"]),
            ],
        )
        .await?;
        create(
            manager,
            table(
                "trusts",
                [
                    id("id").primary_key().take(),
                    text("client_name"),
                    text("scope"),
                    id("provider_id"),
                    text("issuer"),
                    id("service_account_id"),
                    flag("binding"),
                    maybe_bytes("binding_fingerprint"),
                    text("name"),
                    maybe_text("description"),
                    maybe_text("subject"),
                    text("mappings"),
                    text("allowed_audiences"),
                    maybe_text("condition"),
                    text("source_cidrs"),
                    text("scoped_roles"),
                    text("passthrough_claims"),
                    number("lifetime"),
                    flag("ends_with_subject_token"),
                    flag("disabled"),
                    maybe_number("credentials_not_before"),
                    text("warnings"),
                    number("created_at"),
                    text("created_by"),
                ],
            )
            .foreign_key(&mut reference("trusts", "provider_id", "providers", "id"))
            .foreign_key(&mut reference("trusts", "service_account_id", "service_accounts", "id"))
            .take(),
            [
                unique("uq_trusts_client_name", "trusts", ["client_name"]),
                unique("uq_trusts_binding_fingerprint", "trusts", ["binding_fingerprint"]),
                index("trusts", ["provider_id", "id"]),
                index("trusts", ["service_account_id", "id"]),
                index("trusts", ["scope", "created_at", "id"]),
                index("trusts", ["scope", "binding", "created_at", "id"]),
                index("trusts", ["scope", "binding", "name", "id"]),
                index("trusts", ["scope", "binding", "issuer", "id"]),
            ],
        )
        .await?;
        create(
            manager,
            table(
                "trust_usages",
                [
                    id("trust_id").primary_key().take(),
                    text("scope"),
                    flag("binding"),
                    number("last_used_at").default(0).take(),
                ],
            ),
            [index("trust_usages", ["scope", "binding", "last_used_at", "trust_id"])],
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop(manager, ["trust_usages", "trusts", "providers"]).await
    }
}
