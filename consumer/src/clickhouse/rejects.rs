//! Rows that ClickHouse does not take, put aside with its reason.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::error::ClickhouseError;
use crate::rowbinary::Table;

/// Where such rows go.
#[derive(Debug)]
pub(crate) struct Rejects {
    /// They are put aside; else the first of them is the end.
    are_kept: bool,
    file: Mutex<Option<PathBuf>>,
}

impl Rejects {
    pub(super) fn new(are_kept: bool, file: Option<PathBuf>) -> Self {
        Self { are_kept, file: Mutex::new(file) }
    }

    /// Puts a row aside: a line of JSON with its table, its encoded values by column, and why.
    pub(super) fn put(
        &self,
        table: &Table,
        row: &[u8],
        because: &ClickhouseError,
    ) -> Result<(), ClickhouseError> {
        if !self.are_kept {
            let text = format!("a row of {} is not taken: {}", table.name, because.text);
            return Err(ClickhouseError::refused(text)
                .with_hint("clickhouse.on_bad_row = \"set_aside\" writes the rows beside it"));
        }
        let values = table.values(row).unwrap_or_default();
        let columns: serde_json::Map<_, _> = table
            .columns
            .iter()
            .zip(values)
            .map(|(column, value)| (column.name.clone(), STANDARD.encode(value).into()))
            .collect();
        let line = json!({
            "table": table.name,
            "reason": because.text,
            "code": because.code,
            "columns_rowbinary_base64": columns,
            "row_rowbinary_base64": STANDARD.encode(row),
        });
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(path) = &*file else { return Ok(()) };
        let write = OpenOptions::new().create(true).append(true).open(path).and_then(|mut file| {
            file.write_all(format!("{line}\n").as_bytes())?;
            file.sync_data()
        });
        write.map_err(|e| {
            ClickhouseError::refused(format!("a row can't be put aside in {}: {e}", path.display()))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::error::Remedy;
    use super::*;
    use crate::rowbinary::{Codec, Column};

    fn table() -> Table {
        let column = |name: &str, nullable| Column {
            name: name.into(),
            codec: Codec::Int16,
            nullable,
            key: !nullable,
            loses_null: false,
            type_name: "int2".into(),
        };
        let columns = vec![column("id", false), column("n", true)];
        Table { name: "public.t".into(), columns, clamps: false }
    }

    const ROW: [u8; 14] = [7, 0, 0, 13, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0];

    fn because() -> ClickhouseError {
        ClickhouseError { code: Some(395), ..ClickhouseError::refused("it is 13".into()) }
    }

    #[test]
    fn the_first_is_the_end_where_none_are_kept() {
        let error = Rejects::new(false, None).put(&table(), &ROW, &because()).unwrap_err();
        assert_eq!(error.remedy, Remedy::None);
        assert_eq!(error.text, "a row of public.t is not taken: it is 13");
    }

    #[test]
    fn rows_are_kept_with_their_values_and_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("aside.jsonl");
        let rejects = Rejects::new(true, Some(path.clone()));
        rejects.put(&table(), &ROW, &because()).unwrap();
        rejects.put(&table(), &ROW, &because()).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        let columns = json!({"id": STANDARD.encode([7, 0]), "n": STANDARD.encode([0, 13, 0])});
        assert_eq!(lines[0]["columns_rowbinary_base64"], columns);
        assert_eq!(lines[0]["row_rowbinary_base64"], STANDARD.encode(ROW));
        assert_eq!((&lines[0]["reason"], &lines[0]["code"]), (&"it is 13".into(), &395.into()));
    }

    #[test]
    fn without_a_file_they_are_counted_alone_and_without_a_folder_it_ends() {
        Rejects::new(true, None).put(&table(), &ROW, &because()).unwrap();
        let nowhere = Rejects::new(true, Some("/proc/nowhere/aside".into()));
        let error = nowhere.put(&table(), &ROW, &because()).unwrap_err();
        assert!(error.text.contains("/proc/nowhere/aside"), "{}", error.text);
    }
}
