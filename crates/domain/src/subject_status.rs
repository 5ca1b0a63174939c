//! What an admin has said about one subject of a provider: that it gets nothing for now, or that what it has got has ended.
//! A rule of its own beside the trusts, because a subject may match many of them.

use std::borrow::Cow;

use crate::clock::Timestamp;
use crate::id::ProviderId;

/// The status of one subject at one provider. Subjects without one are as their trusts say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubjectStatus {
    /// The provider whose subject it is; the same name at another provider is somebody else.
    pub provider: ProviderId,
    /// The subject, whole and case-sensitive, as [`recorded`] writes it.
    pub subject: String,
    /// A disabled subject neither gets nor uses credentials, whichever trust it matches.
    pub disabled: bool,
    /// Credentials issued to it before this time no longer work.
    pub credentials_not_before: Option<Timestamp>,
    /// When this was last said.
    pub updated_at: Timestamp,
    /// MRN of the principal who said it.
    pub updated_by: String,
}

/// A subject as records and statuses hold it: PostgreSQL's text cannot hold U+0000, which a stranger's token can.
pub fn recorded(subject: &str) -> Cow<'_, str> {
    if subject.contains('\0') { Cow::Owned(subject.replace('\0', "\u{FFFD}")) } else { Cow::Borrowed(subject) }
}
