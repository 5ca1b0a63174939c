//! How large a GraphQL request may be. Looked at before the engine sees the document: its own validation follows fragments
//! anew at every spread, so that a few hundred bytes could keep it busy for hours.

use std::collections::{HashMap, HashSet};

use async_graphql::parser::parse_query;
use async_graphql::parser::types::{ExecutableDocument, FragmentDefinition, OperationType, Selection, SelectionSet};
use async_graphql::{Name, Positioned};

use crate::error::Error;

/// Largest request body, in bytes.
pub const BODY_MAX: usize = 1024 * 1024;
/// Longest document, in bytes; long values belong into variables.
pub const DOCUMENT_MAX: usize = 128 * 1024;
/// Most names, numbers, texts and punctuation marks of a document: what the engine looks at one by one, and has an error for
/// each, be they arguments, variables, directives or the items of a list.
pub const TOKENS_MAX: usize = 10_000;
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
/// Most errors of one answer. The engine says all it has against a document, and a small one can be wrong in thousands of places.
pub(crate) const ERRORS_MAX: usize = 50;
/// Most times that a document asks for the schema; each answer is a large one.
const INTROSPECTIONS_MAX: usize = 4;
/// What asks for the schema.
const INTROSPECTIONS: [&str; 2] = ["__schema", "__type"];
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
    let shape = Shape::of(document);
    if shape.nesting > BRACKETS_MAX {
        return Err(Error::exhausted(format!("the document nests deeper than {BRACKETS_MAX} brackets")));
    }
    if shape.tokens > TOKENS_MAX {
        return Err(Error::exhausted(format!(
            "the document has {} tokens; at most {TOKENS_MAX} are allowed, and long lists belong into variables",
            shape.tokens
        )));
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
    if whole.introspections > INTROSPECTIONS_MAX {
        return Err(Error::exhausted(format!(
            "the document asks for the schema {} times; {INTROSPECTIONS_MAX} are allowed",
            whole.introspections
        )));
    }
    for (_, operation) in parsed.operations.iter() {
        if operation.node.ty == OperationType::Mutation {
            each_once(&operation.node.selection_set.node, &parsed.fragments, &mut HashSet::new())?;
        }
    }
    Ok(parsed)
}

/// Refuses a mutation whose root selects one name twice. The specification merges the two into one (section 5.3.2); the engine
/// does what it says twice, and shows one answer. Nobody should have to know which. Called once the limits hold, so that
/// following every spread is bounded.
fn each_once<'d>(
    selection: &'d SelectionSet,
    fragments: &'d HashMap<Name, Positioned<FragmentDefinition>>,
    seen: &mut HashSet<&'d str>,
) -> Result<(), Error> {
    for item in &selection.items {
        match &item.node {
            Selection::Field(field) => {
                let name = field.node.response_key().node.as_str();
                if !seen.insert(name) {
                    return Err(Error::invalid(
                        "query",
                        format!("the mutation does '{name}' twice under one name; give each an alias of its own"),
                    ));
                }
            }
            Selection::FragmentSpread(spread) => {
                if let Some(fragment) = fragments.get(&spread.node.fragment_name.node) {
                    each_once(&fragment.node.selection_set.node, fragments, seen)?;
                }
            }
            Selection::InlineFragment(fragment) => each_once(&fragment.node.selection_set.node, fragments, seen)?,
        }
    }
    Ok(())
}

/// What a document looks like before it is parsed, outside its strings and comments.
#[derive(Default)]
struct Shape {
    /// The deepest nesting of brackets: the parser recurses once for each.
    nesting: usize,
    /// Names, numbers, strings and punctuation marks.
    tokens: usize,
}

impl Shape {
    fn of(document: &str) -> Self {
        let bytes = document.as_bytes();
        let mut shape = Self::default();
        let (mut depth, mut at) = (0_usize, 0_usize);
        while at < bytes.len() {
            let began = at;
            match bytes[at] {
                b' ' | b'\t' | b'\r' | b'\n' | b',' => {
                    at += 1;
                    continue;
                }
                b'#' => {
                    while at < bytes.len() && !matches!(bytes[at], b'\n' | b'\r') {
                        at += 1;
                    }
                    continue;
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
                    shape.nesting = shape.nesting.max(depth);
                }
                b'}' | b']' | b')' => depth = depth.saturating_sub(1),
                _ => {}
            }
            // A name, a number or the three dots of a spread are one.
            let one = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
            at += 1;
            while one(bytes[began]) && at < bytes.len() && one(bytes[at]) {
                at += 1;
            }
            shape.tokens += 1;
        }
        shape
    }
}

/// What a selection amounts to once its fragments are filled in.
#[derive(Clone, Copy, Default)]
struct Size {
    fields: usize,
    aliases: usize,
    depth: usize,
    /// Lists of introspection inside one another.
    lists: usize,
    /// Times that the schema is asked for.
    introspections: usize,
}

impl Size {
    fn add(&mut self, other: Self) {
        self.fields = self.fields.saturating_add(other.fields);
        self.aliases = self.aliases.saturating_add(other.aliases);
        self.depth = self.depth.max(other.depth);
        self.lists = self.lists.max(other.lists);
        self.introspections = self.introspections.saturating_add(other.introspections);
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
                    let asks = usize::from(INTROSPECTIONS.contains(&field.name.node.as_str()));
                    inner.introspections = inner.introspections.saturating_add(asks);
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
        let nesting = |document| Shape::of(document).nesting;
        assert_eq!(nesting(r#"{ a(b: "((((((\"((") # [[[["#), 2);
        assert_eq!(nesting(r#"{ a(b: """ (((( \""" (( """) { c } }"#), 2);
        assert_eq!(nesting("\"unterminated"), 0);
        assert_eq!(nesting("\"\"\"unterminated"), 0);
    }

    #[test]
    fn names_numbers_strings_and_marks_are_tokens_and_nothing_else_is() {
        let tokens = |document| Shape::of(document).tokens;
        assert_eq!(tokens(""), 0);
        assert_eq!(tokens(" ,,\t\r\n# a comment { } \n"), 0);
        assert_eq!(tokens("{viewer{mrn}}"), 6);
        assert_eq!(tokens("query($a: [Int!] = [1, 2.5], $b: String) @x"), 21);
        assert_eq!(tokens(r#"{a(b: "c d \" e", f: """g " h""") ...i}"#), 12);
        assert_eq!(tokens("\"unterminated"), 1);
        assert_eq!(tokens("\u{feff}\u{202e}"), 6, "what is no GraphQL counts byte by byte");
    }

    /// Each of these made the engine look at, and complain about, tens of thousands of things one by one.
    #[test]
    fn floods_of_arguments_variables_directives_and_items_are_refused_unparsed() {
        for flood in [
            format!("{{viewer({}){{mrn}}}}", "a:1 ".repeat(4_000)),
            format!("query({}){{viewer{{mrn}}}}", "$a:Int ".repeat(3_000)),
            format!("query {}{{viewer{{mrn}}}}", "@a ".repeat(6_000)),
            format!("query($a:Int {}){{viewer{{mrn}}}}", "@a ".repeat(6_000)),
            format!("{{...f {}}} fragment f on Query{{viewer{{mrn}}}}", "@a ".repeat(6_000)),
            format!("{{...f}} fragment f on Query {}{{viewer{{mrn}}}}", "@a ".repeat(6_000)),
            format!("{{...{}{{viewer{{mrn}}}}}}", "@a ".repeat(6_000)),
            format!("{{viewer(a:[{}]){{mrn}}}}", "1 ".repeat(11_000)),
            format!("{{viewer(a:{{{}}}){{mrn}}}}", "b:1 ".repeat(4_000)),
            format!("query($a:[Int]=[{}]){{viewer{{mrn}}}}", "1 ".repeat(11_000)),
        ] {
            let refusal = refused(&flood);
            assert!(refusal.contains("tokens; at most 10000 are allowed"), "{}…: {refusal}", &flood[..40]);
        }
        assert!(admit(&format!("#{}\n{{viewer{{{}mrn}}}}", "x".repeat(60_000), ",".repeat(60_000))).is_ok());
    }

    #[test]
    fn a_mutation_does_each_thing_under_a_name_of_its_own() {
        let create = "createOrganization(input:{name:\"x\"}){mrn}";
        for twice in [
            format!("mutation{{{create} {create}}}"),
            format!("mutation{{a:{create} a:{create}}}"),
            format!("mutation{{{create} ...on Mutation{{{create}}}}}"),
            format!("mutation{{...f ...f}} fragment f on Mutation{{{create}}}"),
            format!("mutation{{...f ...g}} fragment f on Mutation{{{create}}} fragment g on Mutation{{...f}}"),
            format!("query A{{viewer{{mrn}}}} mutation B{{{create} {create}}}"),
        ] {
            let refusal = refused(&twice);
            assert!(refusal.contains("twice under one name"), "{twice}: {refusal}");
        }
        for once in [
            format!("mutation{{a:{create} b:{create}}}"),
            format!("mutation A{{{create}}} mutation B{{{create}}}"),
            "{viewer{mrn} viewer{name}}".to_owned(),
        ] {
            assert!(admit(&once).is_ok(), "{once}");
        }
    }

    #[test]
    fn introspection_is_bounded_and_the_usual_query_passes() {
        let nested = "{__schema{types{fields{type{fields{type{fields{type{fields{name}}}}}}}}}}";
        let schemas = |n: usize| {
            let each = |i| format!("a{i}:__schema{{queryType{{name}}}} ...{{b{i}:__type(name:\"Query\"){{name}}}} ");
            format!("{{{}}}", (0..n).map(each).collect::<String>())
        };
        assert!(admit(&schemas(2)).is_ok());
        insta::assert_snapshot!(refused(&schemas(3)), @"the document asks for the schema 6 times; 4 are allowed");
        insta::assert_snapshot!(refused(nested), @"introspection may nest at most 3 lists of fields, interfaces or possible types");
        assert!(
            admit(
                "{__schema{types{fields{args{type{ofType{ofType{ofType{ofType{name}}}}}}} inputFields{type{name}}}}}"
            )
            .is_ok()
        );
    }
}
