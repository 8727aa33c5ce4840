//! The records of a file, whatever its format, one at a time.

use std::io::{BufRead, BufReader, Cursor, Read as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use clap::ValueEnum;

use crate::send_file::csv::Rows;
use crate::send_file::jsonl::Lines;

/// Longest record that is read as a whole, bytes; below upstream's 4 MiB a call.
pub const MAX_RECORD_BYTES: usize = 3 * 1024 * 1024;
/// Longest value that an error quotes, characters.
const QUOTED: usize = 60;
const BUFFER_BYTES: usize = 256 * 1024;
const BOM: [u8; 3] = [0xEF, 0xBB, 0xBF];

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FileFormat {
    /// One JSON object a line.
    Jsonl,
    /// Rows separated by commas, under a header.
    Csv,
}

/// One record.
#[derive(Debug, PartialEq, Eq)]
pub struct Record {
    /// The line on which it begins, from 1.
    pub line: u64,
    /// What it took in the file, bytes.
    pub read_bytes: u64,
    /// Its idempotency key; none when it has none that could be read.
    pub key: Option<String>,
    /// The body of its message, or why it cannot be sent.
    pub body: Result<Vec<u8>, String>,
}

/// Where bytes come from.
pub type Source = Box<dyn BufRead>;

/// The records of an open file. Blank lines are none.
pub enum Records {
    Jsonl(Lines),
    Csv(Box<Rows>),
}

impl Records {
    /// Opens a file; `-` is standard input.
    ///
    /// # Errors
    /// When it cannot be read, or its CSV header cannot be used.
    pub fn open(file: &Path, format: FileFormat, id_field: String) -> anyhow::Result<Self> {
        let unreadable = || format!("{} cannot be read", called(file));
        let source: Source = if is_standard_input(file) {
            Box::new(BufReader::with_capacity(BUFFER_BYTES, std::io::stdin()))
        } else {
            Box::new(BufReader::with_capacity(BUFFER_BYTES, std::fs::File::open(file).with_context(unreadable)?))
        };
        let source = without_bom(source).with_context(unreadable)?;
        Ok(match format {
            FileFormat::Jsonl => Self::Jsonl(Lines::new(source, id_field)),
            FileFormat::Csv => {
                let unusable = || format!("{} is no CSV that can be sent", called(file));
                Self::Csv(Box::new(Rows::new(source, &id_field).with_context(unusable)?))
            }
        })
    }

    /// The next record; none at the end.
    ///
    /// # Errors
    /// When the file cannot be read on.
    pub fn next(&mut self) -> anyhow::Result<Option<Record>> {
        let next = match self {
            Self::Jsonl(lines) => lines.next(),
            Self::Csv(rows) => rows.next(),
        };
        next.context("the rest of the file cannot be read")
    }
}

fn called(file: &Path) -> String {
    if is_standard_input(file) { "standard input".to_owned() } else { file.display().to_string() }
}

pub fn is_standard_input(file: &Path) -> bool {
    file.as_os_str() == "-"
}

/// The format that was named, or the one that the file's name tells.
///
/// # Errors
/// When neither says it.
pub fn format_of(file: &Path, named: Option<FileFormat>) -> anyhow::Result<FileFormat> {
    if let Some(format) = named {
        return Ok(format);
    }
    let extension = file.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    match extension.as_str() {
        "jsonl" | "ndjson" => Ok(FileFormat::Jsonl),
        "csv" => Ok(FileFormat::Csv),
        _ if is_standard_input(file) => {
            bail!("standard input has no name that tells its format: add --format jsonl or --format csv")
        }
        _ => bail!(
            "{} does not end in .jsonl, .ndjson or .csv: say what it holds with --format jsonl or --format csv",
            file.display()
        ),
    }
}

fn without_bom(mut source: Source) -> std::io::Result<Source> {
    let mut head = Vec::new();
    source.by_ref().take(BOM.len() as u64).read_to_end(&mut head)?;
    if head == BOM {
        head.clear();
    }
    Ok(Box::new(Cursor::new(head).chain(source)))
}

/// A value as an error quotes it: not all of it when it is long.
pub fn quoted(value: &str) -> String {
    let mut letters = value.chars();
    let shown: String = letters.by_ref().take(QUOTED).collect();
    if letters.next().is_some() { format!("{shown:?}…") } else { format!("{shown:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_named_or_told_by_the_name() {
        let of = |file: &str, named| format_of(Path::new(file), named).map_err(|error| error.to_string());
        assert_eq!(of("a.jsonl", None), Ok(FileFormat::Jsonl));
        assert_eq!(of("a.NDJSON", None), Ok(FileFormat::Jsonl));
        assert_eq!(of("a.csv", None), Ok(FileFormat::Csv));
        assert_eq!(of("a.csv", Some(FileFormat::Jsonl)), Ok(FileFormat::Jsonl));
        assert_eq!(of("-", Some(FileFormat::Csv)), Ok(FileFormat::Csv));
        for file in ["-", "a", "a.txt"] {
            assert!(of(file, None).unwrap_err().contains("--format"), "{file}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_passed_over_once() {
        for (bytes, rest) in [(&b"\xEF\xBB\xBFa"[..], &b"a"[..]), (b"\xEF\xBB", b"\xEF\xBB"), (b"", b""), (b"abcd", b"abcd")] {
            let mut read = Vec::new();
            without_bom(Box::new(Cursor::new(bytes.to_vec()))).unwrap().read_to_end(&mut read).unwrap();
            assert_eq!(read, rest);
        }
    }

    #[test]
    fn a_long_value_is_cut() {
        assert_eq!(quoted("a\n"), r#""a\n""#);
        assert_eq!(quoted(&"é".repeat(61)), format!("{:?}…", "é".repeat(60)));
    }
}
