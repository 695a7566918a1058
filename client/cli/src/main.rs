//! The `spile` command: raw arguments → checked arguments → one command → an exit code.
//!
//! Here: the way in and out. What can be typed: [`args`]; the commands: [`command`]; what failed: [`failure`].

mod args;
mod command;
mod confirm;
mod connect;
mod context;
mod failure;
mod local_code;
mod output;
mod progress;
mod signal;
mod value;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use args::{Command, Everywhere, Typed};
use failure::{Exit, Failure};
use output::{Output, say};

fn main() -> ExitCode {
    let ended = match Typed::try_parse() {
        Ok(typed) => run(typed),
        Err(refused) => not_typed(&refused),
    };
    ExitCode::from(ended.number())
}

/// Help, the version, or a usage error as one line.
fn not_typed(refused: &clap::Error) -> Exit {
    if matches!(refused.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // That the reader of the help went away is no failure.
        return refused.print().map_or(Exit::Done, |()| Exit::Done);
    }
    let failure = Failure::usage("read the command", usage(refused));
    let json = std::env::args_os().any(|arg| arg == "--json");
    report(&failure, &mut Output::new(json, false))
}

/// clap's first paragraph without its own prefix, on one line.
fn usage(refused: &clap::Error) -> String {
    if refused.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "no command".to_owned();
    }
    let text = refused.render().to_string();
    let told = text.split("\n\n").next().unwrap_or_default();
    let told = told.strip_prefix("error: ").unwrap_or(told);
    told.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn run(typed: Typed) -> Exit {
    let Typed { everywhere, command } = typed;
    let mut output = Output::new(everywhere.json, everywhere.quiet);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(until_stopped(everywhere, command, &mut output));
            // Reading stdin can't be cut short; nothing waits for it.
            runtime.shutdown_background();
            outcome
        }
        Err(why) => Err(Failure::local(&local_code::FILE, "start the runtime", why)),
    };
    match outcome.and_then(|()| output.flush()) {
        Ok(()) => Exit::Done,
        Err(failure) => report(&failure, &mut output),
    }
}

fn report(failure: &Failure, output: &mut Output) -> Exit {
    if output.failure(failure).and_then(|()| output.flush()).is_err()
        && let Some(line) = failure.line()
    {
        // stdout is gone; stderr may be there.
        say(&line);
    }
    failure.exit()
}

/// Ctrl-C ends a command that has no better way.
async fn until_stopped(
    everywhere: Everywhere,
    command: Command,
    output: &mut Output,
) -> Result<(), Failure> {
    let ends_itself = matches!(
        command,
        Command::Subscribe(_)
            | Command::Stream(_)
            | Command::Consume(_)
            | Command::Inbox(_)
            | Command::Upload(_)
            | Command::Serve(_)
            | Command::Bench(_)
    );
    if ends_itself {
        return perform(everywhere, command, output).await;
    }
    tokio::select! {
        outcome = perform(everywhere, command, output) => outcome,
        () = signal::stop() => Err(Failure::Quiet(Exit::Failed)),
    }
}

async fn perform(
    mut everywhere: Everywhere,
    command: Command,
    output: &mut Output,
) -> Result<(), Failure> {
    if command.asks_for_credential() {
        // Ours stands in the context.
        (everywhere.cert, everywhere.token) = (None, None);
    }
    let typed = &everywhere;
    match command {
        Command::Publish(args) => command::publish::run(&args, typed, output).await,
        Command::Subscribe(args) => command::follow::subscribe(&args, typed, output).await,
        Command::Stream(args) => command::follow::stream(&args, typed, output).await,
        Command::State(state) => command::state::run(&state, typed, output).await,
        Command::Inbox(args) => command::inbox::run(&args, typed, output).await,
        Command::Trace(args) => command::trace::run(&args, typed, output).await,
        Command::Group(group) => command::group::run(&group, typed, output).await,
        Command::Consume(args) => command::consume::run(&args, typed, output).await,
        Command::Dlq(dlq) => command::dlq::run(&dlq, typed, output).await,
        Command::Upload(args) => command::upload::run(&args, typed, output).await,
        Command::Download(args) => command::download::run(&args, typed, output).await,
        Command::Blob(blob) => command::blob::run(&blob, typed, output).await,
        Command::Call(args) => command::call::run(&args, typed, output).await,
        Command::Serve(args) => command::serve::run(&args, typed, output).await,
        Command::Service(service) => command::service::run(&service, typed, output).await,
        Command::Retention(args) => command::retention::run(&args, typed, output).await,
        Command::Status => command::status::run(typed, output).await,
        Command::Doctor => command::doctor::run(typed, output).await,
        Command::Device(device) => command::device::run(&device, typed, output).await,
        Command::Bench(bench) => command::bench::run(&bench, typed, output).await,
        Command::Errors(args) => command::errors::run(&args, output),
        Command::Completions { shell } => command::completions::run(shell, output),
        Command::Context(context) => command::context::run(&context, typed, output),
    }
}
