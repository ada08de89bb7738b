//! The disk of a server: a file system of its own in an image, whose power can be cut.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::shell::{sh, try_sh};
use crate::wall;

/// What an image can hold, in the order of preference, with how it is made and how large.
pub(crate) const FILE_SYSTEMS: [&str; 2] = ["ext4", "xfs"];

pub(crate) struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// Makes an image under `base` and mounts it beside.
    pub(crate) fn make(base: &Path, name: &str, file_system: &str) -> Result<Self, String> {
        let disk = Self { image: base.join(format!("{name}.img")), at: base.join(name) };
        let image = disk.image.display();
        fs::create_dir_all(&disk.at).map_err(|error| format!("{}: {error}", disk.at.display()))?;
        match file_system {
            "xfs" => {
                // Smaller ones are refused.
                sh(&format!("truncate -s 320M {image}"))?;
                sh(&format!("mkfs.xfs -q -f {image}"))?;
            }
            _ => {
                sh(&format!("truncate -s 96M {image}"))?;
                // Without blocks that only root may use: the servers are root's.
                sh(&format!("mkfs.ext4 -q -F -m 0 {image}"))?;
            }
        }
        disk.mount()?;
        Ok(disk)
    }

    /// Where a server keeps its files.
    pub(crate) fn data(&self) -> PathBuf {
        self.at.join("data")
    }

    pub(crate) fn mount(&self) -> Result<(), String> {
        sh(&format!("mount -o loop {} {}", self.image.display(), self.at.display())).map(drop)
    }

    /// Nobody may have a file open any more; the last who did may be about to end.
    pub(crate) fn unmount(&self) -> Result<(), String> {
        let mut tries = 100;
        loop {
            match sh(&format!("umount {}", self.at.display())) {
                Err(_) if tries > 0 => wall::pause(20),
                done => return done.map(drop),
            }
            tries -= 1;
        }
    }

    /// From here on nothing reaches the image, and what has not been synced is gone.
    pub(crate) fn cut_power(&self) -> Result<(), String> {
        // The ioctl is xfs's, but ext4 has it too.
        sh(&format!("xfs_io -x -c shutdown {}", self.at.display())).map(drop)
    }

    /// Writes what a power cut must take away.
    pub(crate) fn write_unsynced(&self) -> io::Result<()> {
        fs::write(self.at.join(UNSYNCED), [7; 4096])
    }

    /// Whether the last power cut took away what was not synced.
    pub(crate) fn has_lost_unsynced(&self) -> bool {
        fs::read(self.at.join(UNSYNCED)).map_or(true, |left| left.iter().all(|byte| *byte == 0))
    }

    /// Takes all the room that is left.
    pub(crate) fn fill(&self) -> Result<(), String> {
        let failed = |error: io::Error| format!("filling {}: {error}", self.at.display());
        let stat = rustix::fs::statvfs(&self.at).map_err(|error| failed(error.into()))?;
        let room = stat.f_bavail * stat.f_frsize;
        // Most of it by reserving, which writes nothing; the last bit by writing until it fails.
        let most = (room / 100 * 97).max(4096);
        sh(&format!("fallocate -l {most} {}", self.at.join(BALLAST[0]).display()))?;
        let mut file = File::create(self.at.join(BALLAST[1])).map_err(failed)?;
        loop {
            match file.write_all(&[0; 4096]) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Gives the room back.
    pub(crate) fn free(&self) -> Result<(), String> {
        BALLAST.iter().try_for_each(|name| {
            fs::remove_file(self.at.join(name)).map_err(|error| format!("{name}: {error}"))
        })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        try_sh(&format!("umount -l {}", self.at.display()));
        // The image is on a file system that ends with this process, at the latest.
        drop(fs::remove_file(&self.image));
    }
}

const BALLAST: [&str; 2] = ["ballast-reserved", "ballast-written"];
const UNSYNCED: &str = "unsynced";
