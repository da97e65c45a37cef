//! The web demo, inside the binary (a debug build reads it from the source tree).

use axum::body::Body;
use axum::http::{Response, StatusCode, header};
use rust_embed::RustEmbed;

#[derive(RustEmbed)]
#[folder = "$CARGO_MANIFEST_DIR/web-demo"]
struct WebDemo;

/// The page loads nothing from elsewhere, speaks only to its own server, and runs its worklets from
/// memory.
const POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:; media-src 'self' blob:; \
                      worker-src 'self' blob:";

/// The file at this path of the URL, or none.
pub fn file(path: &str) -> Option<Response<Body>> {
    let path = match path.trim_start_matches('/') {
        "" => "index.html",
        path => path,
    };
    let kind = content_type(path)?;
    let file = WebDemo::get(path)?;
    Response::builder()
        .status(StatusCode::OK)
        .header(header::CONTENT_TYPE, kind)
        .header(header::CONTENT_SECURITY_POLICY, POLICY)
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(header::REFERRER_POLICY, "no-referrer")
        // A new build must not meet the scripts of an old one.
        .header(header::CACHE_CONTROL, "no-cache")
        .body(Body::from(file.data.into_owned()))
        .ok()
}

/// None for what is no part of the page.
fn content_type(path: &str) -> Option<&'static str> {
    Some(match path.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "webmanifest" => "application/manifest+json",
        _ => return None,
    })
}
