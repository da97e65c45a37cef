//! What can go wrong for a caller, each with what to do about it.

use std::path::PathBuf;

/// Why a call could not be made or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers at that address.
    #[error("cannot reach {url}: {why}; is the server running there (`viva serve`)?")]
    Unreachable {
        /// Where we knocked.
        url: String,
        /// What the socket said.
        why: String,
    },
    /// The server answered the handshake with an HTTP status instead of a WebSocket.
    #[error("the server refused the call with HTTP {status}: {message}{}", retry_hint(*.retry_after_s))]
    Refused {
        /// HTTP status; 503 means full.
        status: u16,
        /// Seconds after which to try again, when it said so.
        retry_after_s: Option<u64>,
        /// The body's message.
        message: String,
    },
    /// The server refused what the caller asked of the session.
    #[error("the server refused the session's settings: {0}")]
    Rejected(String),
    /// The connection ended while the call was going on.
    #[error("the server hung up: {0}; its log says why")]
    Gone(String),
    /// Something that had to come did not.
    #[error("{what} did not come within {seconds} s; the server's log and /readyz say what it waits for")]
    Late {
        /// What we waited for.
        what: String,
        /// For how long.
        seconds: u64,
    },
    /// A sound file cannot be played.
    #[error("cannot play {path}: {why}")]
    Clip {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Lines of words cannot be said.
    #[error(
        "the candidates' lines cannot be spoken: {why}; bring the weights (`viva models pull`) and engines, or \
         use recordings (--clips)"
    )]
    Voice {
        /// Why.
        why: String,
    },
    /// A script cannot be read.
    #[error("cannot use the script {path}: {why}")]
    Script {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The server we started ourselves did not come up.
    #[error("the server did not start: {why}")]
    Server {
        /// Why, with the last lines it wrote.
        why: String,
    },
}

/// What client calls return.
pub type Result<T> = std::result::Result<T, ClientError>;

fn retry_hint(seconds: Option<u64>) -> String {
    seconds.map_or(String::new(), |s| format!("; try again in {s} s"))
}
