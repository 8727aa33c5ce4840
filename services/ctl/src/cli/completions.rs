//! `countersign completions`: a script that teaches a shell the command's words.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::exit::Done;
use crate::output;

/// How to install what is printed.
const EXAMPLES: &str = "\
Examples:
  source <(countersign completions bash)
  countersign completions zsh > \"${fpath[1]}/_countersign\"
  countersign completions fish > ~/.config/fish/completions/countersign.fish";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct CompletionsArgs {
    /// The shell that is to learn the verbs and options.
    shell: Shell,
}

pub fn run(args: &CompletionsArgs) -> Done {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "countersign", &mut script);
    output::write(String::from_utf8_lossy(&script).trim_end());
    Done::All
}
