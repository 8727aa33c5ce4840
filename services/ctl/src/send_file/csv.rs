//! Records of a CSV file: each row becomes one JSON object of its columns.
//!
//! Parsed by the state machine of the `csv` crate, `csv-core`, which alone lets a row be passed over that is larger than memory should
//! hold. Columns are texts, written in the order of their names: a file whose columns were moved has the same content.

use std::collections::BTreeMap;
use std::io::BufRead as _;

use anyhow::{Context as _, bail, ensure};
use csv_core::ReadRecordResult;

use crate::send_file::records::{MAX_RECORD_BYTES, Record, Source, quoted};

/// Most columns of a row.
const MAX_COLUMNS: usize = 4_096;
/// First size of the buffer for a row, bytes; doubles when a row is larger.
const ROW_BYTES: usize = 4 * 1024;
/// Column names that an error lists at most.
const LISTED_COLUMNS: usize = 20;

/// The rows of a file, below its header.
pub struct Rows {
    parser: Parser,
    columns: Vec<String>,
    id_column: usize,
}

impl Rows {
    /// Reads the header.
    ///
    /// # Errors
    /// When there is none, a column has no name or the name of another, or the id column is missing.
    pub fn new(source: Source, id_field: &str) -> anyhow::Result<Self> {
        let mut parser = Parser::new(source);
        let header = parser
            .next()
            .context("it cannot be read")?
            .context("it is empty: a header with the names of the columns is missing")?;
        let columns = columns(&header).with_context(|| format!("line {}, the header", header.line))?;
        let Some(id_column) = columns.iter().position(|name| name == id_field) else {
            let listed = columns.iter().take(LISTED_COLUMNS).map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
            bail!(
                "the header has no column {id_field:?}, it has {listed}: name the column that identifies a row with --id-field"
            );
        };
        Ok(Self { parser, columns, id_column })
    }

    /// The next row that is not blank.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn next(&mut self) -> std::io::Result<Option<Record>> {
        while let Some(row) = self.parser.next()? {
            let is_blank = row.fields.len() == 1 && self.columns.len() > 1 && row.fields[0].trim_ascii().is_empty();
            if row.fault.is_none() && is_blank {
                continue;
            }
            let (key, body) = match self.object(&row) {
                Ok((key, body)) => (Some(key), Ok(body)),
                Err(why) => (None, Err(why)),
            };
            return Ok(Some(Record { line: row.line, read_bytes: row.read_bytes, key, body }));
        }
        Ok(None)
    }

    fn object(&self, row: &Row) -> Result<(String, Vec<u8>), String> {
        if let Some(fault) = row.fault {
            return Err(fault.words());
        }
        if row.fields.len() != self.columns.len() {
            return Err(format!("it does not fit the header: {} instead of {} fields", row.fields.len(), self.columns.len()));
        }
        let mut object = BTreeMap::new();
        for (name, field) in self.columns.iter().zip(&row.fields) {
            let text =
                std::str::from_utf8(field).map_err(|_| format!("column {} is not UTF-8: convert the file", quoted(name)))?;
            object.insert(name.as_str(), text);
        }
        let id_field = self.columns[self.id_column].as_str();
        let key = object[id_field];
        if key.is_empty() {
            return Err(format!("column {} is empty: it must identify the row", quoted(id_field)));
        }
        let body = serde_json::to_vec(&object).map_err(|error| error.to_string())?;
        Ok((key.to_owned(), body))
    }
}

fn columns(header: &Row) -> anyhow::Result<Vec<String>> {
    if let Some(fault) = header.fault {
        bail!(fault.words());
    }
    let mut columns: Vec<String> = Vec::with_capacity(header.fields.len());
    for (number, field) in (1..).zip(&header.fields) {
        let name = std::str::from_utf8(field)
            .map_err(|_| anyhow::anyhow!("the name of column {number} is not UTF-8: convert the file"))?;
        ensure!(!name.is_empty(), "column {number} has no name: give it one");
        if let Some(earlier) = columns.iter().position(|known| known == name) {
            bail!("columns {} and {number} are both called {}: give each a name of its own", earlier + 1, quoted(name));
        }
        columns.push(name.to_owned());
    }
    Ok(columns)
}

/// Why a row could not be taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    TooLarge,
    TooManyColumns,
    OpenQuote,
}

impl Fault {
    fn words(self) -> String {
        match self {
            Self::TooLarge => format!(
                "it has more than {MAX_RECORD_BYTES} bytes, the most that are sent from a file: send a reference to it, or close a quote that was left open"
            ),
            Self::TooManyColumns => format!("it has more than {MAX_COLUMNS} columns, the most that are read"),
            Self::OpenQuote => "a quote is opened in it that the file never closes".to_owned(),
        }
    }
}

/// A row as it stands in the file.
struct Row {
    /// The line on which it begins, from 1.
    line: u64,
    read_bytes: u64,
    fields: Vec<Vec<u8>>,
    fault: Option<Fault>,
}

/// Takes bytes apart into rows.
struct Parser {
    source: Source,
    core: csv_core::Reader,
    /// The line that the next byte belongs to.
    line: u64,
    text: Vec<u8>,
    ends: Vec<usize>,
}

impl Parser {
    fn new(source: Source) -> Self {
        Self { source, core: csv_core::Reader::new(), line: 1, text: vec![0; ROW_BYTES], ends: vec![0; MAX_COLUMNS] }
    }

    /// Passes over line ends in front of a row, so that it is known on which line it begins.
    fn skip_line_ends(&mut self) -> std::io::Result<u64> {
        let mut skipped = 0;
        loop {
            let buffer = self.source.fill_buf()?;
            let ends = buffer.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            self.line += line_feeds(&buffer[..ends]);
            self.source.consume(ends);
            skipped += ends as u64;
            if ends == 0 {
                return Ok(skipped);
            }
        }
    }

    fn next(&mut self) -> std::io::Result<Option<Row>> {
        let mut read_bytes = self.skip_line_ends()?;
        let line = self.line;
        if self.source.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let (mut text_end, mut ends_end, mut fault) = (0, 0, None);
        loop {
            let buffer = self.source.fill_buf()?;
            let is_over = buffer.is_empty();
            // A last row without a line end is given one; only inside a quote that does not end the row.
            let input = if is_over { b"\n" } else { buffer };
            let (result, read, written, ended) =
                self.core.read_record(input, &mut self.text[text_end..], &mut self.ends[ends_end..]);
            self.line += line_feeds(&input[..read]);
            if !is_over {
                read_bytes += read as u64;
                self.source.consume(read);
            }
            text_end += written;
            ends_end += ended;
            match result {
                ReadRecordResult::InputEmpty if is_over => {
                    fault.get_or_insert(Fault::OpenQuote);
                    break;
                }
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if self.text.len() < MAX_RECORD_BYTES => {
                    self.text.resize((self.text.len() * 2).min(MAX_RECORD_BYTES), 0);
                }
                ReadRecordResult::OutputFull => {
                    fault.get_or_insert(Fault::TooLarge);
                    text_end = 0;
                }
                ReadRecordResult::OutputEndsFull => {
                    fault.get_or_insert(Fault::TooManyColumns);
                    ends_end = 0;
                }
                ReadRecordResult::Record | ReadRecordResult::End => break,
            }
        }
        let fields = if fault.is_none() { self.fields(ends_end) } else { Vec::new() };
        Ok(Some(Row { line, read_bytes, fields, fault }))
    }

    fn fields(&self, count: usize) -> Vec<Vec<u8>> {
        let starts = std::iter::once(0).chain(self.ends[..count].iter().copied());
        starts.zip(&self.ends[..count]).map(|(start, end)| self.text[start..*end].to_vec()).collect()
    }
}

#[allow(clippy::naive_bytecount, reason = "the parser looks at each byte anyway; this pass does not show beside it")]
fn line_feeds(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests;
