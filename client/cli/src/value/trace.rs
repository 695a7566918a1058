//! A trace as it is typed: its id alone, or a traceparent of W3C Trace Context.

use spile_client::Trace;

/// 32 hexadecimal digits, or `00-ID-SPAN-FLAGS`.
pub(crate) fn parse(text: &str) -> Result<Trace, String> {
    let wrong = || "32 hexadecimal digits, or 00-<32 digits>-<16 digits>-<2 digits>".to_owned();
    let parts: Vec<&str> = text.split('-').collect();
    let trace = match parts.as_slice() {
        [id] => {
            let id: [u8; 16] = bytes(id).ok_or_else(wrong)?;
            let [.., a, b, c, d, e, f, g, h] = id;
            // A span of zeros would say that the id was made; this one says only that we began it.
            Trace { id, span: [a, b, c, d, e, f, g, h | 1], flags: 0 }
        }
        [version, id, span, flags] if *version == "00" => {
            let [flags] = bytes(flags).ok_or_else(wrong)?;
            Trace { id: bytes(id).ok_or_else(wrong)?, span: bytes(span).ok_or_else(wrong)?, flags }
        }
        _ => return Err(wrong()),
    };
    if trace.id == [0; 16] || trace.span == [0; 8] {
        return Err("neither id nor span may be zeros".to_owned());
    }
    Ok(trace)
}

fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.len() == N * 2 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate().filter(|_| digits) {
        *byte = u8::from_str_radix(text.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    digits.then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_or_a_traceparent_and_nothing_else() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(parse(id).unwrap().id[..2], [0x4b, 0xf9]);
        assert_ne!(parse(id).unwrap().span, [0; 8]);
        let whole = parse(&format!("00-{id}-00f067aa0ba902b7-01")).unwrap();
        assert_eq!((whole.span[7], whole.flags), (0xb7, 1));
        let zeros = "0".repeat(32);
        let (long, no_span) = (format!("{id}0"), format!("00-{id}-0000000000000000-01"));
        for wrong in ["", "x", &id[1..], &zeros, &long, &no_span, "01-a-b-c", "ü4bf"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
