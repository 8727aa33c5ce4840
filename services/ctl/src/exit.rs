//! Exit codes, the same for every verb.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | everything asked for was done |
//! | 1 | done, but some of it was refused or differs; the output says which |
//! | 2 | the input cannot be used: mend it |
//! | 3 | a service did not answer: try again, nothing is lost |

use std::process::ExitCode;

use tonic::Code;

/// How a verb that came to its end turned out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// All of it.
    All,
    /// Some was refused or differs.
    Partly,
}

/// Prints the error, if any, and names the exit code.
pub fn code_of(result: anyhow::Result<Done>) -> ExitCode {
    match result {
        Ok(Done::All) => ExitCode::SUCCESS,
        Ok(Done::Partly) => ExitCode::from(1),
        Err(error) => {
            eprintln!("countersign: {}", in_words(&error));
            ExitCode::from(if is_away(&error) { 3 } else { 2 })
        }
    }
}

fn in_words(error: &anyhow::Error) -> String {
    match error.downcast_ref::<tonic::Status>() {
        Some(status) if status.message().is_empty() => format!("{:?}", status.code()),
        Some(status) => format!("{} ({:?})", status.message(), status.code()),
        None => format!("{error:#}"),
    }
}

/// Whether trying again later may help.
fn is_away(error: &anyhow::Error) -> bool {
    let by_status = error.downcast_ref::<tonic::Status>().is_some_and(|status| is_transient(status.code()));
    by_status || error.chain().any(<dyn std::error::Error>::is::<tonic::transport::Error>)
}

/// The codes after which the same call may succeed.
pub const fn is_transient(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded | Code::Aborted)
}
