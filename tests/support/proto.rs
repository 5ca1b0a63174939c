//! The protobuf messages of Mondoo's clients, written from mondoo.md, not from the server's code.

/// `mondoo.mql.upstream.v1.ExchangeExternalTokenRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ExchangeRequest {
    #[prost(string, tag = "1")]
    pub(crate) issuer_uri: String,
    #[prost(string, tag = "2")]
    pub(crate) audience: String,
    #[prost(string, tag = "3")]
    pub(crate) jwt_token: String,
    #[prost(string, tag = "4")]
    pub(crate) response_type: String,
    /// A field of the future: servers must skip what they do not know.
    #[prost(string, tag = "99")]
    pub(crate) unknown: String,
}

/// Its answer.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ExchangeResponse {
    #[prost(string, tag = "1")]
    pub(crate) base64_credential: String,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Status {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
    #[prost(string, tag = "2")]
    pub(crate) message: String,
}

/// The answer of `Health/Check`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Health {
    #[prost(int32, tag = "1")]
    pub(crate) status: i32,
    #[prost(string, tag = "2")]
    pub(crate) time: String,
    #[prost(string, tag = "3")]
    pub(crate) api_version: String,
    #[prost(string, tag = "4")]
    pub(crate) build: String,
}

/// Something with one string field: a body that is not empty.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Note {
    #[prost(string, tag = "7")]
    pub(crate) text: String,
}
