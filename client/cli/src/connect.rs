//! From what was typed and the context to a client: who goes before whom, and how long reaching may take.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use spile_client::{Builder, Client, Error};

use crate::args::Everywhere;
use crate::context::{self, Context};
use crate::failure::Failure;
use crate::local_code;

/// What this program is, in the server's logs.
const SOFTWARE: &str = concat!("spile/", env!("CARGO_PKG_VERSION"));

/// The context with what was said on the command line above it.
pub(crate) fn effective(typed: &Everywhere) -> Result<Context, Failure> {
    if typed.token.is_some() {
        return Err(Failure::usage("connect", "tokens (JWT) are not offered yet")
            .remedy("use --cert with --client-key, or a context with a device key"));
    }
    let required = typed.url.is_none();
    let mut context = context::find(named(typed), required)?.context;
    let over = typed.clone();
    if over.cert.is_some() {
        // Another credential takes the place of the context's, whatever kind that was.
        (context.cert, context.client_key) = (None, None);
        (context.device_key, context.token) = (None, None);
        // It is of a tenant of its own.
        context.tenant = None;
    }
    context.url = over.url.or(context.url);
    context.ca = over.ca.or(context.ca);
    context.cert = over.cert.or(context.cert);
    context.client_key = over.client_key.or(context.client_key);
    context.tenant = over.tenant.or(context.tenant);
    Ok(context)
}

/// The context that is named; an empty variable of the environment names none.
pub(crate) fn named(typed: &Everywhere) -> Option<&str> {
    typed.context.as_deref().filter(|named| !named.is_empty())
}

/// A builder for that context.
pub(crate) fn builder(context: &Context) -> Result<Builder, Failure> {
    let url = context.url.as_deref().ok_or_else(|| {
        Failure::local(&local_code::CONTEXT, "find the server", "no url is said")
            .remedy("name it with --url or in a context")
    })?;
    let mut builder = Client::builder().url(url).software(SOFTWARE);
    if let Some(ca) = &context.ca {
        builder = builder.ca(ca);
    }
    if let Some(cert) = &context.cert {
        builder = builder.cert(cert);
    }
    if let Some(key) = &context.client_key {
        builder = builder.client_key(key);
    }
    if let Some(tenant) = &context.tenant {
        builder = builder.tenant(tenant);
    }
    if let Some(token) = &context.token {
        builder = builder.token(read(token)?.trim());
    }
    if let Some(key) = &context.device_key {
        let device = context.principal.as_deref().ok_or_else(|| {
            Failure::local(
                &local_code::CONTEXT,
                "find out who we are",
                "a device key without a principal",
            )
            .remedy("say `principal` in the context")
        })?;
        builder = builder.device_key(device, device_key(key)?);
    }
    Ok(builder)
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|why| Failure::local(&local_code::FILE, format!("read {}", path.display()), why))
}

/// 32 bytes as 64 hexadecimal digits.
pub(crate) fn device_key(path: &Path) -> Result<[u8; 32], Failure> {
    let text = read(path)?;
    let digits: Option<Vec<u8>> =
        text.trim().chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let bytes = digits.map(|digits| {
        digits
            .chunks_exact(2)
            .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit))
            .collect::<Vec<u8>>()
    });
    let whole = text.trim().len() == 64;
    bytes.filter(|_| whole).and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
        let what = format!("read {}", path.display());
        Failure::usage(what, "a device key is 64 hexadecimal digits")
            .remedy("name the file `spile device add` wrote")
    })
}

/// Connects within the time that was given.
pub(crate) async fn connect(typed: &Everywhere) -> Result<Client, Failure> {
    let context = effective(typed)?;
    let builder = builder(&context)?;
    within(typed.timeout, "connect", builder.connect()).await
}

/// Waits so long for an answer of the client's.
pub(crate) async fn within<T>(
    timeout: Duration,
    what: &str,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(timeout, answer).await {
        Ok(answer) => answer.map_err(|error| Failure::client(what, &error)),
        Err(_) => Err(late(timeout, what)),
    }
}

/// It took too long.
pub(crate) fn late(timeout: Duration, what: &str) -> Failure {
    late_since(timeout, what, None)
}

/// It took too long, for a reason that the server told.
pub(crate) fn late_since(timeout: Duration, what: &str, why: Option<&Error>) -> Failure {
    let after = crate::value::duration::show(timeout);
    let why = why.map_or_else(String::new, |why| format!("; the server said: {why}"));
    Failure::local(&local_code::TIMED_OUT, what, format!("no answer within {after}{why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_of(text: &str) -> Result<[u8; 32], Failure> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, text).unwrap();
        device_key(&path)
    }

    #[test]
    fn a_device_key_is_64_digits() {
        assert_eq!(key_of(&format!("{}\n", "0a".repeat(32))).unwrap(), [10; 32]);
        for wrong in [String::new(), "0a".repeat(31), "0a".repeat(33), "zz".repeat(32)] {
            assert_eq!(key_of(&wrong).unwrap_err().name(), Some("usage"), "{wrong}");
        }
    }
}
