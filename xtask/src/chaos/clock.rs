//! The wall clock of a server, which jumps. What measures durations stays as it is: that one never
//! jumps on a real machine.

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) struct Clock {
    file: PathBuf,
}

impl Clock {
    pub(crate) fn new(file: PathBuf) -> Result<Self, String> {
        let clock = Self { file };
        clock.set(0)?;
        Ok(clock)
    }

    /// How far its clock is ahead.
    pub(crate) fn set(&self, seconds: i64) -> Result<(), String> {
        let next = self.file.with_extension("next");
        let failed = |error: std::io::Error| format!("{}: {error}", self.file.display());
        fs::write(&next, format!("{seconds:+}\n")).map_err(failed)?;
        fs::rename(&next, &self.file).map_err(failed)
    }

    /// The words in front of a program that lives by this clock.
    pub(crate) fn launcher(&self, library: &Path) -> Vec<String> {
        vec![
            "env".to_owned(),
            format!("LD_PRELOAD={}", library.display()),
            format!("FAKETIME_TIMESTAMP_FILE={}", self.file.display()),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
            "FAKETIME_CACHE_DURATION=1".to_owned(),
        ]
    }
}

/// The library that does it, wherever the distribution puts it.
pub(crate) fn library() -> Option<PathBuf> {
    let mut places = vec![PathBuf::from("/usr/lib64"), PathBuf::from("/usr/lib")];
    let below = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    places.extend(below.map(|entry| entry.path()).filter(|path| path.is_dir()));
    let files = places.iter().map(|place| place.join("faketime/libfaketimeMT.so.1"));
    files.into_iter().find(|file| file.exists())
}
