//! The management API as a client sees it.

use serde_json::{Value, json};

use super::{Reply, World};

/// An error of a GraphQL answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// `extensions.code`.
    pub(crate) code: String,
    /// `extensions.field`, or the empty string.
    pub(crate) field: String,
    /// The words.
    pub(crate) message: String,
}

impl World {
    /// Sends a document and returns the answer as it came.
    pub(crate) async fn query(&self, bearer: Option<&str>, document: &str, variables: &Value) -> Reply {
        let mut request = self.http.post(format!("{}/query", self.server.url));
        if let Some(bearer) = bearer {
            request = request.bearer_auth(bearer);
        }
        Reply::to(request.json(&json!({ "query": document, "variables": variables }))).await
    }

    /// Sends a document as `bearer` and returns its data; any error fails the test.
    pub(crate) async fn graphql_as(&self, bearer: &str, document: &str, variables: Value) -> Value {
        let reply = self.query(Some(bearer), document, &variables).await;
        assert_eq!(reply.status, 200, "{document}: {}", reply.text());
        let mut answer = reply.json();
        assert!(answer.get("errors").is_none(), "{document}\n{variables}\n{answer}");
        answer["data"].take()
    }

    /// As [`graphql_as`](Self::graphql_as), as the platform's owner.
    pub(crate) async fn graphql(&self, document: &str, variables: Value) -> Value {
        self.graphql_as(&self.admin, document, variables).await
    }

    /// Sends a document that must be refused, and returns the refusal. The HTTP status is 200: clients want it so.
    pub(crate) async fn refused_as(&self, bearer: Option<&str>, document: &str, variables: &Value) -> Refusal {
        let reply = self.query(bearer, document, variables).await;
        assert_eq!(reply.status, 200, "{document}: {}", reply.text());
        let answer = reply.json();
        let errors = answer["errors"].as_array();
        let errors = errors.unwrap_or_else(|| panic!("not refused: {document}\n{variables}\n{answer}"));
        assert_eq!(errors.len(), 1, "{answer}");
        let text = |pointer: &str| errors[0].pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        Refusal { code: text("/extensions/code"), field: text("/extensions/field"), message: text("/message") }
    }

    /// As [`refused_as`](Self::refused_as), as the platform's owner.
    pub(crate) async fn refused(&self, document: &str, variables: Value) -> Refusal {
        self.refused_as(Some(&self.admin), document, &variables).await
    }
}
