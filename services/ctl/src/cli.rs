//! What the command accepts.

mod completions;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::exit::{self, Done};
use crate::target::Target;
use crate::{dead, doctor, get, list, outbox, reconcile, resend, send, subscriptions, topology, why};

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
    /// Have a message sent again, in a new epoch.
    Resend(resend::ResendArgs),
    /// Compare what upstreams have stored with what was signed for; have checked what nobody has signed for.
    #[command(after_help = reconcile::CODES)]
    Reconcile(reconcile::ReconcileArgs),
    /// Look at messages of mode outbox that the broker refused too often, and release them.
    #[command(subcommand)]
    Outbox(outbox::OutboxVerb),
    /// Show how the subscriptions of a downstream stand.
    Subscriptions(subscriptions::SubscriptionsArgs),
    /// Have no process handle a subscription until it is resumed; its messages wait, and nothing is sent again.
    Pause(subscriptions::PauseArgs),
    /// Go on with a paused subscription.
    Resume(subscriptions::ResumeArgs),
    /// Look into the dead-letter queue of a subscription, send letters again or discard them.
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
}

pub async fn run(cli: Cli) -> ExitCode {
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
        Verb::Resend(args) => resend::run(target, args).await,
        Verb::Reconcile(args) => reconcile::run(target, args).await,
        Verb::Outbox(verb) => outbox::run(target, verb).await,
        Verb::Subscriptions(args) => subscriptions::list(target, &args).await,
        Verb::Pause(args) => subscriptions::pause(target, args).await,
        Verb::Resume(args) => subscriptions::resume(target, args).await,
        Verb::Dead(verb) => dead::run(target, verb).await,
        Verb::Topology(TopologyVerb::Apply(args)) => topology::apply(target, &args).await,
        Verb::Topology(TopologyVerb::Verify(args)) => topology::verify(target, &args).await,
        Verb::Doctor(args) => doctor::run(target, &args).await,
        Verb::Completions(args) => Ok(completions::run(&args)),
    }
}
