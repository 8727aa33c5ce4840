use std::io::{BufReader, Cursor, Read};

use super::*;

/// Gives one byte at a time, so that every place in a row is a place where the buffer ends.
struct Trickle(Cursor<Vec<u8>>);

impl Read for Trickle {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(&mut buffer[..1])
    }
}

fn open(text: &[u8]) -> anyhow::Result<Rows> {
    Rows::new(Box::new(BufReader::new(Trickle(Cursor::new(text.to_vec())))), "id")
}

/// Line, key, and body or reason of each row.
fn rows(text: &[u8]) -> Vec<(u64, String, String)> {
    let mut rows = open(text).unwrap();
    let all = std::iter::from_fn(|| rows.next().unwrap());
    let told = all.map(|record| {
        let body = record.body.map_or_else(|why| why, |body| String::from_utf8(body).unwrap());
        (record.line, record.key.unwrap_or_default(), body)
    });
    told.collect()
}

fn row(line: u64, key: &str, body: &str) -> (u64, String, String) {
    (line, key.to_owned(), body.to_owned())
}

#[test]
fn rows_become_objects_of_texts_with_the_line_they_begin_on() {
    let text = "id,note\nA,\"one\ntwo\n\"\n\n\nB,\"she said \"\"no\"\"\"\nC,\nD,\"x\"";
    let expected = [
        row(2, "A", r#"{"id":"A","note":"one\ntwo\n"}"#),
        row(7, "B", r#"{"id":"B","note":"she said \"no\""}"#),
        row(8, "C", r#"{"id":"C","note":""}"#),
        row(9, "D", r#"{"id":"D","note":"x"}"#),
    ];
    assert_eq!(rows(text.as_bytes()), expected);
    let expected_crlf = [
        row(2, "A", r#"{"id":"A","note":"one\r\ntwo\r\n"}"#),
        row(7, "B", r#"{"id":"B","note":"she said \"no\""}"#),
        row(8, "C", r#"{"id":"C","note":""}"#),
        row(9, "D", r#"{"id":"D","note":"x"}"#),
    ];
    assert_eq!(rows(text.replace('\n', "\r\n").as_bytes()), expected_crlf);
}

#[test]
fn columns_that_were_moved_are_the_same_content() {
    assert_eq!(rows(b"id,a\n1,x\n")[0].2, rows(b"a,id\nx,1\n")[0].2);
}

#[test]
fn a_row_that_cannot_be_sent_says_why_and_the_next_one_goes_on() {
    let text = b"id,note\nA\nB,b,b\n,c\nD,\xFF\n \nE,e\n";
    let found = rows(text);
    let lines: Vec<_> = found.iter().map(|(line, key, _)| (*line, key.as_str())).collect();
    assert_eq!(lines, [(2, ""), (3, ""), (4, ""), (5, ""), (7, "E")]);
    let words = ["1 instead of 2 fields", "3 instead of 2 fields", "column \"id\" is empty", "column \"note\" is not UTF-8"];
    for (word, (_, _, why)) in words.into_iter().zip(&found) {
        assert!(why.contains(word), "{why}");
    }
}

#[test]
fn a_row_beyond_the_bound_is_passed_over_alone() {
    let long = "x".repeat(MAX_RECORD_BYTES);
    let text = format!("id,note\nA,\"{long}\n{long}\"\nB,b\n");
    let mut rows = Rows::new(Box::new(Cursor::new(text.into_bytes())), "id").unwrap();
    let first = rows.next().unwrap().unwrap();
    assert!(first.body.is_err_and(|why| why.contains("more than 3145728 bytes")));
    let second = rows.next().unwrap().unwrap();
    assert_eq!((second.line, second.key.as_deref()), (4, Some("B")));
    let many = format!("id,note\nA{}\nB,b", ",".repeat(3 * MAX_COLUMNS));
    let found = self::rows(many.as_bytes());
    assert!(found[0].2.contains("more than 4096 columns"), "{}", found[0].2);
    assert_eq!(found[1], row(3, "B", r#"{"id":"B","note":"b"}"#));
}

#[test]
fn a_quote_that_is_never_closed_is_told() {
    let found = rows(b"id,note\nA,a\nB,\"b\nC,c\n");
    assert_eq!(found[0].1, "A");
    assert_eq!(found[1].0, 3);
    assert!(found[1].2.contains("never closes"), "{}", found[1].2);
    assert_eq!(found.len(), 2);
}

#[test]
fn a_header_that_cannot_be_used_says_why() {
    let table: [(&[u8], &str); 7] = [
        (b"", "it is empty"),
        (b"\r\n\n", "it is empty"),
        (b"\nid,a,id\n", "line 2, the header: columns 1 and 3 are both called \"id\""),
        (b"a,b\n", "the header has no column \"id\", it has \"a\", \"b\""),
        (b"id,\n", "column 2 has no name"),
        (b"id,\xFF\n", "column 2 is not UTF-8"),
        (b"id,\"a\n", "never closes"),
    ];
    for (text, word) in table {
        let error = open(text).err().expect("refused");
        assert!(format!("{error:#}").contains(word), "{error:#}");
    }
    assert!(rows(b"id,a").is_empty());
}
