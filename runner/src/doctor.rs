//! What is missing on this machine, and the command that mends it.

use std::{fmt::Write as _, fs, path::Path, thread};

use crate::platform::{
    model,
    qemu::{self, Qemu},
};

/// What would keep this machine from running on QEMU, with the remedy; or what it has. The model runs everywhere.
///
/// # Errors
/// The same text where something is missing.
pub fn examine() -> Result<String, String> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut text = format!("ok   {cores} CPUs of this machine\n");
    let profiles = model::profiles();
    // Writing to a String does not fail.
    let _ = writeln!(text, "ok   the model, which needs nothing; its CPUs: {}", profiles.join(", "));
    let qemu = Qemu::find();
    match &qemu {
        Ok(qemu) => {
            let _ = writeln!(text, "ok   QEMU {} ({})", qemu.version(), qemu.program().display());
            let _ = writeln!(text, "ok   its AArch64 CPUs with EL2: {}", qemu.cpus().join(", "));
            if !qemu.cpus().iter().any(|cpu| cpu == "neoverse-n2") {
                let _ = writeln!(text, "note newer versions of QEMU have more CPUs\n{}", newer());
            }
        }
        Err(error) => {
            let _ = writeln!(text, "miss {error}\n{}", advice(error));
        }
    }
    if qemu.is_ok() { Ok(text) } else { Err(text) }
}

/// What to do about a QEMU that cannot be used.
#[must_use]
pub fn advice(error: &qemu::Error) -> String {
    match error {
        qemu::Error::Missing { .. } => format!(
            "Install it:\n\n    {}\n\nor name another one in the environment variable {}.",
            install(),
            qemu::VARIABLE
        ),
        qemu::Error::TooOld { .. } => newer(),
        qemu::Error::Broken { .. } => format!(
            "Try it by hand: it should answer `-version` and `-machine none -qmp stdio`. To use another one, name it \
             in the environment variable {}; to install it again:\n\n    {}",
            qemu::VARIABLE,
            install()
        ),
    }
}

/// The same in few words, for a line.
#[must_use]
pub fn hint(error: &qemu::Error) -> String {
    match error {
        qemu::Error::Missing { .. } => format!("to have QEMU: {}", install()),
        qemu::Error::TooOld { .. } | qemu::Error::Broken { .. } => "`shatter doctor` tells how to mend that".to_owned(),
    }
}

/// The command that installs QEMU with this system's package manager.
fn install() -> &'static str {
    /// Program by which the package manager is known, and the whole command.
    const MANAGERS: [(&str, &str); 6] = [
        ("apt-get", "sudo apt-get update && sudo apt-get install --yes qemu-system-arm"),
        ("dnf", "sudo dnf install qemu-system-aarch64-core"),
        ("zypper", "sudo zypper install qemu-arm"),
        ("pacman", "sudo pacman -S qemu-system-aarch64"),
        ("apk", "sudo apk add qemu-system-aarch64"),
        ("brew", "brew install qemu"),
    ];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has = |program: &str| std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    // Where none is known, Debian's names tell what to look for.
    MANAGERS.iter().find(|(program, _)| has(program)).unwrap_or(&MANAGERS[0]).1
}

/// How to get a newer QEMU than the distribution's.
fn newer() -> String {
    if let Some(codename) = os_release("VERSION_CODENAME").filter(|_| os_release("ID").as_deref() == Some("debian")) {
        // The system's own source with another suite, so that whatever mirror it uses is used for this too.
        return format!(
            "Debian has newer versions in its backports:\n\n    \
             sed 's/^Suites:.*/Suites: {codename}-backports/' /etc/apt/sources.list.d/debian.sources | \
             sudo tee /etc/apt/sources.list.d/backports.sources\n    \
             sudo apt-get update && sudo apt-get install --yes -t {codename}-backports qemu-system-arm"
        );
    }
    format!(
        "A newer release of this system has a newer QEMU; on Debian its backports may have one too. One built from \
         source can be named in the environment variable {}.",
        qemu::VARIABLE
    )
}

/// A value of `/etc/os-release`.
fn os_release(key: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new("/etc/os-release")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(value.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_advice_has_a_command_or_says_where_to_put_another_qemu() {
        let program = std::path::PathBuf::from("qemu");
        let found = qemu::Version { major: 5, minor: 2, micro: 0 };
        for error in [
            qemu::Error::Missing { program: program.clone() },
            qemu::Error::Broken { program: program.clone(), why: "it says nothing".to_owned() },
            qemu::Error::TooOld { program, found },
        ] {
            let advice = advice(&error);
            assert!(advice.contains(" install ") || advice.contains(qemu::VARIABLE), "{advice}");
        }
    }
}
