//! The exchange record, and which subject tokens were used up.
//!
//! The record outlives what it names, so it refers to nothing. The credential of a grant has the id of the exchange.

use sea_orm_migration::prelude::*;

use crate::schema::{
    bytes, create, drop, flag, id, index, maybe_bytes, maybe_id, maybe_number, maybe_text, number, primary_key, table,
    text,
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
                "exchanges",
                [
                    id("id").primary_key().take(),
                    number("time"),
                    text("scope"),
                    maybe_text("organization"),
                    flag("granted"),
                    maybe_text("reason"),
                    text("protocol"),
                    maybe_id("trust_id"),
                    flag("binding"),
                    maybe_id("provider_id"),
                    maybe_id("service_account_id"),
                    text("issuer"),
                    text("subject"),
                    maybe_text("source_ip"),
                    bytes("token_hash"),
                    text("checks"),
                    maybe_text("credential_kind"),
                    maybe_number("credential_expires_at"),
                    maybe_text("credential_roles"),
                    maybe_bytes("credential_public_key"),
                ],
            ),
            [
                index("exchanges", ["scope", "time", "id"]),
                index("exchanges", ["organization", "time", "id"]),
                index("exchanges", ["time", "id"]),
                index("exchanges", ["trust_id", "time"]),
            ],
        )
        .await?;
        create(
            manager,
            table("replay_uses", [id("provider_id"), bytes("fingerprint"), number("until")])
                .primary_key(&mut primary_key(["provider_id", "fingerprint"]))
                .take(),
            [index("replay_uses", ["until"])],
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop(manager, ["replay_uses", "exchanges"]).await
    }
}
