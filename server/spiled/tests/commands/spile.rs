//! The `spile` command as a test runs it: the real binary, in a folder of its own.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
};

/// The binary: beside `spiled`, built first where a test run of one crate has not built it.
pub(crate) fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let spiled = Path::new(env!("CARGO_BIN_EXE_spiled"));
        let spile = spiled.with_file_name("spile");
        let mut build = Command::new(env!("CARGO"));
        build
            .args(["build", "--quiet", "--package", "spile-cli"])
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        if spiled.components().any(|part| part.as_os_str() == "release") {
            build.arg("--release");
        }
        // Also where it is there: it may be of yesterday's sources.
        assert!(build.status().unwrap().success(), "cargo build --package spile-cli");
        assert!(spile.exists(), "no {}", spile.display());
        spile
    })
}

/// `spile`, in the folder whose `spile-data` it finds by itself.
pub(crate) fn spile(folder: &Path) -> Command {
    let mut command = Command::new(binary());
    command.current_dir(folder).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SPILE")) {
        command.env_remove(name);
    }
    command
}

/// What it printed and how it ended.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs `spile` with these words.
pub(crate) fn run(folder: &Path, words: &[&str]) -> Ran {
    ran(spile(folder).args(words).output().unwrap())
}

pub(crate) fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}
