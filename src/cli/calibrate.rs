//! `viva calibrate`: how many threads each engine is worth here, and what it costs.

use clap::Args;
use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};

use super::serve::ServeArgs;
use crate::calibration::{self, Calibration};

/// Measure the engines on this machine.
///
/// Opens each engine with one thread, two, four and so on, and times it; about half a minute on two cores. `viva
/// serve` then gives each engine the threads that are worth their cores. Leave the machine alone meanwhile.
#[derive(Debug, Clone, Args)]
pub struct CalibrateArgs {
    #[command(flatten)]
    serve: ServeArgs,
    /// Do nothing if this machine was measured with these weights before
    #[arg(long)]
    if_needed: bool,
    /// Print what was measured as TOML, which is also a machine for `viva sim --machine FILE`
    #[arg(long)]
    toml: bool,
}

/// Measures and keeps it.
pub fn run(args: &CalibrateArgs) -> anyhow::Result<()> {
    let config = args.serve.load()?;
    if args.if_needed && Calibration::known(&config).is_some() {
        return Ok(());
    }
    if calibration::is_remote(&config) {
        eprintln!(
            "some engines of this configuration are remote: there is nothing of theirs to measure here"
        );
        return Ok(());
    }
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    let bar = ProgressBar::new(calibration::steps(cores));
    let style = ProgressStyle::with_template("{elapsed} {wide_bar} {msg}")
        .expect("the template is a constant that indicatif accepts");
    bar.set_style(style);
    let measured = calibration::measure(&config, &mut |next| {
        bar.set_message(next.to_owned());
        bar.inc(1);
    })?;
    bar.finish_and_clear();
    let path = measured.keep(&config)?;
    if args.toml {
        print!("{}", toml::to_string(&measured.machine)?);
        return Ok(());
    }
    println!("{}", measured.about);
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(["", "threads", "ms", "processor ms", ""]);
    let threads = measured.threads;
    for tried in &measured.tried {
        let (what, chosen) = match tried.what.as_str() {
            "asr" => ("8 s recognised", threads.asr),
            "llm" => ("128 tokens of prompt", threads.llm),
            "llm_decode" => ("a token", threads.llm_decode),
            _ => ("a clause spoken", threads.tts),
        };
        let mark = if tried.threads == chosen { "chosen" } else { "" };
        let ms = |ms: f64| format!("{ms:.1}");
        table.add_row([what, &tried.threads.to_string(), &ms(tried.wall_ms), &ms(tried.cpu_ms), mark]);
    }
    println!("{table}\nkept in {}; viva serve goes by it from now on", path.display());
    Ok(())
}
