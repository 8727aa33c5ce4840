//! Finding functions and their length.

use crate::code::{block_length, outside_tests};

/// A function outside tests.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// The line of the word `fn`, from 1.
    pub line: usize,
    /// From that line to the closing brace.
    pub lines: usize,
}

/// The functions with a body in a file.
#[must_use]
pub fn functions(text: &str) -> Vec<Function> {
    let code = outside_tests(text);
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let starts_word = code[..at].chars().next_back().is_none_or(|before| before.is_whitespace() || before == '(');
        let rest = &code[at + 3..];
        let name: String = rest.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
        if !starts_word || name.is_empty() {
            continue;
        }
        let Some(open) = body(rest) else { continue };
        let end = at + 3 + open + block_length(&rest[open..]);
        let line = code[..at].matches('\n').count() + 1;
        found.push(Function { name, line, lines: code[at..end].matches('\n').count() + 1 });
    }
    found
}

/// Where the body opens; none for a declaration in a trait. A semicolon inside brackets belongs to an array type.
fn body(rest: &str) -> Option<usize> {
    let mut brackets = 0_usize;
    for (at, letter) in rest.char_indices() {
        match letter {
            '[' => brackets += 1,
            ']' => brackets = brackets.saturating_sub(1),
            ';' if brackets == 0 => return None,
            '{' => return Some(at),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_counted_from_fn_to_brace() {
        let text = "trait T {\n    fn none(&self, a: [u8; 2]);\n}\npub async fn one() -> [u8; 2] {\n    \"}\";\n    two\n}\nfn small() {}\n";
        let found = functions(text);
        let seen: Vec<_> = found.iter().map(|function| (function.name.as_str(), function.line, function.lines)).collect();
        assert_eq!(seen, [("one", 4, 4), ("small", 8, 1)]);
    }
}
