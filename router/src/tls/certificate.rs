//! What is read from a certificate beyond what rustls checks: whom it names, until when it holds, and the hash that
//! SCRAM binds a login to.

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use x509_cert::Certificate;
use x509_cert::der::asn1::{ContextSpecific, ObjectIdentifier};
use x509_cert::der::{Any, Decode, SliceReader, TagNumber};
use x509_cert::spki::AlgorithmIdentifierOwned;

/// What is known of one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// Its hash as `tls-server-end-point` wants it. `None` where the signature algorithm has no hash of its own, for
    /// which RFC 5929 defines no binding.
    pub(super) end_point: Option<Vec<u8>>,
    /// The subject's common name, if it has exactly one.
    pub(super) common_name: Option<String>,
    /// Seconds since 1970 when it expires.
    pub(super) not_after: i64,
}

/// Reads a certificate in DER; `None` if it is none.
pub(super) fn facts(der: &[u8]) -> Option<Facts> {
    let certificate = Certificate::from_der(der).ok()?;
    let validity = certificate.tbs_certificate().validity();
    Some(Facts {
        end_point: end_point(certificate.signature_algorithm()).map(|hash| hash(der)),
        common_name: common_name(&certificate),
        not_after: i64::try_from(validity.not_after.to_unix_duration().as_secs())
            .unwrap_or(i64::MAX),
    })
}

/// PostgreSQL refuses names with a zero byte in them: what is compared must be all there is.
fn common_name(certificate: &Certificate) -> Option<String> {
    const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
    let subject = certificate.tbs_certificate().subject();
    let mut names = subject
        .iter()
        .filter(|attribute| attribute.oid == COMMON_NAME);
    let (first, second) = (names.next()?, names.next());
    let text = std::str::from_utf8(first.value.value()).ok()?;
    (second.is_none() && !text.contains('\0')).then(|| text.to_owned())
}

type Hash = fn(&[u8]) -> Vec<u8>;

/// The hash of the signature algorithm, and SHA-256 in place of MD5 and SHA-1 (RFC 5929, 4.1).
fn end_point(algorithm: &AlgorithmIdentifierOwned) -> Option<Hash> {
    const RSASSA_PSS: &str = "1.2.840.113549.1.1.10";
    let oid = algorithm.oid.to_string();
    match oid.as_str() {
        // RSA with MD5, SHA-1, SHA-256; ECDSA with SHA-1, SHA-256.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => Some(hash::<Sha256>),
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" => Some(hash::<Sha224>),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Some(hash::<Sha384>),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Some(hash::<Sha512>),
        RSASSA_PSS => pss_hash(algorithm.parameters.as_ref()?),
        _ => None,
    }
}

/// RSASSA-PSS names its hash in its parameters; SHA-1 where it names none (RFC 4055, 3.1).
fn pss_hash(parameters: &Any) -> Option<Hash> {
    let mut reader = SliceReader::new(parameters.value()).ok()?;
    let named =
        ContextSpecific::<AlgorithmIdentifierOwned>::decode_explicit(&mut reader, TagNumber(0))
            .ok()?;
    let Some(named) = named else {
        return Some(hash::<Sha256>);
    };
    match named.value.oid.to_string().as_str() {
        "1.3.14.3.2.26" | "2.16.840.1.101.3.4.2.1" => Some(hash::<Sha256>),
        "2.16.840.1.101.3.4.2.2" => Some(hash::<Sha384>),
        "2.16.840.1.101.3.4.2.3" => Some(hash::<Sha512>),
        "2.16.840.1.101.3.4.2.4" => Some(hash::<Sha224>),
        _ => None,
    }
}

fn hash<D: Digest>(der: &[u8]) -> Vec<u8> {
    D::digest(der).to_vec()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Certificates that OpenSSL signed with its own key, `openssl req -x509`.
    const RSA_SHA1: &[u8] = include_bytes!("testdata/rsa-sha1.der");
    const RSA_SHA512: &[u8] = include_bytes!("testdata/rsa-sha512.der");
    const PSS_SHA384: &[u8] = include_bytes!("testdata/pss-sha384.der");
    const TWO_NAMES_SHA224: &[u8] = include_bytes!("testdata/two-names.der");
    const ED25519: &[u8] = include_bytes!("testdata/ed25519.der");

    #[test]
    fn the_binding_has_the_hash_of_the_signature() {
        let end_point = |der| facts(der).unwrap().end_point;
        assert_eq!(end_point(RSA_SHA1), Some(Sha256::digest(RSA_SHA1).to_vec()));
        assert_eq!(
            end_point(RSA_SHA512),
            Some(Sha512::digest(RSA_SHA512).to_vec())
        );
        assert_eq!(
            end_point(PSS_SHA384),
            Some(Sha384::digest(PSS_SHA384).to_vec())
        );
        assert_eq!(
            end_point(TWO_NAMES_SHA224),
            Some(Sha224::digest(TWO_NAMES_SHA224).to_vec())
        );
        assert_eq!(end_point(ED25519), None);
    }

    #[test]
    fn a_common_name_is_one_name() {
        let name = |der| facts(der).unwrap().common_name;
        assert_eq!(name(PSS_SHA384).as_deref(), Some("pss-sha384"));
        assert_eq!(name(TWO_NAMES_SHA224), None);
        assert!(facts(RSA_SHA1).unwrap().not_after > 4_000_000_000);
    }

    #[test]
    fn what_is_no_certificate_is_not_read() {
        assert_eq!(facts(b""), None);
        assert_eq!(facts(&RSA_SHA1[..RSA_SHA1.len() - 1]), None);
        for at in 0..RSA_SHA512.len() {
            let mut damaged = RSA_SHA512.to_vec();
            damaged[at] ^= 0xff;
            // Whatever comes out, it does not panic.
            let _ = facts(&damaged);
        }
    }
}
