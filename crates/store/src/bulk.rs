//! Many rows into one table, by few statements whose texts are few as well.
//!
//! A statement with as many placeholders as there happen to be rows is a new text nearly every time: it is put together anew,
//! and the database parses it anew, which costs more than the rows. Here each text is made, and prepared on each connection,
//! once: on PostgreSQL, which keeps a plan of some hundred kilobytes for each, those for powers of two; on SQLite those for
//! any number up to 64.

use std::marker::PhantomData;
use std::sync::OnceLock;

use sea_orm::sea_query::{Expr, OnConflict, Query};
use sea_orm::{ConnectionTrait, DbBackend, EntityTrait, Iterable, Statement, StatementBuilder, Value};

use crate::error::StoreError;

/// Most rows in one statement of placeholders: larger ones are no faster, and push everything else out of the processor's caches.
pub(crate) const ROWS: usize = 64;
/// What SQLite takes in one statement; PostgreSQL takes twice that.
const PARAMETERS: usize = 32_766;

/// The texts of one statement, by database and number of rows.
pub(crate) struct Texts {
    sqlite: [OnceLock<String>; ROWS],
    postgres: [OnceLock<String>; ROWS],
}

impl Texts {
    pub(crate) const fn new() -> Self {
        Self { sqlite: [const { OnceLock::new() }; ROWS], postgres: [const { OnceLock::new() }; ROWS] }
    }

    /// The text for so many rows, from 1 to [`ROWS`]; made when it is not there yet.
    pub(crate) fn get(&self, backend: DbBackend, rows: usize, make: impl FnOnce() -> String) -> &str {
        let texts = if backend == DbBackend::Sqlite { &self.sqlite } else { &self.postgres };
        texts[rows - 1].get_or_init(make)
    }
}

/// Inserts into the table of `E`. One `static` for each place that inserts.
pub(crate) struct BulkInsert<E> {
    texts: Texts,
    on_conflict: Option<fn() -> OnConflict>,
    table: PhantomData<E>,
}

impl<E: EntityTrait> BulkInsert<E> {
    /// An insert that does this on conflict; `None`: it fails.
    pub(crate) const fn new(on_conflict: Option<fn() -> OnConflict>) -> Self {
        Self { texts: Texts::new(), on_conflict, table: PhantomData }
    }

    /// Inserts rows, of which each has a value for each column. To be called in a transaction.
    ///
    /// # Errors
    /// When the database does not take them; some may have been inserted.
    pub(crate) async fn rows<R: Sync>(
        &self,
        db: &impl ConnectionTrait,
        mut rows: &[R],
        value: impl Fn(&R, E::Column) -> Value + Send + Sync,
    ) -> Result<(), StoreError> {
        let (backend, columns) = (db.get_database_backend(), E::Column::iter().count());
        while !rows.is_empty() {
            let most = rows.len().min(ROWS).min(PARAMETERS / columns);
            let count = if backend == DbBackend::Sqlite { most } else { 1 << most.ilog2() };
            let (part, rest) = rows.split_at(count);
            let mut values = Vec::with_capacity(count * columns);
            for row in part {
                values.extend(E::Column::iter().map(|column| value(row, column)));
            }
            db.execute_raw(Statement::from_sql_and_values(backend, self.text(backend, count), values)).await?;
            rows = rest;
        }
        Ok(())
    }

    /// The statement for so many rows, of which there is at least one.
    fn text(&self, backend: DbBackend, count: usize) -> &str {
        self.texts.get(backend, count, || {
            let mut insert = Query::insert();
            insert.into_table(E::default()).columns(E::Column::iter());
            for _ in 0..count {
                // Placeholders is all that becomes of the values.
                insert.values_panic(E::Column::iter().map(|_| Expr::val(0)));
            }
            if let Some(on_conflict) = self.on_conflict {
                insert.on_conflict(on_conflict());
            }
            let sql = StatementBuilder::build(&insert, &backend).sql;
            // SQLite keeps a copy of each page that a statement changes, to undo it should it fail half-way. With `OR FAIL`
            // it does not: whoever inserts here gives up the whole transaction then.
            if backend == DbBackend::Sqlite { sql.replacen("INSERT INTO", "INSERT OR FAIL INTO", 1) } else { sql }
        })
    }
}
