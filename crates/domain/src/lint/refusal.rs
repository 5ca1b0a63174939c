//! What must not be saved: trusts that let strangers in.

use super::subjects::{self, Part};
use super::{View, is_blank, stranger, whole_values, words};
use crate::condition::{Literal, SimpleTest};
use crate::preset::{ClaimInfo, JsonType, Pin, SharedIssuer, Tells, expression, quoted};
use crate::provider::ProviderKind;
use crate::validate::FieldError;

pub(super) fn of(view: &View<'_>) -> Option<FieldError> {
    if let Some(Err(error)) = view.trust.condition() {
        return Some(error.clone());
    }
    if let Some(error) = blank_mapping(view) {
        return Some(error);
    }
    match view.shared {
        Some(shared) => (!pins_tenant(view)).then(|| unpinned(view, shared)),
        None => accepts_anyone(view),
    }
}

/// A mapping of an identity claim to an empty text: nobody should have such an identity.
fn blank_mapping(view: &View<'_>) -> Option<FieldError> {
    let names_someone = |claim: &ClaimInfo| claim.tells >= Tells::Tenant;
    view.trust.mappings().iter().enumerate().find_map(|(index, mapping)| {
        let identity = view.mapped(mapping).map_or(mapping.name() == "sub", names_someone);
        (identity && is_blank(mapping.value())).then(|| {
            FieldError::new(
                format!("mappings[{index}].value"),
                format!("must not be empty: an empty '{}' names nobody", mapping.name()),
            )
        })
    })
}

fn pins_tenant(view: &View<'_>) -> bool {
    view.subject().is_some_and(|pattern| subjects::pattern_pins(view, pattern))
        || view.trust.mappings().iter().any(|mapping| {
            view.mapped(mapping).is_some_and(|claim| match claim.pin {
                Pin::No => false,
                Pin::Whole | Pin::Path(_) => !is_blank(mapping.value()),
                Pin::Subject => subjects::pins(view, mapping.value(), Part::Whole),
            })
        })
        || view.in_every_branch(|test| test_pins(view, test))
}

fn test_pins(view: &View<'_>, test: &SimpleTest) -> bool {
    // Not a member of an object that users fill as they like.
    let Some(claim) = test.claim().and_then(|path| view.claim(path).filter(|claim| claim.path().len() == path.len()))
    else {
        return false;
    };
    match test {
        SimpleTest::Equals { .. } | SimpleTest::In { .. } => {
            let literals = whole_values(test);
            !literals.is_empty() && literals.iter().all(|literal| literal_pins(view, claim, literal))
        }
        SimpleTest::StartsWith { prefix, .. } => match claim.pin {
            Pin::Path(delimiter) => {
                prefix.ends_with(delimiter) && prefix.split(delimiter).next().is_some_and(|t| !is_blank(t))
            }
            Pin::Subject => prefix.ends_with(['/', ':']) && subjects::pins(view, prefix, Part::Beginning),
            Pin::No | Pin::Whole => false,
        },
        _ => false,
    }
}

fn literal_pins(view: &View<'_>, claim: &ClaimInfo, literal: &Literal) -> bool {
    match (claim.pin, claim.json_type, literal) {
        (Pin::No, ..) => false,
        (Pin::Subject, JsonType::String, Literal::String(text)) => subjects::pins(view, text, Part::Whole),
        (_, JsonType::String, Literal::String(text)) => !is_blank(text),
        (_, JsonType::Number, Literal::Int(_)) => true,
        _ => false,
    }
}

/// The refusal on a shared issuer: why what is there is not enough, and what to write.
fn unpinned(view: &View<'_>, shared: &SharedIssuer) -> FieldError {
    let safer = view.known().find(|claim| claim.name == shared.safer.claim);
    let best = safer.map(|claim| {
        let value = match claim.json_type {
            JsonType::Number => shared.safer.value.to_owned(),
            _ => quoted(shared.safer.value),
        };
        format!("{} == {value}", claim.expression())
    });
    let best = best.unwrap_or_else(|| format!("claims.sub == {}", quoted(shared.safer.subject)));
    let near = near_miss(view);
    let field = if view.condition.is_some() {
        "condition"
    } else if view.trust.mappings().is_empty() {
        "subject"
    } else {
        "mappings"
    };
    let mut message = format!("{} serves everyone, so the trust must name {}", shared.name, shared.tenant);
    let mut fix = None;
    if let Some(near) = near {
        message.push_str(&format!("; {}", near.why));
        fix = near.fix;
    } else if view.branches.len() > 1 {
        let open = view.branches.iter().position(|branch| !branch.iter().any(|test| test_pins(view, test)));
        if let Some(open) = open {
            message.push_str(&format!("; part {} of the {} between `||` does not", open + 1, view.branches.len()));
        }
    }
    message.push_str(". ");
    if let (Some(condition), None) = (view.condition, &fix)
        && let Some(text) = words::with(condition.source(), &best)
    {
        message.push_str(&format!("Write: {text}"));
        return FieldError::new(field, message);
    }
    match fix {
        Some(fix) => message.push_str(&format!("Write {fix}, or better {best}")),
        None => {
            let prefix = if view.kind == ProviderKind::AwsSts { "aws_claims" } else { "jwt_claims" };
            message.push_str(&format!(
                "Set the subject to {}, or add the mapping {prefix}.{} = {}, or the condition: {best}",
                quoted(shared.safer.subject),
                shared.safer.claim,
                shared.safer.value
            ));
        }
    }
    FieldError::new(field, message)
}

/// Something that was meant as a pin and is none.
struct Near {
    why: String,
    fix: Option<String>,
}

fn near_miss(view: &View<'_>) -> Option<Near> {
    if let Some(pattern) = view.subject() {
        return Some(Near { why: format!("the subject {} does not", quoted(&pattern.to_string())), fix: None });
    }
    let open = view.branches.iter().find(|branch| !branch.iter().any(|test| test_pins(view, test)));
    if let Some(near) = open.and_then(|branch| branch.iter().find_map(|test| near_test(view, test))) {
        return Some(near);
    }
    view.trust.mappings().iter().find_map(|mapping| {
        let why = view.mapped(mapping)?.caution?;
        Some(Near { why: format!("the mapping of '{}' does not: {why}", mapping.name()), fix: None })
    })
}

fn near_test(view: &View<'_>, test: &SimpleTest) -> Option<Near> {
    let path = test.claim()?;
    let claim = view.claim(path)?;
    let text = words::test(test);
    if let Some(why) = claim.caution {
        return Some(Near { why: format!("{text} does not: {why}"), fix: None });
    }
    if !claim.pins_tenant() {
        return None;
    }
    let read = expression(path);
    Some(match test {
        SimpleTest::StartsWith { prefix, .. } => match claim.pin {
            Pin::Subject => Near { why: format!("{text} says too little of the subject"), fix: None },
            Pin::Path(delimiter) if !prefix.contains(delimiter) && !is_blank(prefix) => Near {
                why: format!("{text} also holds for '{prefix}-evil…'"),
                fix: Some(format!("{read}.startsWith({})", quoted(&format!("{prefix}{delimiter}")))),
            },
            _ => Near {
                why: format!("{text} also holds for '{prefix}-evil'"),
                fix: (!is_blank(prefix)).then(|| format!("{read} == {}", quoted(prefix.trim_end_matches(['/', ':'])))),
            },
        },
        SimpleTest::EndsWith { .. }
        | SimpleTest::Contains { .. }
        | SimpleTest::Matches { .. }
        | SimpleTest::Glob { .. } => {
            Near { why: format!("{text} does not, since a stranger can choose a name that fits"), fix: None }
        }
        SimpleTest::Equals { literal: Literal::Int(number), .. } => Near {
            why: format!("{text} never holds, since the claim is text"),
            fix: Some(format!("{read} == '{number}'")),
        },
        SimpleTest::Equals { literal: Literal::String(literal), .. } if is_blank(literal) => Near {
            why: format!("{text} names nobody"),
            fix: Some(format!("{read} == {}", claim.example.replace('"', "'"))),
        },
        SimpleTest::Equals { .. } | SimpleTest::In { .. } => Near { why: format!("{text} does not"), fix: None },
        SimpleTest::Has { .. } => Near { why: format!("{text} holds for everyone's"), fix: None },
        SimpleTest::Includes { .. } | SimpleTest::Other => return None,
    })
}

/// The refusal on an issuer of one's own: a trust that accepts each of its identities.
fn accepts_anyone(view: &View<'_>) -> Option<FieldError> {
    if let Some(pattern) = view.subject() {
        let (text, part) = subjects::part(pattern)?;
        if !subjects::is_anyone(view, text, part) || constrains_otherwise(view) {
            return None;
        }
        return Some(FieldError::new(
            "subject",
            format!("'{text}*' is every identity of the issuer; {}", example(view.kind)),
        ));
    }
    if constrains_otherwise(view) {
        return None;
    }
    let field = if view.condition.is_some() {
        "condition"
    } else if view.trust.mappings().is_empty() {
        "subject"
    } else {
        "mappings"
    };
    let why = match view.condition {
        Some(_) => "the condition can hold for any identity of the issuer",
        None if view.trust.mappings().is_empty() => {
            "a trust must say whom it accepts; an audience alone matches anyone the issuer serves, for whoever asks for a token chooses its audience"
        }
        None => "the mapped claims can be the same for any identity of the issuer",
    };
    Some(FieldError::new(field, format!("{why}; {}", example(view.kind))))
}

/// What to write, with the platform's own example.
fn example(kind: ProviderKind) -> String {
    let preset = crate::preset::preset(kind);
    let condition = preset.example_conditions.first().copied().unwrap_or("claims.sub == 'my-workload'");
    format!("name the workload, by its subject or with a condition such as: {condition}")
}

/// Whether mappings or condition say anything about who it is.
fn constrains_otherwise(view: &View<'_>) -> bool {
    let says_something = |claim: Option<&ClaimInfo>| claim.is_none_or(|claim| claim.tells != Tells::Nothing);
    let mapped =
        view.trust.mappings().iter().any(|mapping| says_something(view.mapped(mapping)) && !is_blank(mapping.value()));
    if mapped {
        return true;
    }
    let Some(condition) = view.condition else { return false };
    let tested = view.in_every_branch(|test| match test {
        // Judged by trying.
        SimpleTest::Other => true,
        SimpleTest::Has { .. } => false,
        SimpleTest::StartsWith { prefix: text, .. }
        | SimpleTest::EndsWith { suffix: text, .. }
        | SimpleTest::Contains { part: text, .. }
            if is_blank(text) =>
        {
            false
        }
        SimpleTest::Equals { literal: Literal::String(text), .. } if is_blank(text) => false,
        SimpleTest::In { literals, .. } if literals.iter().any(|l| matches!(l, Literal::String(t) if is_blank(t))) => {
            false
        }
        test => test.claim().is_some_and(|path| says_something(view.claim(path))),
    });
    tested && !stranger::gets_in(view, condition)
}
