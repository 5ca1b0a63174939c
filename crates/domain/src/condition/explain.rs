//! Errors of the parser and the evaluator in words for an administrator, bounded in length.

use cel::common::ast::{Expr, IdedExpr, LiteralValue, operators};
use cel::{ExecutionError, Value};

use crate::claims::{Claims, Value as Json};

/// Longest error text, in bytes.
pub(super) const LENGTH_MAX: usize = 300;

/// The first syntax error. The parser's positions start at 1.
pub(super) fn syntax(line: isize, column: isize, message: &str) -> String {
    let message = message.trim_start_matches("Syntax error: ");
    bounded(format!("syntax error at line {}, column {}: {message}", line.max(1), column.max(1)))
}

/// An evaluation error.
pub(super) fn error(error: &ExecutionError, expression: &IdedExpr, claims: &Claims) -> String {
    bounded(match error {
        ExecutionError::NoSuchKey(key) => match missing(expression, claims, key) {
            Some(path) => format!("claim `{path}` is not in this token"),
            None => format!("there is no member `{key}`"),
        },
        ExecutionError::NoSuchOverload(overload) => {
            let types = overload.argument_types().join(" and ");
            match operator(overload.function()) {
                Some("select") => format!(
                    "a member was read from a value of type {}, which has none",
                    overload.argument_types().first().map_or("unknown", String::as_str)
                ),
                Some(symbol) => format!("`{symbol}` does not work on {types}"),
                None => format!("`{}` does not work on {types}", overload.function()),
            }
        }
        ExecutionError::UnexpectedType { got, want } => format!("expected {want}, found {got}"),
        ExecutionError::ValuesNotComparable(a, b) => format!("{} and {} cannot be compared", a_value(a), a_value(b)),
        ExecutionError::UnsupportedBinaryOperator(name, a, b) => {
            let symbol = match *name {
                "add" => "+",
                "sub" => "-",
                "mul" => "*",
                "div" => "/",
                "rem" => "%",
                other => other,
            };
            format!("`{symbol}` does not work on {} and {}", a_value(a), a_value(b))
        }
        ExecutionError::FunctionError { function, message } => format!("`{function}`: {message}"),
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "division by zero".into(),
        ExecutionError::Overflow(..) => "a number is out of range".into(),
        ExecutionError::IndexOutOfBounds(Value::Int(index)) => format!("the list has no element {index}"),
        ExecutionError::UndeclaredReference(name) => format!("there is no function or variable `{name}`"),
        other => other.to_string(),
    })
}

/// The value's type, with its article.
pub(super) fn a_value(value: &Value) -> &'static str {
    match value {
        Value::List(_) => "a list",
        Value::Map(_) => "a map",
        Value::Int(_) | Value::UInt(_) | Value::Float(_) => "a number",
        Value::String(_) => "a string",
        Value::Bool(_) => "true or false",
        Value::Timestamp(_) => "a timestamp",
        Value::Duration(_) => "a duration",
        // What has no representation of its own, an object of the claims among them, arrives as null.
        Value::Null => "null or a map",
        _ => "another value",
    }
}

fn operator(name: &str) -> Option<&str> {
    Some(match name {
        operators::IN => "in",
        operators::LOGICAL_NOT => "!",
        operators::NEGATE => "-",
        operators::CONDITIONAL => "?",
        operators::INDEX => "[]",
        "_._" | operators::OPT_SELECT => "select",
        name if name.starts_with('_') && name.ends_with('_') && name.len() > 2 => name.get(1..name.len() - 1)?,
        _ => return None,
    })
}

/// The first path into the claims, in the order of the source, that ends at a member called `key` which is not there.
fn missing(node: &IdedExpr, claims: &Claims, key: &str) -> Option<String> {
    if let Some(path) = claim_path(node) {
        let mut members = Some(claims.members());
        for (depth, name) in path.iter().enumerate() {
            match members?.get(name) {
                Some(Json::Object(inner)) => members = Some(inner),
                Some(_) => members = None,
                None if *name == key => return Some(render(path.get(..=depth)?)),
                None => return None,
            }
        }
        return None;
    }
    children(node).into_iter().find_map(|child| missing(child, claims, key))
}

/// `claims.a["b"]` as `[a, b]`; `None` for anything else.
pub(super) fn claim_path(node: &IdedExpr) -> Option<Vec<&str>> {
    let mut path = Vec::new();
    let mut node = &node.expr;
    loop {
        match node {
            Expr::Ident(name) if name == "claims" => {
                path.reverse();
                return Some(path);
            }
            Expr::Select(select) => {
                path.push(select.field.as_str());
                node = &select.operand.expr;
            }
            Expr::Call(call) if call.func_name == operators::INDEX => {
                let [base, index] = call.args.as_slice() else { return None };
                let Expr::Literal(LiteralValue::String(name)) = &index.expr else { return None };
                path.push(name.inner());
                node = &base.expr;
            }
            _ => return None,
        }
    }
}

/// The path as it is written in an expression, without the leading `claims.`.
fn render(path: &[&str]) -> String {
    let mut text = String::new();
    for name in path {
        let plain = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        match (plain, text.is_empty()) {
            (true, true) => text.push_str(name),
            (true, false) => {
                text.push('.');
                text.push_str(name);
            }
            // Alone, a name reads best as it is.
            (false, true) if path.len() == 1 => text.push_str(name),
            (false, _) => {
                text.push_str("[\"");
                text.push_str(name);
                text.push_str("\"]");
            }
        }
    }
    text
}

pub(super) fn children(node: &IdedExpr) -> Vec<&IdedExpr> {
    match &node.expr {
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => map
            .entries
            .iter()
            .flat_map(|entry| match &entry.expr {
                cel::common::ast::EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
                cel::common::ast::EntryExpr::StructField(field) => vec![&field.value],
            })
            .collect(),
        Expr::Comprehension(c) => vec![&c.iter_range, &c.accu_init, &c.loop_cond, &c.loop_step, &c.result],
        _ => Vec::new(),
    }
}

/// At most [`LENGTH_MAX`] bytes on one line, whatever a claim or an expression quoted in it holds.
pub(super) fn bounded(text: String) -> String {
    const MARK: &str = "…";
    let mut text = if text.contains(char::is_control) { text.replace(char::is_control, " ") } else { text };
    if text.len() > LENGTH_MAX {
        let mut end = LENGTH_MAX - MARK.len();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(MARK);
    }
    text
}
