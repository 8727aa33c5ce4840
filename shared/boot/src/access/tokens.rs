//! Static tokens: a file of names, roles and hashes. The tokens themselves are nowhere but with their owners.
//!
//! ```toml
//! [[tokens]]
//! name = "ann"
//! roles = ["operator"]
//! sha256 = "…"        # printf %s "$TOKEN" | sha256sum
//! ```

use std::collections::HashMap;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{Caller, Means, Role};

/// Longest name.
const NAME_MAX: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    tokens: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    roles: Vec<Role>,
    sha256: String,
}

/// The callers of a tokens file.
pub(crate) struct Tokens(HashMap<[u8; 32], Caller>);

impl Tokens {
    /// Reads the file's content; the error says what is wrong.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "the tokens file is not text".to_owned())?;
        // Without the library's own words: they show the line, which may hold what should not be there.
        let file: File = toml::from_str(text).map_err(|error: toml::de::Error| {
            format!("the tokens file has to hold [[tokens]] with name, roles and sha256: {}", error.message())
        })?;
        let mut tokens = HashMap::new();
        for Entry { name, roles, sha256 } in file.tokens {
            if name.is_empty() || name.len() > NAME_MAX || name.chars().any(char::is_control) {
                return Err(format!("a token's name has {} bytes: give 1 to {NAME_MAX}, printable", name.len()));
            }
            if roles.is_empty() {
                return Err(format!("the token of {name:?} has no role: give it one of {}", words()));
            }
            let hash = hash_of(&sha256)
                .ok_or_else(|| format!("sha256 of {name:?} is not 64 hexadecimal digits: printf %s \"$TOKEN\" | sha256sum"))?;
            if tokens.insert(hash, Caller::known(&name, Means::Token, &roles)).is_some() {
                return Err(format!("the token of {name:?} is there twice: one token, one name"));
            }
        }
        if tokens.is_empty() { Err("the tokens file names nobody".to_owned()) } else { Ok(Self(tokens)) }
    }

    /// Whose token this is. Hashes are looked up, so no time tells how much of a token was right.
    pub(crate) fn caller(&self, token: &str) -> Option<Caller> {
        self.0.get(<[u8; 32]>::from(Sha256::digest(token.as_bytes())).as_slice()).cloned()
    }
}

fn words() -> String {
    Role::ALL.map(Role::as_str).join(", ")
}

fn hash_of(hex: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    let pairs = hex.as_bytes().chunks(2);
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(pairs) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    // printf %s sesame | sha256sum
    const SESAME: &str = "d0c04f4b1951e4aeaaec8223ed2039e542f3aae805a6fa7f6d794e5afff5d272";

    fn parse(text: &str) -> Result<Tokens, String> {
        Tokens::parse(text.as_bytes())
    }

    #[test]
    fn a_token_is_its_owners_and_nothing_else_is() {
        let tokens =
            parse(&format!("[[tokens]]\nname = \"ann\"\nroles = [\"operator\", \"producer\"]\nsha256 = \"{SESAME}\"\n")).unwrap();
        let ann = tokens.caller("sesame").unwrap();
        assert_eq!((ann.name(), ann.means()), ("ann", Means::Token));
        assert!(ann.may(Role::Producer) && ann.may(Role::Viewer) && !ann.may(Role::Admin));
        for other in ["", "sesam", "sesame ", SESAME] {
            assert_eq!(tokens.caller(other), None, "{other:?}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_what_would_be_right() {
        let entry = |name: &str, roles: &str, hash: &str| {
            format!("[[tokens]]\nname = \"{name}\"\nroles = [{roles}]\nsha256 = \"{hash}\"\n")
        };
        let twice = entry("ann", "\"viewer\"", SESAME) + &entry("bob", "\"admin\"", SESAME);
        for (text, words) in [
            (String::new(), "[[tokens]]"),
            ("tokens = []".to_owned(), "nobody"),
            (entry("ann", "\"king\"", SESAME), "king"),
            (entry("ann", "", SESAME), "no role"),
            (entry("", "\"viewer\"", SESAME), "name"),
            (entry("ann", "\"viewer\"", "sesame"), "sha256sum"),
            (entry("ann", "\"viewer\"", &"é".repeat(32)), "sha256sum"),
            (twice, "twice"),
        ] {
            let problem = parse(&text).err().unwrap();
            assert!(problem.contains(words), "{text:?}: {problem}");
        }
    }
}
