//! Why Redis cannot be used, in few words: the label of a metric.

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// Every class.
pub(crate) const ALL: [&str; 11] =
    ["unreachable", "timeout", "dropped", "oom", "readonly", "misconf", "loading", "auth", "permission", "clients", "other"];

/// The first word of an error that ended a script after a part of its batch; the error's own follow.
pub(crate) const PARTLY: &str = "PARTLY";

/// The class of an error.
pub(crate) fn of(error: &RedisError) -> &'static str {
    if error.is_timeout() {
        return "timeout";
    }
    let code = match error.code() {
        Some(PARTLY) => error.detail().and_then(|detail| detail.split(' ').next()),
        code => code,
    };
    if let Some(reason) = code.and_then(answered) {
        return reason;
    }
    match error.kind() {
        ErrorKind::AuthenticationFailed => "auth",
        ErrorKind::Server(ServerErrorKind::ResponseError) if says(error, "max number of clients") => "clients",
        // A command that a script runs; servers before 7.2 do not say NOPERM then.
        _ if says(error, "The user executing the script") => "permission",
        _ if error.is_connection_refusal() => "unreachable",
        _ if error.is_connection_dropped() => "dropped",
        _ if error.is_io_error() => "unreachable",
        _ => "other",
    }
}

/// By the first word of an answer.
fn answered(code: &str) -> Option<&'static str> {
    Some(match code {
        "OOM" => "oom",
        "READONLY" => "readonly",
        "MISCONF" => "misconf",
        "LOADING" => "loading",
        "NOAUTH" | "WRONGPASS" => "auth",
        "NOPERM" => "permission",
        _ => return None,
    })
}

/// Whether the account may not ask what is only good to know.
pub(crate) fn is_info_denied(error: &RedisError) -> bool {
    error.code() == Some("NOPERM") && says(error, "'info'")
}

fn says(error: &RedisError, words: &str) -> bool {
    error.detail().is_some_and(|detail| detail.contains(words)) || error.to_string().contains(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn an_io_error_is_told_by_its_kind() {
        let rows = [
            (io::ErrorKind::TimedOut, "timeout"),
            (io::ErrorKind::ConnectionRefused, "unreachable"),
            (io::ErrorKind::ConnectionReset, "dropped"),
        ];
        for (kind, reason) in rows {
            assert_eq!(of(&RedisError::from(io::Error::from(kind))), reason, "{kind:?}");
        }
    }

    #[test]
    fn an_answer_is_told_by_its_first_word() {
        let rows =
            [("OOM", Some("oom")), ("NOAUTH", Some("auth")), ("WRONGPASS", Some("auth")), ("WRONGTYPE", None), ("ERR", None)];
        for (code, reason) in rows {
            assert_eq!(answered(code), reason, "{code}");
        }
    }
}
