//! Which authorities, certificates and files a deployment has: the one of a first start, and a split one.
//!
//! Every step is kept when it is there, so that any of this can be killed and run again.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use super::identity::Identity;
use spile_protocol::id::Role;

use super::pair::{Authority, CertError, Kind};
use crate::config::{SLOTS, TlsFiles};
use crate::durable;

/// Signs devices', users' and operators' certificates, and the edge's for the port they come to.
const DEVICE_CA: (&str, &str) = ("device-ca", "Spile device authority");
/// Signs both sides of links.
const LINK_CA: (&str, &str) = ("link-ca", "Spile link authority");

/// What an all-in-one has after its first start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// The edge's files.
    pub tls: TlsFiles,
    /// The folder with contexts and credentials.
    pub dev: PathBuf,
}

/// Makes what an all-in-one needs in its data folder, or completes it.
///
/// # Errors
/// See [`CertError`].
pub fn local(data: &Path, name: &str, tenant: &str, now: u64) -> Result<Local, CertError> {
    let (certs, dev) = (data.join("certs"), data.join("dev"));
    durable::make_folder(&certs)?;
    durable::make_folder(&dev)?;
    let authority = Authority::open(&certs, DEVICE_CA.0, DEVICE_CA.1, now)?;
    let edge = authority.issue(&certs, "edge", &server(name), now)?;
    durable::write(&dev.join("ca.pem"), authority.pem().as_bytes(), durable::PLAIN)?;
    for (role, name) in PRINCIPALS {
        authority.issue(&dev, name, &client(tenant, role, name), now)?;
    }
    let ca = certs.join("device-ca.pem");
    Ok(Local { tls: TlsFiles { cert: edge.cert, key: edge.key, ca }, dev })
}

const PRINCIPALS: [(Role, &str); 2] = [(Role::Operator, "operator"), (Role::Device, "device")];

/// Writes the contexts for the address in use, anew at every start.
///
/// # Errors
/// A file could not be made to last.
pub fn write_contexts(dev: &Path, listening: SocketAddr, tenant: &str) -> Result<(), CertError> {
    let url = format!("spile://{}", reachable(listening));
    for (_, name) in PRINCIPALS {
        let mut text = context(dev, &url, tenant, name);
        if name == "operator" {
            text.push_str(&authority_lines(&dev.with_file_name("certs")));
        }
        durable::write(&dev.join(format!("{name}.toml")), text.as_bytes(), durable::PLAIN)?;
    }
    Ok(())
}

/// An address that listens everywhere is reached here by loopback.
fn reachable(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, listening.port())
}

fn context(folder: &Path, url: &str, tenant: &str, principal: &str) -> String {
    let file = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let lines = [
        ("url", url.to_owned()),
        ("ca", file("ca.pem")),
        ("cert", file(&format!("{principal}.pem"))),
        ("client_key", file(&format!("{principal}.key"))),
        ("tenant", tenant.to_owned()),
        ("principal", principal.to_owned()),
    ];
    lines.iter().fold(String::new(), |mut text, (key, value)| {
        text.push_str(&line(key, value));
        text
    })
}

/// An operator on this machine may issue devices' certificates.
fn authority_lines(folder: &Path) -> String {
    let file = |ending: &str| folder.join(format!("{}.{ending}", DEVICE_CA.0));
    let [ca, key] = ["pem", "key"].map(|ending| file(ending).to_string_lossy().into_owned());
    line("device_ca", &ca) + &line("device_ca_key", &key)
}

/// Makes a split deployment's folders under `into`, or completes them: a folder for each node with its certificates and
/// a configuration to start from, and an operator's context. Returns the folders.
///
/// # Errors
/// See [`CertError`]; a configuration that is there is left as it is.
pub fn split(
    into: &Path,
    edges: &[String],
    workers: &[String],
    now: u64,
) -> Result<Vec<PathBuf>, CertError> {
    durable::make_folder(into)?;
    let devices = Authority::open(into, DEVICE_CA.0, DEVICE_CA.1, now)?;
    let links = Authority::open(into, LINK_CA.0, LINK_CA.1, now)?;
    let mut made = Vec::new();
    for name in edges {
        let folder = into.join(format!("edge-{name}"));
        durable::make_folder(&folder)?;
        devices.issue(&folder, "listen", &server(name), now)?;
        links.issue(&folder, "link", &client("main", Role::Edge, name), now)?;
        durable::write(&folder.join("device-ca.pem"), devices.pem().as_bytes(), durable::PLAIN)?;
        durable::write(&folder.join("link-ca.pem"), links.pem().as_bytes(), durable::PLAIN)?;
        keep_config(&folder, &edge_config(name, workers))?;
        made.push(folder);
    }
    for (n, name) in workers.iter().enumerate() {
        let folder = into.join(format!("worker-{name}"));
        durable::make_folder(&folder)?;
        links.issue(&folder, "link", &server(name), now)?;
        durable::write(&folder.join("link-ca.pem"), links.pem().as_bytes(), durable::PLAIN)?;
        keep_config(&folder, &worker_config(name, edges, &share(n, workers.len())))?;
        made.push(folder);
    }
    if let Some(edge) = edges.first() {
        made.push(operator(into, &devices, edge, now)?);
    }
    Ok(made)
}

fn operator(into: &Path, devices: &Authority, edge: &str, now: u64) -> Result<PathBuf, CertError> {
    let folder = into.join("operator");
    durable::make_folder(&folder)?;
    devices.issue(&folder, "operator", &client("main", Role::Operator, "operator"), now)?;
    durable::write(&folder.join("ca.pem"), devices.pem().as_bytes(), durable::PLAIN)?;
    let whole = std::path::absolute(&folder).unwrap_or_else(|_| folder.clone());
    let mut text = context(&whole, &format!("spile://{edge}:7450"), "main", "operator");
    text.push_str(&authority_lines(whole.parent().unwrap_or(into)));
    durable::write(&folder.join("operator.toml"), text.as_bytes(), durable::PLAIN)?;
    Ok(folder)
}

/// People edit these; what is there is theirs.
fn keep_config(folder: &Path, text: &str) -> Result<(), CertError> {
    let path = folder.join("spiled.toml");
    if !path.exists() {
        durable::write(&path, text.as_bytes(), durable::PLAIN)?;
    }
    Ok(())
}

fn edge_config(name: &str, workers: &[String]) -> String {
    let mut text =
        String::from("# An edge: devices and operators come to it, it goes to the workers.\n");
    text.push_str(&line("role", "edge"));
    text.push_str(&line("name", name));
    text.push_str(&line("data", "data"));
    text.push_str("\n[listen]\n");
    text.push_str(&line("address", "0.0.0.0:7450"));
    for (key, file) in
        [("cert", "listen.pem"), ("key", "listen.key"), ("client_ca", "device-ca.pem")]
    {
        text.push_str(&line(key, file));
    }
    text.push_str("\n[links]\n");
    text.push_str(&link_lines());
    for (n, worker) in workers.iter().enumerate() {
        text.push_str("\n[[links.workers]]\n");
        text.push_str(&line("name", worker));
        text.push_str(&line("address", &format!("{worker}:7451")));
        text.push_str(&line("slots", &share(n, workers.len())));
    }
    text
}

fn worker_config(name: &str, edges: &[String], slots: &str) -> String {
    let mut text =
        String::from("# A worker: only edges come to it; what is acknowledged is on its disk.\n");
    text.push_str(&line("role", "worker"));
    text.push_str(&line("name", name));
    text.push_str(&line("data", "data"));
    text.push_str("\n[links]\n");
    text.push_str(&line("listen", "0.0.0.0:7451"));
    text.push_str(&line("slots", slots));
    text.push_str(&link_lines());
    for edge in edges {
        text.push_str("\n[[links.edges]]\n");
        text.push_str(&line("name", edge));
        text.push_str("tenants = [\"main\"]\n");
    }
    text
}

fn link_lines() -> String {
    [("cert", "link.pem"), ("key", "link.key"), ("ca", "link-ca.pem")].iter().fold(
        String::new(),
        |mut text, (key, file)| {
            text.push_str(&line(key, file));
            text
        },
    )
}

/// The n-th of equal shares of all slots.
fn share(n: usize, of: usize) -> String {
    let of = of.max(1);
    format!("{}-{}", n * SLOTS / of, (n + 1) * SLOTS / of - 1)
}

fn line(key: &str, value: &str) -> String {
    format!("{key} = {}\n", toml::Value::String(value.to_owned()))
}

fn client(tenant: &str, role: Role, name: &str) -> Kind {
    Kind::Client(Identity { tenant: tenant.to_owned(), role, name: name.to_owned() })
}

fn server(name: &str) -> Kind {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    if !names.iter().any(|known| known == name) {
        names.insert(0, name.to_owned());
    }
    Kind::Server(names)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::config::{Config, Overrides};

    const NOW: u64 = 1_800_000_000;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_split_deployments_configurations_are_right_as_made() {
        let folder = TempDir::new().unwrap();
        let made =
            split(folder.path(), &names(&["e1", "e2"]), &names(&["a", "b", "c"]), NOW).unwrap();
        assert_eq!(made.len(), 6);
        for folder in made.iter().filter(|folder| !folder.ends_with("operator")) {
            let config = folder.join("spiled.toml");
            Config::load(Some(&config), &Overrides::default(), None)
                .unwrap_or_else(|why| panic!("{}:\n{why}", config.display()));
        }
    }

    #[test]
    fn a_deployment_that_is_there_is_kept_and_completed() {
        let folder = TempDir::new().unwrap();
        split(folder.path(), &names(&["e"]), &names(&["a"]), NOW).unwrap();
        let config = folder.path().join("edge-e/spiled.toml");
        fs::write(&config, "mine").unwrap();
        let link = fs::read(folder.path().join("edge-e/link.pem")).unwrap();
        fs::remove_file(folder.path().join("worker-a/link.pem")).unwrap();
        split(folder.path(), &names(&["e"]), &names(&["a"]), NOW).unwrap();
        assert_eq!(fs::read_to_string(config).unwrap(), "mine");
        assert_eq!(fs::read(folder.path().join("edge-e/link.pem")).unwrap(), link);
        assert!(folder.path().join("worker-a/link.pem").exists());
    }

    #[test]
    fn a_first_start_killed_anywhere_is_completed_by_the_next() {
        let whole = TempDir::new().unwrap();
        local(whole.path(), "local", "main", NOW).unwrap();
        let files: Vec<PathBuf> = ["certs", "dev"]
            .iter()
            .flat_map(|sub| fs::read_dir(whole.path().join(sub)).unwrap())
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(files.len(), 9);
        for gone in files {
            let name = gone.strip_prefix(whole.path()).unwrap();
            // Only a person removes an authority's key.
            if name.ends_with("device-ca.key") {
                continue;
            }
            fs::remove_file(&gone).unwrap();
            local(whole.path(), "local", "main", NOW).unwrap();
            assert!(gone.exists(), "{}", gone.display());
        }
    }

    #[test]
    fn contexts_say_the_address_in_use() {
        let folder = TempDir::new().unwrap();
        for (listening, url) in [
            ("127.0.0.1:7450", "spile://127.0.0.1:7450"),
            ("0.0.0.0:9", "spile://127.0.0.1:9"),
            ("[::]:9", "spile://[::1]:9"),
            ("10.1.2.3:9", "spile://10.1.2.3:9"),
        ] {
            write_contexts(folder.path(), listening.parse().unwrap(), "main").unwrap();
            for principal in ["operator", "device"] {
                let path = folder.path().join(format!("{principal}.toml"));
                let context: toml::Table = fs::read_to_string(path).unwrap().parse().unwrap();
                assert_eq!(context["url"].as_str(), Some(url));
                assert_eq!(context["principal"].as_str(), Some(principal));
                let issues = principal == "operator";
                assert_eq!(context.contains_key("device_ca_key"), issues);
                assert_eq!(context.len(), if issues { 8 } else { 6 });
            }
        }
    }

    #[test]
    fn shares_cover_all_slots_once() {
        for of in 1..=32 {
            let shares: Vec<_> =
                (0..of).map(|n| crate::config::SlotSet::parse(&share(n, of)).unwrap()).collect();
            assert_eq!(crate::config::SlotSet::missing(&shares), None);
            for (n, set) in shares.iter().enumerate() {
                assert!(shares[..n].iter().all(|other| other.shared_with(set).is_none()));
            }
        }
    }
}
