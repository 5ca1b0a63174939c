//! The one error of this surface: a code, words for the caller, and the input field where there is one.
//!
//! What the log should know besides is logged where the error is made; nothing of it reaches the caller. [`Error`] does not
//! implement `Display` on purpose: only so can the conversion into a GraphQL error carry its extensions.

use async_graphql::{ErrorExtensionValues, ServerError};
use sallyport_domain::validate::FieldError;
use sallyport_gateway::authentication::AuthenticationError;
use sallyport_gateway::request_id::CurrentRequest;
use sallyport_store::{Constraint, MutateError, Stale, StoreError};

/// What went wrong, as `extensions.code` says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    /// No, or no valid, credential.
    Unauthenticated,
    /// The caller may see it, but not do this.
    PermissionDenied,
    /// There is no such thing, or the caller may not see it.
    NotFound,
    /// An input is wrong; the field is named.
    InvalidArgument,
    /// The same thing exists already.
    AlreadyExists,
    /// Something else has to change first.
    FailedPrecondition,
    /// The request asks for more than a request may.
    ResourceExhausted,
    /// Something needed cannot be reached just now.
    Unavailable,
    /// A defect of ours.
    Internal,
}

impl Code {
    /// The text of `extensions.code`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::NotFound => "NOT_FOUND",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Internal => "INTERNAL",
        }
    }
}

/// Why an operation did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Error {
    code: Code,
    field: Option<String>,
    message: String,
}

/// What a resolver returns.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, field: None, message: message.into() }
    }

    /// No, or no valid, credential.
    pub fn unauthenticated() -> Self {
        Self::new(
            Code::Unauthenticated,
            "authentication is needed: send 'Authorization: Bearer' with an API token, an access token or a service account's own JWT",
        )
    }

    /// The caller sees it but may not do this.
    pub fn permission_denied(message: impl Into<String>) -> Self {
        Self::new(Code::PermissionDenied, message)
    }

    /// The same words whether there is no such thing or the caller may not see it.
    pub fn not_found(what: &str) -> Self {
        Self::new(Code::NotFound, format!("there is no such {what}, or you may not see it"))
    }

    /// An input is wrong.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        FieldError::new(field, message).into()
    }

    /// The same thing exists already.
    pub fn already_exists(message: impl Into<String>) -> Self {
        Self::new(Code::AlreadyExists, message)
    }

    /// Something else has to change first.
    pub fn failed_precondition(message: impl Into<String>) -> Self {
        Self::new(Code::FailedPrecondition, message)
    }

    /// The request asks for too much.
    pub fn exhausted(message: impl Into<String>) -> Self {
        Self::new(Code::ResourceExhausted, message)
    }

    /// Something needed cannot be reached just now.
    pub fn unavailable() -> Self {
        Self::new(Code::Unavailable, "a service that is needed cannot be reached just now; try again")
    }

    /// A defect of ours; `context` goes to the log only.
    pub fn internal(context: &str) -> Self {
        tracing::error!(request = %CurrentRequest, context, "a GraphQL operation failed");
        Self::new(Code::Internal, "an internal error; the log has the details under this request's x-request-id")
    }

    /// With the input field it is about.
    #[must_use]
    pub fn on(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// The code.
    pub const fn code(&self) -> Code {
        self.code
    }

    /// The words for the caller.
    pub fn message(&self) -> &str {
        &self.message
    }

    fn extensions(&self) -> ErrorExtensionValues {
        let mut extensions = ErrorExtensionValues::default();
        extensions.set("code", self.code.name());
        if let Some(field) = &self.field {
            extensions.set("field", field.as_str());
        }
        extensions
    }

    /// As an error that belongs to no field of the answer.
    pub fn into_server_error(self) -> ServerError {
        let mut error = ServerError::new(self.message.clone(), None);
        error.extensions = Some(self.extensions());
        error
    }
}

impl From<Error> for async_graphql::Error {
    fn from(error: Error) -> Self {
        let extensions = error.extensions();
        let mut converted = Self::new(error.message);
        converted.extensions = Some(extensions);
        converted
    }
}

impl From<FieldError> for Error {
    fn from(error: FieldError) -> Self {
        // Clients that show only the message should see the field too.
        Self::new(Code::InvalidArgument, error.to_string()).on(error.field)
    }
}

impl From<AuthenticationError> for Error {
    fn from(error: AuthenticationError) -> Self {
        match error {
            AuthenticationError::Unauthenticated => Self::unauthenticated(),
            AuthenticationError::Unavailable => Self::unavailable(),
        }
    }
}

impl From<Stale> for Error {
    fn from(_: Stale) -> Self {
        Self::unavailable()
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::BadCursor => Self::invalid("after", "must be the endCursor of an earlier page of this list"),
            StoreError::Conflict(constraint) => constraint.into(),
            transient if transient.is_transient() => {
                tracing::warn!(error = %transient, "the store is not available");
                Self::unavailable()
            }
            defect => Self::internal(&defect.to_string()),
        }
    }
}

impl From<Constraint> for Error {
    fn from(constraint: Constraint) -> Self {
        match constraint {
            Constraint::BindingExists => Self::already_exists(
                "there is a binding with the same scope, issuer, subject, mappings, audiences, condition and source CIDRs",
            ),
            Constraint::ProviderExists => {
                Self::already_exists("this scope has a provider for that issuer already").on("issuerUri")
            }
            Constraint::InUse => Self::failed_precondition(
                "something else still refers to it, or what it refers to was removed meanwhile",
            ),
            Constraint::IdRetired => {
                Self::already_exists("something had this id before: ids are never used again").on("id")
            }
            Constraint::Other => Self::already_exists("something with that id or name exists already"),
            Constraint::ClientName => Self::unavailable(),
        }
    }
}

impl From<MutateError<Self>> for Error {
    fn from(error: MutateError<Self>) -> Self {
        match error {
            MutateError::Rejected(error) => error,
            MutateError::Conflict(constraint) => constraint.into(),
            MutateError::Unavailable(error) => error.into(),
        }
    }
}

/// Gives errors that the GraphQL engine itself made a code, and a field where its words name one.
pub(crate) fn complete(error: &mut ServerError) {
    let extensions = error.extensions.get_or_insert_default();
    if extensions.get("code").is_some() {
        return;
    }
    let too_much = ["Query is too complex.", "Query is nested too deep.", "The recursion depth of the query"]
        .iter()
        .any(|start| error.message.starts_with(start));
    let code = if too_much { Code::ResourceExhausted } else { Code::InvalidArgument };
    extensions.set("code", code.name());
    if code == Code::InvalidArgument {
        // What names no argument is about the document.
        extensions.set("field", named_field(&error.message).unwrap_or("query"));
    }
}

/// `Invalid value for argument "input.kind", …` names `kind`; `Unknown argument "x"` names `x`.
fn named_field(message: &str) -> Option<&str> {
    let rest = message
        .strip_prefix("Invalid value for argument \"")
        .or_else(|| message.strip_prefix("Unknown argument \""))?;
    let path = rest.split('"').next()?;
    Some(path.strip_prefix("input.").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(error: Error) -> String {
        serde_json::to_string(&error.into_server_error()).unwrap()
    }

    #[test]
    fn every_error_carries_its_code_and_field() {
        insta::assert_snapshot!(shown(Error::not_found("binding")), @r#"{"message":"there is no such binding, or you may not see it","extensions":{"code":"NOT_FOUND"}}"#);
        insta::assert_snapshot!(shown(FieldError::new("mappings[0].key", "must not be empty").into()), @r#"{"message":"mappings[0].key: must not be empty","extensions":{"code":"INVALID_ARGUMENT","field":"mappings[0].key"}}"#);
        insta::assert_snapshot!(shown(Constraint::BindingExists.into()), @r#"{"message":"there is a binding with the same scope, issuer, subject, mappings, audiences, condition and source CIDRs","extensions":{"code":"ALREADY_EXISTS"}}"#);
        insta::assert_snapshot!(shown(Constraint::ProviderExists.into()), @r#"{"message":"this scope has a provider for that issuer already","extensions":{"code":"ALREADY_EXISTS","field":"issuerUri"}}"#);
        insta::assert_snapshot!(shown(StoreError::BadCursor.into()), @r#"{"message":"after: must be the endCursor of an earlier page of this list","extensions":{"code":"INVALID_ARGUMENT","field":"after"}}"#);
        insta::assert_snapshot!(shown(StoreError::Contended.into()), @r#"{"message":"a service that is needed cannot be reached just now; try again","extensions":{"code":"UNAVAILABLE"}}"#);
        insta::assert_snapshot!(shown(Error::internal("secret context")), @r#"{"message":"an internal error; the log has the details under this request's x-request-id","extensions":{"code":"INTERNAL"}}"#);
        insta::assert_snapshot!(shown(Error::unauthenticated()), @r#"{"message":"authentication is needed: send 'Authorization: Bearer' with an API token, an access token or a service account's own JWT","extensions":{"code":"UNAUTHENTICATED"}}"#);
    }

    #[test]
    fn errors_of_the_engine_get_a_code_and_the_field_they_name() {
        let mut error = ServerError::new(
            "Invalid value for argument \"input.kind\", enumeration type \"WIFProviderKind\" does not contain the value \"X\"",
            None,
        );
        complete(&mut error);
        let extensions = error.extensions.unwrap();
        assert_eq!(extensions.get("code"), Some(&"INVALID_ARGUMENT".into()));
        assert_eq!(extensions.get("field"), Some(&"kind".into()));
        let mut error = ServerError::new("Query is too complex.", None);
        complete(&mut error);
        assert_eq!(error.extensions.unwrap().get("code"), Some(&"RESOURCE_EXHAUSTED".into()));
    }
}
