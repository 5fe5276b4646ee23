//! Small files that the user names: a configuration, trust roots.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::path::Path;

use strongroom::SecretBytes;

/// The whole file, which may hold secrets, and what is known of it. Refuses what is larger than `largest` bytes,
/// and what is no file: the end of a pipe or a device may never come.
pub(crate) fn read(path: &Path, largest: u64) -> io::Result<(SecretBytes, Metadata)> {
    // Before it is opened: opening a pipe waits for its writer.
    require_file(&std::fs::metadata(path)?)?;
    let file = File::open(path)?;
    let found = file.metadata()?;
    require_file(&found)?;
    // In one piece, so that growing leaves no copies behind.
    let mut bytes = Vec::with_capacity(usize::try_from(found.len().min(largest)).unwrap_or(0) + 1);
    file.take(largest + 1).read_to_end(&mut bytes)?;
    let bytes = SecretBytes::from(bytes);
    if bytes.expose().len() as u64 > largest {
        return Err(io::Error::other(format!("it is larger than {largest} bytes")));
    }
    Ok((bytes, found))
}

fn require_file(found: &Metadata) -> io::Result<()> {
    if found.is_file() { Ok(()) } else { Err(io::Error::other("it is not a file")) }
}
