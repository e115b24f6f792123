//! The classifiers' side: a Python with scikit-learn, made once, that gets the trace and the truth.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

/// Where the programs are.
const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/lab");
/// Where the environment is made, beside the build.
const ENVIRONMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/lab-venv");
/// What `analyse.py` exits with when a control did not hold.
const VOID: i32 = 3;

/// A Python that has what the classifiers need.
pub struct Python(PathBuf);

impl Python {
    /// The one that was named, or the one of the lab's environment, which is made if it is not there.
    ///
    /// # Errors
    /// If there is no `python3` with `venv`, or packages cannot be installed.
    pub fn find_or_make(named: Option<&Path>) -> anyhow::Result<Python> {
        if let Some(named) = named {
            return Ok(Python(named.to_path_buf()));
        }
        let environment = Path::new(ENVIRONMENT);
        let python = Python(environment.join("bin/python"));
        let wanted = fs::read_to_string(Path::new(PROGRAMS).join("requirements.txt"))?;
        let installed = environment.join("installed.txt");
        if fs::read_to_string(&installed).ok().as_ref() == Some(&wanted) {
            return Ok(python);
        }
        eprintln!("installing the classifiers' packages into {ENVIRONMENT}");
        succeed(Command::new("python3").args(["-m", "venv"]).arg(environment))?;
        let mut install = Command::new(&python.0);
        install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
        succeed(install.arg(Path::new(PROGRAMS).join("requirements.txt")))?;
        fs::write(installed, wanted)?;
        Ok(python)
    }

    /// Writes one result for each line into `out`. Whether the controls held.
    ///
    /// # Errors
    /// If the program fails.
    pub fn analyse(&self, trace: &Path, truth: &Path, out: &Path) -> anyhow::Result<bool> {
        let mut command = self.program("analyse.py");
        let status = command.args([trace, truth, out]).status().context("cannot run the classifiers")?;
        match status.code() {
            Some(0) => Ok(true),
            Some(VOID) => Ok(false),
            _ => bail!("the classifiers failed ({status})"),
        }
    }

    /// Writes the table and the plots over all results in `out`.
    ///
    /// # Errors
    /// If the program fails.
    pub fn report(&self, out: &Path) -> anyhow::Result<()> {
        succeed(self.program("report.py").arg(out))
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(&self.0);
        command.arg(Path::new(PROGRAMS).join(name));
        command
    }
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot run {name}"))?;
    ensure!(status.success(), "{name} failed ({status})");
    Ok(())
}
