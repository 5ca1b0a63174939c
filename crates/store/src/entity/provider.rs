//! Providers.

use sea_orm::entity::prelude::*;

use sallyport_domain::clock::Timestamp;
use sallyport_domain::id::ProviderId;
use sallyport_domain::issuer::IssuerUri;
use sallyport_domain::provider::{Algorithm, KeySource, Provider, ProviderKind, ReplayPolicy};

use super::{Row, list_text};
use crate::error::StoreError;

#[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel)]
#[sea_orm(table_name = "providers")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub scope: String,
    pub name: String,
    pub description: Option<String>,
    pub kind: String,
    pub issuer: String,
    pub issuer_key: String,
    pub key_source: String,
    pub key_data: Option<String>,
    pub algorithms: String,
    pub max_token_age: Option<i64>,
    pub max_token_lifetime: Option<i64>,
    pub replay: String,
    pub require_audience_header: bool,
    pub disabled: bool,
    pub implicit: bool,
    pub version: i64,
    pub credentials_not_before: Option<i64>,
    pub warnings: String,
    pub created_at: i64,
    pub created_by: String,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

const ROW: Row = Row("providers");

impl Model {
    pub fn of(provider: &Provider) -> Self {
        let (key_source, key_data) = match &provider.keys {
            KeySource::Discovery => ("discovery", None),
            KeySource::Url(url) => ("url", Some(url)),
            KeySource::Uploaded(set) => ("uploaded", Some(set)),
            KeySource::Sts => ("sts", None),
        };
        Self {
            id: provider.id.0,
            scope: provider.scope.key(),
            name: provider.name.clone(),
            description: provider.description.clone(),
            kind: provider.kind.name().to_owned(),
            issuer: provider.issuer.as_str().to_owned(),
            issuer_key: provider.issuer.key().as_str().to_owned(),
            key_source: key_source.to_owned(),
            key_data: key_data.map(|data| data.as_ref().to_owned()),
            algorithms: list_text(provider.algorithms.iter().map(|algorithm| algorithm.name())),
            max_token_age: provider.max_token_age.map(i64::from),
            max_token_lifetime: provider.max_token_lifetime.map(i64::from),
            replay: provider.replay.name().to_owned(),
            require_audience_header: provider.require_audience_header,
            disabled: provider.disabled,
            implicit: provider.implicit,
            version: provider.version,
            credentials_not_before: provider.credentials_not_before.map(Timestamp::micros),
            warnings: list_text(&provider.warnings),
            created_at: provider.created_at.micros(),
            created_by: provider.created_by.clone(),
        }
    }

    pub fn read(self) -> Result<Provider, StoreError> {
        let keys = match (self.key_source.as_str(), self.key_data) {
            ("discovery", None) => Some(KeySource::Discovery),
            ("url", Some(url)) => Some(KeySource::Url(url.into())),
            ("uploaded", Some(set)) => Some(KeySource::Uploaded(set.into())),
            ("sts", None) => Some(KeySource::Sts),
            _ => None,
        };
        let algorithms: Vec<String> = ROW.list(self.id, "algorithms", &self.algorithms)?;
        let algorithms = algorithms.iter().map(|name| Algorithm::from_name(name)).collect::<Option<_>>();
        let seconds = |part, value: Option<i64>| {
            value.map(|seconds| ROW.part(self.id, part, u32::try_from(seconds).ok())).transpose()
        };
        Ok(Provider {
            id: ProviderId(self.id),
            scope: ROW.scope(self.id, &self.scope)?,
            name: self.name,
            description: self.description,
            kind: ROW.part(self.id, "kind", ProviderKind::from_name(&self.kind))?,
            issuer: IssuerUri::stored(&self.issuer),
            keys: ROW.part(self.id, "key_source", keys)?,
            algorithms: ROW.part(self.id, "algorithms", algorithms)?,
            max_token_age: seconds("max_token_age", self.max_token_age)?,
            max_token_lifetime: seconds("max_token_lifetime", self.max_token_lifetime)?,
            replay: ROW.part(self.id, "replay", ReplayPolicy::from_name(&self.replay))?,
            require_audience_header: self.require_audience_header,
            disabled: self.disabled,
            implicit: self.implicit,
            version: self.version,
            credentials_not_before: self.credentials_not_before.map(Timestamp::from_micros),
            warnings: ROW.list(self.id, "warnings", &self.warnings)?,
            created_at: Timestamp::from_micros(self.created_at),
            created_by: self.created_by,
        })
    }
}
