//! Pages: `first` and `after` in, `pageInfo` and `totalCount` out. What was not selected is not computed.

use async_graphql::{Context, SimpleObject};
use sallyport_store::{Page, PageRequest};

use crate::error::{Error, Result};
use crate::limits::COUNT;

/// Items of a page when `first` is left out.
pub(crate) const FIRST_DEFAULT: i64 = 50;
/// Most items of a page.
pub(crate) const FIRST_MAX: i64 = 1_000;

/// Where a page ends, and whether there is more.
#[derive(SimpleObject, Clone, Debug)]
pub(crate) struct PageInfo {
    /// Whether there are more items after this page.
    has_next_page: bool,
    /// What to give as `after` to get the next page; null when this page is empty.
    end_cursor: Option<String>,
}

impl<T> From<&Page<T>> for PageInfo {
    fn from(page: &Page<T>) -> Self {
        Self { has_next_page: page.has_next, end_cursor: page.end_cursor.clone() }
    }
}

/// Reads `first` and `after`.
pub(crate) fn request(first: Option<i64>, after: Option<String>) -> Result<PageRequest> {
    let first = first.unwrap_or(FIRST_DEFAULT);
    let first = u32::try_from(first)
        .ok()
        .filter(|first| (1..=1_000).contains(first))
        .ok_or_else(|| Error::invalid("first", format!("is {first}; must be between 1 and {FIRST_MAX}")))?;
    if after.as_ref().is_some_and(|cursor| cursor.len() > 4_096) {
        return Err(Error::invalid("after", "must be the endCursor of an earlier page of this list"));
    }
    Ok(PageRequest { first, after })
}

/// What a `totalCount` hands up to [`cost`], which tells it from fields by its size: it is paid once and not for each item.
pub(crate) const COUNTED: usize = 1 << 24;

/// What a list costs: its items' fields, as often as the page has items, and the counts of what there is in all.
pub(crate) fn cost(first: Option<i64>, selected: usize) -> usize {
    let items = usize::try_from(first.unwrap_or(FIRST_DEFAULT).clamp(1, FIRST_MAX)).unwrap_or(1_000);
    let (counts, fields) = (selected / COUNTED, selected % COUNTED);
    fields.saturating_mul(items).saturating_add(counts.saturating_mul(COUNT)).saturating_add(10)
}

/// Whether the caller asked for this field of the result, here or in a nested list.
pub(crate) fn selected(context: &Context<'_>, path: &[&str]) -> bool {
    path.iter().fold(context.look_ahead(), |ahead, name| ahead.field(name)).exists()
}
