//! A disk without space: a small file system in memory over a node's folder, filled to the brim.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Room for a node's keys and documents, and little more.
const OPTIONS: &str = "size=4m,mode=0700";
/// What fills it.
const FILLER: &str = "filler";
const BLOCK: [u8; 4_096] = [0; 4_096];

/// A full disk. Dropped, it is gone, and the folder is what it was before.
pub struct FullDisk {
    folder: PathBuf,
}

impl FullDisk {
    /// Puts what is in the folder on a disk of its own and fills that.
    ///
    /// # Errors
    /// Without root, or if there is more in the folder than fits.
    pub fn under(folder: &Path) -> anyhow::Result<FullDisk> {
        let copy = tempfile::tempdir()?;
        copy_all(folder, copy.path())?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("tmpfs"), folder, Some("tmpfs"), flags, Some(OPTIONS))
            .context("cannot mount a small disk")?;
        let disk = FullDisk { folder: folder.to_owned() };
        copy_all(copy.path(), folder)?;
        fill(&folder.join(FILLER))?;
        Ok(disk)
    }

    /// Makes room on it.
    ///
    /// # Errors
    /// If it is gone.
    pub fn free(&self) -> io::Result<()> {
        fs::remove_file(self.folder.join(FILLER))
    }
}

impl Drop for FullDisk {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.folder, MntFlags::MNT_DETACH) {
            eprintln!("the small disk at {} is still there: {error}", self.folder.display());
        }
    }
}

/// With owners and permissions, which key files must have.
fn copy_all(from: &Path, to: &Path) -> anyhow::Result<()> {
    let copied = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status();
    ensure!(copied.context("cannot run `cp`")?.success(), "cannot copy {}", from.display());
    Ok(())
}

fn fill(filler: &Path) -> io::Result<()> {
    let mut file = File::create(filler)?;
    loop {
        match file.write_all(&BLOCK) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
            written => written?,
        }
    }
}
