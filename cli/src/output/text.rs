//! The formats that are not JSON, each a pure function from JSON values to text.

use comfy_table::{Attribute, Cell, ContentArrangement, Table, TableStyle};
use serde_json::Value;

use super::Column;

/// How a table looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    /// Headings are bold and states coloured.
    pub(super) colour: bool,
    /// Cells are wrapped to the terminal's width; without it every row is one line, for `grep`.
    pub(super) fitted: bool,
}

/// A table with one row per value.
pub(super) fn table(columns: &[Column], values: &[Value], style: Style) -> String {
    let mut table = plain_table(style);
    table.set_header(
        columns
            .iter()
            .map(|column| heading(column.title, style.colour)),
    );
    for value in values {
        table.add_row(
            columns
                .iter()
                .map(|column| cell(&value[column.field], style.colour)),
        );
    }
    finish(&table)
}

/// A two-column table with one row per field of `value`.
pub(super) fn fields(columns: &[Column], value: &Value, style: Style) -> String {
    let mut table = plain_table(style);
    for column in columns {
        table.add_row([
            heading(column.title, style.colour),
            cell(&value[column.field], style.colour),
        ]);
    }
    finish(&table)
}

fn plain_table(style: Style) -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    if style.fitted {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    } else {
        table.force_no_tty();
    }
    if style.colour {
        table.enforce_styling();
    }
    table
}

fn finish(table: &Table) -> String {
    table.lines().fold(String::new(), |mut text, line| {
        text.push_str(line.trim());
        text.push('\n');
        text
    })
}

fn heading(title: &str, colour: bool) -> Cell {
    let cell = Cell::new(title);
    if colour {
        cell.add_attribute(Attribute::Bold)
    } else {
        cell
    }
}

/// A cell; words that name a state are coloured, and stay readable without colour.
fn cell(value: &Value, colour: bool) -> Cell {
    let text = match value {
        Value::Null => "-".to_owned(),
        other => scalar(other),
    };
    let shade = match text.as_str() {
        "active" | "running" | "ok" => Some(comfy_table::Color::Green),
        "provisioning" | "draining" | "starting" | "warning" | "readonly" => {
            Some(comfy_table::Color::Yellow)
        }
        "suspended" | "down" | "degraded" | "failed" | "closing" => Some(comfy_table::Color::Red),
        _ => None,
    };
    match shade {
        Some(shade) if colour => Cell::new(text).fg(shade),
        _ => Cell::new(text),
    }
}

/// A value on one line: lists joined with commas, objects as compact JSON.
fn scalar(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(scalar).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// RFC 4180 text with a header line; lines end in CR LF.
pub(super) fn csv(columns: &[Column], values: &[Value]) -> String {
    let header = columns
        .iter()
        .map(|column| csv_field(column.field))
        .collect::<Vec<_>>();
    let rows = values.iter().map(|value| {
        let row = columns
            .iter()
            .map(|column| csv_field(&scalar(&value[column.field])));
        row.collect::<Vec<_>>().join(",")
    });
    std::iter::once(header.join(","))
        .chain(rows)
        .fold(String::new(), |text, line| text + &line + "\r\n")
}

fn csv_field(text: &str) -> String {
    if text.contains(['"', ',', '\r', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

/// A YAML 1.2 document in block style.
pub(super) fn yaml(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Array(items) if items.is_empty() => text.push_str("[]\n"),
        Value::Object(map) if map.is_empty() => text.push_str("{}\n"),
        Value::Array(_) | Value::Object(_) => yaml_block(value, 0, &mut text),
        leaf => {
            text.push_str(&yaml_leaf(leaf));
            text.push('\n');
        }
    }
    text
}

/// Writes a non-empty list or map at `indent` columns. The first line is written where the cursor stands.
fn yaml_block(value: &Value, indent: usize, text: &mut String) {
    let mut first = true;
    let mut begin_line = |text: &mut String| {
        if !std::mem::take(&mut first) {
            text.push_str(&" ".repeat(indent));
        }
    };
    match value {
        Value::Array(items) => {
            for item in items {
                begin_line(text);
                text.push_str("- ");
                yaml_entry(item, indent, true, text);
            }
        }
        Value::Object(map) => {
            for (key, item) in map {
                begin_line(text);
                text.push_str(&yaml_string(key));
                text.push(':');
                yaml_entry(item, indent, false, text);
            }
        }
        _ => {}
    }
}

/// Writes what follows `- ` or `key:`.
fn yaml_entry(item: &Value, indent: usize, in_list: bool, text: &mut String) {
    let nested = match item {
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => false,
    };
    if nested && in_list {
        yaml_block(item, indent + 2, text);
    } else if nested {
        text.push('\n');
        text.push_str(&" ".repeat(indent + 2));
        yaml_block(item, indent + 2, text);
    } else {
        if !in_list {
            text.push(' ');
        }
        text.push_str(&yaml_leaf(item));
        text.push('\n');
    }
}

fn yaml_leaf(value: &Value) -> String {
    match value {
        Value::String(text) => yaml_string(text),
        Value::Array(_) => "[]".to_owned(),
        Value::Object(_) => "{}".to_owned(),
        other => other.to_string(),
    }
}

/// A string, bare when no reader could take it for anything else. JSON's quoting is valid YAML.
fn yaml_string(text: &str) -> String {
    let bare = text
        .chars()
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-./@".contains(c))
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
            .contains(&text.to_ascii_lowercase().as_str());
    if bare {
        text.to_owned()
    } else {
        Value::from(text).to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const COLUMNS: &[Column] = &[
        Column {
            title: "ID",
            field: "id",
        },
        Column {
            title: "SLUG",
            field: "slug",
        },
        Column {
            title: "HOSTNAMES",
            field: "hostnames",
        },
        Column {
            title: "REASON",
            field: "reason",
        },
    ];

    const PLAIN: Style = Style {
        colour: false,
        fitted: false,
    };

    fn sample() -> Vec<Value> {
        vec![
            json!({"id": "1", "slug": "oak", "hostnames": ["oak.example", "www.oak.example"], "reason": null}),
            json!({"id": "20", "slug": "no", "hostnames": [], "reason": "said \"stop\", twice\n"}),
        ]
    }

    #[test]
    fn table_aligns_and_marks_what_is_absent() {
        insta::assert_snapshot!(table(COLUMNS, &sample()[..1], PLAIN), @r"
        ID  SLUG  HOSTNAMES                    REASON
        1   oak   oak.example,www.oak.example  -
        ");
    }

    #[test]
    fn fields_shows_one_field_a_line() {
        insta::assert_snapshot!(fields(&COLUMNS[..2], &sample()[0], PLAIN), @r"
        ID    1
        SLUG  oak
        ");
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        assert_eq!(
            csv(COLUMNS, &sample()),
            "id,slug,hostnames,reason\r\n1,oak,\"oak.example,www.oak.example\",\r\n20,no,,\"said \"\"stop\"\", twice\n\"\r\n"
        );
    }

    #[test]
    fn yaml_quotes_what_a_reader_could_mistake() {
        insta::assert_snapshot!(yaml(&Value::Array(sample())), @r#"
        - hostnames:
            - oak.example
            - www.oak.example
          id: "1"
          reason: null
          slug: oak
        - hostnames: []
          id: "20"
          reason: "said \"stop\", twice\n"
          slug: "no"
        "#);
        assert_eq!(yaml(&json!([])), "[]\n");
        assert_eq!(yaml(&json!("12")), "\"12\"\n");
    }
}
