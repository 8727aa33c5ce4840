//! What a caller may do, in five words.

use serde::{Deserialize, Serialize};

/// A role. The words stand in tokens files and tokens; their numbers in `countersign/v1/access.proto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads states, histories and figures; no payloads.
    Viewer,
    /// Also reads payloads, and does what can be undone.
    Operator,
    /// May do everything, and give messages up.
    Admin,
    /// Sends messages, and nothing else.
    Producer,
    /// Another service of Countersign.
    Peer,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Viewer, Self::Operator, Self::Admin, Self::Producer, Self::Peer];

    /// Its word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
            Self::Producer => "producer",
            Self::Peer => "peer",
        }
    }

    /// The role of this word.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == word)
    }

    /// The role of this number of the protocol's enum; none for `ROLE_UNSPECIFIED` and what is not known.
    #[must_use]
    pub(crate) const fn of_number(number: i32) -> Option<Self> {
        match number {
            1 => Some(Self::Viewer),
            2 => Some(Self::Operator),
            3 => Some(Self::Admin),
            4 => Some(Self::Producer),
            5 => Some(Self::Peer),
            _ => None,
        }
    }

    /// Whether who has this role may do what needs the other.
    #[must_use]
    pub const fn covers(self, needed: Self) -> bool {
        match self {
            Self::Admin => true,
            Self::Operator => matches!(needed, Self::Viewer | Self::Operator),
            Self::Viewer => matches!(needed, Self::Viewer),
            Self::Producer => matches!(needed, Self::Producer),
            Self::Peer => matches!(needed, Self::Peer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_do_what() {
        // One row a role, one column for what is needed, in the order of ALL.
        let table = [
            (Role::Viewer, [true, false, false, false, false]),
            (Role::Operator, [true, true, false, false, false]),
            (Role::Admin, [true, true, true, true, true]),
            (Role::Producer, [false, false, false, true, false]),
            (Role::Peer, [false, false, false, false, true]),
        ];
        for (role, may) in table {
            assert_eq!(Role::ALL.map(|needed| role.covers(needed)), may, "{role:?}");
            assert_eq!(Role::of_word(role.as_str()), Some(role));
        }
        assert_eq!((1..=6).map(Role::of_number).collect::<Option<Vec<_>>>(), None);
        assert_eq!((1..=5).filter_map(Role::of_number).collect::<Vec<_>>(), Role::ALL);
    }
}
