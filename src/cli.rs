//! The command line, one file a subcommand.

pub mod bank;
pub mod calibrate;
pub mod doctor;
pub mod keys;
pub mod load;
pub mod models;
pub mod serve;
pub mod sim;
pub mod talk;
