//! Response data that waits for a slow client when the buffers are full, in a temporary file that is written
//! at its end and read from its start.
//!
//! Touches: the disk, through the blocking pool. Bounded by `proxy_max_temp_file_size`; a file that has been
//! read to its end is replaced by a new one. If the disk fails, the upstream waits for the client again.

use crate::http::request::Request;
use crate::http::temp_file::{Keep, TempFile, TempPath};
use crate::log;

/// Size of a read from the file.
const READ_BYTES: usize = 16 * 1024;

/// The bytes of one response that wait on disk.
#[derive(Debug)]
pub struct Spill {
    place: &'static TempPath,
    max: u64,
    file: Option<TempFile>,
    read: u64,
    is_broken: bool,
}

impl Spill {
    pub fn new(place: &'static TempPath, max: u64) -> Self {
        Self { place, max, file: None, read: 0, is_broken: false }
    }

    /// True if nothing waits on disk.
    pub fn is_empty(&self) -> bool {
        self.file.is_none()
    }

    /// Takes bytes. False: there is no room, or the disk failed, and the caller must send them.
    pub async fn append(&mut self, request: &Request, data: &[u8]) -> bool {
        let length = self.file.as_ref().map_or(0, TempFile::len);
        if self.is_broken || length + data.len() as u64 > self.max {
            return false;
        }
        let written = match self.file.take() {
            Some(file) => Ok(file),
            None => TempFile::create(self.place, Keep::Unnamed).await,
        };
        let written = match written {
            Ok(mut file) => match file.append(data.to_vec()).await {
                Ok(_) => Ok(file),
                // what was written before is intact
                Err(why) => {
                    self.file = (length > 0).then_some(file);
                    Err(why)
                }
            },
            Err(why) => Err(why),
        };
        match written {
            Ok(file) => self.file = Some(file),
            Err(why) => {
                log::error!(request.error_log(), request, "{why}: the upstream waits for the client");
                self.is_broken = true;
            }
        }
        !self.is_broken
    }

    /// The next waiting bytes. Errors: the file cannot be read, and the response is cut off.
    pub async fn next(&mut self) -> Result<Vec<u8>, String> {
        let Some(file) = &self.file else { return Ok(Vec::new()) };
        let left = usize::try_from(file.len() - self.read).unwrap_or(usize::MAX);
        let data = file.read(self.read, READ_BYTES.min(left)).await?;
        if data.is_empty() {
            return Err(format!("\"{}\" became shorter", file.path().display()));
        }
        self.read += data.len() as u64;
        if self.read >= file.len() {
            (self.file, self.read) = (None, 0);
        }
        Ok(data)
    }
}
