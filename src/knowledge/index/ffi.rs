//! The mapping of the vectors' file into memory.

use std::fs::File;

use memmap2::Mmap;

/// Maps a file that nobody changes any more.
pub(super) fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: a mapping is unsound only when the file changes under it. The files mapped here are written whole
    // before they get the name they are opened by, are never written again, and are only ever removed as a
    // whole, which leaves the mapping valid.
    unsafe { Mmap::map(file) }
}
