//! Exit codes and errors, the same for every verb. **Invariant:** whoever asked for JSON can read the error as well.

use std::ffi::OsString;
use std::process::ExitCode;

use serde_json::json;
use tonic::Code;

use crate::target::Format;

/// The exit codes, as `--help` shows them.
pub const CODES: &str = "\
Exit codes:
  0    everything asked for was done
  1    done, but some of it was rejected or differs; the output says which
  2    the input cannot be used: mend it
  3    a service did not answer: try again, nothing is lost
  130  stopped by SIGINT (143: by SIGTERM); the same command goes on from there

With -o json an error (codes from 2 on) is one line of JSON on standard error:
  {\"error\": \"what is wrong and what to do\", \"code\": \"UNAVAILABLE\", \"exit\": 3}
code is a gRPC status name: that of the service, or the one that fits.";

const INPUT: u8 = 2;
const AWAY: u8 = 3;

/// How a verb that came to its end turned out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// All of it.
    All,
    /// Some was rejected or differs.
    Partly,
    /// As far as it goes while a service does not answer; the output says which.
    Away,
}

/// The verb was told to stop and did so in good order.
#[derive(Debug)]
pub struct Stopped {
    /// The signal's number.
    pub signal: u8,
    /// How far it came and how to go on.
    pub words: String,
}

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for Stopped {}

/// Prints the error, if any, and names the exit code.
pub fn code_of(result: anyhow::Result<Done>, format: Format) -> ExitCode {
    match result {
        Ok(Done::All) => ExitCode::SUCCESS,
        Ok(Done::Partly) => ExitCode::from(1),
        Ok(Done::Away) => ExitCode::from(AWAY),
        Err(error) => {
            let (exit, code) = judge(&error);
            complain(format, &in_words(&error), &code, exit)
        }
    }
}

/// Prints what clap has to say: help and version as they are, a wrong command line in the form that it asks for.
pub fn code_of_usage(error: &clap::Error, arguments: impl Iterator<Item = OsString>) -> ExitCode {
    if error.use_stderr() && asks_for_json(arguments) {
        let words = error.render().to_string();
        let words = words.trim_start_matches("error: ").trim_end();
        return complain(Format::Json, words, &name_of(Code::InvalidArgument), INPUT);
    }
    // Whoever does not read the help any more does not miss it.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(INPUT))
}

fn complain(format: Format, words: &str, code: &str, exit: u8) -> ExitCode {
    match format {
        Format::Json => eprintln!("{}", json!({"error": words, "code": code, "exit": exit})),
        Format::Table => eprintln!("countersign: {words}"),
    }
    ExitCode::from(exit)
}

/// Looked for by hand: a command line that cannot be read has no options yet.
fn asks_for_json(arguments: impl Iterator<Item = OsString>) -> bool {
    let words: Vec<String> = arguments.map(|word| word.to_string_lossy().into_owned()).collect();
    let joined = ["-ojson", "-o=json", "--output=json"];
    let apart = |pair: &[String]| (pair[0] == "-o" || pair[0] == "--output") && pair[1] == "json";
    words.iter().any(|word| joined.contains(&word.as_str())) || words.windows(2).any(apart)
}

/// The error with its causes, as the command prints it.
pub fn in_words(error: &anyhow::Error) -> String {
    match error.downcast_ref::<tonic::Status>() {
        Some(status) if status.message().is_empty() => format!("{:?}", status.code()),
        Some(status) => format!("{} ({:?})", status.message(), status.code()),
        None => format!("{error:#}"),
    }
}

/// The exit code, and the gRPC status name that goes with it.
fn judge(error: &anyhow::Error) -> (u8, String) {
    if let Some(stopped) = error.downcast_ref::<Stopped>() {
        return (128 + stopped.signal, name_of(Code::Cancelled));
    }
    if let Some(status) = error.downcast_ref::<tonic::Status>() {
        return (if may_pass(status) { AWAY } else { INPUT }, name_of(status.code()));
    }
    let is_away = error.chain().any(|cause| {
        let by_broker = cause.downcast_ref::<countersign_broker::Error>().is_some_and(countersign_broker::Error::is_transient);
        by_broker || cause.is::<tonic::transport::Error>()
    });
    if is_away { (AWAY, name_of(Code::Unavailable)) } else { (INPUT, name_of(Code::InvalidArgument)) }
}

/// Whether trying again later may help.
pub fn is_away(error: &anyhow::Error) -> bool {
    judge(error).0 == AWAY
}

/// `INVALID_ARGUMENT` for `InvalidArgument`.
fn name_of(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// Whether the same call may succeed later. A status with a source never came from the service: the way to it broke.
pub fn may_pass(status: &tonic::Status) -> bool {
    is_transient(status.code()) || std::error::Error::source(status).is_some()
}

/// The codes after which the same call may succeed.
pub const fn is_transient(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded | Code::Aborted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_exit_code_and_name() {
        let rows: [(anyhow::Error, u8, &str); 5] = [
            (Stopped { signal: 2, words: String::new() }.into(), 130, "CANCELLED"),
            (tonic::Status::not_found("").into(), 2, "NOT_FOUND"),
            (tonic::Status::unavailable("").into(), 3, "UNAVAILABLE"),
            (tonic::Status::from_error(Box::new(std::io::Error::other("broken pipe"))).into(), 3, "UNKNOWN"),
            (anyhow::anyhow!("no body"), 2, "INVALID_ARGUMENT"),
        ];
        for (error, exit, name) in rows {
            assert_eq!(judge(&error), (exit, name.to_owned()), "{error:?}");
        }
    }

    #[test]
    fn json_is_asked_for_in_five_ways() {
        let asks = |line: &str| asks_for_json(line.split(' ').map(OsString::from));
        for line in ["-o json list", "list -ojson", "-o=json", "--output json", "get --output=json x"] {
            assert!(asks(line), "{line}");
        }
        for line in ["list", "-o table list", "send --body json", "list json"] {
            assert!(!asks(line), "{line}");
        }
    }
}
