//! `viva bank`: the bank of questions and what is found in it.

mod show;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use viva_models::registry::EmbedSpec;

use crate::config::{Config, Flags};
use crate::engines::embedder;
use crate::knowledge::Knowledge;
use crate::knowledge::bank::import::{self, Report};
use crate::knowledge::bank::{Bank, Category, Level, build, to_lines};
use crate::knowledge::embedding::Alone;
use crate::knowledge::eval::evaluate;
use crate::knowledge::publish::Published;
use crate::knowledge::store::Filter;

/// The bank of questions: build it, look into it, add to it, index it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  viva bank index                                  make the index that queries need
  viva bank query \"senior nurse, giving medication safely\" -n 3
  viva bank query \"a team that quarrels\" --category soft_skills --level lead --json
  viva bank import questions.csv --into our-own    take a list of your own into the bank, then index again
  viva bank export > bank.jsonl

Imported banks and the index lie in knowledge.dir (VIVA_KNOWLEDGE_DIR), else beside the weights.")]
pub struct BankArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Where {
    /// Configuration (TOML)
    #[arg(long, env = "VIVA_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Whose embedder: default, test, quality, gpu48 [default: default]
    #[arg(long, env = "VIVA_PROFILE", value_name = "NAME")]
    profile: Option<String>,
    /// Folder of the weights
    #[arg(long, env = "VIVA_MODELS", value_name = "DIR")]
    models: Option<PathBuf>,
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
    /// Take questions you have the rights to into a bank of your own
    ///
    /// Lists are read from .jsonl, .csv, .tsv and .md. A question needs nothing but its text: its category comes from
    /// the questions nearest to it, and so does what its answer is judged by, unless the list says. What is not fit
    /// to be asked, or is there already, is rejected and reported.
    Import {
        /// The lists
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Name of the bank
        #[arg(long, value_name = "NAME", default_value = "imported")]
        into: String,
        /// The report as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        at: Where,
    },
    /// Count what is in the bank
    Stats {
        /// As JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        at: Where,
    },
    /// Find questions
    Query {
        /// What to look for: a topic, an answer, a question
        text: String,
        /// technical, behavioral, soft_skills or self_introduction
        #[arg(long, value_name = "NAME")]
        category: Option<Category>,
        /// A field, group or industry, as `viva bank stats` lists them
        #[arg(long, value_name = "NAME")]
        subcategory: Option<String>,
        /// junior, mid, senior or lead; may be given more than once
        #[arg(long = "level", value_name = "NAME", value_delimiter = ',')]
        levels: Vec<Level>,
        /// Questions wanted, at most 100
        #[arg(short, value_name = "N", default_value_t = 5)]
        n: usize,
        /// One JSON object a question, one question a line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        at: Where,
    },
    /// Measure how well questions are found, on the labelled queries that come with Viva
    Eval {
        /// All figures as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        at: Where,
    },
    /// Print the whole bank, with what was imported, one record a line
    Export {
        #[command(flatten)]
        at: Where,
    },
    /// Make the index that queries need
    Index {
        /// Make it even if it is up to date
        #[arg(long)]
        rebuild: bool,
        #[command(flatten)]
        at: Where,
    },
}

/// Runs the subcommand.
pub async fn run(args: BankArgs) -> anyhow::Result<()> {
    match args.command {
        Command::Build { sources } => build(&sources),
        Command::Import { files, into, json, at } => import(&files, &into, json, &at).await,
        Command::Stats { json, at } => {
            let bank = Bank::with_imported(&at.load()?.knowledge_dir())?;
            show::stats(bank.records(), json);
            Ok(())
        }
        Command::Query { text, category, subcategory, levels, n, json, at } => {
            let knowledge = Knowledge::open(&at.load()?, at.alone()?).await?;
            let filter = Filter { category, subcategory, levels, ..Filter::default() };
            let hits = knowledge.query(&text, filter, n).await?;
            show::hits(&hits, json);
            Ok(())
        }
        Command::Eval { json, at } => {
            let knowledge = Knowledge::open(&at.load()?, at.alone()?).await?;
            let bar = bar("queries");
            let rows = evaluate(&knowledge, |done| bar.set_position(done as u64)).await?;
            bar.finish_and_clear();
            show::scores(&rows, json);
            Ok(())
        }
        Command::Export { at } => {
            let bank = Bank::with_imported(&at.load()?.knowledge_dir())?;
            // A reader who has seen enough is no reason to fail.
            std::io::stdout().write_all(to_lines(bank.records()).as_bytes()).ok();
            Ok(())
        }
        Command::Index { rebuild, at } => index(rebuild, &at).await,
    }
}

impl Where {
    fn load(&self) -> anyhow::Result<Config> {
        let flags = Flags { profile: self.profile.clone(), models: self.models.clone(), ..Flags::default() };
        Ok(Config::load(self.config.as_deref(), &flags, |name| std::env::var(name).ok())?)
    }

    /// The embedder, with all cores: nobody else is here.
    fn alone(&self) -> anyhow::Result<Arc<Alone>> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let spec: EmbedSpec = embedder(&self.load()?, cores)?;
        Ok(Arc::new(
            Alone::open(&spec).context("the embedder cannot be opened; viva models verify says more")?,
        ))
    }
}

fn build(sources: &std::path::Path) -> anyhow::Result<()> {
    let text = build::text(sources)?;
    let path = sources.join(build::BANK_FILE);
    std::fs::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    writeln!(std::io::stdout(), "{}: {} questions", path.display(), text.lines().count()).ok();
    Ok(())
}

async fn import(files: &[PathBuf], into: &str, json: bool, at: &Where) -> anyhow::Result<()> {
    let knowledge = Knowledge::open(&at.load()?, at.alone()?).await?;
    let bar = bar("questions");
    let told = |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    };
    let report: Report =
        import::import(files, into, &knowledge, told).await.context("nothing was imported")?;
    bar.finish_and_clear();
    show::report(&report, into, json);
    if report.taken.is_empty() && !report.rejected.is_empty() {
        bail!("none of {} questions was fit to be imported", report.rejected.len());
    }
    Ok(())
}

async fn index(rebuild: bool, at: &Where) -> anyhow::Result<()> {
    let config = at.load()?;
    let all = Bank::with_imported(&config.knowledge_dir())?.records().len();
    let knowledge = Knowledge::open_to_publish(&config, at.alone()?).await?;
    let bar = bar("questions");
    bar.set_length(all as u64);
    let began = std::time::Instant::now();
    let published = knowledge.publish(rebuild, |done| bar.set_position(done as u64)).await?;
    bar.finish_and_clear();
    let (what, edition) = match &published {
        Published::UpToDate(edition) => ("is up to date", edition),
        Published::Fresh(edition) => ("is ready", edition),
    };
    let (embedder, short, seconds) = (&edition.embedder, edition.short(), began.elapsed().as_secs_f64());
    let told = format!(
        "the index {what}: {} questions by {embedder}, edition {short}, {seconds:.1} s",
        edition.rows
    );
    writeln!(std::io::stdout(), "{told}").ok();
    Ok(())
}

/// A bar on standard error; nothing where that is no terminal.
fn bar(unit: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(&format!("{{bar:40}} {{pos}}/{{len}} {unit}, {{eta}} left"));
    ProgressBar::new(0).with_style(style.expect("the template is a constant"))
}
