//! `spile inbox`: our own messages, printed and marked as done.
//!
//! Invariant: a message is done only after it was printed; one that was not comes again.

use serde::Serialize;
use spile_client::{Consume, Consumer, Delivery, Settled};

use crate::args::{Everywhere, InboxArgs};
use crate::command::follow::{self, Shown, silence};
use crate::connect::{connect, within};
use crate::failure::Failure;
use crate::output::Output;
use crate::signal;

const WHAT: &str = "inbox";

/// One message, as scripts read it.
#[derive(Serialize)]
struct Message<'a> {
    #[serde(flatten)]
    event: Shown<'a>,
    /// What becomes of it.
    outcome: &'static str,
}

pub(crate) async fn run(
    args: &InboxArgs,
    typed: &Everywhere,
    output: &mut Output,
) -> Result<(), Failure> {
    if args.until.count == Some(0) {
        return Ok(());
    }
    let client = connect(typed).await?;
    // What is not printed is not given back: it stays unread.
    let opened = client.inbox(Consume::default().give_back(false));
    let mut inbox = within(typed.timeout, WHAT, opened).await?;
    let outcome = tokio::select! {
        outcome = print(&mut inbox, args, output) => outcome,
        () = signal::stop() => Ok(()),
    };
    let answered = tokio::time::timeout(typed.timeout, inbox.settled()).await.is_ok();
    let unknown = inbox.tally().unknown;
    if unknown > 0 || !answered {
        output.notice("it is not known whether all of it is marked as done: some may come again");
    }
    drop(inbox);
    client.close().await;
    outcome.and_then(|()| output.flush())
}

async fn print(inbox: &mut Consumer, args: &InboxArgs, output: &mut Output) -> Result<(), Failure> {
    let mut left = args.until.count.unwrap_or(u64::MAX);
    loop {
        let Ok(next) = silence(args.until.wait, inbox.next()).await else { return Ok(()) };
        let Some(next) = next else { return Ok(()) };
        let mut delivery = next.map_err(|error| Failure::client(WHAT, &error))?;
        let wanted = usize::try_from(left).unwrap_or(usize::MAX);
        let mut printed = 0;
        for event in delivery.events().take(wanted) {
            show(&event, args.peek, output)?;
            printed += 1;
        }
        output.flush()?;
        if !args.peek {
            let settled = delivery.done_first(printed).await;
            let settled = settled.map_err(|error| Failure::client(WHAT, &error))?;
            if settled == Settled::TooLate {
                output.notice("another reader was faster: these may be printed there too");
            }
        }
        left = left.saturating_sub(u64::try_from(printed).unwrap_or(u64::MAX));
        if left == 0 {
            return Ok(());
        }
    }
}

fn show(event: &Delivery, peek: bool, output: &mut Output) -> Result<(), Failure> {
    let outcome = if peek { "unread" } else { "done" };
    let message = Message { event: follow::shown(event), outcome };
    output.result(&message, |message| {
        let Shown { position, topic, version, payload, .. } = &message.event;
        format!("{position} {version} {topic} {}", payload.text())
    })
}
