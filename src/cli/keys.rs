//! `viva keys`: makes, lists and revokes API keys.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, Subcommand, ValueEnum};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use viva_actors::types::{Principal, Tier};

use crate::config::{Config, Flags};
use crate::identity::keys;

/// API keys: make, list, revoke.
#[derive(Debug, Clone, Args)]
pub struct KeysArgs {
    /// File of the keys [default: identity.keys of the configuration]
    #[arg(long, global = true, env = "VIVA_IDENTITY_KEYS", value_name = "FILE")]
    pub keys: Option<PathBuf>,
    /// Configuration (TOML); viva.example.toml documents every key
    #[arg(long, global = true, env = "VIVA_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Make a key and show it, this once
    Add {
        /// What it is for, to find it again
        name: String,
        /// What its holder may have
        #[arg(long, value_enum, default_value_t = TierName::Free)]
        tier: TierName,
        /// The customer it belongs to
        #[arg(long, default_value = "default")]
        tenant: String,
        /// The customer's name for its holder [default: the key's name]
        #[arg(long)]
        user: Option<String>,
    },
    /// Show what keys there are
    List,
    /// Make a key worthless; a running server knows within a second
    Revoke {
        /// Its id, as `viva keys list` shows it
        id: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TierName {
    Free,
    Pro,
    Enterprise,
}

impl From<TierName> for Tier {
    fn from(name: TierName) -> Self {
        match name {
            TierName::Free => Self::Free,
            TierName::Pro => Self::Pro,
            TierName::Enterprise => Self::Enterprise,
        }
    }
}

/// Runs it.
pub fn run(args: &KeysArgs) -> anyhow::Result<()> {
    let path = match &args.keys {
        Some(path) => path.clone(),
        None => {
            let config =
                Config::load(args.config.as_deref(), &Flags::default(), |name| std::env::var(name).ok())?;
            if config.identity.keys.is_empty() {
                bail!("which file? name it with --keys FILE, or as identity.keys in the configuration");
            }
            PathBuf::from(config.identity.keys)
        }
    };
    match &args.command {
        Command::Add { name, tier, tenant, user } => {
            let user = user.clone().unwrap_or_else(|| name.clone());
            let principal = Principal { tenant: tenant.clone(), user, tier: (*tier).into() };
            let (entry, key) = keys::add(&path, name, &principal)?;
            eprintln!("{} is in {}; the key itself is nowhere but here:", entry.id, path.display());
            println!("{key}");
        }
        Command::List => {
            let keys = keys::list(&path)?;
            if keys.is_empty() {
                println!("no keys; make one with: viva keys add NAME");
                return Ok(());
            }
            let mut table = Table::new();
            table.load_preset(NOTHING).set_header(["id", "name", "tenant", "user", "tier", "made"]);
            for key in keys {
                let tier = format!("{:?}", key.tier).to_lowercase();
                table.add_row([key.id, key.name, key.tenant, key.user, tier, day(key.created)]);
            }
            println!("{table}");
        }
        Command::Revoke { id } => {
            if !keys::revoke(&path, id)? {
                bail!("there is no key {id} in {}; viva keys list shows them", path.display());
            }
            println!("{id} is revoked");
        }
    }
    Ok(())
}

/// The day of a moment in seconds since 1970.
fn day(unix_s: u64) -> String {
    let moment = i64::try_from(unix_s).ok().and_then(|s| time::OffsetDateTime::from_unix_timestamp(s).ok());
    moment.map_or_else(|| "?".into(), |moment| moment.date().to_string())
}
