//! Who may not, as they hear it: another tenant, a key or a certificate the server does not know, a server we do not.

use std::fs;

use super::{check, run, started};

#[test]
fn a_tenant_the_credential_is_not_of_is_refused_and_nothing_is_stored() {
    let (folder, _server) = started();
    let folder = folder.path();
    assert_eq!(run(folder, &["device", "add", "sensor-1", "--device-key", "--out", "s"]).code, 0);
    check(
        folder,
        &[
            (
                &["--tenant", "other", "publish", "t", "x", "--key", "k"],
                3,
                "spile: connect: the credential is of tenant main, not of other; nothing was sent (tenant); use a credential of other",
            ),
            (&["--tenant", "other", "--json", "status"], 3, r#""code":"tenant""#),
            (&["--tenant", "other", "doctor"], 3, "BAD session"),
            // A device key's proof names the tenant: there it is not known.
            (
                &["--context", "s/sensor-1.toml", "--tenant", "other", "publish", "t", "x"],
                3,
                "(unauthenticated); ",
            ),
            (
                &["--tenant", "other", "device", "add", "sensor-2", "--device-key", "--out", "s2"],
                3,
                "(tenant); ",
            ),
            (&["device", "show", "sensor-2"], 4, "(not-found); "),
            (&["--tenant", "Other", "status"], 2, "tenant"),
            (&["--tenant", "main", "publish", "t", "x", "--key", "k"], 0, "version 1"),
        ],
    );
    assert!(!folder.join("s2/sensor-2.toml").exists());
}

#[test]
fn a_device_key_that_is_not_known_or_wrong_is_refused() {
    let (folder, _server) = started();
    let folder = folder.path();
    assert_eq!(run(folder, &["device", "add", "sensor-1", "--device-key", "--out", "s"]).code, 0);
    let context = fs::read_to_string(folder.join("s/sensor-1.toml")).unwrap();
    let key = context.lines().find_map(|line| line.strip_prefix("device_key = ")).unwrap();
    let wrong = context.replace(key, "\"wrong.key\"");
    fs::write(folder.join("s/wrong.key"), "0a".repeat(32)).unwrap();
    fs::write(folder.join("s/wrong.toml"), &wrong).unwrap();
    fs::write(folder.join("s/unknown.toml"), context.replace("\"sensor-1\"", "\"ghost\"")).unwrap();
    let line = "spile: connect: the credential is wrong, expired or not known (unauthenticated); check certificate";
    check(
        folder,
        &[
            (&["--context", "s/sensor-1.toml", "publish", "t", "x"], 0, "version 1"),
            (&["--context", "s/wrong.toml", "publish", "t", "x"], 3, line),
            (&["--context", "s/unknown.toml", "publish", "t", "x"], 3, line),
            (&["--context", "s/wrong.toml", "doctor"], 3, "BAD session"),
        ],
    );
}

#[test]
fn a_certificate_or_a_server_of_another_authority_is_refused() {
    let ((folder, _server), (other, _other)) = (started(), started());
    let folder = folder.path();
    let file = |name: &str| other.path().join("spile-data/dev").join(name).display().to_string();
    let (ca, cert, key) = (file("ca.pem"), file("operator.pem"), file("operator.key"));
    let publish = ["publish", "t", "x", "--key", "k"];
    for (words, code, line) in [
        (
            &["--cert", &cert, "--client-key", &key][..],
            3,
            "the server refused our certificate or TLS (",
        ),
        (&["--ca", &ca][..], 3, "(untrusted); check `ca` in the context"),
        (&["--ca", &ca, "--cert", &cert, "--client-key", &key], 3, "(untrusted); "),
    ] {
        let words = [words, &publish].concat();
        let ran = run(folder, &words);
        assert_eq!(ran.code, code, "{words:?}: {}{}", ran.out, ran.err);
        assert!(ran.err.starts_with("spile: connect: ") && ran.err.contains(line), "{}", ran.err);
        assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
        assert_eq!(ran.out, "");
    }
    assert_eq!(run(folder, &publish).code, 0);
    check(folder, &[(&publish[..], 0, "version 2")]);
}

#[test]
fn doctor_with_a_devices_context_says_who_it_is_and_that_it_may_not_see_more() {
    let (folder, _server) = started();
    let ran = run(folder.path(), &["--context", "spile-data/dev/device.toml", "--json", "doctor"]);
    assert_eq!(ran.code, 3, "{}{}", ran.out, ran.err);
    let checks: Vec<serde_json::Value> =
        ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let bad: Vec<_> = checks.iter().filter(|check| check["ok"] == false).collect();
    assert_eq!(bad.len(), 1, "{}", ran.out);
    assert_eq!(bad[0]["check"], "status");
    assert!(bad[0]["detail"].as_str().unwrap().contains("(forbidden)"), "{}", bad[0]);
    assert!(checks.iter().any(|check| check["check"] == "session" && check["ok"] == true));
}
