//! What the command accepts.

mod completions;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::exit::{self, Done};
use crate::target::Target;
use crate::{dead, doctor, get, list, operate, outbox, permissions, reconcile, send, subscriptions, topology, why};

/// Send messages, see what became of them, have them sent again.
#[derive(Parser)]
#[command(name = "countersign", version, propagate_version = true, after_help = exit::CODES)]
pub struct Cli {
    #[command(flatten)]
    pub target: Target,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Subcommand)]
pub enum Verb {
    /// Send one message, or every record of a file.
    Send(Box<send::SendArgs>),
    /// Show one message and its deliveries.
    Get(get::GetArgs),
    /// Say in plain words what happened to a message and what will happen next.
    Why(why::WhyArgs),
    /// List deliveries by state.
    List(list::ListArgs),
    /// Compare what upstreams have stored with what was signed for; have checked what nobody has signed for.
    #[command(after_help = reconcile::CODES)]
    Reconcile(reconcile::ReconcileArgs),
    /// Have messages sent again to whoever has not signed, in a new epoch.
    #[command(visible_alias = "resend", after_help = operate::ACTS)]
    Redrive(operate::RedriveArgs),
    /// Leave deliveries for a human: nothing is sent again until they are redriven.
    #[command(after_help = operate::ACTS)]
    Park(operate::ParkArgs),
    /// Have nothing more done about deliveries that are not done.
    #[command(after_help = operate::ACTS)]
    Discard(operate::DiscardArgs),
    /// Take discards back: the deliveries are parked again.
    #[command(after_help = operate::ACTS)]
    Restore(operate::RestoreArgs),
    /// Show what callback and operators did about a message's deliveries.
    History(operate::HistoryArgs),
    /// List the acts of operators on deliveries and dead letters, refused ones too, newest first.
    Audit(operate::AuditArgs),
    /// Look at messages of mode outbox that the broker refused too often, and release them.
    #[command(subcommand)]
    Outbox(outbox::OutboxVerb),
    /// Show how the subscriptions of a downstream stand.
    Subscriptions(subscriptions::SubscriptionsArgs),
    /// Have no process handle a subscription until it is resumed; its messages wait, and nothing is sent again.
    Pause(subscriptions::PauseArgs),
    /// Go on with a paused subscription.
    Resume(subscriptions::ResumeArgs),
    /// Look at the dead letters of a subscription, send them again or discard them.
    #[command(subcommand)]
    Dead(dead::DeadVerb),
    /// Declare or check exchanges, queues and bindings.
    #[command(subcommand)]
    Topology(TopologyVerb),
    /// Find out what is wrong with an installation, and what to do; exit code 1 when something is.
    Doctor(doctor::DoctorArgs),
    /// Print a script that completes verbs and options in a shell.
    Completions(completions::CompletionsArgs),
}

#[derive(Subcommand)]
pub enum TopologyVerb {
    /// Declare what the file says. Never deletes anything.
    Apply(topology::TopologyArgs),
    /// Compare the broker with the file; exit code 1 when it differs.
    Verify(topology::TopologyArgs),
    /// Print what each user of the broker needs and no more, as a script of rabbitmqctl or (-o json) as definitions.
    Permissions(permissions::PermissionsArgs),
}

/// Parses the command line and runs its verb.
pub async fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => run(cli).await,
        Err(error) => exit::code_of_usage(&error, std::env::args_os()),
    }
}

async fn run(cli: Cli) -> ExitCode {
    let format = cli.target.output;
    exit::code_of(carry_out(cli).await, format)
}

async fn carry_out(cli: Cli) -> anyhow::Result<Done> {
    let target = &cli.target;
    match cli.verb {
        Verb::Send(args) => send::run(target, *args).await,
        Verb::Get(args) => get::run(target, args).await,
        Verb::Why(args) => why::run(target, args).await,
        Verb::List(args) => list::run(target, args).await,
        Verb::Reconcile(args) => reconcile::run(target, args).await,
        Verb::Redrive(args) => operate::redrive(target, args).await,
        Verb::Park(args) => operate::park(target, args).await,
        Verb::Discard(args) => operate::discard(target, args).await,
        Verb::Restore(args) => operate::restore(target, args).await,
        Verb::History(args) => operate::history(target, args).await,
        Verb::Audit(args) => operate::audit(target, args).await,
        Verb::Outbox(verb) => outbox::run(target, verb).await,
        Verb::Subscriptions(args) => subscriptions::list(target, &args).await,
        Verb::Pause(args) => subscriptions::pause(target, args).await,
        Verb::Resume(args) => subscriptions::resume(target, args).await,
        Verb::Dead(verb) => dead::run(target, verb).await,
        Verb::Topology(TopologyVerb::Apply(args)) => topology::apply(target, &args).await,
        Verb::Topology(TopologyVerb::Verify(args)) => topology::verify(target, &args).await,
        Verb::Topology(TopologyVerb::Permissions(args)) => permissions::print(target, &args),
        Verb::Doctor(args) => doctor::run(target, &args).await,
        Verb::Completions(args) => Ok(completions::run(&args)),
    }
}
