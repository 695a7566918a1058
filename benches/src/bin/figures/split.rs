//! Edge and worker as two processes over mTLS, beside all-in-one in the same minute: what the hop costs.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::load::{Load, Seen};
use crate::server::Server;
use crate::table::{Row, Table, grouped, median};
use crate::{ROUNDS, Size, one_thread};

const EVENT: usize = 256;
const WARM: Duration = Duration::from_millis(500);

pub(crate) fn measure(folder: &Path, size: Size, table: &mut Table) -> Result<()> {
    let (whole, apart) = (folder.join("whole"), folder.join("apart"));
    std::fs::create_dir(&whole)?;
    std::fs::create_dir(&apart)?;
    let (whole, apart) = (Server::start(&whole)?, Server::split(&apart)?);
    one_thread()?.block_on(async {
        let mut loads =
            [Load::open(&whole, 64, 16, EVENT).await?, Load::open(&apart, 64, 16, EVENT).await?];
        let servers = [&whole, &apart];
        let mut seen = [Vec::new(), Vec::new()];
        for (load, server) in loads.iter_mut().zip(servers) {
            load.run(server, WARM).await?;
        }
        // In turns, so that a busy moment of the machine hits both.
        for _ in 0..ROUNDS {
            for ((load, server), seen) in loads.iter_mut().zip(servers).zip(&mut seen) {
                seen.push(load.run(server, size.window()).await?);
            }
        }
        for load in loads {
            load.close().await;
        }
        let [whole, apart] = seen.map(|seen| {
            let rate = median(seen.iter().map(Seen::per_s).collect());
            (rate, median(seen.iter().map(Seen::server_us).collect()))
        });
        table.push(Row {
            what: "publish, 64 × 16, edge and worker as two processes".into(),
            measured: format!("{}/s, server {:.2} µs an event", grouped(apart.0), apart.1),
            bare: format!("all-in-one {}/s, {:.2} µs", grouped(whole.0), whole.1),
            ratio: format!("{:.2} ×", apart.0 / whole.0),
            must: "0.60 ×".into(),
            met: Some(apart.0 >= 0.6 * whole.0),
        });
        Ok(())
    })
}
