//! End of turn: is a caller who has just paused done?

mod mel;
pub mod smart_turn;

pub use mel::LogMel;
pub use smart_turn::SmartTurn;
