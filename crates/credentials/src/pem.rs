//! PEM (RFC 7468), written into buffers that are allocated once, so that no copy of a key stays behind.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// Characters of base64 on a line (RFC 7468 section 2).
const LINE: usize = 64;

/// `der` under `label`, with a line feed at the end.
pub(crate) fn encode(label: &str, der: &[u8]) -> String {
    let body = Zeroizing::new(STANDARD.encode(der));
    let lines = body.len().div_ceil(LINE);
    // Exactly what is written below: a `String` that fits needs no move when it becomes a boxed secret.
    let mut pem = String::with_capacity(2 * label.len() + 32 + body.len() + lines);
    pem.push_str("-----BEGIN ");
    pem.push_str(label);
    pem.push_str("-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str("-----END ");
    pem.push_str(label);
    pem.push_str("-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_allocated_once_and_read_back() {
        use rustls_pki_types::CertificateDer;
        use rustls_pki_types::pem::PemObject as _;
        for length in [1, 47, 48, 49, 185, 700] {
            let der: Vec<u8> = (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let pem = encode("CERTIFICATE", &der);
            assert_eq!(pem.len(), pem.capacity());
            assert_eq!(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().as_ref(), der);
        }
    }
}
