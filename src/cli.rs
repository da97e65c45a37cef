//! The command line, one file a subcommand.

pub mod load;
pub mod talk;
