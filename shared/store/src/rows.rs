//! Many rows as one source in SQL: arrays through `unnest` on PostgreSQL, a list of `VALUES` on SQLite.
//!
//! One statement text serves every batch size on PostgreSQL; SQLite is cut to its limit of bound values.

use sea_orm::{DbBackend, Value};
use uuid::Uuid;

/// SQLite binds at most 32,766 values a statement; some are left for what stands around the rows.
const SQLITE_MAX_VALUES: usize = 32_000;

/// The driver cannot send an absent element inside an array, so these stand for it and become NULL on arrival. A number that is
/// as small as that is sent as the next one.
const NO_INT: i64 = i64::MIN;
const NO_TEXT: &str = "\u{1}";

/// One column of a batch.
#[derive(Clone, Debug)]
pub(crate) enum Column {
    /// UUIDs.
    Uuid(Vec<Uuid>),
    /// Integers, or NULL.
    Int(Vec<Option<i64>>),
    /// Text, or NULL.
    Text(Vec<Option<String>>),
    /// Byte strings.
    Bytes(Vec<Vec<u8>>),
}

/// A batch, column by column, all of one length.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows {
    columns: Vec<(&'static str, Column)>,
}

impl Rows {
    /// Adds a column.
    pub(crate) fn with(mut self, name: &'static str, column: Column) -> Self {
        self.columns.push((name, column));
        self
    }

    pub(crate) fn uuids(self, name: &'static str, values: impl IntoIterator<Item = Uuid>) -> Self {
        self.with(name, Column::Uuid(values.into_iter().collect()))
    }

    pub(crate) fn ints<T: Into<Option<i64>>>(self, name: &'static str, values: impl IntoIterator<Item = T>) -> Self {
        self.with(name, Column::Int(values.into_iter().map(Into::into).collect()))
    }

    pub(crate) fn texts<T: Into<Option<String>>>(self, name: &'static str, values: impl IntoIterator<Item = T>) -> Self {
        self.with(name, Column::Text(values.into_iter().map(Into::into).collect()))
    }

    pub(crate) fn bytes(self, name: &'static str, values: impl IntoIterator<Item = Vec<u8>>) -> Self {
        self.with(name, Column::Bytes(values.into_iter().collect()))
    }

    /// The same without the columns that are NULL in all rows.
    pub(crate) fn present(self) -> Self {
        Self { columns: self.columns.into_iter().filter(|(_, column)| column.is_present()).collect() }
    }

    /// Whether there is a column of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.columns.iter().any(|(known, _)| *known == name)
    }

    /// The names of the columns, with commas between them.
    pub(crate) fn names(&self) -> String {
        self.columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    /// How many rows of this many columns fit into one statement.
    pub(crate) fn limit(backend: DbBackend, columns: usize) -> usize {
        match backend {
            DbBackend::Sqlite => SQLITE_MAX_VALUES / columns.max(1),
            _ => usize::MAX,
        }
    }

    /// A table expression with these columns under the name `v`, and its values. They must come first among the statement's
    /// values; others go behind them and are named by their place, as in `$7` (see [`place`]).
    pub(crate) fn source(self, backend: DbBackend) -> (String, Vec<Value>) {
        match backend {
            DbBackend::Sqlite => self.into_place_list(),
            _ => self.into_arrays(),
        }
    }

    fn into_arrays(self) -> (String, Vec<Value>) {
        let (mut arrays, mut picked, mut values) = (Vec::new(), Vec::new(), Vec::new());
        let names = self.names();
        for (name, column) in self.columns {
            let (value, kind, nothing) = match column {
                Column::Uuid(items) => (items.into(), "uuid", None),
                Column::Int(items) => (ints(items).into(), "bigint", Some(format!("'{NO_INT}'::bigint"))),
                Column::Text(items) => (texts(items).into(), "text", Some("E'\\x01'".to_owned())),
                Column::Bytes(items) => (items.into(), "bytea", None),
            };
            values.push(value);
            arrays.push(format!("${}::{kind}[]", values.len()));
            picked.push(nothing.map_or_else(|| name.to_owned(), |nothing| format!("NULLIF({name}, {nothing}) AS {name}")));
        }
        (format!("(SELECT {} FROM unnest({}) AS u({names})) AS v", picked.join(", "), arrays.join(", ")), values)
    }

    /// Places without a number: SQLite looks a numbered one up among all the others, which takes seconds for thousands of them.
    fn into_place_list(self) -> (String, Vec<Value>) {
        let names: Vec<_> = self.columns.iter().enumerate().map(|(i, (name, _))| format!("column{} AS {name}", i + 1)).collect();
        let mut columns: Vec<_> = self.columns.into_iter().map(|(_, column)| column.into_values().into_iter()).collect();
        let row_of_places = format!("({})", vec!["?"; columns.len()].join(","));
        let (mut rows, mut values) = (Vec::new(), Vec::new());
        loop {
            let row: Vec<Value> = columns.iter_mut().filter_map(Iterator::next).collect();
            if row.is_empty() {
                break;
            }
            values.extend(row);
            rows.push(row_of_places.as_str());
        }
        (format!("(SELECT {} FROM (VALUES {})) AS v", names.join(", "), rows.join(",")), values)
    }
}

/// Adds a value behind those that are there, and names its place.
pub(crate) fn place(values: &mut Vec<Value>, value: impl Into<Value>) -> String {
    values.push(value.into());
    format!("${}", values.len())
}

impl Column {
    /// Whether any of them is not NULL.
    fn is_present(&self) -> bool {
        match self {
            Self::Int(items) => items.iter().any(Option::is_some),
            Self::Text(items) => items.iter().any(Option::is_some),
            Self::Uuid(_) | Self::Bytes(_) => true,
        }
    }

    fn into_values(self) -> Vec<Value> {
        match self {
            Self::Uuid(items) => items.into_iter().map(Into::into).collect(),
            Self::Int(items) => items.into_iter().map(Into::into).collect(),
            Self::Text(items) => items.into_iter().map(Into::into).collect(),
            Self::Bytes(items) => items.into_iter().map(Into::into).collect(),
        }
    }
}

fn ints(items: Vec<Option<i64>>) -> Vec<i64> {
    items.into_iter().map(|item| item.map_or(NO_INT, |item| item.max(NO_INT + 1))).collect()
}

fn texts(items: Vec<Option<String>>) -> Vec<String> {
    items.into_iter().map(|item| item.unwrap_or_else(|| NO_TEXT.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_of_nothing_is_not_present() {
        let rows = Rows::default().ints("a", [None, None::<i64>]).ints("b", [None, Some(1)]).texts("c", [None::<String>, None]);
        assert_eq!(rows.present().names(), "b");
    }

    #[test]
    fn values_beside_the_rows_are_named_behind_them() {
        let rows = || Rows::default().ints("a", [Some(1), None]).texts("b", [Some("x".to_owned()), None]);
        let (sql, mut values) = rows().source(DbBackend::Sqlite);
        assert_eq!(sql, "(SELECT column1 AS a, column2 AS b FROM (VALUES (?,?),(?,?))) AS v");
        assert_eq!(place(&mut values, 9_i64), "$5");
        let (sql, mut values) = rows().source(DbBackend::Postgres);
        assert!(sql.contains("unnest($1::bigint[], $2::text[]) AS u(a, b)"), "{sql}");
        assert_eq!(place(&mut values, 9_i64), "$3");
    }
}
