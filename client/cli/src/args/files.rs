//! What can be typed of files: `upload`, `download`, `blob`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::value::header::{self, Pair};

/// `spile upload`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "The same command again goes on where the last one ended. A file that is named ls or cancel is ./ls.

Examples:
  spile upload trace.bin --key pump-7 --type application/octet-stream
  spile upload *.jpg --key camera-2 --meta shift=night --parallel 8
  tar c logs | spile upload - --name logs.tar
  spile upload ls
  spile upload cancel 00112233445566778899aabbccddeeff"
)]
pub(crate) struct Upload {
    #[command(subcommand)]
    pub(crate) command: Option<UploadCommand>,
    #[command(flatten)]
    pub(crate) send: UploadSend,
}

/// What is sent.
#[derive(Debug, Args)]
pub(crate) struct UploadSend {
    /// The files; - is stdin, which is kept in a temporary file until it is sent
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Under which key they are kept [default: our own id]
    #[arg(long, value_name = "K")]
    pub(crate) key: Option<String>,
    /// Its name; of one file only [default: the file's]
    #[arg(long, value_name = "N")]
    pub(crate) name: Option<String>,
    /// What they are, as image/jpeg
    #[arg(long = "type", value_name = "T", default_value = "")]
    pub(crate) content_type: String,
    /// More about them; all of it in 512 bytes
    #[arg(long, value_parser = header::parse, value_name = "K=V")]
    pub(crate) meta: Vec<Pair>,
    /// So many at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) parallel: u8,
}

/// `spile upload ls|cancel`.
#[derive(Debug, Subcommand)]
pub(crate) enum UploadCommand {
    /// List what is under way
    Ls,
    /// Forget an upload and what was sent of it
    Cancel {
        /// Its id
        id: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// `spile download`.
#[derive(Debug, Args)]
#[command(
    after_help = "What is there of it stands in FILE.part until all of it came and has its hash; the same command
again goes on there.

Examples:
  spile download 05-1a2b
  spile download 05-1a2b -o trace.bin
  spile download 05-1a2b -o - | tar x"
)]
pub(crate) struct Download {
    /// The blob's id
    pub(crate) blob: String,
    /// Where it is written; - is stdout [default: under its own name, where nothing of that name is]
    #[arg(short, long, value_name = "F")]
    pub(crate) output: Option<PathBuf>,
}

/// `spile blob`.
#[derive(Debug, Subcommand)]
pub(crate) enum Blob {
    /// List sealed uploads
    Ls {
        /// Only those whose name begins so
        #[arg(default_value = "")]
        prefix: String,
    },
    /// Show one
    Show {
        /// Its id
        blob: String,
    },
    /// Remove one; its space comes back
    Rm {
        /// Its id
        blob: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}
