//! The `viva` program: parses the command line and runs one subcommand.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use viva::cli::{bank, calibrate, doctor, keys, load, models, serve, sim, talk};

/// A self-hosted, real-time voice server for job interviews.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve conversations
    Serve(serve::ServeArgs),
    /// Play recordings as a caller and hear the answers
    Talk(talk::TalkArgs),
    /// Play many callers and measure what they felt
    Load(load::LoadArgs),
    /// Simulate many sessions on a machine that is not here
    Sim(sim::SimArgs),
    /// Measure the engines on this machine
    Calibrate(calibrate::CalibrateArgs),
    /// Weights: bring them, list them, check them
    Models(models::ModelsArgs),
    /// The bank of questions: build it, look into it, add to it, index it
    Bank(bank::BankArgs),
    /// API keys: make, list, revoke
    Keys(keys::KeysArgs),
    /// Check this machine for `viva serve` and say what to do
    Doctor(doctor::DoctorArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime could not be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = match cli.command {
        Command::Serve(args) => runtime.block_on(serve::run(args)).map(|()| true),
        Command::Talk(args) => runtime.block_on(talk::run(args)).map(|()| true),
        Command::Load(args) => runtime.block_on(load::run(args)).map(|()| true),
        Command::Sim(args) => sim::run(&args).map(|()| true),
        Command::Calibrate(args) => calibrate::run(&args).map(|()| true),
        Command::Models(args) => models::run(args).map(|()| true),
        Command::Bank(args) => runtime.block_on(bank::run(args)).map(|()| true),
        Command::Keys(args) => keys::run(&args).map(|()| true),
        Command::Doctor(args) => doctor::run(args),
    };
    // What still runs in the background must not hold the end.
    runtime.shutdown_background();
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // `{:#}` puts the causes behind the error, in one line.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
