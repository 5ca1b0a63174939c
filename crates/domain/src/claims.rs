//! Claims: strict JSON, parsed once, read by matching and conditions alike.
//!
//! Two readers that disagree about a document are how strangers get in, so whatever parsers disagree about is refused:
//! duplicate members, members that differ from a registered claim only by case, deep nesting, trailing bytes.

mod value;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use self_cell::self_cell;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number};

pub use value::{Members, Value};

/// Deepest nesting of claims that is accepted.
pub const DEPTH_MAX: usize = 16;
/// Deepest nesting of any other JSON from a stranger (JOSE headers, AWS documents).
pub const JSON_DEPTH_MAX: usize = 32;
/// Longest array inside claims: conditions iterate over them.
pub const ARRAY_MAX: usize = 1_000;

/// The claims with a meaning of their own (RFC 7519 section 4.1); no other member may spell one in another case.
pub const REGISTERED: [&str; 7] = ["iss", "sub", "aud", "exp", "nbf", "iat", "jti"];
/// The length of each of them.
const REGISTERED_LENGTH: usize = 3;

/// A JSON object that passed the strict parser.
#[derive(Clone)]
pub struct Claims(Arc<Document>);

self_cell! {
    struct Document {
        owner: String,
        #[covariant]
        dependent: Members,
    }
}

impl Default for Claims {
    fn default() -> Self {
        Self(Arc::new(Document::new(String::new(), |_| Members::default())))
    }
}

impl PartialEq for Claims {
    fn eq(&self, other: &Self) -> bool {
        self.members() == other.members()
    }
}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Claims").field(self.members()).finish()
    }
}

/// Why bytes are not acceptable claims. Tells a caller about its own token only.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ClaimsError(pub String);

impl Claims {
    /// Parses a JWT payload or an admin's sample claims.
    ///
    /// # Errors
    /// When the bytes are not one JSON object in UTF-8, hold a member twice, hold a case twin of a registered claim,
    /// nest deeper than [`DEPTH_MAX`] or hold an array longer than [`ARRAY_MAX`].
    pub fn parse(bytes: impl Into<Vec<u8>>) -> Result<Self, ClaimsError> {
        let text = String::from_utf8(bytes.into()).map_err(|_| not_utf8())?;
        let document = Document::try_new(text, |text| {
            let members = members_of(text, DEPTH_MAX, ARRAY_MAX)?;
            for name in members.keys() {
                if let Some(twin) = twin(name) {
                    return Err(ClaimsError(format!(
                        "the member '{}' differs from '{twin}' only by case",
                        printable(name)
                    )));
                }
            }
            Ok(members)
        })?;
        Ok(Self(Arc::new(document)))
    }

    /// The members, in document order.
    pub fn members(&self) -> &Members<'_> {
        self.0.borrow_dependent()
    }

    /// One top-level member.
    pub fn get(&self, name: &str) -> Option<&Value<'_>> {
        self.members().get(name)
    }

    /// A member as a non-empty string; `Ok(None)` when absent.
    ///
    /// # Errors
    /// When it is there with another type, or empty.
    pub fn text(&self, name: &str) -> Result<Option<&str>, ClaimsError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
            Some(_) => Err(ClaimsError(format!("'{name}' must be a non-empty string"))),
        }
    }

    /// A member as a time in whole seconds (RFC 7519 `NumericDate`); fractions are cut off. `Ok(None)` when absent.
    ///
    /// # Errors
    /// When it is there with another type, negative, or beyond the year 9999.
    pub fn numeric_date(&self, name: &str) -> Result<Option<i64>, ClaimsError> {
        const YEAR_9999: f64 = 253_402_300_799.0;
        match self.get(name) {
            None => Ok(None),
            Some(Value::Number(number)) => match number.as_f64() {
                #[expect(clippy::cast_possible_truncation, reason = "bounded just above the cast")]
                Some(seconds) if (0.0..=YEAR_9999).contains(&seconds) => Ok(Some(seconds as i64)),
                _ => Err(ClaimsError(format!("'{name}' must be a time in seconds since 1970"))),
            },
            Some(_) => Err(ClaimsError(format!("'{name}' must be a number"))),
        }
    }

    /// `aud` as a list (RFC 7519 section 4.1.3: a string or an array of strings); empty when absent.
    ///
    /// # Errors
    /// When it is there with another type.
    pub fn audiences(&self) -> Result<Vec<&str>, ClaimsError> {
        let wrong = || ClaimsError("'aud' must be a string or an array of strings".into());
        match self.get("aud") {
            None => Ok(Vec::new()),
            Some(Value::String(one)) => Ok(vec![&**one]),
            Some(Value::Array(many)) => many.iter().map(|v| v.as_str().ok_or_else(wrong)).collect(),
            Some(_) => Err(wrong()),
        }
    }
}

impl From<&Claims> for serde_json::Value {
    fn from(claims: &Claims) -> Self {
        Self::Object(claims.members().into())
    }
}

/// As [`parse_members`], for documents that are not read for each exchange.
///
/// # Errors
/// The same.
pub fn parse_object(bytes: &[u8], depth: usize, array: usize) -> Result<Map<String, serde_json::Value>, ClaimsError> {
    parse_members(bytes, depth, array).map(|members| (&members).into())
}

/// Parses exactly one JSON object: no duplicate members, at most `depth` levels, arrays of at most `array` elements,
/// nothing after it.
///
/// # Errors
/// Says what is wrong, without repeating the document.
pub fn parse_members(bytes: &[u8], depth: usize, array: usize) -> Result<Members<'_>, ClaimsError> {
    members_of(str::from_utf8(bytes).map_err(|_| not_utf8())?, depth, array)
}

fn members_of(text: &str, depth: usize, array: usize) -> Result<Members<'_>, ClaimsError> {
    let mut reader = serde_json::Deserializer::from_str(text);
    // The outermost object has nearly all members: there is room for them at once.
    let members = (text.len() / MEMBER_BYTES).clamp(4, MEMBERS_EXPECTED);
    let value = Strict { depth, array, members }.deserialize(&mut reader).map_err(explain)?;
    reader.end().map_err(|_| ClaimsError("has bytes after the JSON object".into()))?;
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(ClaimsError("is not a JSON object".into())),
    }
}

fn not_utf8() -> ClaimsError {
    ClaimsError("is not UTF-8".into())
}

/// The registered name from which this one differs by case alone.
fn twin(name: &str) -> Option<&'static str> {
    let ascii = name.is_ascii();
    // As nearly every name: case changes the length of none in ASCII.
    if ascii && name.len() != REGISTERED_LENGTH {
        return None;
    }
    let same = |known: &str| if ascii { name.eq_ignore_ascii_case(known) } else { folded(name).eq(known.chars()) };
    REGISTERED.into_iter().find(|registered| same(registered) && name != *registered)
}

/// As Unicode's simple case folding has it, for the letters of the registered names: `ſ` (U+017F) is an `s` to some readers.
fn folded(name: &str) -> impl Iterator<Item = char> {
    name.chars().flat_map(char::to_lowercase).map(|c| if c == 'ſ' { 's' } else { c })
}

fn explain(error: serde_json::Error) -> ClaimsError {
    // Our own refusals are complete sentences; serde_json's syntax errors carry no text of the document.
    ClaimsError(format!("is not acceptable JSON: {error}"))
}

fn printable(name: &str) -> String {
    name.chars().take(64).filter(|c| !c.is_control()).collect()
}

#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
    array: usize,
    /// How many members to make room for.
    members: usize,
}

/// Of how many bytes a member of a token's payload is at least, on average.
const MEMBER_BYTES: usize = 24;
/// For how many members there is room from the beginning, at most.
const MEMBERS_EXPECTED: usize = 64;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value<'de>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value<'de>, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value<'de>, E> {
        Ok(Value::Number(v.into()))
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value<'de>, E> {
        Ok(Value::Number(v.into()))
    }
    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Value<'de>, E> {
        Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("a number is out of range"))
    }
    fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::String(Cow::Borrowed(v)))
    }
    fn visit_str<E>(self, v: &str) -> Result<Value<'de>, E> {
        Ok(Value::String(Cow::Owned(v.to_owned())))
    }
    fn visit_unit<E>(self) -> Result<Value<'de>, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value<'de>, A::Error> {
        let inner = self.deeper::<A::Error>()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(inner)? {
            if items.len() == self.array {
                return Err(A::Error::custom(format!("an array has more than {} elements", self.array)));
            }
            items.push(item);
        }
        Ok(Value::Array(items.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value<'de>, A::Error> {
        let inner = self.deeper::<A::Error>()?;
        let mut members = Vec::with_capacity(self.members);
        while let Some(name) = map.next_key_seed(Name)? {
            members.push((name, map.next_value_seed(inner)?));
        }
        let twice = |name: Cow<'_, str>| A::Error::custom(format!("the member '{}' appears twice", printable(&name)));
        Members::new(members).map(Value::Object).map_err(twice)
    }
}

/// A member's name.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }
    fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(v))
    }
    fn visit_str<E>(self, v: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(v.to_owned()))
    }
}

impl Strict {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        let depth = self.depth.checked_sub(1).ok_or_else(|| E::custom("nests too deeply"))?;
        Ok(Self { depth, array: self.array, members: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twin_is_found_of_each_registered_claim() {
        for registered in REGISTERED {
            assert_eq!(registered.len(), REGISTERED_LENGTH);
            assert_eq!(twin(registered), None);
            let last = registered.to_uppercase();
            for other in [last.clone(), [&registered[..2], &last[2..]].concat(), last.replace('S', "ſ")] {
                assert_eq!(twin(&other), Some(registered), "{other}");
            }
            assert_eq!([format!("{last}s"), last[1..].to_owned()].map(|other| twin(&other)), [None, None]);
        }
    }

    #[test]
    fn refuses_what_two_parsers_could_read_differently() {
        let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(20), "]".repeat(20));
        let long = format!(r#"{{"a":[{}0]}}"#, "0,".repeat(ARRAY_MAX));
        for bad in [
            r#"{"sub":"a","sub":"b"}"#,
            r#"{"a":{"b":1,"b":2}}"#,
            r#"{"Sub":"a"}"#,
            r#"{"ſub":"a"}"#,
            r#"{"sub":"a"} "x""#,
            "[]",
            "\"x\"",
            "",
            r#"{"a":"\ud800"}"#,
            r#"{"a":NaN}"#,
            r#"{"a":1e999}"#,
            r#"{"a":1,}"#,
            r#"{"s\u0075b":"a","sub":"b"}"#,
            &deep,
            &long,
        ] {
            assert!(Claims::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(Claims::parse(b"{\"a\":\"\xff\"}").is_err());
    }

    /// As every other reader has them: a reader that is one bit off matches other values, and reads its own text anew
    /// as yet another number.
    #[test]
    fn fractions_are_read_to_the_nearest_double() {
        for text in [
            "0.118446744073709551616",
            "123456789012345678901",
            "1e23",
            "0.1",
            "2.2250738585072014e-308",
            "1.7976931348623157e308",
        ] {
            let claims = Claims::parse(format!(r#"{{"n":{text}}}"#).as_bytes()).unwrap();
            assert_eq!(
                claims.get("n").map(ToString::to_string).and_then(|n| n.parse::<f64>().ok()),
                text.parse().ok(),
                "{text}"
            );
            let written = serde_json::Value::from(&claims).to_string();
            assert_eq!(Claims::parse(written.as_bytes()), Ok(claims), "{text}");
        }
    }

    #[test]
    fn wrong_types_are_refusals_not_absences() {
        let claims =
            Claims::parse(br#"{"exp":"1","sub":"","iss":1,"aud":["a",1],"nbf":-1,"iat":1700000000.9}"#).unwrap();
        assert!(claims.numeric_date("exp").is_err());
        assert!(claims.text("sub").is_err());
        assert!(claims.text("iss").is_err());
        assert!(claims.audiences().is_err());
        assert!(claims.numeric_date("nbf").is_err());
        assert_eq!(claims.numeric_date("iat"), Ok(Some(1_700_000_000)));
        assert_eq!(claims.text("jti"), Ok(None));
    }
}
