//! Records of a file of JSON objects: each line is a body as it stands.

use std::io::{BufRead as _, Read as _};

use serde_json::Value;

use crate::send_file::records::{MAX_RECORD_BYTES, Record, Source, quoted};

/// The lines of a file.
pub struct Lines {
    source: Source,
    id_field: String,
    line: u64,
}

impl Lines {
    pub fn new(source: Source, id_field: String) -> Self {
        Self { source, id_field, line: 0 }
    }

    /// The next line that is not blank, without its line end.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn next(&mut self) -> std::io::Result<Option<Record>> {
        loop {
            let mut bytes = Vec::new();
            let limit = MAX_RECORD_BYTES as u64 + 1;
            let mut read_bytes = self.source.by_ref().take(limit).read_until(b'\n', &mut bytes)? as u64;
            if read_bytes == 0 {
                return Ok(None);
            }
            self.line += 1;
            let line = self.line;
            if read_bytes == limit && bytes.last() != Some(&b'\n') {
                read_bytes += self.source.skip_until(b'\n')? as u64;
                let why =
                    format!("it has {read_bytes} bytes; at most {MAX_RECORD_BYTES} are sent from a file: send a reference to it");
                return Ok(Some(Record { line, read_bytes, key: None, body: Err(why) }));
            }
            let end = bytes.strip_suffix(b"\n").map_or(bytes.as_slice(), |line| line.strip_suffix(b"\r").unwrap_or(line)).len();
            bytes.truncate(end);
            if bytes.trim_ascii().is_empty() {
                continue;
            }
            let (key, body) = match key_of(&bytes, &self.id_field) {
                Ok(key) => (Some(key), Ok(bytes)),
                Err(why) => (None, Err(why)),
            };
            return Ok(Some(Record { line, read_bytes, key, body }));
        }
    }
}

/// The idempotency key of a line.
fn key_of(line: &[u8], id_field: &str) -> Result<String, String> {
    let value: Value = serde_json::from_slice(line)
        // The line is named beside it, and it is another one than the parser's.
        .map_err(|error| format!("not a JSON object: {}", error.to_string().replace(" at line 1 column ", " at column ")))?;
    let Value::Object(object) = value else { return Err("not a JSON object".to_owned()) };
    match object.get(id_field) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
        // A fraction, or more digits than a float keeps: two ids could become one.
        Some(Value::Number(number)) if !number.is_f64() => Ok(number.to_string()),
        Some(other) => {
            let shown = quoted(&other.to_string());
            Err(format!(
                "field {id_field:?} is {shown}: it must be a text that is not empty, or a whole number of at most 64 bits"
            ))
        }
        None => Err(format!("field {id_field:?} is missing: name the field that identifies a line with --id-field")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn lines(text: &[u8]) -> Vec<Record> {
        let mut lines = Lines::new(Box::new(Cursor::new(text.to_vec())), "order_id".into());
        std::iter::from_fn(|| lines.next().unwrap()).collect()
    }

    #[test]
    fn the_key_of_a_line_is_its_id_field() {
        assert_eq!(key_of(br#"{"order_id":"A-1"}"#, "order_id"), Ok("A-1".into()));
        assert_eq!(key_of(br#"{"order_id":17}"#, "order_id"), Ok("17".into()));
        let rows: [(&[u8], &str); 8] = [
            (br#"{"order_id":""}"#, "not empty"),
            (br#"{"order_id":1.5}"#, "whole number"),
            (br#"{"order_id":123456789012345678901234}"#, "64 bits"),
            (br#"{"order_id":null}"#, "null"),
            (b"{\"a\":1}", "missing"),
            (b"order", "not a JSON object"),
            (b"[1]", "not a JSON object"),
            (b"{\"order_id\":\"\xFF\"}", "at column"),
        ];
        for (line, word) in rows {
            let why = key_of(line, "order_id").expect_err("rejected");
            assert!(why.contains(word), "{why}");
        }
    }

    #[test]
    fn lines_are_numbered_and_blank_ones_passed_over() {
        let found = lines(b"{\"order_id\":1}\r\n\n  \r\n{\"order_id\":\"2\"} ");
        let seen: Vec<_> = found.iter().map(|record| (record.line, record.key.as_deref(), record.body.as_deref())).collect();
        assert_eq!(seen, [(1, Some("1"), Ok(&b"{\"order_id\":1}"[..])), (4, Some("2"), Ok(&b"{\"order_id\":\"2\"} "[..]))]);
    }

    #[test]
    fn a_line_beyond_the_bound_is_passed_over_alone() {
        let mut text = vec![b'x'; MAX_RECORD_BYTES + 5];
        text.extend_from_slice(b"\n{\"order_id\":1}\n");
        let found = lines(&text);
        assert!(found[0].body.as_ref().is_err_and(|why| why.contains("it has 3145734 bytes")), "{:?}", found[0].body);
        assert_eq!((found.len(), found[1].line, found[1].key.as_deref()), (2, 2, Some("1")));
    }
}
