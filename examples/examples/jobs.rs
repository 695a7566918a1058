//! A service and its caller: a call starts a job, and the job's own stream tells how it goes, live and for ever.
//!
//! The answer to a call is short: that the job is begun. What takes long is told in events under the job's key, so that
//! whoever wants can follow, late or twice, and a cut connection costs nothing. The caller names the job: a call that is
//! made again, because nobody knows whether it was done, finds the stream begun and starts nothing twice.
//!
//! `jobs serve` serves, until Ctrl-C; `jobs start NAME` starts a job and follows it. `JOBS_STEP_MS` is a step's time.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use spile_client::{Answer, Call, Client, Code, Event, Expect, NotDone, Reply};
use spile_protocol::id::Version;
use tokio::signal::unix::{SignalKind, signal};

const SERVICE: &str = "jobs";
const STATUS: &str = "job/status";

#[tokio::main]
async fn main() -> Result<()> {
    let client = spile_examples::builder()?.connect().await?;
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve"] => serve(&client).await?,
        ["start", job] => start(&client, job).await?,
        _ => bail!("usage: jobs serve | jobs start NAME"),
    }
    client.close().await;
    Ok(())
}

/// At most eight calls at once; each is short, so that jobs are not bound by it.
async fn serve(client: &Client) -> Result<()> {
    let step = std::env::var("JOBS_STEP_MS").map_or(Ok(500), |text| text.parse())?;
    let step = Duration::from_millis(step);
    let ours = client.clone();
    let serving = client.serve(SERVICE, 8, move |call| begin(ours.clone(), step, call)).await?;
    // Before anybody reads that it serves, and may answer with Ctrl-C.
    let mut stop = signal(SignalKind::interrupt())?;
    println!("serving {SERVICE}");
    stop.recv().await;
    // What was called is answered. A job under way ends with this process: its stream says how far it came.
    serving.stop().await;
    Ok(())
}

async fn begin(client: Client, step: Duration, call: Call) -> Answer {
    if call.method != "start" {
        return Err(NotDone::new(Code::NOT_FOUND, format!("no method {:?}", call.method)));
    }
    let job = std::str::from_utf8(&call.payload)
        .map_err(|_| NotDone::new(Code::INVALID, "a job's name is text"))?;
    let key = format!("job-{job}");
    let begun = status(&key, "begun").expect(Expect::Version(Version(0)));
    match client.publish(begun).await {
        Ok(_) => {
            println!("{} starts {key}", call.caller);
            work(client, key.clone(), step);
        }
        // The stream is there: this call, or one before it, has begun the job.
        Err(why) if why.code() == Some(Code::STALE_VERSION) => println!("{key} is begun already"),
        Err(why) => return Err(why.into()),
    }
    Ok(Reply::from(key).content_type("text/plain"))
}

/// The work itself, told step by step.
fn work(client: Client, key: String, step: Duration) {
    #[expect(clippy::disallowed_methods, reason = "a job ends by itself, or with the process")]
    tokio::spawn(async move {
        for percent in [25, 50, 75] {
            tokio::time::sleep(step).await;
            tell(&client, status(&key, &format!("{percent} %"))).await;
        }
        tokio::time::sleep(step).await;
        tell(&client, status(&key, "done")).await;
    });
}

async fn tell(client: &Client, event: Event) {
    if let Err(why) = client.publish(event).await {
        eprintln!("a status was not told: {why}");
    }
}

fn status(key: &str, text: &str) -> Event {
    Event::new(STATUS, text.to_owned()).key(key).content_type("text/plain")
}

async fn start(client: &Client, job: &str) -> Result<()> {
    // It may be asked twice: the name is ours, and the second asks for what is begun.
    let ask = client.ask(SERVICE, "start").payload(job.to_owned()).idempotent(true);
    let reply = ask.within(Duration::from_secs(5)).send().await?;
    let key = std::str::from_utf8(&reply.payload).context("the answer is the job's key")?;
    println!("follow {key}");
    let mut events = client.stream(key, Version(1)).await?;
    while let Some(event) = events.next().await {
        let event = event?;
        let text = String::from_utf8_lossy(&event.payload).into_owned();
        println!("{} {text}", event.version);
        if text == "done" {
            return Ok(());
        }
    }
    bail!("the stream ended before the job")
}
