//! JSON values as text in columns.
//!
//! What a node answers may come from others, so every cell is [escaped](crate::visible).

use serde_json::Value;

use crate::visible;

/// The items of a list; none if the value is not a list.
pub(super) fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A value as the text of a cell: `-` for null.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => visible::escaped(text),
        other => other.to_string(),
    }
}

/// A list in one cell.
pub(super) fn comma_separated(value: &Value) -> String {
    let cells: Vec<_> = items(value).map(cell).collect();
    if cells.is_empty() { "-".into() } else { cells.join(",") }
}

/// Aligns cells in columns. The last column is not padded.
pub(super) fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let line = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect::<Vec<_>>().join("  ");
        text.extend([line.trim_end(), "\n"]);
    }
    text
}
