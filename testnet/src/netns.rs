//! Network namespaces that this program makes for a time, and the tools that lay wires between them.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::launch::place::{NAMESPACES, Namespace};

/// Namespaces whose names begin alike. Dropped, they are gone, and with them the wires between them.
pub struct Namespaces {
    prefix: String,
    made: Vec<String>,
}

impl Namespaces {
    /// None yet. Names will begin with `prefix`.
    pub fn new(prefix: &str) -> Namespaces {
        Namespaces { prefix: prefix.to_owned(), made: Vec::new() }
    }

    /// Makes one.
    ///
    /// # Errors
    /// Without root, or if `ip` fails.
    pub fn add(&mut self, of: &str) -> anyhow::Result<()> {
        let name = self.name(of);
        batch("ip", None, &format!("netns add {name}\n"))?;
        self.made.push(name);
        self.run("ip", of, "link set dev lo up\n")
    }

    /// What it is called outside.
    pub fn name(&self, of: &str) -> String {
        format!("{}-{of}", self.prefix)
    }

    /// A place for nodes and sockets.
    ///
    /// # Errors
    /// If the name is none.
    pub fn get(&self, of: &str) -> anyhow::Result<Namespace> {
        Ok(self.name(of).parse()?)
    }

    /// Runs lines of commands of `ip` or `tc` in it.
    ///
    /// # Errors
    /// What the tool refuses.
    pub fn run(&self, tool: &str, of: &str, commands: &str) -> anyhow::Result<()> {
        batch(tool, Some(&self.name(of)), commands)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        let commands: String = self.made.iter().map(|name| format!("netns del {name}\n")).collect();
        if let Err(error) = batch("ip", None, &commands) {
            eprintln!("network namespaces are left over: {error:#}");
        }
    }
}

/// From now on, namespaces and mounts that this process makes belong to it and its children alone. When they have ended,
/// however that came, the kernel removes them. To be called before there are other threads.
///
/// # Errors
/// Without root.
pub fn keep_to_this_process() -> anyhow::Result<()> {
    let private = || -> anyhow::Result<()> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        std::fs::create_dir_all(NAMESPACES)?;
        Ok(mount(Some("tmpfs"), NAMESPACES, Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))?)
    };
    private().context("cannot make a mount namespace; that takes root")
}

/// Runs lines of commands.
fn batch(tool: &str, namespace: Option<&str>, commands: &str) -> anyhow::Result<()> {
    let mut run = Command::new(tool);
    run.args(namespace.into_iter().flat_map(|name| ["-netns", name])).args(["-batch", "-"]);
    run.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = run.spawn().with_context(|| format!("cannot run `{tool}` (package iproute2)"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(commands.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{tool}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_tool_refuses_is_told() {
        let error = batch("ip", None, "nonsense\n").unwrap_err().to_string();
        assert!(error.starts_with("ip: ") && error.len() > 4, "{error}");
    }
}
