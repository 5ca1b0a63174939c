//! A condition as `||` branches of `&&` conjuncts, for rules such as "every branch must pin the tenant".

use cel::common::ast::{Expr, IdedExpr, LiteralValue, operators};

use super::explain::claim_path;

/// Most branches that are told apart.
pub const BRANCHES_MAX: usize = 64;
/// Most conjuncts of one branch that are told apart; the rest are left out, which only ever makes a branch look weaker.
const CONJUNCTS_MAX: usize = 64;

/// A literal that a claim is compared with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Literal {
    /// A string.
    String(String),
    /// An integer.
    Int(i64),
    /// True or false.
    Bool(bool),
    /// `null`, a fraction or an integer beyond 64 bits signed.
    Other,
}

/// One conjunct of a branch. `claim` is the path below `claims`: `claims.a["b"]` is `["a", "b"]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SimpleTest {
    /// `claims.x == 'y'` or `'y' == claims.x`; `claims.x` alone is a test for `true`, `!claims.x` for `false`.
    /// `string(claims.x)` counts as the claim.
    Equals {
        /// The claim's path.
        claim: Vec<String>,
        /// What it must be.
        literal: Literal,
    },
    /// `claims.x in ['y', 'z']`.
    In {
        /// The claim's path.
        claim: Vec<String>,
        /// What it must be one of.
        literals: Vec<Literal>,
    },
    /// `'y' in claims.x`: the claim is a list that has the literal, or an object with such a member.
    Includes {
        /// The claim's path.
        claim: Vec<String>,
        /// What it must contain.
        literal: Literal,
    },
    /// `claims.x.startsWith('y')`.
    StartsWith {
        /// The claim's path.
        claim: Vec<String>,
        /// The prefix.
        prefix: String,
    },
    /// `claims.x.endsWith('y')`.
    EndsWith {
        /// The claim's path.
        claim: Vec<String>,
        /// The suffix.
        suffix: String,
    },
    /// `claims.x.contains('y')`.
    Contains {
        /// The claim's path.
        claim: Vec<String>,
        /// The part.
        part: String,
    },
    /// `claims.x.matches('y')`: an unanchored search.
    Matches {
        /// The claim's path.
        claim: Vec<String>,
        /// The regular expression.
        pattern: String,
    },
    /// `claims.x.glob('y')`: the whole text.
    Glob {
        /// The claim's path.
        claim: Vec<String>,
        /// The glob.
        pattern: String,
    },
    /// `has(claims.x)`.
    Has {
        /// The claim's path.
        claim: Vec<String>,
    },
    /// Anything else.
    Other,
}

impl SimpleTest {
    /// The path of the claim that is tested; `None` for [`SimpleTest::Other`].
    pub fn claim(&self) -> Option<&[String]> {
        match self {
            Self::Equals { claim, .. }
            | Self::In { claim, .. }
            | Self::Includes { claim, .. }
            | Self::StartsWith { claim, .. }
            | Self::EndsWith { claim, .. }
            | Self::Contains { claim, .. }
            | Self::Matches { claim, .. }
            | Self::Glob { claim, .. }
            | Self::Has { claim } => Some(claim),
            Self::Other => None,
        }
    }
}

type Branches = Vec<Vec<SimpleTest>>;

pub(super) fn of(expression: &IdedExpr) -> Branches {
    match branches(expression) {
        Some(all) if !all.is_empty() => all,
        // Too many to tell apart, or never true.
        _ => vec![vec![SimpleTest::Other]],
    }
}

/// `None`: more than [`BRANCHES_MAX`].
fn branches(node: &IdedExpr) -> Option<Branches> {
    let all = match &node.expr {
        Expr::Call(call) => match (call.func_name.as_str(), call.args.as_slice()) {
            (operators::LOGICAL_OR, [a, b]) => {
                let mut all = branches(a)?;
                all.extend(branches(b)?);
                all
            }
            (operators::LOGICAL_AND, [a, b]) => both(&branches(a)?, &branches(b)?)?,
            (operators::CONDITIONAL, [test, then, otherwise]) => {
                let mut all = both(&branches(test)?, &branches(then)?)?;
                // The test is false there, which pins nothing.
                all.extend(both(&vec![vec![SimpleTest::Other]], &branches(otherwise)?)?);
                all
            }
            _ => vec![vec![test(node)]],
        },
        Expr::Literal(LiteralValue::Boolean(value)) if !*value.inner() => Vec::new(),
        _ => vec![vec![test(node)]],
    };
    (all.len() <= BRANCHES_MAX).then_some(all)
}

fn both(a: &Branches, b: &Branches) -> Option<Branches> {
    if a.len() * b.len() > BRANCHES_MAX {
        return None;
    }
    Some(
        a.iter()
            .flat_map(|left| b.iter().map(move |right| left.iter().chain(right).take(CONJUNCTS_MAX).cloned().collect()))
            .collect(),
    )
}

fn test(node: &IdedExpr) -> SimpleTest {
    simple(node).unwrap_or(SimpleTest::Other)
}

fn simple(node: &IdedExpr) -> Option<SimpleTest> {
    let Expr::Call(call) = &node.expr else {
        return match &node.expr {
            Expr::Select(select) if select.test => Some(SimpleTest::Has { claim: path(node)? }),
            _ => Some(SimpleTest::Equals { claim: claim(node)?, literal: Literal::Bool(true) }),
        };
    };
    match (call.func_name.as_str(), &call.target, call.args.as_slice()) {
        (operators::EQUALS, None, [a, b]) => {
            let (claim, literal) = claim(a).zip(literal(b)).or_else(|| claim(b).zip(literal(a)))?;
            Some(SimpleTest::Equals { claim, literal })
        }
        (operators::IN, None, [a, b]) => {
            if let Expr::List(list) = &b.expr {
                let literals = list.elements.iter().map(literal).collect::<Option<Vec<_>>>()?;
                return Some(SimpleTest::In { claim: claim(a)?, literals });
            }
            Some(SimpleTest::Includes { claim: claim(b)?, literal: literal(a)? })
        }
        (operators::LOGICAL_NOT, None, [a]) => {
            Some(SimpleTest::Equals { claim: claim(a)?, literal: Literal::Bool(false) })
        }
        ("matches", None, [a, b]) => Some(SimpleTest::Matches { claim: claim(a)?, pattern: text(b)? }),
        (name, Some(target), [argument]) => {
            let claim = claim(target)?;
            let text = text(argument)?;
            match name {
                "startsWith" => Some(SimpleTest::StartsWith { claim, prefix: text }),
                "endsWith" => Some(SimpleTest::EndsWith { claim, suffix: text }),
                "contains" => Some(SimpleTest::Contains { claim, part: text }),
                "matches" => Some(SimpleTest::Matches { claim, pattern: text }),
                "glob" => Some(SimpleTest::Glob { claim, pattern: text }),
                _ => None,
            }
        }
        // `claims['x']` alone.
        (operators::INDEX, None, _) => Some(SimpleTest::Equals { claim: claim(node)?, literal: Literal::Bool(true) }),
        _ => None,
    }
}

/// The path of a claim's value, through `string()` and `dyn()`. Not through `int()`, which reads "07" and "7" alike.
fn claim(node: &IdedExpr) -> Option<Vec<String>> {
    match &node.expr {
        Expr::Call(call) if call.target.is_none() && matches!(call.func_name.as_str(), "string" | "dyn") => {
            match call.args.as_slice() {
                [argument] => claim(argument),
                _ => None,
            }
        }
        Expr::Select(select) if select.test => None,
        _ => path(node),
    }
}

fn path(node: &IdedExpr) -> Option<Vec<String>> {
    claim_path(node).filter(|path| !path.is_empty()).map(|path| path.into_iter().map(str::to_owned).collect())
}

fn literal(node: &IdedExpr) -> Option<Literal> {
    let Expr::Literal(literal) = &node.expr else { return None };
    Some(match literal {
        LiteralValue::String(text) => Literal::String(text.inner().to_owned()),
        LiteralValue::Int(number) => Literal::Int(*number.inner()),
        LiteralValue::UInt(number) => i64::try_from(*number.inner()).map_or(Literal::Other, Literal::Int),
        LiteralValue::Boolean(value) => Literal::Bool(*value.inner()),
        _ => Literal::Other,
    })
}

fn text(node: &IdedExpr) -> Option<String> {
    match literal(node)? {
        Literal::String(text) => Some(text),
        _ => None,
    }
}
