//! Who may not, as they hear it: another tenant, a key or a certificate the server does not know, a server we do not.

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
