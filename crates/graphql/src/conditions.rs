//! Trying a condition on sample claims, before it guards anything.

use async_graphql::{Context, Object, SimpleObject};
use sallyport_domain::claims::Claims;
use sallyport_domain::condition::Condition;
use serde_json::Value;

use sallyport_domain::role::Permission;

use crate::access::Caller;
use crate::error::{Error, Result};
use crate::limits::EVALUATION;

/// Largest sample, in bytes: that of the largest token.
const CLAIMS_MAX: usize = 16 * 1024;

/// What became of the trial.
#[derive(SimpleObject, Clone, Debug)]
#[graphql(name = "WIFConditionTest")]
pub(crate) struct ConditionTest {
    /// Whether the condition holds. False when there is an error: that refuses an exchange too.
    matched: bool,
    /// What is wrong with the expression, or went wrong while it was evaluated.
    error: Option<String>,
    /// The most that an evaluation can cost, in steps; null when the expression is not admitted.
    cost: Option<u32>,
}

/// Reads sample claims.
pub(crate) fn claims(field: &str, value: &Value) -> Result<Claims> {
    let bytes = serde_json::to_vec(value).map_err(|error| Error::internal(&error.to_string()))?;
    if bytes.len() > CLAIMS_MAX {
        return Err(Error::invalid(field, format!("are {} bytes long; at most {CLAIMS_MAX} are allowed", bytes.len())));
    }
    Claims::parse(bytes).map_err(|error| {
        Error::invalid(field, format!("the claims must be a JSON object that a token could carry: {error}"))
    })
}

/// The query.
#[derive(Default)]
pub(crate) struct ConditionQuery;

#[Object]
impl ConditionQuery {
    /// Evaluates a CEL condition on sample claims. Nothing is saved. A request may hold ten of these.
    #[graphql(name = "testWIFCondition", complexity = "EVALUATION + child_complexity")]
    async fn test_wif_condition(
        &self,
        context: &Context<'_>,
        #[graphql(desc = "The CEL expression, at most 1,024 bytes.")] expression: String,
        #[graphql(desc = "The claims of a token, as a JSON object.")] claims: Value,
    ) -> Result<Option<ConditionTest>> {
        let caller = Caller::of(context)?;
        let snapshot = caller.snapshot()?;
        caller.access(&snapshot)?.require_openly(Permission::ExchangesSimulate, &caller.principal.scope)?;
        let now = caller.now();
        let sample = self::claims("claims", &claims)?;
        let condition = match Condition::compile("expression", &expression) {
            Ok(condition) => condition,
            Err(refusal) => {
                return Ok(Some(ConditionTest { matched: false, error: Some(refusal.message), cost: None }));
            }
        };
        let cost = Some(condition.cost());
        let outcome = if condition.is_heavy() {
            tokio::task::spawn_blocking(move || condition.evaluate(&sample, now))
                .await
                .map_err(|error| Error::internal(&error.to_string()))?
        } else {
            condition.evaluate(&sample, now)
        };
        Ok(Some(match outcome {
            Ok(matched) => ConditionTest { matched, error: None, cost },
            Err(error) => ConditionTest { matched: false, error: Some(error), cost },
        }))
    }
}
