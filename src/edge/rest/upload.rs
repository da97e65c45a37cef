//! A form with a recording in it. The recording goes to a file without a name as it comes in, so that an hour of audio
//! takes no memory; everything else is short.

use std::fs::File;
use std::io;
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::StatusCode;
use futures_util::StreamExt;
use futures_util::stream::poll_fn;
use tokio::fs;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};

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

/// Bytes a second that must come on the whole: speech packed for a telephone line (32 kbit/s) comes as fast as it is spoken.
/// Whoever drips a byte now and then would keep a place for days.
const BYTES_PER_S_MIN: u64 = 4 * 1024;

/// Bytes that may come while the head of a part is awaited, which the form's reader holds all of: hyper hands over up to
/// 408 KiB at once, of which all but the head is the part's content already.
const HEAD_BYTES_MAX: usize = 1024 * 1024;

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
        let meter = Arc::new(Meter::default());
        let form = Self::read_parts(metered(request, Arc::clone(&meter)), &meter).await;
        // Where we stopped reading, the form's reader only knows that its stream broke.
        form.map_err(|refusal| meter.broke.get().map_or(refusal, Broke::refusal))
    }

    async fn read_parts(request: Request, meter: &Meter) -> Result<Self, Refusal> {
        let bad = |what: String| {
            Refusal::invalid("invalid_body", format!("The form cannot be read: {what}."), None)
        };
        let mut form = Multipart::from_request(request, &()).await.map_err(|e| bad(e.body_text()))?;
        let (mut file, mut fields) = (None, Vec::new());
        while let Some(field) = next(&mut form, meter).await? {
            let name = field.name().unwrap_or_default().to_owned();
            if name == "file" && file.is_some() {
                return Err(Refusal::value("file", "it is there twice"));
            } else if name == "file" {
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

/// What of a body was read, and why no more of it is.
#[derive(Default)]
struct Meter {
    /// Bytes that may still come before a part begins; none while the content of one does.
    head: AtomicUsize,
    broke: OnceLock<Broke>,
}

/// Why the rest of a body is not read.
#[derive(Debug, Clone, Copy)]
enum Broke {
    Headless,
    Slow,
}

impl Broke {
    fn refusal(&self) -> Refusal {
        let (code, why, status) = match self {
            Self::Headless => {
                let why = format!("a part has not begun within {HEAD_BYTES_MAX} bytes");
                ("invalid_body", why, StatusCode::BAD_REQUEST)
            }
            Self::Slow => {
                let why = format!("fewer than {BYTES_PER_S_MIN} bytes a second came");
                ("request_timeout", why, StatusCode::REQUEST_TIMEOUT)
            }
        };
        Refusal::invalid(code, format!("The form cannot be read: {why}."), None).with_status(status)
    }
}

/// [`Meter::head`] where nothing is counted.
const UNCOUNTED: usize = usize::MAX;

/// The next part. Its head is short; its content is bounded by whoever reads it.
async fn next<'a>(form: &'a mut Multipart, meter: &Meter) -> Result<Option<Field<'a>>, Refusal> {
    meter.head.store(HEAD_BYTES_MAX, Ordering::Release);
    let field = in_time(form.next_field()).await;
    meter.head.store(UNCOUNTED, Ordering::Release);
    field
}

fn too_slow(took: Duration, bytes: u64) -> bool {
    took > IDLE + Duration::from_secs(bytes / BYTES_PER_S_MIN)
}

/// The same request, whose body breaks off when a part does not begin, or when it comes too slowly.
fn metered(request: Request, meter: Arc<Meter>) -> Request {
    let (parts, body) = request.into_parts();
    let (mut body, mut given, mut bytes, began) = (body.into_data_stream(), false, 0, Instant::now());
    let chunks = poll_fn(move |cx| {
        // The form's reader takes all there is before it looks for the head's end: it is given a chunk at a time.
        if mem::take(&mut given) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let chunk = ready!(body.poll_next_unpin(cx)).map(|chunk| chunk.map_err(io::Error::other));
        let Some(Ok(read)) = &chunk else { return Poll::Ready(chunk) };
        (given, bytes) = (true, bytes + read.len() as u64);
        let head = meter.head.load(Ordering::Acquire);
        let broke = if head != UNCOUNTED && read.len() > head {
            Some(Broke::Headless)
        } else if too_slow(began.elapsed(), bytes) {
            Some(Broke::Slow)
        } else {
            None
        };
        if let Some(broke) = broke {
            meter.broke.set(broke).ok();
            return Poll::Ready(Some(Err(io::Error::other("the rest of the form is not read"))));
        }
        if head != UNCOUNTED {
            meter.head.store(head - read.len(), Ordering::Release);
        }
        Poll::Ready(chunk)
    });
    Request::from_parts(parts, Body::from_stream(chunks))
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
    let disk = |error: io::Error| Refusal::internal(&format!("a recording could not be stored: {error}"));
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
    io::Seek::rewind(&mut file).map_err(disk)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_may_come_as_slowly_as_it_is_spoken_and_no_slower() {
        let hour = Duration::from_secs(3600);
        assert!(!too_slow(hour, 3600 * 5_000) && too_slow(hour, 3600 * 4_000));
        // At the beginning a long breath is nothing.
        assert!(!too_slow(IDLE, 0) && too_slow(IDLE + Duration::from_secs(1), 0));
    }
}
