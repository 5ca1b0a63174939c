//! Admission: names from closed lists, bounded nesting, and a static bound on time and memory.
//!
//! The bound is computed over *shapes*: how many elements, values and bytes a value can have, given that the claims come
//! from a 16 KiB token. What a loop variable takes from a claim is counted as its share: all elements of a claim together
//! are still at most one token.
//!
//! The evaluator writes the operands of an operator that does not fit them into its error, all of them: a list is copied
//! element by element each time. So what may be no scalar is kept away from such operators, see [`rewrite`].

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};

use super::functions::{CONTAINS, Constant, EQUAL, FUNCTIONS, KEY, MACROS, Network, Pattern, SCALAR, Style};
use super::pattern::{self, MATCH_INPUT_MAX};

/// Deepest nesting of the parsed expression.
pub const DEPTH_MAX: usize = 64;
/// Most nodes of the parsed expression, macros expanded.
pub const NODES_MAX: usize = 512;
/// Most loops (`all`, `exists`, `map`, ...) inside each other.
pub const LOOPS_NESTED_MAX: usize = 2;
/// Most loops on each other's results.
pub const LOOPS_CHAINED_MAX: usize = 4;
/// Highest static cost, in steps of at most about 0.4 microseconds.
pub const COST_MAX: u32 = 100_000;
/// Most elements that a loop over a claim is counted with, and that `split` returns.
pub const RANGE_MAX: usize = crate::claims::ARRAY_MAX;
/// Most bytes that a value built by a condition may take in memory.
pub const MEMORY_MAX: u64 = 4 * 1024 * 1024;

/// Bytes of all claims together: the longest token.
const CLAIMS: u64 = 16 * 1024;
/// Values in all claims together: one takes two bytes of JSON, such as `0,`.
const CLAIMS_VALUES: u64 = CLAIMS / 2;
/// Bytes that a value takes besides its text.
const VALUE: u64 = 64;
/// Ticks in a step. `benches/worst_conditions.rs` of the crate `hostile` measures what a step takes in the costliest
/// conditions: at most 0.4 microseconds.
const TICKS: u64 = 10;

/// What is known about a value's type before evaluation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Any,
    Bool,
    Int,
    Double,
    String,
    Null,
    List,
    Map,
    Timestamp,
    Duration,
    Type,
    Optional,
    Url,
    Network,
}

impl Kind {
    const fn words(self) -> &'static str {
        match self {
            Self::Any => "a value",
            Self::Bool => "true or false",
            Self::Int | Self::Double => "a number",
            Self::String => "a string",
            Self::Null => "null",
            Self::List => "a list",
            Self::Map => "a map",
            Self::Timestamp => "a timestamp",
            Self::Duration => "a duration",
            Self::Type => "a type",
            Self::Optional => "an optional value",
            Self::Url => "a URL",
            Self::Network => "a network",
        }
    }
}

/// An upper bound of a value.
#[derive(Clone, Debug)]
struct Shape {
    kind: Kind,
    /// Most elements, when iterated.
    len: u64,
    /// Most values: itself, its elements, theirs, and so on.
    values: u64,
    /// Most bytes of text, all in all.
    bytes: u64,
    /// Each element, where that is not just a share of this value.
    element: Option<Box<Shape>>,
    /// Loops on each other's results that made it.
    chain: usize,
}

impl Shape {
    const fn new(kind: Kind, len: u64, values: u64, bytes: u64) -> Self {
        Self { kind, len, values, bytes, element: None, chain: 0 }
    }

    const fn scalar(kind: Kind) -> Self {
        Self::new(kind, 0, 1, 16)
    }

    const fn text(bytes: u64) -> Self {
        Self::new(Kind::String, 0, 1, bytes)
    }

    /// Anything that can be read from the claims.
    const fn claims() -> Self {
        Self::new(Kind::Any, RANGE_MAX as u64, CLAIMS_VALUES, CLAIMS)
    }

    /// What a loop variable takes at each turn.
    fn each(&self) -> Self {
        match &self.element {
            Some(element) => Self { chain: 0, ..(**element).clone() },
            None => {
                let len = self.len.max(1);
                let values = self.values.div_ceil(len);
                Self::new(Kind::Any, self.len.min(values), values, self.bytes.div_ceil(len))
            }
        }
    }

    fn or(self, other: Self) -> Self {
        let element = match (&self.element, &other.element) {
            (None, None) => None,
            _ => Some(Box::new(self.each().or(other.each()))),
        };
        Self {
            kind: if self.kind == other.kind { self.kind } else { Kind::Any },
            len: self.len.max(other.len),
            values: self.values.max(other.values),
            bytes: self.bytes.max(other.bytes),
            element,
            chain: self.chain.max(other.chain),
        }
    }

    /// Ticks to copy it, and to read it anew: what was read of an object is not copied with it.
    const fn copy(&self) -> u64 {
        self.values.saturating_mul(2).saturating_add(self.bytes / 64)
    }

    const fn memory(&self) -> u64 {
        self.values.saturating_mul(VALUE).saturating_add(self.bytes)
    }

    /// Whether it certainly has no elements.
    const fn is_scalar(&self) -> bool {
        matches!(
            self.kind,
            Kind::Bool
                | Kind::Int
                | Kind::Double
                | Kind::String
                | Kind::Null
                | Kind::Timestamp
                | Kind::Duration
                | Kind::Type
        )
    }
}

/// The result of admission.
pub(super) struct Admitted {
    pub(super) constants: Vec<Constant>,
    /// In steps.
    pub(super) cost: u32,
}

/// Checks the expression, and replaces the patterns and networks in it by the names of their compiled constants.
/// The error is the message for the administrator.
pub(super) fn admit(expression: &mut IdedExpr) -> Result<Admitted, String> {
    let mut walk = Walk::default();
    let (shape, ticks) = walk.visit(expression, 1)?;
    if !matches!(shape.kind, Kind::Any | Kind::Bool) {
        return Err(format!("gives {}; a condition must give true or false", shape.kind.words()));
    }
    let steps = ticks.div_ceil(TICKS);
    let cost = u32::try_from(steps).ok().filter(|steps| *steps <= COST_MAX).ok_or_else(|| {
        let steps = if steps > 1_000_000_000 { "more than a billion".to_owned() } else { steps.to_string() };
        format!("could take {steps} steps; at most {COST_MAX} are allowed. Loop over fewer or shorter lists")
    })?;
    Ok(Admitted { constants: walk.constants, cost })
}

#[derive(Default)]
struct Walk {
    nodes: usize,
    loops: usize,
    variables: Vec<(String, Shape)>,
    constants: Vec<Constant>,
}

type Visited = Result<(Shape, u64), String>;

const TYPE_NAMES: [&str; 9] = ["bool", "double", "int", "list", "map", "null_type", "string", "type", "uint"];
const ACCUMULATOR: &str = "@result";

impl Walk {
    fn visit(&mut self, node: &mut IdedExpr, depth: usize) -> Visited {
        if depth > DEPTH_MAX {
            return Err(format!("nests more than {DEPTH_MAX} levels deep"));
        }
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(format!("has more than {NODES_MAX} parts"));
        }
        let (shape, ticks) = match &mut node.expr {
            Expr::Literal(literal) => (literal_shape(literal)?, 1),
            Expr::Ident(name) => (self.identifier(name)?, 1),
            Expr::Select(select) => {
                let (base, ticks) = self.visit(&mut select.operand, depth + 1)?;
                (member(base, if select.test { Kind::Bool } else { Kind::Any }), ticks + 4)
            }
            Expr::List(list) => {
                if !list.optional_indices.is_empty() {
                    return Err("optional elements `[?x]` are not supported".into());
                }
                let mut whole = Shape::new(Kind::List, list.elements.len() as u64, 1, 0);
                let mut element: Option<Shape> = None;
                let mut total = 1;
                for item in &mut list.elements {
                    let (shape, ticks) = self.visit(item, depth + 1)?;
                    total += ticks + shape.copy() + 1;
                    whole.values += shape.values;
                    whole.bytes += shape.bytes;
                    whole.chain = whole.chain.max(shape.chain);
                    element = Some(element.map_or_else(|| shape.clone(), |e| e.or(shape.clone())));
                }
                whole.element = element.map(Box::new);
                (whole, total)
            }
            Expr::Map(map) => {
                let mut whole = Shape::new(Kind::Map, map.entries.len() as u64, 1, 0);
                let mut total = 8;
                let mut key: Option<Shape> = None;
                for entry in &mut map.entries {
                    let EntryExpr::MapEntry(entry) = &mut entry.expr else {
                        return Err("message literals are not supported".into());
                    };
                    if entry.optional {
                        return Err("optional entries `{?x: y}` are not supported".into());
                    }
                    let (name, name_ticks) = self.visit(&mut entry.key, depth + 1)?;
                    let (value, value_ticks) = self.visit(&mut entry.value, depth + 1)?;
                    total += name_ticks + value_ticks + name.copy() + value.copy() + 4;
                    whole.values += name.values + value.values;
                    whole.bytes += name.bytes + value.bytes;
                    key = Some(key.map_or_else(|| name.clone(), |k| k.or(name.clone())));
                }
                whole.element = key.map(Box::new);
                (whole, total)
            }
            Expr::Comprehension(comprehension) => self.comprehension(comprehension, depth)?,
            Expr::Call(call) => {
                if let Some(constant) = network_literal(call)? {
                    node.expr = Expr::Ident(self.keep(Constant::Network(constant)));
                    (Shape::scalar(Kind::Network), 1)
                } else {
                    self.call(call, depth)?
                }
            }
            Expr::Struct(_) => return Err("message literals are not supported".into()),
            Expr::Unspecified => return Err("syntax error".into()),
        };
        if shape.memory() > MEMORY_MAX {
            return Err(format!("could build a value of more than {} KiB", MEMORY_MAX / 1024));
        }
        Ok((shape, ticks))
    }

    fn identifier(&self, name: &str) -> Result<Shape, String> {
        if let Some((_, shape)) = self.variables.iter().rev().find(|(known, _)| known == name) {
            return Ok(shape.clone());
        }
        match name {
            "claims" => Ok(Shape { kind: Kind::Map, ..Shape::claims() }),
            "now" => Ok(Shape::scalar(Kind::Timestamp)),
            _ if TYPE_NAMES.contains(&name) => Ok(Shape::scalar(Kind::Type)),
            _ => {
                let known = self.variables.iter().map(|(known, _)| known.as_str()).filter(|k| *k != ACCUMULATOR);
                let near = nearest(name, known.chain(["claims", "now"]));
                let hint = near.map_or_else(|| format!("claims.{name}"), str::to_owned);
                Err(format!("there is no variable `{}`; did you mean `{}`?", short(name), short(&hint)))
            }
        }
    }

    fn comprehension(&mut self, node: &mut ComprehensionExpr, depth: usize) -> Visited {
        if node.accu_var != ACCUMULATOR || node.iter_var2.is_some() {
            return Err("`optMap`, `optFlatMap` and loops with two variables are not supported".into());
        }
        let name = node.iter_var.clone();
        if matches!(name.as_str(), "claims" | "now") || TYPE_NAMES.contains(&name.as_str()) {
            return Err(format!("`{name}` cannot name a loop variable, it has a meaning already"));
        }
        let dependent = mentions(&node.iter_range, &self.variables);
        let (range, range_ticks) = self.visit(&mut node.iter_range, depth + 1)?;
        if !matches!(range.kind, Kind::Any | Kind::List | Kind::Map) {
            return Err(format!("loops over {}; only lists and maps have elements", range.kind.words()));
        }
        let chain = range.chain + 1;
        if chain > LOOPS_CHAINED_MAX {
            return Err(format!("chains more than {LOOPS_CHAINED_MAX} loops"));
        }
        self.loops += 1;
        if self.loops > LOOPS_NESTED_MAX {
            return Err(format!("nests more than {LOOPS_NESTED_MAX} loops"));
        }
        let (start, start_ticks) = self.visit(&mut node.accu_init, depth + 1)?;
        let each = range.each();
        let turn_ticks = each.copy() + 2;
        // Turns that depend on a share, times a share of the same value, would be a square: then count it as a whole.
        let outer = self.variables.clone();
        if dependent {
            for (_, shape) in &mut self.variables {
                *shape = Shape {
                    len: shape.len.max(RANGE_MAX as u64),
                    values: shape.values.max(CLAIMS_VALUES),
                    bytes: shape.bytes.max(CLAIMS),
                    element: None,
                    ..*shape
                };
            }
        }
        self.variables.push((name, each));
        // `map` and `filter` grow a list; the evaluator appends in place, so the step is visited with an empty one.
        self.variables.push((ACCUMULATOR.into(), start.clone()));
        let (_, condition_ticks) = self.visit(&mut node.loop_cond, depth + 1)?;
        let (step, step_ticks) = self.visit(&mut node.loop_step, depth + 1)?;
        self.loops -= 1;
        let accumulated = if start.kind == Kind::List {
            Shape {
                kind: Kind::List,
                len: range.len,
                values: range.len.saturating_mul(step.values).saturating_add(1),
                bytes: range.len.saturating_mul(step.bytes),
                element: Some(Box::new(step.each())),
                chain,
            }
        } else {
            Shape { chain, ..start }
        };
        let copy = accumulated.copy();
        if let Some((_, accumulator)) = self.variables.last_mut() {
            *accumulator = accumulated;
        }
        let (mut result, result_ticks) = self.visit(&mut node.result, depth + 1)?;
        self.variables = outer;
        result.chain = chain;
        let turn = turn_ticks + condition_ticks + step_ticks;
        let total = range.len.saturating_mul(turn).saturating_add(range_ticks + start_ticks + result_ticks + copy + 4);
        Ok((result, total))
    }

    fn call(&mut self, call: &mut CallExpr, depth: usize) -> Visited {
        let name = call.func_name.clone();
        let is_operator = call.target.is_none() && (name.contains('_') && !name.contains(char::is_alphanumeric))
            || matches!(name.as_str(), operators::IN | operators::NOT_STRICTLY_FALSE);
        if is_operator {
            return self.operator(call, depth);
        }
        let Some(function) = FUNCTIONS.iter().find(|function| function.name == name) else {
            return Err(unknown_function(&name));
        };
        // One form for the evaluator, where both are allowed for `matches`.
        if name == "matches" && call.target.is_none() && call.args.len() == 2 {
            call.target = Some(Box::new(call.args.remove(0)));
        }
        let (fewest, most) = function.arguments;
        let given = call.args.len();
        let style_ok = match (function.style, call.target.is_some()) {
            (Style::Global, target) => !target && (fewest..=most).contains(&given),
            (Style::Member, target) => target && (fewest..=most).contains(&given),
            (Style::Either, true) => (fewest..=most).contains(&given),
            (Style::Either, false) => (fewest + 1..=most + 1).contains(&given),
        };
        if !style_ok {
            return Err(format!("`{name}` is written as {}", function.usage));
        }
        let mut total = 4;
        let mut target = Shape::scalar(Kind::Any);
        if let Some(expression) = &mut call.target {
            let (shape, ticks) = self.visit(expression, depth + 1)?;
            target = shape;
            total += ticks;
        }
        if matches!(name.as_str(), "matches" | "glob" | "inCidr") {
            let Some(literal) = call.args.first_mut() else {
                return Err(format!("`{name}` is written as {}", function.usage));
            };
            let Expr::Literal(LiteralValue::String(text)) = &literal.expr else {
                return Err(format!("`{name}` needs its pattern as a literal, as in {}", function.usage));
            };
            let constant = if name == "inCidr" {
                total += 8;
                Constant::Network(Network::parse(text.inner())?)
            } else {
                let compiled =
                    if name == "glob" { pattern::glob(text.inner())? } else { pattern::regex(text.inner())? };
                let input = target.bytes.min(MATCH_INPUT_MAX as u64);
                total += 8 + input.saturating_mul(compiled.ticks_per_byte);
                Constant::Pattern(Pattern(compiled.regex.into()))
            };
            literal.expr = Expr::Ident(self.keep(constant));
            self.nodes += 1;
            return Ok((Shape { chain: target.chain, ..Shape::scalar(Kind::Bool) }, total));
        }
        let mut first: Option<Shape> = None;
        for argument in &mut call.args {
            let (shape, ticks) = self.visit(argument, depth + 1)?;
            total += ticks;
            target.chain = target.chain.max(shape.chain);
            first.get_or_insert(shape);
        }
        let subject = if call.target.is_some() { target } else { first.clone().unwrap_or(target) };
        let shape = match name.as_str() {
            "orValue" | "or" => {
                total += subject.copy();
                let other = first.unwrap_or_else(|| Shape::scalar(Kind::Any));
                let kind = function.result;
                Shape { kind, ..subject.or(other) }
            }
            "value" | "dyn" => {
                total += subject.copy();
                Shape { kind: Kind::Any, ..subject }
            }
            "split" => {
                let parts = subject.bytes.saturating_add(1).min(RANGE_MAX as u64);
                total += subject.bytes / 16 + 3 * parts;
                let part = Shape::text(subject.bytes.div_ceil(parts));
                Shape {
                    element: Some(Box::new(part)),
                    chain: subject.chain,
                    ..Shape::new(Kind::List, parts, parts + 1, subject.bytes)
                }
            }
            "url" | "lowerAscii" | "upperAscii" | "string" | "getPath" | "getHost" | "getScheme" => {
                total += 12 + subject.bytes / 16;
                Shape { kind: function.result, chain: subject.chain, ..Shape::text(subject.bytes.max(32)) }
            }
            "contains" => {
                total += subject.bytes / 16;
                Shape::scalar(function.result)
            }
            "timestamp" | "cidr" | "containsIP" => {
                total += 16;
                Shape::scalar(function.result)
            }
            // The evaluator reads its digits slowly.
            "duration" => {
                total += 16 + 2 * subject.bytes;
                Shape::scalar(function.result)
            }
            _ => {
                total += (subject.bytes + first.map_or(0, |argument| argument.bytes)) / 128 + 8;
                Shape { chain: subject.chain, ..Shape::scalar(function.result) }
            }
        };
        Ok((shape, total))
    }

    fn operator(&mut self, call: &mut CallExpr, depth: usize) -> Visited {
        let name = call.func_name.clone();
        let mut shapes = Vec::with_capacity(call.args.len());
        let mut total: u64 = 2;
        for argument in &mut call.args {
            let (shape, ticks) = self.visit(argument, depth + 1)?;
            total += ticks;
            shapes.push(shape);
        }
        total += rewrite(call, &shapes);
        let chain = shapes.iter().map(|shape| shape.chain).max().unwrap_or_default();
        let mut shapes = shapes.into_iter();
        let (a, b, c) = (shapes.next(), shapes.next(), shapes.next());
        let shape = match (name.as_str(), a, b, c) {
            (operators::LOGICAL_AND | operators::LOGICAL_OR, Some(a), Some(b), None) => {
                truth(&a, if name == operators::LOGICAL_AND { "&&" } else { "||" })?;
                truth(&b, if name == operators::LOGICAL_AND { "&&" } else { "||" })?;
                Shape::scalar(Kind::Bool)
            }
            (operators::LOGICAL_NOT, Some(a), None, None) => {
                truth(&a, "!")?;
                Shape::scalar(Kind::Bool)
            }
            (operators::NOT_STRICTLY_FALSE, Some(_), None, None) => Shape::scalar(Kind::Bool),
            (operators::CONDITIONAL, Some(a), Some(b), Some(c)) => {
                truth(&a, "?")?;
                b.or(c)
            }
            (operators::EQUALS | operators::NOT_EQUALS, Some(a), Some(b), None) => {
                total += compare(&a, &b);
                Shape::scalar(Kind::Bool)
            }
            (
                operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS,
                Some(a),
                Some(b),
                None,
            ) => {
                total += 4 + (a.bytes + b.bytes) / 64;
                Shape::scalar(Kind::Bool)
            }
            (operators::IN, Some(a), Some(b), None) => {
                // Each element is compared; only what is equal so far is read on.
                total += a.bytes / 32 + b.len / 2 + if a.is_scalar() { b.bytes / 64 } else { compare(&b, &b) };
                Shape::scalar(Kind::Bool)
            }
            (operators::ADD, Some(a), Some(b), None) => {
                let kind = match (a.kind, b.kind) {
                    (x, y) if x == y => x,
                    (x, Kind::Any) | (Kind::Any, x) if matches!(x, Kind::String | Kind::List) => x,
                    _ => Kind::Any,
                };
                // Neither text nor lists can be added to these.
                let number = |shape: &Shape| matches!(shape.kind, Kind::Int | Kind::Double);
                let time = |shape: &Shape| matches!(shape.kind, Kind::Timestamp | Kind::Duration);
                if time(&a) || time(&b) {
                    Shape::scalar(Kind::Timestamp)
                } else if number(&a) || number(&b) {
                    Shape::scalar(Kind::Int)
                } else if a.is_scalar() || b.is_scalar() {
                    let sum = Shape { kind, ..Shape::text(a.bytes.saturating_add(b.bytes)) };
                    total += sum.copy();
                    sum
                } else {
                    let element = match (&a.element, &b.element) {
                        (None, None) => None,
                        _ => Some(Box::new(a.each().or(b.each()))),
                    };
                    let sum = Shape {
                        element,
                        ..Shape::new(kind, a.len + b.len, a.values + b.values, a.bytes.saturating_add(b.bytes))
                    };
                    total += sum.copy();
                    sum
                }
            }
            (
                operators::SUBSTRACT | operators::MULTIPLY | operators::DIVIDE | operators::MODULO,
                Some(a),
                Some(b),
                None,
            ) => {
                total += 4 + (a.bytes + b.bytes) / 64;
                Shape::scalar(Kind::Int)
            }
            (operators::NEGATE, Some(_), None, None) => {
                total += 4;
                // A number or a duration: in any case nothing that is true or false.
                Shape::scalar(Kind::Int)
            }
            (operators::INDEX, Some(a), Some(key), None) => {
                total += 4 + key.bytes / 32;
                member(a, Kind::Any)
            }
            (operators::OPT_INDEX | operators::OPT_SELECT, Some(a), Some(key), None) => {
                let shape = member(a, Kind::Optional);
                total += 6 + key.bytes / 32 + shape.copy();
                shape
            }
            _ => return Err(unknown_function(&name)),
        };
        Ok((Shape { chain: chain.max(shape.chain), ..shape }, total))
    }

    fn keep(&mut self, constant: Constant) -> String {
        self.constants.push(constant);
        format!("@{}", self.constants.len() - 1)
    }
}

/// Ticks to compare two values: element by element, objects member by member through their names.
fn compare(a: &Shape, b: &Shape) -> u64 {
    2 * a.values.min(b.values) + a.bytes.min(b.bytes) / 64
}

/// Replaces operators that would copy their operands into an error by our own, or wraps operands that may have elements
/// where only scalars do. Where the types are known, the evaluator's are as good, and quicker. Gives the ticks that this
/// takes.
fn rewrite(call: &mut CallExpr, shapes: &[Shape]) -> u64 {
    const CALL: u64 = 6;
    let [a, b] = shapes else { return 0 };
    let number = matches!(a.kind, Kind::Int | Kind::Double);
    let (guard, both) = match call.func_name.as_str() {
        operators::EQUALS | operators::NOT_EQUALS if !b.is_scalar() && (number || !a.is_scalar()) => {
            let negated = call.func_name == operators::NOT_EQUALS;
            call.func_name = EQUAL.to_owned();
            if negated {
                let equal =
                    CallExpr { func_name: EQUAL.to_owned(), target: None, args: std::mem::take(&mut call.args) };
                call.func_name = operators::LOGICAL_NOT.to_owned();
                call.args = vec![IdedExpr { id: 0, expr: Expr::Call(equal) }];
            }
            return CALL;
        }
        operators::IN => {
            call.func_name = CONTAINS.to_owned();
            return CALL;
        }
        operators::SUBSTRACT
        | operators::MULTIPLY
        | operators::DIVIDE
        | operators::MODULO
        | operators::LESS
        | operators::LESS_EQUALS
        | operators::GREATER
        | operators::GREATER_EQUALS => (SCALAR, [true, true]),
        // Lists can be added, but not to scalars.
        operators::ADD if a.is_scalar() || b.is_scalar() => (SCALAR, [true, true]),
        operators::INDEX | operators::OPT_INDEX => (KEY, [false, true]),
        _ => return 0,
    };
    let mut ticks = 0;
    for ((argument, shape), wanted) in call.args.iter_mut().zip(shapes).zip(both) {
        let fits = match (guard, &argument.expr) {
            (SCALAR, _) => shape.is_scalar(),
            // Any number may turn out to be a fraction.
            (_, Expr::Literal(literal)) => !matches!(literal, LiteralValue::Double(_)),
            _ => matches!(shape.kind, Kind::String | Kind::Bool),
        };
        if wanted && !fits {
            let id = argument.id;
            let operator = Expr::Literal(LiteralValue::String(call.func_name.as_str().to_owned().into()));
            let guarded = std::mem::replace(argument, IdedExpr { id, expr: Expr::Unspecified });
            let args = vec![guarded, IdedExpr { id, expr: operator }];
            argument.expr = Expr::Call(CallExpr { func_name: guard.to_owned(), target: None, args });
            ticks += CALL;
        }
    }
    ticks
}

/// A member of `base`: never more than all of it.
fn member(base: Shape, kind: Kind) -> Shape {
    if kind == Kind::Bool {
        return Shape { chain: base.chain, ..Shape::scalar(kind) };
    }
    // An element's length is its share when it comes from a claim, so a single one can have all of them.
    let len = base.element.as_ref().map_or(base.len, |element| element.len.saturating_mul(base.len));
    Shape { chain: base.chain, ..Shape::new(kind, len, base.values, base.bytes) }
}

/// Whether the expression mentions one of the variables.
fn mentions(node: &IdedExpr, variables: &[(String, Shape)]) -> bool {
    match &node.expr {
        Expr::Ident(name) => variables.iter().any(|(known, _)| known == name && known != ACCUMULATOR),
        _ => super::explain::children(node).into_iter().any(|child| mentions(child, variables)),
    }
}

fn literal_shape(literal: &LiteralValue) -> Result<Shape, String> {
    Ok(match literal {
        LiteralValue::Boolean(_) => Shape::scalar(Kind::Bool),
        LiteralValue::Int(_) | LiteralValue::UInt(_) => Shape::scalar(Kind::Int),
        LiteralValue::Double(_) => Shape::scalar(Kind::Double),
        LiteralValue::Null => Shape::scalar(Kind::Null),
        LiteralValue::String(text) => Shape::text(text.inner().len() as u64 + 1),
        LiteralValue::Bytes(_) => return Err("bytes literals are not supported".into()),
    })
}

fn network_literal(call: &CallExpr) -> Result<Option<Network>, String> {
    if call.func_name != "cidr" || call.target.is_some() || call.args.len() != 1 {
        return Ok(None);
    }
    match call.args.first().map(|argument| &argument.expr) {
        Some(Expr::Literal(LiteralValue::String(text))) => Network::parse(text.inner()).map(Some),
        _ => Err("`cidr` needs its network as a literal, as in cidr('10.0.0.0/8')".into()),
    }
}

fn truth(shape: &Shape, operator: &str) -> Result<(), String> {
    if matches!(shape.kind, Kind::Any | Kind::Bool) {
        return Ok(());
    }
    Err(format!("uses `{operator}` on {}; it needs true or false", shape.kind.words()))
}

fn unknown_function(name: &str) -> String {
    if let Some((_, usage)) = MACROS.iter().find(|(known, _)| *known == name) {
        return format!("`{name}` is written as {usage}");
    }
    let known = FUNCTIONS.iter().map(|function| function.name).chain(MACROS.iter().map(|(known, _)| *known));
    let near = match name {
        "toLower" | "toLowerCase" | "lower" => Some("lowerAscii"),
        "toUpper" | "toUpperCase" | "upper" => Some("upperAscii"),
        "length" | "len" => Some("size"),
        "includes" => Some("contains"),
        "any" | "some" => Some("exists"),
        "every" => Some("all"),
        _ => nearest(name, known),
    };
    match near {
        Some(near) => format!("there is no function `{}`; did you mean `{near}`?", short(name)),
        None => format!("there is no function `{}`", short(name)),
    }
}

/// The candidate that is nearest to `name`, ignoring case, when it is near enough to be meant.
fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_ascii_lowercase();
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(&lower, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance * 3 <= candidate.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn short(name: &str) -> String {
    name.chars().take(64).collect()
}
