//! What a pull tells those who wait for it.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};

/// How a file came to be in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was there already.
    Present,
    /// It came from this source.
    Pulled {
        /// The mirror, the packages or the hub.
        from: String,
    },
    /// It could not be had.
    Failed {
        /// Why.
        why: String,
    },
}

/// One thing that happened during a pull. `file` is the path in the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Another pull works in the same folder; this one waits for it.
    WaitingForLock,
    /// Work on a file begins.
    Started {
        /// Which.
        file: String,
    },
    /// What is being done for it now.
    Doing {
        /// Which.
        file: String,
        /// A few words.
        what: String,
        /// Bytes this step will take, where known.
        total: Option<u64>,
    },
    /// Bytes of the step arrived (or, after a resumed download, were there).
    Advanced {
        /// Which.
        file: String,
        /// How many more.
        bytes: u64,
    },
    /// Something went wrong that the pull itself deals with.
    Trouble {
        /// Which.
        file: String,
        /// What, and what happens now.
        what: String,
    },
    /// Work on a file is over.
    Finished {
        /// Which.
        file: String,
        /// How it ended.
        outcome: Outcome,
    },
}

/// Hears of a pull's events, one at a time.
pub trait Progress: Send {
    /// Something happened.
    fn on(&mut self, event: &Event);
}

/// Hears nothing.
#[derive(Debug, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn on(&mut self, _event: &Event) {}
}

/// Plain lines on standard error, for logs and pipes.
#[derive(Debug, Default)]
pub struct Lines;

impl Progress for Lines {
    fn on(&mut self, event: &Event) {
        let line = match event {
            Event::WaitingForLock => "another pull is working in this folder: waiting for it".to_owned(),
            Event::Doing { file, what, total: Some(total) } => {
                format!("{file}: {what} ({})", HumanBytes(*total))
            }
            Event::Doing { file, what, total: None } => format!("{file}: {what}"),
            Event::Trouble { file, what } => format!("{file}: {what}"),
            Event::Finished { file, outcome } => match outcome {
                Outcome::Present => format!("{file}: already here"),
                Outcome::Pulled { from } => format!("{file}: done, from {from}"),
                Outcome::Failed { why } => format!("{file}: FAILED: {why}"),
            },
            Event::Started { .. } | Event::Advanced { .. } => return,
        };
        // Nobody to tell is no reason to stop.
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

/// A bar a file, for people at a terminal.
pub struct Bars {
    all: MultiProgress,
    bars: HashMap<String, ProgressBar>,
}

impl Bars {
    /// Draws on standard error.
    pub fn new() -> Self {
        Self { all: MultiProgress::new(), bars: HashMap::new() }
    }

    fn bar(&mut self, file: &str) -> &ProgressBar {
        self.bars.entry(file.to_owned()).or_insert_with(|| {
            let bar = self.all.add(ProgressBar::new_spinner());
            bar.set_style(style("{spinner} {prefix:.bold} {wide_msg}"));
            bar.set_prefix(file.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        })
    }

    fn say(&self, line: String) {
        let _ = self.all.println(line);
    }
}

impl Default for Bars {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress for Bars {
    fn on(&mut self, event: &Event) {
        match event {
            Event::WaitingForLock => self.say("another pull is working in this folder: waiting".to_owned()),
            Event::Started { file } => self.bar(file).set_message("waiting for its turn"),
            Event::Doing { file, what, total } => {
                let bar = self.bar(file);
                match total {
                    Some(total) => {
                        bar.set_length(*total);
                        bar.set_style(style(
                            "{prefix:.bold} {bar:24} {bytes}/{total_bytes} {bytes_per_sec} {wide_msg}",
                        ));
                    }
                    None => bar.set_style(style("{spinner} {prefix:.bold} {wide_msg}")),
                }
                bar.set_position(0);
                bar.set_message(what.clone());
            }
            Event::Advanced { file, bytes } => self.bar(file).inc(*bytes),
            Event::Trouble { file, what } => self.say(format!("{file}: {what}")),
            Event::Finished { file, outcome } => {
                if let Some(bar) = self.bars.remove(file) {
                    bar.finish_and_clear();
                }
                self.say(match outcome {
                    Outcome::Present => format!("  {file}: already here"),
                    Outcome::Pulled { from } => format!("✓ {file}: from {from}"),
                    Outcome::Failed { .. } => format!("✗ {file}"),
                });
            }
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates here are fixed and well-formed")
}

/// Bars where standard error is a terminal, lines where it is not.
pub fn for_terminal() -> Box<dyn Progress> {
    if std::io::stderr().is_terminal() { Box::new(Bars::new()) } else { Box::new(Lines) }
}
