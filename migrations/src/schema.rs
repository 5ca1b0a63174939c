//! Words shared by the migrations: column shapes, and tables and indexes that tolerate being made twice,
//! since several replicas may start on one empty database.

use sea_orm_migration::prelude::*;

pub(crate) fn id(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).uuid().not_null().take()
}

pub(crate) fn maybe_id(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).uuid().null().take()
}

pub(crate) fn text(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).text().not_null().take()
}

pub(crate) fn maybe_text(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).text().null().take()
}

/// A time, a revision or a count.
pub(crate) fn number(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).big_integer().not_null().take()
}

pub(crate) fn maybe_number(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).big_integer().null().take()
}

pub(crate) fn flag(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).boolean().not_null().take()
}

pub(crate) fn bytes(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).blob().not_null().take()
}

pub(crate) fn maybe_bytes(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).blob().null().take()
}

pub(crate) fn table(name: &'static str, columns: impl IntoIterator<Item = ColumnDef>) -> TableCreateStatement {
    let mut table = Table::create().table(name).if_not_exists().take();
    for column in columns {
        table.col(column);
    }
    table
}

/// A primary key of several columns.
pub(crate) fn primary_key<const N: usize>(columns: [&'static str; N]) -> IndexCreateStatement {
    let mut key = Index::create().primary().take();
    for column in columns {
        key.col(column);
    }
    key
}

/// A reference that must be gone before its target can go.
pub(crate) fn reference(
    from: &'static str,
    column: &'static str,
    to: &'static str,
    target: &'static str,
) -> ForeignKeyCreateStatement {
    ForeignKey::create()
        .name(format!("fk_{from}_{column}"))
        .from(from, column)
        .to(to, target)
        .on_delete(ForeignKeyAction::Restrict)
        .take()
}

pub(crate) fn index<const N: usize>(table: &'static str, columns: [&'static str; N]) -> IndexCreateStatement {
    let mut index =
        Index::create().name(format!("ix_{table}_{}", columns.join("_"))).table(table).if_not_exists().take();
    for column in columns {
        index.col(column);
    }
    index
}

pub(crate) fn unique<const N: usize>(
    name: &'static str,
    table: &'static str,
    columns: [&'static str; N],
) -> IndexCreateStatement {
    let mut index = Index::create().name(name).table(table).unique().if_not_exists().take();
    for column in columns {
        index.col(column);
    }
    index
}

pub(crate) async fn create(
    manager: &SchemaManager<'_>,
    table: TableCreateStatement,
    indexes: impl IntoIterator<Item = IndexCreateStatement>,
) -> Result<(), DbErr> {
    manager.create_table(table).await?;
    for index in indexes {
        manager.create_index(index).await?;
    }
    Ok(())
}

/// Drops tables, in the order given; their indexes go with them.
pub(crate) async fn drop<const N: usize>(manager: &SchemaManager<'_>, tables: [&'static str; N]) -> Result<(), DbErr> {
    for table in tables {
        manager.drop_table(Table::drop().table(table).if_exists().take()).await?;
    }
    Ok(())
}

pub(crate) async fn add_column(
    manager: &SchemaManager<'_>,
    table: &'static str,
    column: ColumnDef,
) -> Result<(), DbErr> {
    manager.alter_table(Table::alter().table(table).add_column(column).take()).await
}

pub(crate) async fn drop_column(
    manager: &SchemaManager<'_>,
    table: &'static str,
    column: &'static str,
) -> Result<(), DbErr> {
    manager.alter_table(Table::alter().table(table).drop_column(column).take()).await
}

/// Says that programs which know the migration of this name, and those after it, can work with the schema from here on.
pub(crate) async fn oldest_program(manager: &SchemaManager<'_>, migration: &'static str) -> Result<(), DbErr> {
    let mut fact = Query::insert();
    fact.into_table("installation")
        .columns(["key", "value"])
        .values_panic([crate::OLDEST_PROGRAM.into(), migration.into()])
        .on_conflict(OnConflict::column("key").update_column("value").to_owned());
    manager.execute(fact).await
}
