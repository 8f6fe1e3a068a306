//! What jobs that are started now and then note for the next start: small versioned files in `state_dir`.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::storage::disk::Disk;

#[derive(Deserialize)]
struct Version {
    v: u32,
}

/// The note under this name, if there is one.
///
/// # Errors
/// Those of the disk; `Unsupported` for a version above `newest`, `Corrupt` for what is no note.
pub(super) async fn read<T: DeserializeOwned>(disk: &dyn Disk, name: &str, newest: u32) -> Result<Option<T>> {
    let bytes = match disk.read(name).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let what = || format!("{name} in state_dir");
    let Version { v } = serde_json::from_slice(&bytes).context(ErrorKind::Corrupt, what)?;
    if v > newest {
        return Err(Error::new(ErrorKind::Unsupported, format!("{name} in state_dir has version {v}"))
            .with_hint("a newer frazil wrote it: use that one, or remove the file to begin again"));
    }
    serde_json::from_slice(&bytes).context(ErrorKind::Corrupt, what).map(Some)
}
