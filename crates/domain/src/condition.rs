//! Conditions: an administrator's CEL expression over a token's claims.
//!
//! The `cel` crate evaluates, but has no limits of its own: no cost, no interruption, no memory bound, and a stack
//! overflow there would be an outage for every tenant. So a condition is admitted here first: its names, functions,
//! nesting, static cost and memory are checked when it is saved, and what is admitted is cheap by construction.
//! `docs/conditions.md` is the administrator's view of the same rules.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use cel::common::ast::IdedExpr;
use cel::{Context, Value};

use crate::claims::Claims;
use crate::clock::Timestamp;
use crate::validate::{CONDITION_MAX, FieldError};

mod admit;
mod branches;
#[cfg(test)]
mod conformance;
mod equality;
mod explain;
mod functions;
mod pattern;
#[cfg(test)]
mod tests;
mod values;

pub use admit::{COST_MAX, DEPTH_MAX, LOOPS_CHAINED_MAX, LOOPS_NESTED_MAX, MEMORY_MAX, NODES_MAX, RANGE_MAX};
pub use branches::{BRANCHES_MAX, Literal, SimpleTest};
pub use pattern::{MATCH_INPUT_MAX, PATTERN_SIZE_MAX};

/// Static cost, in steps, above which a condition runs on a thread of its own.
pub const HEAVY: u32 = 10_000;
/// Stack of that thread, in bytes.
const STACK: usize = 16 * 1024 * 1024;
/// What [`Condition::evaluate`] says when the evaluator panics, which nothing that is admitted should make it do.
pub const PANICKED: &str = "the evaluation failed internally";

/// An admitted, compiled condition. Immutable; share it with an `Arc`.
pub struct Condition {
    source: String,
    expression: IdedExpr,
    /// Regular expressions and networks, compiled once; the expression names them `@0`, `@1`, ...
    constants: Vec<functions::Constant>,
    cost: u32,
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condition").field("source", &self.source).field("cost", &self.cost).finish_non_exhaustive()
    }
}

impl Condition {
    /// Checks and compiles `source`.
    ///
    /// # Errors
    /// Names `field` and says what is wrong: syntax, an unknown name or function (with a suggestion), a result that
    /// cannot be true or false, or a limit (`docs/conditions.md`).
    pub fn compile(field: &str, source: &str) -> Result<Self, FieldError> {
        let error = |message: String| FieldError::new(field, explain::bounded(message));
        if source.trim().is_empty() {
            return Err(error("must not be empty".into()));
        }
        if source.len() > CONDITION_MAX {
            return Err(error(format!("is {} bytes long; at most {CONDITION_MAX} are allowed", source.len())));
        }
        if let Some(c) = source.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
            return Err(error(format!("contains the control character U+{:04X}", u32::from(c))));
        }
        let mut expression = parse(source).map_err(error)?;
        let admitted = admit::admit(&mut expression).map_err(error)?;
        Ok(Self { source: source.to_owned(), expression, constants: admitted.constants, cost: admitted.cost })
    }

    /// The text as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The most that an evaluation can cost, in steps of at most about 0.4 microseconds.
    pub fn cost(&self) -> u32 {
        self.cost
    }

    /// Whether [`evaluate`](Self::evaluate) may take milliseconds and starts a thread with a big stack: async callers
    /// run these through `spawn_blocking`.
    pub fn is_heavy(&self) -> bool {
        self.cost > HEAVY
    }

    /// Evaluates to true or false. `claims` must come from a document of at most 16 KiB (the token limit): the static
    /// cost assumes it.
    ///
    /// # Errors
    /// What went wrong, in words for an administrator and at most 300 bytes, for example
    /// ``claim `environment` is not in this token``. It may quote claims: never show it to strangers. An error is a
    /// refusal.
    pub fn evaluate(&self, claims: &Claims, now: Timestamp) -> Result<bool, String> {
        if !self.is_heavy() {
            return self.run(claims, now);
        }
        thread::scope(|scope| {
            let worker = thread::Builder::new()
                .name("condition".into())
                .stack_size(STACK)
                .spawn_scoped(scope, || self.run(claims, now))
                .map_err(|error| format!("no thread to evaluate the condition on: {error}"))?;
            worker.join().unwrap_or_else(|_| Err(PANICKED.into()))
        })
    }

    /// The condition as `||` branches of `&&` conjuncts, for the guard rails: it can only be true when all conjuncts
    /// of some branch are. What is no simple comparison of a claim with literals is [`SimpleTest::Other`]. More than
    /// [`BRANCHES_MAX`] branches read as one branch of `Other`.
    pub fn branches(&self) -> Vec<Vec<SimpleTest>> {
        // From the source: the compiled expression no longer holds the patterns. Linting happens at save only.
        parse(&self.source).map_or_else(|_| vec![vec![SimpleTest::Other]], |expression| branches::of(&expression))
    }

    fn run(&self, claims: &Claims, now: Timestamp) -> Result<bool, String> {
        let variables = values::Variables::new(claims, now, &self.constants)
            .ok_or_else(|| "the current time is out of range".to_owned())?;
        // A panic in the evaluator must end one request, not the process's other tenants.
        let result = catch_unwind(AssertUnwindSafe(|| {
            let mut context = Context::with_env(Arc::clone(functions::env()));
            context.set_variable_resolver(&variables);
            Value::resolve(&self.expression, &context)
        }));
        match result {
            Ok(Ok(Value::Bool(outcome))) => Ok(outcome),
            Ok(Ok(other)) => Err(format!("the condition gave {}, not true or false", explain::a_value(&other))),
            Ok(Err(error)) => Err(explain::error(&error, &self.expression, claims)),
            Err(_) => Err(PANICKED.into()),
        }
    }
}

/// Parses, with the macros expanded. The error is the first one only: the parser's full text can be a megabyte.
fn parse(source: &str) -> Result<IdedExpr, String> {
    let parsed = catch_unwind(AssertUnwindSafe(|| functions::env().parser().parse(source)));
    match parsed {
        Ok(Ok(expression)) => Ok(expression),
        Ok(Err(errors)) => Err(errors
            .errors
            .first()
            .map_or_else(|| "syntax error".to_owned(), |first| explain::syntax(first.pos.0, first.pos.1, &first.msg))),
        Err(_) => Err("syntax error".into()),
    }
}
