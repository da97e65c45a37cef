//! A form with a recording in it. The recording goes to a file without a name as it comes in, so that an hour of audio
//! takes no memory; everything else is short.

use std::fs::File;
use std::time::Duration;

use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::StatusCode;
use tokio::fs;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::Refusal;

/// Bytes of a recording: four hours of speech at 16 kHz and 16 bits, uncompressed. At most as many such files lie on
/// the disk at once as requests are let in.
const FILE_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Bytes of any other field: a long prompt.
const FIELD_BYTES_MAX: usize = 16 * 1024;

/// Fields of a form: the protocol knows a dozen, and lists repeat theirs.
const FIELDS_MAX: usize = 64;

/// How long a client may send nothing: whoever is slower than that is not coming.
const IDLE: Duration = Duration::from_secs(20);

/// What came.
pub struct Form {
    /// The recording, to be read from its start.
    pub file: File,
    /// Its file extension or MIME type, as the client says.
    pub hint: Option<String>,
    /// Everything else, by name.
    fields: Vec<(String, String)>,
}

impl Form {
    /// Reads a form of this many bytes at the most. Its part `file` is the recording.
    pub async fn read(request: Request) -> Result<Self, Refusal> {
        let bad = |what: String| {
            Refusal::invalid("invalid_body", format!("The form cannot be read: {what}."), None)
        };
        let mut form = Multipart::from_request(request, &()).await.map_err(|e| bad(e.body_text()))?;
        let (mut file, mut fields) = (None, Vec::new());
        while let Some(field) = in_time(form.next_field()).await? {
            let name = field.name().unwrap_or_default().to_owned();
            if name == "file" {
                file = Some(store(field).await?);
            } else if fields.len() < FIELDS_MAX {
                let text = text(&name, field).await?;
                fields.push((name, text));
            } else {
                return Err(bad(format!("it has more than {FIELDS_MAX} fields")));
            }
        }
        let Some((file, hint)) = file else {
            let message = "Missing required parameter: 'file'.";
            return Err(Refusal::invalid("missing_required_parameter", message, Some("file")));
        };
        Ok(Self { file, hint, fields })
    }

    /// A field, if it is there.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All values of a list, as clients write lists: `name`, `name[]` or `name[0]`.
    pub fn list(&self, name: &str) -> Vec<&str> {
        let of_list = |known: &str| {
            known.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('['))
        };
        self.fields.iter().filter(|(known, _)| of_list(known)).map(|(_, value)| value.as_str()).collect()
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, MultipartError>>) -> Result<T, Refusal> {
    match timeout(IDLE, work).await {
        Ok(result) => result.map_err(|error| {
            let message = format!("The form cannot be read: {}.", error.body_text());
            Refusal::invalid("invalid_body", message, None)
        }),
        Err(_) => {
            let message = format!("Nothing came for {} s.", IDLE.as_secs());
            Err(Refusal::invalid("request_timeout", message, None).with_status(StatusCode::REQUEST_TIMEOUT))
        }
    }
}

async fn store(mut field: Field<'_>) -> Result<(File, Option<String>), Refusal> {
    let extension = field.file_name().and_then(|name| Some(name.rsplit_once('.')?.1.to_ascii_lowercase()));
    let hint = extension.or_else(|| field.content_type().map(str::to_owned));
    let disk =
        |error: std::io::Error| Refusal::internal(&format!("a recording could not be stored: {error}"));
    let mut file = fs::File::from_std(tempfile::tempfile().map_err(disk)?);
    let mut bytes = 0;
    while let Some(chunk) = in_time(field.chunk()).await? {
        bytes += chunk.len() as u64;
        if bytes > FILE_BYTES_MAX {
            let message = format!("Invalid 'file': more than {FILE_BYTES_MAX} bytes.");
            let refusal = Refusal::invalid("file_too_large", message, Some("file"));
            return Err(refusal.with_status(StatusCode::PAYLOAD_TOO_LARGE));
        }
        file.write_all(&chunk).await.map_err(disk)?;
    }
    file.flush().await.map_err(disk)?;
    let mut file = file.into_std().await;
    std::io::Seek::rewind(&mut file).map_err(disk)?;
    Ok((file, hint))
}

async fn text(name: &str, mut field: Field<'_>) -> Result<String, Refusal> {
    let mut bytes = Vec::new();
    while let Some(chunk) = in_time(field.chunk()).await? {
        if bytes.len() + chunk.len() > FIELD_BYTES_MAX {
            return Err(Refusal::value(name, format!("more than {FIELD_BYTES_MAX} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).map_err(|_| Refusal::value(name, "it is not UTF-8"))
}
