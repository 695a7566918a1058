//! The effective configuration as TOML, every key said.
//!
//! Invariant: what is shown, read again from the same folder, gives the same [`Config`].

use std::path::Path;

use super::units::{show_duration, show_size};
use super::{
    Config, DeviceListen, Durability, EdgeLink, LogFormat, Role, RoleName, TlsFiles, WorkerLink,
};

pub(super) fn show(config: &Config) -> String {
    let mut out = Toml::default();
    out.text("role", config.role.name().word());
    out.text("name", &config.name);
    if let Role::All { tenants, .. } | Role::Edge { tenants, .. } = &config.role {
        out.texts("tenants", tenants);
    }
    out.path("data", &config.data);
    role(&mut out, config);
    out.section("admin");
    out.text("address", &config.admin.address.to_string());
    out.bare("public", config.admin.public);
    limits(&mut out, config);
    out.section("state");
    if config.role.name() != RoleName::Edge {
        out.texts("keep", &config.keep);
    }
    if config.role.name() != RoleName::Worker {
        out.text("cache_max_age", &show_duration(config.cache_max_age));
    }
    if config.role.name() != RoleName::Edge {
        super::retention::show(&mut out, &config.retention);
    }
    out.section("log");
    let format = match config.log.format {
        LogFormat::Auto => "auto",
        LogFormat::Json => "json",
        LogFormat::Text => "text",
    };
    out.text("format", format);
    out.text("filter", &config.log.filter);
    out.0
}

fn role(out: &mut Toml, config: &Config) {
    match &config.role {
        Role::All { listen, durability, .. } => {
            device_listen(out, *listen, None);
            durable(out, *durability);
        }
        Role::Edge { listen, tls, workers, link_tls, .. } => {
            device_listen(out, *listen, tls.as_ref());
            out.section("links");
            files(out, link_tls, "ca");
            workers.iter().for_each(|worker| worker_link(out, worker));
        }
        Role::Worker { listen, slots, edges, link_tls, durability } => {
            durable(out, *durability);
            out.section("links");
            out.text("listen", &listen.to_string());
            out.text("slots", &slots.to_string());
            files(out, link_tls, "ca");
            edges.iter().for_each(|edge| edge_link(out, edge));
        }
    }
}

fn device_listen(out: &mut Toml, listen: DeviceListen, tls: Option<&TlsFiles>) {
    out.section("listen");
    out.text("address", &listen.address.to_string());
    out.bare("insecure", listen.insecure);
    out.bare("slow", listen.slow);
    if let Some(tls) = tls {
        files(out, tls, "client_ca");
    }
}

fn files(out: &mut Toml, files: &TlsFiles, ca: &str) {
    out.path("cert", &files.cert);
    out.path("key", &files.key);
    out.path(ca, &files.ca);
}

fn worker_link(out: &mut Toml, worker: &WorkerLink) {
    out.row("links.workers");
    out.text("name", &worker.name);
    out.text("address", &worker.address);
    out.text("slots", &worker.slots.to_string());
}

fn edge_link(out: &mut Toml, edge: &EdgeLink) {
    out.row("links.edges");
    out.text("name", &edge.name);
    out.texts("tenants", &edge.tenants);
}

fn durable(out: &mut Toml, durability: Durability) {
    out.section("durability");
    out.text("segment", &show_size(durability.segment));
    out.text("chunk_segment", &show_size(durability.chunk_segment));
    out.section("uploads");
    out.text("largest", &show_size(durability.upload_bytes));
    out.text("forget_after", &show_duration(durability.upload_idle));
}

fn limits(out: &mut Toml, config: &Config) {
    out.section("limits");
    if config.role.name() != RoleName::Worker {
        out.bare("sessions", config.limits.sessions);
        out.bare("half_open", config.limits.half_open);
        out.bare("half_open_per_address", config.limits.half_open_per_address);
    }
    out.text("frame", &show_size(u64::from(config.limits.frame)));
    out.text("drain", &show_duration(config.limits.drain));
}

/// TOML being written.
#[derive(Default)]
pub(super) struct Toml(String);

impl Toml {
    pub(super) fn section(&mut self, name: &str) {
        self.0.push_str(&format!("\n[{name}]\n"));
    }

    pub(super) fn row(&mut self, name: &str) {
        self.0.push_str(&format!("\n[[{name}]]\n"));
    }

    fn bare(&mut self, key: &str, value: impl std::fmt::Display) {
        self.0.push_str(&format!("{key} = {value}\n"));
    }

    pub(super) fn text(&mut self, key: &str, value: &str) {
        self.bare(key, quoted(value));
    }

    fn path(&mut self, key: &str, value: &Path) {
        // Made absolute, so that it means the same wherever the text is kept.
        let whole = std::path::absolute(value).unwrap_or_else(|_| value.to_owned());
        self.text(key, &whole.to_string_lossy());
    }

    fn texts(&mut self, key: &str, values: &[String]) {
        let quoted: Vec<String> = values.iter().map(|value| quoted(value)).collect();
        self.bare(key, format!("[{}]", quoted.join(", ")));
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
