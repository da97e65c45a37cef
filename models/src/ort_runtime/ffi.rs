//! The one look at the library that ort cannot take itself.

use std::ffi::CStr;
use std::mem::ManuallyDrop;
use std::path::Path;

use ort::sys::OrtApiBase;

/// What the library is entered through.
type Entry = unsafe extern "C" fn() -> *const OrtApiBase;

/// Looks whether ort can load the library. It must not find out itself: ort 2.0.0-rc.12 makes its error with
/// a call into the library whose loading has just failed, and waits for itself for ever.
pub(super) fn probe(library: &Path) -> Result<(), String> {
    // SAFETY: the initialisers that run are those of a file the operator configured as ONNX Runtime, as they
    // do when ort loads it; it stays loaded.
    let handle = unsafe { libloading::Library::new(library) }.map_err(|e| e.to_string())?;
    let handle = ManuallyDrop::new(handle);
    // SAFETY: the type is the one ort's own bindings give this function.
    let base = unsafe { handle.get::<Entry>(b"OrtGetApiBase") }.map_err(|e| e.to_string())?;
    // SAFETY: ONNX Runtime answers with a table and a text that live as long as the library; the table is
    // checked before it is read.
    let version = unsafe {
        let table = base().as_ref().ok_or("it has no interface")?;
        CStr::from_ptr((table.GetVersionString)()).to_string_lossy()
    };
    let minor = version.split('.').nth(1).and_then(|n| n.parse::<u32>().ok());
    if minor.is_none_or(|minor| minor < ort::MINOR_VERSION) {
        return Err(format!("it is version {version}; 1.{} or later is needed", ort::MINOR_VERSION));
    }
    Ok(())
}
