//! The one place where whisper.cpp is handed a raw pointer.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use whisper_rs::FullParams;

/// Lets whisper.cpp look at `flag` after each pass of the encoder or decoder and stop when it is up: within
/// a token's time while it decodes, but not before the encoder is through (0.4 s for 10 s of speech with
/// tiny.en on one core).
///
/// whisper-rs's own safe form keeps a pointer to a closure it has moved away, hence this one.
///
/// # Safety
/// `flag` must stay alive until the backend is given another flag or is freed: whisper.cpp keeps the pointer
/// after `full()` returns.
pub(crate) unsafe fn abort_when(params: &mut FullParams<'_, '_>, flag: &Arc<AtomicBool>) {
    let data = Arc::as_ptr(flag).cast_mut().cast::<c_void>();
    // SAFETY: `raised` only reads the atomic that `data` points to; the caller keeps it alive.
    unsafe {
        params.set_abort_callback(Some(raised));
        params.set_abort_callback_user_data(data);
    }
}

/// # Safety
/// `data` must point to a live `AtomicBool`.
unsafe extern "C" fn raised(data: *mut c_void) -> bool {
    // SAFETY: see above; the atomic may be read from any of ggml's threads.
    unsafe { &*data.cast::<AtomicBool>() }.load(Ordering::Relaxed)
}
