//! Limits of everything an admin may type, and errors that name the field and say what would be right.

use crate::network::SourceCidrs;

/// Longest `name`, in bytes.
pub const NAME_MAX: usize = 256;
/// Longest `description`, in bytes.
pub const DESCRIPTION_MAX: usize = 4_096;
/// Longest issuer or key-set URL, in bytes.
pub const URL_MAX: usize = 2_048;
/// Longest subject pattern, audience, mapping key or mapping value, in bytes.
pub const TEXT_MAX: usize = 1_024;
/// Most entries in any list of a trust, a provider or a role request.
pub const LIST_MAX: usize = 32;
/// Longest condition, in bytes.
pub const CONDITION_MAX: usize = 1_024;
/// Longest uploaded key set, in bytes.
pub const KEY_SET_MAX: usize = 256 * 1_024;
/// Longest credential lifetime, in seconds: the platform cap of 24 hours.
pub const LIFETIME_MAX: u32 = 86_400;

/// An input that cannot be accepted: which field, what is wrong and what would be right.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{field}: {message}")]
pub struct FieldError {
    /// The input field, in the schema's spelling; `mappings[2].key` inside lists.
    pub field: String,
    /// What is wrong and what would be right. Never holds a secret.
    pub message: String,
}

impl FieldError {
    /// An error about `field`.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// Refuses text that is blank, longer than `max` bytes, or holds control characters.
pub fn required_text(field: &str, text: &str, max: usize) -> Result<(), FieldError> {
    if text.trim().is_empty() {
        return Err(FieldError::new(field, "must not be empty"));
    }
    text_within(field, text, max)
}

/// Whether a character makes what follows read in another order than it is compared: the embeddings, overrides and isolates of
/// the bidirectional algorithm (UAX #9, section 2). What an admin sees must be what is matched.
const fn turns_text(c: char) -> bool {
    matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// Refuses text that is longer than `max` bytes or holds control characters (line breaks and tabs are allowed in `description`).
pub fn text_within(field: &str, text: &str, max: usize) -> Result<(), FieldError> {
    if text.len() > max {
        return Err(FieldError::new(field, format!("is {} bytes long; at most {max} are allowed", text.len())));
    }
    let multiline = field == "description";
    let unseen = |c: &char| c.is_control() && !(multiline && matches!(c, '\n' | '\r' | '\t')) || turns_text(*c);
    if let Some(c) = text.chars().find(unseen) {
        return Err(FieldError::new(field, format!("contains the control character U+{:04X}", u32::from(c))));
    }
    Ok(())
}

/// Refuses lists longer than [`LIST_MAX`].
pub fn list_within<T>(field: &str, list: &[T]) -> Result<(), FieldError> {
    if list.len() > LIST_MAX {
        return Err(FieldError::new(field, format!("has {} entries; at most {LIST_MAX} are allowed", list.len())));
    }
    Ok(())
}

/// Checks a lifetime: 1 to 86,400 seconds.
pub fn lifetime(field: &str, seconds: i64) -> Result<u32, FieldError> {
    u32::try_from(seconds)
        .ok()
        .filter(|s| (1..=LIFETIME_MAX).contains(s))
        .ok_or_else(|| FieldError::new(field, format!("is {seconds}; must be between 1 and {LIFETIME_MAX} seconds")))
}

/// Parses source CIDRs, naming the entry that is wrong.
pub fn source_cidrs(field: &str, cidrs: &[String]) -> Result<SourceCidrs, FieldError> {
    list_within(field, cidrs)?;
    SourceCidrs::parse(cidrs).map_err(|(index, message)| FieldError::new(format!("{field}[{index}]"), message))
}

/// Joins the texts for a message: `a, b, c`.
pub(crate) fn joined<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let mut text = String::new();
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        text.push_str(item.as_ref());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_holds_nothing_that_cannot_be_seen() {
        for bad in ["a\0b", "a\nb", "a\u{7f}b", "a\u{85}b", "repo:acme/\u{202E}gnimoc", "a\u{2066}b"] {
            assert!(text_within("name", bad, 100).unwrap_err().message.starts_with("contains the control character"));
        }
        assert!(text_within("description", "two\nlines\tand a tab", 100).is_ok());
        assert!(text_within("description", "a\u{202A}b", 100).is_err());
        assert!(text_within("name", "Zürich 株式会社 שלום", 100).is_ok());
    }
}
