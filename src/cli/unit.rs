//! `amberblob unit`: a systemd unit for a config, with all that a node does not need taken away from it.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::config::Config;

/// For what a unit is printed.
#[derive(Args)]
pub(super) struct Unit {
    /// The node's config, as it will be on that machine
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Which of the nodes in the config that is
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// The user that it runs as
    #[arg(long, value_name = "USER", default_value = "amberblob")]
    user: String,
}

pub(super) fn run(options: &Unit) -> Result<(), String> {
    let named = |error: io::Error| format!("unit: {error}");
    let config = Config::load(Some(&options.config), std::env::vars(), options.node.as_deref())?;
    let program = std::env::current_exe().map_err(named)?;
    let file = std::path::absolute(&options.config).map_err(named)?;
    let disks: Vec<PathBuf> =
        config.storage.disks.iter().map(std::path::absolute).collect::<io::Result<_>>().map_err(named)?;
    let text = unit(&program, &file, options, &disks);
    io::stdout().write_all(text.as_bytes()).map_err(|error| format!("unit: cannot write to stdout: {error}"))
}

/// A path as a word of a unit: quoted, its percent signs doubled (systemd.syntax(7), systemd.unit(5)).
fn word(path: &Path) -> String {
    let text = path.display().to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    format!("\"{text}\"")
}

fn unit(program: &Path, config: &Path, options: &Unit, disks: &[PathBuf]) -> String {
    let node = options.node.as_ref().map_or_else(String::new, |node| format!(" --node {node}"));
    let disks: Vec<String> = disks.iter().map(|disk| word(disk)).collect();
    let (program, config, user, disks) = (word(program), word(config), &options.user, disks.join(" "));
    format!(
        "[Unit]
Description=AmberBlob, a blob server
Wants=network-online.target
After=network-online.target local-fs.target

[Service]
Type=notify
ExecStart={program} serve --config {config}{node}
User={user}
Restart=on-failure
RestartSec=2
# Answers that are under way are finished first.
TimeoutStopSec=60

# See tuning.md: memlock, nofile.
LimitMEMLOCK=infinity
LimitNOFILE=262144
OOMScoreAdjust=-500

# The file system is read-only but for the disks, which must be there.
ProtectSystem=strict
ReadWritePaths={disks}
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
DevicePolicy=closed
UMask=0077
RemoveIPC=yes

CapabilityBoundingSet=
AmbientCapabilities=
NoNewPrivileges=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
LockPersonality=yes
MemoryDenyWriteExecute=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=@system-service io_uring_setup io_uring_enter io_uring_register
SystemCallFilter=~@privileged @keyring
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_names_its_program_config_and_disks() {
        let options = Unit {
            config: PathBuf::from("/etc/a.toml"),
            node: Some("n1".to_owned()),
            user: "blob".to_owned(),
        };
        let disks = [PathBuf::from("/srv/d 0"), PathBuf::from("/srv/100%")];
        let text = unit(Path::new("/usr/bin/amberblob"), &options.config, &options, &disks);
        for line in [
            "ExecStart=\"/usr/bin/amberblob\" serve --config \"/etc/a.toml\" --node n1",
            "User=blob",
            "ReadWritePaths=\"/srv/d 0\" \"/srv/100%%\"",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}: {text}");
        }
    }
}
