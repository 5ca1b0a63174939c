//! How large a GraphQL request may be. Looked at before the engine sees the document: its own validation follows fragments
//! anew at every spread, so that a few hundred bytes could keep it busy for hours.

use std::collections::{HashMap, HashSet};

use async_graphql::parser::parse_query;
use async_graphql::parser::types::{ExecutableDocument, FragmentDefinition, Selection, SelectionSet};
use async_graphql::{Name, Positioned};

use crate::error::Error;

/// Largest request body, in bytes.
pub const BODY_MAX: usize = 1024 * 1024;
/// Longest document, in bytes; long values belong into variables.
pub const DOCUMENT_MAX: usize = 128 * 1024;
/// Most operations of one batch.
pub const BATCH_MAX: usize = 10;
/// Most fields that a document may select, with every fragment counted wherever it is spread. Spreads count as fields: what
/// follows them anew each time then has no more to do than this, whatever they lead to.
pub const FIELDS_MAX: usize = 3_000;
/// Most aliases, counted likewise.
pub const ALIASES_MAX: usize = 100;
/// Most fragments of a document.
pub const FRAGMENTS_MAX: usize = 100;
/// Most operations of a document.
pub const OPERATIONS_MAX: usize = 20;
/// Deepest selection.
pub const DEPTH_MAX: usize = 24;
/// Deepest nesting of selections, fragments counted: the engine recurses once for each.
pub const NESTING_MAX: usize = 32;
/// Highest cost: each field costs one, inside a list as often as the page has items. Admits pages of 1,000 with all fields.
pub const COMPLEXITY_MAX: usize = 60_000;
/// What an evaluation of conditions costs: a request holds ten at most.
pub(crate) const EVALUATION: usize = 5_500;
/// What a `totalCount` costs: the database looks at everything there is.
pub(crate) const COUNT: usize = 5_000;
/// Most directives on one field.
pub const DIRECTIVES_MAX: usize = 8;
/// Deepest nesting of brackets of any kind in a document.
const BRACKETS_MAX: usize = 64;
/// Most lists inside one another in an introspection query: each level multiplies the answer.
const INTROSPECTION_LISTS_MAX: usize = 3;
/// The lists of introspection.
const INTROSPECTION_LISTS: [&str; 4] = ["fields", "inputFields", "interfaces", "possibleTypes"];

/// Parses a document that keeps within the limits.
///
/// # Errors
/// Says which limit, or what is wrong with the syntax.
pub fn admit(document: &str) -> Result<ExecutableDocument, Error> {
    if document.len() > DOCUMENT_MAX {
        return Err(Error::exhausted(format!(
            "the document is {} bytes long; at most {DOCUMENT_MAX} are allowed, and long values belong into variables",
            document.len()
        )));
    }
    if nesting(document) > BRACKETS_MAX {
        return Err(Error::exhausted(format!("the document nests deeper than {BRACKETS_MAX} brackets")));
    }
    let parsed = parse_query(document).map_err(|error| Error::invalid("query", error.to_string()))?;
    let operations = parsed.operations.iter().len();
    if operations > OPERATIONS_MAX {
        return Err(Error::exhausted(format!("{operations} operations; at most {OPERATIONS_MAX} are allowed")));
    }
    if parsed.fragments.len() > FRAGMENTS_MAX {
        return Err(Error::exhausted(format!(
            "{} fragments; at most {FRAGMENTS_MAX} are allowed",
            parsed.fragments.len()
        )));
    }
    let mut meter = Meter { fragments: &parsed.fragments, known: HashMap::new(), open: HashSet::new() };
    let mut whole = Size::default();
    for (_, operation) in parsed.operations.iter() {
        whole.add(meter.measure(&operation.node.selection_set.node, 0)?);
    }
    // Fragments that nothing spreads are validated all the same.
    for name in parsed.fragments.keys() {
        let size = meter.fragment(name, 0)?;
        whole.depth = whole.depth.max(size.depth);
        whole.fields = whole.fields.max(size.fields);
    }
    if whole.aliases > ALIASES_MAX {
        return Err(Error::exhausted(format!("{} aliases; at most {ALIASES_MAX} are allowed", whole.aliases)));
    }
    if whole.fields > FIELDS_MAX {
        return Err(Error::exhausted(format!("more than {FIELDS_MAX} fields are selected")));
    }
    if whole.depth > DEPTH_MAX {
        return Err(Error::exhausted(format!("the selection is {} levels deep; {DEPTH_MAX} are allowed", whole.depth)));
    }
    if whole.lists > INTROSPECTION_LISTS_MAX {
        return Err(Error::exhausted(format!(
            "introspection may nest at most {INTROSPECTION_LISTS_MAX} lists of fields, interfaces or possible types"
        )));
    }
    Ok(parsed)
}

/// The deepest nesting of brackets outside strings and comments: the parser recurses once for each.
fn nesting(document: &str) -> usize {
    let bytes = document.as_bytes();
    let (mut depth, mut deepest, mut at) = (0_usize, 0_usize, 0_usize);
    while at < bytes.len() {
        match bytes[at] {
            b'#' => {
                while at < bytes.len() && !matches!(bytes[at], b'\n' | b'\r') {
                    at += 1;
                }
            }
            b'"' if bytes[at..].starts_with(b"\"\"\"") => {
                at += 3;
                while at < bytes.len() && !bytes[at..].starts_with(b"\"\"\"") {
                    at += if bytes[at..].starts_with(b"\\\"\"\"") { 4 } else { 1 };
                }
                at += 2;
            }
            b'"' => {
                at += 1;
                while at < bytes.len() && !matches!(bytes[at], b'"' | b'\n') {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
            }
            b'{' | b'[' | b'(' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' | b')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    deepest
}

/// What a selection amounts to once its fragments are filled in.
#[derive(Clone, Copy, Default)]
struct Size {
    fields: usize,
    aliases: usize,
    depth: usize,
    /// Lists of introspection inside one another.
    lists: usize,
}

impl Size {
    fn add(&mut self, other: Self) {
        self.fields = self.fields.saturating_add(other.fields);
        self.aliases = self.aliases.saturating_add(other.aliases);
        self.depth = self.depth.max(other.depth);
        self.lists = self.lists.max(other.lists);
    }
}

/// Measures selections; every fragment once.
struct Meter<'d> {
    fragments: &'d HashMap<Name, Positioned<FragmentDefinition>>,
    known: HashMap<&'d str, Size>,
    open: HashSet<&'d str>,
}

impl<'d> Meter<'d> {
    fn measure(&mut self, selection: &'d SelectionSet, level: usize) -> Result<Size, Error> {
        if level > NESTING_MAX {
            return Err(Error::exhausted(format!("selections nest deeper than {NESTING_MAX} levels")));
        }
        let mut size = Size::default();
        for item in &selection.items {
            match &item.node {
                Selection::Field(field) => {
                    let field = &field.node;
                    let mut inner = self.measure(&field.selection_set.node, level + 1)?;
                    inner.fields = inner.fields.saturating_add(1);
                    inner.aliases = inner.aliases.saturating_add(usize::from(field.alias.is_some()));
                    inner.depth += 1;
                    // `fields` and the others of that name belong to introspection, or to a preset, which is no list of lists.
                    inner.lists += usize::from(INTROSPECTION_LISTS.contains(&field.name.node.as_str()));
                    size.add(inner);
                }
                Selection::FragmentSpread(spread) => {
                    size.add(self.fragment(&spread.node.fragment_name.node, level + 1)?);
                    size.fields = size.fields.saturating_add(1);
                }
                Selection::InlineFragment(fragment) => {
                    size.add(self.measure(&fragment.node.selection_set.node, level + 1)?);
                    size.fields = size.fields.saturating_add(1);
                }
            }
        }
        Ok(size)
    }

    fn fragment(&mut self, name: &str, level: usize) -> Result<Size, Error> {
        let Some((name, definition)) = self.fragments.get_key_value(name) else {
            return Err(Error::invalid("query", format!("there is no fragment '{name}'")));
        };
        if let Some(size) = self.known.get(name.as_str()) {
            return Ok(*size);
        }
        if !self.open.insert(name) {
            return Err(Error::invalid("query", format!("the fragment '{name}' spreads itself")));
        }
        let size = self.measure(&definition.node.selection_set.node, level)?;
        self.open.remove(name.as_str());
        self.known.insert(name, size);
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(document: &str) -> String {
        admit(document).map(drop).unwrap_err().message().to_owned()
    }

    #[test]
    fn a_thousand_aliases_are_refused_and_a_hundred_are_not() {
        let aliased = |n: usize| format!("{{{}}}", (0..n).map(|i| format!("a{i}: viewer{{mrn}} ")).collect::<String>());
        assert!(admit(&aliased(100)).is_ok());
        insta::assert_snapshot!(refused(&aliased(1_000)), @"1000 aliases; at most 100 are allowed");
        // Hidden in a fragment, and spread again and again.
        let hidden = format!(
            "{{...f}} fragment f on Query{{{}}}",
            (0..11).map(|i| format!("...g x{i}:viewer{{mrn}}")).collect::<String>()
        ) + &format!(
            "fragment g on Query{{{}}}",
            (0..11).map(|i| format!("y{i}:viewer{{mrn}} ")).collect::<String>()
        );
        insta::assert_snapshot!(refused(&hidden), @"132 aliases; at most 100 are allowed");
    }

    #[test]
    fn fragments_that_double_at_every_step_are_counted_without_walking_them() {
        let mut bomb = String::from("{...f0}");
        for i in 0..25 {
            bomb += &format!(" fragment f{i} on Query{{...f{} ...f{}}}", i + 1, i + 1);
        }
        bomb += " fragment f25 on Query{viewer{mrn}}";
        insta::assert_snapshot!(refused(&bomb), @"more than 3000 fields are selected");
    }

    /// H1: no field is selected at all, yet whoever follows every spread has 3^28 of them to follow.
    #[test]
    fn spreads_count_though_they_select_nothing_and_lead_nowhere() {
        let bomb = |last: &str| {
            let mut bomb = String::from("{...f0}");
            for i in 0..28 {
                bomb += &format!(" fragment f{i} on Query{{...f{0} ...f{0} ...f{0}}}", i + 1);
            }
            bomb + last
        };
        insta::assert_snapshot!(refused(&bomb(" fragment f28 on Query{...nope}")), @"query: there is no fragment 'nope'");
        insta::assert_snapshot!(refused(&bomb("")), @"query: there is no fragment 'f28'");
        insta::assert_snapshot!(refused(&bomb(" fragment f28 on Query{...f0}")), @"query: the fragment 'f0' spreads itself");
        insta::assert_snapshot!(refused(&bomb(" fragment f28 on Query{...on Query{__typename}}")), @"more than 3000 fields are selected");
        insta::assert_snapshot!(refused("{viewer{mrn ...nope}}"), @"query: there is no fragment 'nope'");
        // Nor where nothing spreads them: they are validated all the same.
        let unused = bomb(" fragment f28 on Query{__typename}").replacen("{...f0}", "{viewer{mrn}}", 1);
        insta::assert_snapshot!(refused(&unused), @"more than 3000 fields are selected");
        let inline = format!("{{{}}}", "...{__typename}".repeat(1_501));
        insta::assert_snapshot!(refused(&inline), @"more than 3000 fields are selected");
        assert!(admit(&format!("{{{}}}", "...{__typename}".repeat(1_500))).is_ok());
    }

    #[test]
    fn cycles_depth_and_brackets_are_refused() {
        insta::assert_snapshot!(refused("{...a} fragment a on Query{...b} fragment b on Query{...a}"), @"query: the fragment 'a' spreads itself");
        let deep = format!("{}viewer{}", "{a".repeat(28), "}".repeat(28)).replacen("{aviewer", "{a", 1);
        insta::assert_snapshot!(refused(&deep), @"the selection is 28 levels deep; 24 are allowed");
        let deeper = format!("{}{}", "{a".repeat(50), "}".repeat(50)).replacen("{a}", "", 1);
        insta::assert_snapshot!(refused(&deeper), @"selections nest deeper than 32 levels");
        let brackets = format!("{{viewer(a:{}{})}}", "[".repeat(100_000 / 2), "]".repeat(100_000 / 2));
        insta::assert_snapshot!(refused(&brackets), @"the document nests deeper than 64 brackets");
        insta::assert_snapshot!(refused(&" ".repeat(DOCUMENT_MAX + 1)), @"the document is 131073 bytes long; at most 131072 are allowed, and long values belong into variables");
    }

    #[test]
    fn brackets_inside_strings_and_comments_do_not_count() {
        assert_eq!(nesting(r#"{ a(b: "((((((\"((") # [[[["#), 2);
        assert_eq!(nesting(r#"{ a(b: """ (((( \""" (( """) { c } }"#), 2);
        assert_eq!(nesting("\"unterminated"), 0);
        assert_eq!(nesting("\"\"\"unterminated"), 0);
    }

    #[test]
    fn introspection_is_bounded_and_the_usual_query_passes() {
        let nested = "{__schema{types{fields{type{fields{type{fields{type{fields{name}}}}}}}}}}";
        insta::assert_snapshot!(refused(nested), @"introspection may nest at most 3 lists of fields, interfaces or possible types");
        assert!(
            admit(
                "{__schema{types{fields{args{type{ofType{ofType{ofType{ofType{name}}}}}}} inputFields{type{name}}}}}"
            )
            .is_ok()
        );
    }
}
