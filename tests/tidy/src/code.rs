//! Just enough understanding of Rust's text: what is a comment, a string, a test.

/// The same text, character for character and line for line, with comments and the insides of literals made blank: braces
/// and words that remain are code.
#[must_use]
pub fn blank_out(text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < letters.len() {
        let end = literal_or_comment(&letters, at);
        if end == at {
            out.push(letters[at]);
            at += 1;
        } else {
            out.extend(letters[at..end].iter().map(|letter| if *letter == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

/// Where the comment or literal that begins at `at` ends; `at` itself if none begins there.
fn literal_or_comment(letters: &[char], at: usize) -> usize {
    let rest = &letters[at..];
    let in_word = at > 0 && (letters[at - 1].is_alphanumeric() || letters[at - 1] == '_');
    match rest {
        ['/', '/', ..] => at + rest.iter().position(|letter| *letter == '\n').unwrap_or(rest.len()),
        ['/', '*', ..] => at + block_comment(rest),
        ['r', '"' | '#', ..] | ['b', 'r', '"' | '#', ..] if !in_word => at + raw_string(rest),
        ['"', ..] => at + quoted(rest, '"'),
        ['\'', '\\', ..] | ['\'', _, '\'', ..] => at + quoted(rest, '\''),
        _ => at,
    }
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            ['/', '*', ..] => {
                depth += 1;
                at += 2;
            }
            ['*', '/', ..] => {
                depth -= 1;
                at += 2;
            }
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            letter if letter == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Length of `r"…"`, `r#"…"#` and so on; 0 if it is something else, a raw identifier for instance.
fn raw_string(rest: &[char]) -> usize {
    let from = rest.iter().position(|letter| *letter == 'r').map_or(0, |at| at + 1);
    let hashes = rest[from..].iter().take_while(|letter| **letter == '#').count();
    if rest.get(from + hashes) != Some(&'"') {
        return 0;
    }
    let body = from + hashes + 1;
    let closes =
        |at: &usize| rest[*at] == '"' && rest[at + 1..].iter().take(hashes).filter(|letter| **letter == '#').count() == hashes;
    (body..rest.len()).find(closes).map_or(rest.len(), |at| at + 1 + hashes)
}

/// The code of a file, blanked out, without modules under `#[cfg(test)]`. Lines keep their numbers.
#[must_use]
pub fn outside_tests(text: &str) -> String {
    let mut code = blank_out(text);
    while let Some(start) = code.find("#[cfg(test)]") {
        let end = code[start..].find(['{', ';']).map_or(code.len(), |open| match code.as_bytes()[start + open] {
            b'{' => start + open + block_length(&code[start + open..]),
            _ => start + open + 1,
        });
        let blank: String = code[start..end].chars().map(|letter| if letter == '\n' { '\n' } else { ' ' }).collect();
        code.replace_range(start..end, &blank);
    }
    code
}

/// Bytes from an opening brace to its closing one, both included.
#[must_use]
pub fn block_length(code: &str) -> usize {
    let mut depth = 0_usize;
    for (at, letter) in code.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_remains() {
        let text = "a(\"{ \\\" }\", '{', b'\\'', 'x); // {\n/* { /* } */ */ r#\"{\"#; r#type; &'a str\n";
        let blank = blank_out(text);
        assert!(!blank.contains('{') && !blank.contains('}'), "{blank}");
        assert!(blank.contains("r#type") && blank.contains("&'a str") && blank.contains("'x)"), "{blank}");
        assert_eq!(blank.chars().count(), text.chars().count());
    }

    #[test]
    fn tests_are_left_out() {
        let code = outside_tests("fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n#[cfg(test)]\nmod d;\n");
        assert!(code.contains("fn a") && code.contains("fn c") && !code.contains("fn b") && !code.contains("mod d"));
    }
}
