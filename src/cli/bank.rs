//! `viva bank`: the bank of questions and what is found in it.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};

use crate::knowledge::bank::build;

/// The bank of questions: build it, look into it, add to it, index it.
#[derive(Debug, Args)]
pub struct BankArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write presets/questions/bank.jsonl from the sources beside it
    ///
    /// The bank is part of the program: build the program again afterwards.
    Build {
        /// Folder of the sources
        #[arg(long, value_name = "DIR", default_value = "presets/questions")]
        sources: PathBuf,
    },
}

/// Runs the subcommand.
pub fn run(args: BankArgs) -> anyhow::Result<()> {
    match args.command {
        Command::Build { sources } => {
            let text = build::text(&sources)?;
            let path = sources.join(build::BANK_FILE);
            std::fs::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
            writeln!(std::io::stdout(), "{}: {} questions", path.display(), text.lines().count()).ok();
            Ok(())
        }
    }
}
