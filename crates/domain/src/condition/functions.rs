//! The functions a condition may call: a closed list, and the environment that implements those that are ours.

use std::any::Any;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use cel::common::traits::Indexer;
use cel::common::types::{CelBool, CelDouble, CelList, CelString, DYN_TYPE, STRING_TYPE, Type};
use cel::common::value::{CowVal, StaticVal, Val};
use cel::{DeclarationError, Env, ExecutionError};
use regex::Regex;

use super::admit::{Kind, RANGE_MAX};
use super::equality::{contains, equal, is_scalar};
use super::pattern::MATCH_INPUT_MAX;
use crate::network::SourceCidrs;

static PATTERN: Type = Type::new_unspecified_type("pattern");
static NETWORK: Type = Type::new_unspecified_type("network");
static URL: Type = Type::new_unspecified_type("url");

/// How a function is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Style {
    /// `f(x)`
    Global,
    /// `x.f()`
    Member,
    /// Either; with the target counted as first argument in the global form.
    Either,
}

/// A function that conditions may call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function {
    pub(super) name: &'static str,
    pub(super) style: Style,
    /// Fewest and most arguments, the target not counted.
    pub(super) arguments: (usize, usize),
    pub(super) result: Kind,
    /// How it is called, for error messages and the table of `docs/conditions.md`.
    pub(super) usage: &'static str,
}

const fn function(
    name: &'static str,
    style: Style,
    arguments: (usize, usize),
    result: Kind,
    usage: &'static str,
) -> Function {
    Function { name, style, arguments, result, usage }
}

/// The closed list.
pub(super) const FUNCTIONS: &[Function] = &[
    function("size", Style::Either, (0, 0), Kind::Int, "size(x) or x.size()"),
    function("contains", Style::Member, (1, 1), Kind::Bool, "text.contains('part')"),
    function("startsWith", Style::Member, (1, 1), Kind::Bool, "text.startsWith('prefix')"),
    function("endsWith", Style::Member, (1, 1), Kind::Bool, "text.endsWith('suffix')"),
    function("matches", Style::Either, (1, 1), Kind::Bool, "text.matches('pattern')"),
    function("glob", Style::Member, (1, 1), Kind::Bool, "text.glob('pattern')"),
    function("lowerAscii", Style::Member, (0, 0), Kind::String, "text.lowerAscii()"),
    function("upperAscii", Style::Member, (0, 0), Kind::String, "text.upperAscii()"),
    function("split", Style::Member, (1, 1), Kind::List, "text.split('separator')"),
    function("inCidr", Style::Member, (1, 1), Kind::Bool, "text.inCidr('10.0.0.0/8')"),
    function("cidr", Style::Global, (1, 1), Kind::Network, "cidr('10.0.0.0/8')"),
    function("containsIP", Style::Member, (1, 1), Kind::Bool, "cidr('10.0.0.0/8').containsIP(text)"),
    function("url", Style::Global, (1, 1), Kind::Url, "url(text).path"),
    function("getScheme", Style::Member, (0, 0), Kind::String, "url(text).getScheme()"),
    function("getHost", Style::Member, (0, 0), Kind::String, "url(text).getHost()"),
    function("getPath", Style::Member, (0, 0), Kind::String, "url(text).getPath()"),
    function("bool", Style::Global, (1, 1), Kind::Bool, "bool(x)"),
    function("int", Style::Global, (1, 1), Kind::Int, "int(x)"),
    function("double", Style::Global, (1, 1), Kind::Double, "double(x)"),
    function("string", Style::Global, (1, 1), Kind::String, "string(x)"),
    function("timestamp", Style::Global, (1, 1), Kind::Timestamp, "timestamp(claims.iat)"),
    function("duration", Style::Global, (1, 1), Kind::Duration, "duration('10m')"),
    function("type", Style::Global, (1, 1), Kind::Type, "type(x)"),
    function("dyn", Style::Global, (1, 1), Kind::Any, "dyn(x)"),
    function("getFullYear", Style::Member, (0, 1), Kind::Int, "now.getFullYear()"),
    function("getMonth", Style::Member, (0, 1), Kind::Int, "now.getMonth()"),
    function("getDate", Style::Member, (0, 1), Kind::Int, "now.getDate()"),
    function("getDayOfMonth", Style::Member, (0, 1), Kind::Int, "now.getDayOfMonth()"),
    function("getDayOfWeek", Style::Member, (0, 1), Kind::Int, "now.getDayOfWeek()"),
    function("getDayOfYear", Style::Member, (0, 1), Kind::Int, "now.getDayOfYear()"),
    function("getHours", Style::Member, (0, 1), Kind::Int, "now.getHours('Europe/Berlin')"),
    function("getMinutes", Style::Member, (0, 1), Kind::Int, "now.getMinutes()"),
    function("getSeconds", Style::Member, (0, 1), Kind::Int, "now.getSeconds()"),
    function("getMilliseconds", Style::Member, (0, 1), Kind::Int, "now.getMilliseconds()"),
    function("orValue", Style::Member, (1, 1), Kind::Any, "claims.?x.orValue('default')"),
    function("hasValue", Style::Member, (0, 0), Kind::Bool, "claims.?x.hasValue()"),
    function("or", Style::Member, (1, 1), Kind::Optional, "claims.?x.or(claims.?y)"),
    function("value", Style::Member, (0, 0), Kind::Any, "claims.?x.value()"),
];

/// The macros, which are gone once parsed: what is left of one was called with the wrong arguments.
pub(super) const MACROS: &[(&str, &str)] = &[
    ("has", "has(claims.x)"),
    ("all", "list.all(x, test)"),
    ("exists", "list.exists(x, test)"),
    ("exists_one", "list.exists_one(x, test)"),
    ("existsOne", "list.existsOne(x, test)"),
    ("filter", "list.filter(x, test)"),
    ("map", "list.map(x, value)"),
];

/// Passes on what has no elements; its second argument is the operator that the error names. Admission writes it.
pub(super) const SCALAR: &str = "@scalar";
/// As [`SCALAR`], and refuses fractions: what can be looked up in a list or an object.
pub(super) const KEY: &str = "@key";
/// [`equal`] as a function. Admission writes it in place of the operator.
pub(super) const EQUAL: &str = "@equal";
/// [`contains`] as a function, its arguments in the operator's order.
pub(super) const CONTAINS: &str = "@contains";

/// The shared environment: the standard library and our functions.
pub(super) fn env() -> &'static Arc<Env> {
    // Declaring fails only when a name is declared twice, which no input decides and the tests rule out.
    static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(build().unwrap_or_else(|_| Env::stdlib())));
    &ENV
}

fn build() -> Result<Env, DeclarationError> {
    let pattern = || Type::new_unspecified_type("pattern");
    let network = || Type::new_unspecified_type("network");
    let url = || Type::new_unspecified_type("url");
    let mut env = Env::stdlib();
    env.add_member_overload("matches", "string_matches", STRING_TYPE, vec![pattern()], matches)?;
    env.add_member_overload("glob", "string_glob", STRING_TYPE, vec![pattern()], matches)?;
    env.add_member_overload("inCidr", "string_in_cidr", STRING_TYPE, vec![network()], |mut args| {
        args.swap(0, 1);
        contains_ip(args)
    })?;
    env.add_member_overload("containsIP", "cidr_contains_ip", network(), vec![STRING_TYPE], contains_ip)?;
    env.add_member_overload("lowerAscii", "string_lower_ascii", STRING_TYPE, vec![], |args| {
        Ok(CowVal::owned(CelString::from(text(&args, 0)?.to_ascii_lowercase())))
    })?;
    env.add_member_overload("upperAscii", "string_upper_ascii", STRING_TYPE, vec![], |args| {
        Ok(CowVal::owned(CelString::from(text(&args, 0)?.to_ascii_uppercase())))
    })?;
    env.add_member_overload("split", "string_split_string", STRING_TYPE, vec![STRING_TYPE], split)?;
    env.add_overload("url", "string_to_url", vec![STRING_TYPE], |args| {
        let parsed = Url::parse(text(&args, 0)?).map_err(|why| ExecutionError::function_error("url", why))?;
        Ok(CowVal::owned(parsed))
    })?;
    env.add_overload(SCALAR, "any_scalar", vec![DYN_TYPE, STRING_TYPE], scalar)?;
    env.add_overload(KEY, "any_key", vec![DYN_TYPE, STRING_TYPE], |args| {
        let value = scalar(args)?;
        // Whole, and an integer of 64 bits: what the evaluator looks up.
        let whole = |number: f64| number.fract() == 0.0 && number.abs() < 9_223_372_036_854_775_807.0;
        match value.downcast_ref::<CelDouble>() {
            Some(number) if !whole(*number.inner()) => {
                Err(ExecutionError::function_error("[]", "the number is no whole number"))
            }
            _ => Ok(value),
        }
    })?;
    env.add_overload(EQUAL, "any_equal", vec![DYN_TYPE, DYN_TYPE], |args| {
        let (a, b) = two(&args)?;
        Ok(CowVal::owned(CelBool::from(equal(a, b))))
    })?;
    env.add_overload(CONTAINS, "any_contains", vec![DYN_TYPE, DYN_TYPE], |args| {
        let (value, container) = two(&args)?;
        Ok(CowVal::owned(CelBool::from(contains(container, value)?)))
    })?;
    env.add_member_overload("getScheme", "url_get_scheme", url(), vec![], |args| part(&args, "scheme"))?;
    env.add_member_overload("getHost", "url_get_host", url(), vec![], |args| part(&args, "host"))?;
    env.add_member_overload("getPath", "url_get_path", url(), vec![], |args| part(&args, "path"))?;
    Ok(env)
}

/// A value that is compiled with the condition and named `@<index>` in its expression.
pub(super) enum Constant {
    Pattern(Pattern),
    Network(Network),
}

impl Constant {
    pub(super) fn value<'b>(&'b self) -> CowVal<'b, 'b> {
        match self {
            Self::Pattern(pattern) => CowVal::Borrowed(pattern),
            Self::Network(network) => CowVal::Borrowed(network),
        }
    }
}

/// A compiled regular expression. Shared, because a clone of a `Regex` starts without its caches.
#[derive(Clone, Debug)]
pub(super) struct Pattern(pub(super) Arc<Regex>);

/// A parsed CIDR.
#[derive(Clone, Debug)]
pub(super) struct Network(pub(super) Arc<SourceCidrs>);

impl Network {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        SourceCidrs::parse(&[text.to_owned()]).map(|net| Self(Arc::new(net))).map_err(|(_, why)| why)
    }
}

macro_rules! opaque_value {
    ($name:ident, $type:ident) => {
        impl StaticVal for $name {}
        impl Val for $name {
            fn get_type(&self) -> &Type {
                &$type
            }
            fn cel_type() -> &'static Type {
                &$type
            }
            fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
            where
                Self: 'v,
            {
                Box::new(self.clone())
            }
            fn as_any(&self) -> Option<&dyn Any> {
                Some(self)
            }
        }
    };
}

opaque_value!(Pattern, PATTERN);
opaque_value!(Network, NETWORK);

/// The parts of an absolute URL, as written: nothing is decoded or resolved, so that what a rule compares is what the
/// issuer signed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Url {
    scheme: String,
    host: String,
    port: String,
    path: String,
    query: String,
}

impl Url {
    /// Splits `scheme://host[:port][/path][?query][#fragment]`. What two parsers could read differently is refused:
    /// user info, backslashes, spaces, control characters, dot segments.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.split_once("://").ok_or("not a URL of the form scheme://host/path")?;
        let scheme_ok = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
        if !scheme_ok {
            return Err("not a URL of the form scheme://host/path");
        }
        if rest.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
            return Err("the URL contains a space, a backslash or a control character");
        }
        let (rest, _fragment) = rest.split_once('#').unwrap_or((rest, ""));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("the URL contains user information");
        }
        let dots = |mut segment: &str| {
            let mut count = 0;
            while let Some(rest) = [".", "%2e", "%2E"].iter().find_map(|dot| segment.strip_prefix(dot)) {
                segment = rest;
                count += 1;
            }
            segment.is_empty() && matches!(count, 1 | 2)
        };
        if path.split('/').any(dots) {
            return Err("the URL contains dot segments");
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if port.chars().all(|c| c.is_ascii_digit()) && !host.ends_with(':') => (host, port),
            _ => (authority, ""),
        };
        Ok(Self {
            scheme: scheme.to_ascii_lowercase(),
            host: host.to_ascii_lowercase(),
            port: port.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
        })
    }

    fn part(&self, name: &str) -> Option<&str> {
        match name {
            "scheme" => Some(&self.scheme),
            "host" => Some(&self.host),
            "port" => Some(&self.port),
            "path" => Some(&self.path),
            "query" => Some(&self.query),
            _ => None,
        }
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("url")
    }
}

impl StaticVal for Url {}

impl Val for Url {
    fn get_type(&self) -> &Type {
        &URL
    }
    fn cel_type() -> &'static Type {
        &URL
    }
    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }
    fn equals(&self, other: &dyn Val) -> bool {
        other.downcast_ref::<Self>().is_some_and(|other| other == self)
    }
    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(self.clone())
    }
    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl Indexer for Url {
    fn get<'b, 'v>(&'b self, index: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        let name = index.downcast_ref::<CelString>().map(|name| name.inner()).unwrap_or_default();
        let part = self
            .part(name)
            .ok_or_else(|| ExecutionError::function_error("url", "a URL has scheme, host, port, path and query"))?;
        Ok(CowVal::owned(CelString::from(part.to_owned())))
    }

    fn steal<'v>(self: Box<Self>, index: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(index).map(CowVal::into_owned)
    }
}

fn text<'a>(args: &'a [CowVal<'_, '_>], index: usize) -> Result<&'a str, ExecutionError> {
    args.get(index)
        .and_then(|arg| arg.downcast_ref::<CelString>())
        .map(CelString::inner)
        .ok_or_else(ExecutionError::missing_argument_or_target)
}

fn scalar<'b, 'v>(mut args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    match args.first() {
        Some(value) if is_scalar(value.as_ref()) => Ok(args.swap_remove(0)),
        _ => {
            let types = args.iter().take(1).map(|value| value.get_type().name().to_owned()).collect();
            Err(ExecutionError::no_such_overload(text(&args, 1)?, types))
        }
    }
}

/// The two arguments of an operator.
fn two<'a, 'b, 'v>(args: &'a [CowVal<'b, 'v>]) -> Result<(&'a (dyn Val + 'v), &'a (dyn Val + 'v)), ExecutionError> {
    let [a, b] = args else { return Err(ExecutionError::missing_argument_or_target()) };
    Ok((a.as_ref(), b.as_ref()))
}

fn matches<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let text = text(&args, 0)?;
    let pattern = args.get(1).and_then(|arg| arg.downcast_ref::<Pattern>());
    let Pattern(regex) = pattern.ok_or_else(ExecutionError::missing_argument_or_target)?;
    if text.len() > MATCH_INPUT_MAX {
        let why = format!("the text is {} bytes long; at most {MATCH_INPUT_MAX} can be matched", text.len());
        return Err(ExecutionError::function_error("matches", why));
    }
    Ok(CowVal::owned(CelBool::from(regex.is_match(text))))
}

/// `[network, text]`
fn contains_ip<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let network = args.first().and_then(|arg| arg.downcast_ref::<Network>());
    let Network(network) = network.ok_or_else(ExecutionError::missing_argument_or_target)?;
    let address = IpAddr::from_str(text(&args, 1)?)
        .map_err(|_| ExecutionError::function_error("inCidr", "the text is not an IP address"))?;
    Ok(CowVal::owned(CelBool::from(network.contains(address))))
}

fn split<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let (text, separator) = (text(&args, 0)?, text(&args, 1)?);
    let mut parts: Vec<Box<dyn Val + 'v>> = Vec::new();
    let mut push = |part: &str| {
        if parts.len() == RANGE_MAX {
            let why = format!("the text has more than {RANGE_MAX} parts");
            return Err(ExecutionError::function_error("split", why));
        }
        parts.push(Box::new(CelString::from(part.to_owned())));
        Ok(())
    };
    if separator.is_empty() {
        // As in cel-go: the characters.
        let mut buffer = [0; 4];
        text.chars().try_for_each(|c| push(c.encode_utf8(&mut buffer)))?;
    } else {
        text.split(separator).try_for_each(push)?;
    }
    Ok(CowVal::owned(CelList::from(parts)))
}

fn part<'b, 'v>(args: &[CowVal<'b, 'v>], name: &str) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let url = args.first().and_then(|arg| arg.downcast_ref::<Url>());
    let part = url.and_then(|url| url.part(name)).ok_or_else(ExecutionError::missing_argument_or_target)?;
    Ok(CowVal::owned(CelString::from(part.to_owned())))
}
