//! Pages by key, never by offset: a page costs the same wherever it lies, and rows that come and go meanwhile are neither
//! shown twice nor skipped.

use sallyport_domain::base64url;
use sea_orm::sea_query::{Expr, ExprTrait, SimpleExpr};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, Order, QueryFilter, QueryOrder, QuerySelect, Select, Value};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::StoreError;
use crate::store::timed;

/// Most items of one page; a larger `first` is taken as this.
pub const PAGE_MAX: u32 = 1_000;

/// Which page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageRequest {
    /// How many items at most; 1 to [`PAGE_MAX`].
    pub first: u32,
    /// The `end_cursor` of the page before; `None` for the first page.
    pub after: Option<String>,
}

impl PageRequest {
    /// The first page of `first` items.
    pub const fn first(first: u32) -> Self {
        Self { first, after: None }
    }
}

impl Default for PageRequest {
    fn default() -> Self {
        Self::first(50)
    }
}

/// One page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page<T> {
    /// The items, in order.
    pub items: Vec<T>,
    /// What to ask the next page with; `None` when the page is empty.
    pub end_cursor: Option<String>,
    /// Whether there is more.
    pub has_next: bool,
}

impl<T> Page<T> {
    /// The same page of something made from each item.
    ///
    /// # Errors
    /// The first error of `convert`.
    pub fn try_map<U, E>(self, convert: impl FnMut(T) -> Result<U, E>) -> Result<Page<U>, E> {
        let items = self.items.into_iter().map(convert).collect::<Result<_, _>>()?;
        Ok(Page { items, end_cursor: self.end_cursor, has_next: self.has_next })
    }
}

/// A value that rows are ordered by.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum Key {
    #[serde(rename = "t")]
    Text(String),
    #[serde(rename = "n")]
    Number(i64),
    #[serde(rename = "u")]
    Id(Uuid),
}

impl Key {
    fn value(self) -> SimpleExpr {
        Expr::val::<Value>(match self {
            Self::Text(text) => text.into(),
            Self::Number(number) => number.into(),
            Self::Id(id) => id.into(),
        })
    }
}

/// What an order is: a column, the id as tie-break, and a name that keeps the cursors of different orders apart.
#[derive(Clone, Copy)]
pub(crate) struct Keyset<C> {
    pub(crate) name: &'static str,
    pub(crate) sort: C,
    pub(crate) id: C,
    pub(crate) descending: bool,
}

/// The name of the order, then where the page ended.
#[derive(Serialize, Deserialize)]
struct Cursor(String, Key, Key);

/// The cursor of a page that ends there.
pub(crate) fn end_cursor(order: &str, sort: Key, id: Key) -> Result<String, StoreError> {
    encode(&Cursor(order.to_owned(), sort, id))
}

fn encode(cursor: &Cursor) -> Result<String, StoreError> {
    let json = serde_json::to_vec(cursor).map_err(|error| StoreError::Database(error.to_string()))?;
    Ok(base64url::encode(json))
}

/// `kinds` are values of the kinds that the order's columns have.
fn decode(text: &str, name: &str, kinds: (&Key, &Key)) -> Result<(Key, Key), StoreError> {
    let json = base64url::decode(text).map_err(|_| StoreError::BadCursor)?;
    let Cursor(of, sort, id) = serde_json::from_slice(&json).map_err(|_| StoreError::BadCursor)?;
    let same = |a: &Key, b: &Key| std::mem::discriminant(a) == std::mem::discriminant(b);
    let nul = |key: &Key| matches!(key, Key::Text(text) if text.contains('\0'));
    if of != name || !same(&sort, kinds.0) || !same(&id, kinds.1) || nul(&sort) || nul(&id) {
        return Err(StoreError::BadCursor);
    }
    Ok((sort, id))
}

/// `select`, ordered and cut to the rows of the page and one more.
pub(crate) fn keyset<E: EntityTrait>(
    select: Select<E>,
    order: &Keyset<E::Column>,
    kinds: (&Key, &Key),
    request: &PageRequest,
) -> Result<Select<E>, StoreError> {
    let direction = if order.descending { Order::Desc } else { Order::Asc };
    let mut select = select
        .order_by(order.sort, direction.clone())
        .order_by(order.id, direction)
        .limit(u64::from(request.first.clamp(1, PAGE_MAX)) + 1);
    if let Some(after) = &request.after {
        let (sort, id) = decode(after, order.name, kinds)?;
        let columns = Expr::tuple([Expr::col(order.sort.as_column_ref()), Expr::col(order.id.as_column_ref())]);
        let bound = Expr::tuple([sort.value(), id.value()]);
        select = select.filter(if order.descending { columns.lt(bound) } else { columns.gt(bound) });
    }
    Ok(select)
}

/// One page of `select`; `key_of` gives the values of the order's two columns.
pub(crate) async fn page<E: EntityTrait>(
    db: &impl ConnectionTrait,
    select: Select<E>,
    order: Keyset<E::Column>,
    kinds: (&Key, &Key),
    request: &PageRequest,
    key_of: impl Fn(&E::Model) -> (Key, Key),
) -> Result<Page<E::Model>, StoreError> {
    let mut items = timed("list", keyset(select, &order, kinds, request)?.all(db)).await?;
    let wanted = usize::try_from(request.first.clamp(1, PAGE_MAX)).unwrap_or(usize::MAX);
    let has_next = items.len() > wanted;
    items.truncate(wanted);
    let end_cursor = items
        .last()
        .map(|last| {
            let (sort, id) = key_of(last);
            end_cursor(order.name, sort, id)
        })
        .transpose()?;
    Ok(Page { items, end_cursor, has_next })
}

pub(crate) const TEXT: Key = Key::Text(String::new());
pub(crate) const NUMBER: Key = Key::Number(0);
pub(crate) const ID: Key = Key::Id(Uuid::nil());

#[cfg(test)]
pub(crate) fn cursor(name: &str, sort: Key, id: Key) -> String {
    end_cursor(name, sort, id).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn cursors_round_trip(text in "[^\0]*", number in any::<i64>(), id in any::<u128>()) {
            let id = Key::Id(Uuid::from_u128(id));
            for (sort, kind) in [(Key::Text(text), &TEXT), (Key::Number(number), &NUMBER)] {
                let after = cursor("order", sort.clone(), id.clone());
                prop_assert_eq!(decode(&after, "order", (kind, &ID)), Ok((sort, id.clone())));
                prop_assert_eq!(decode(&after, "another", (kind, &ID)), Err(StoreError::BadCursor));
                prop_assert_eq!(decode(&after, "order", (&ID, &ID)), Err(StoreError::BadCursor));
            }
        }

        #[test]
        fn what_is_no_cursor_is_refused(text in ".*") {
            prop_assert_eq!(decode(&text, "order", (&TEXT, &ID)), Err(StoreError::BadCursor));
        }
    }

    #[test]
    fn forged_text_cannot_reach_the_database_as_an_error() {
        let after = cursor("order", Key::Text("a\0".into()), ID);
        assert_eq!(decode(&after, "order", (&TEXT, &ID)), Err(StoreError::BadCursor));
    }
}
