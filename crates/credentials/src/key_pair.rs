//! Key pairs with a certificate: what Mondoo's clients sign their requests with (mondoo.md sections 3 and 4).
//!
//! The certificate (RFC 5280) chains to the installation's own authority. Nothing at run time rests on it: requests are
//! checked against the public key in our records. It is there for people and tools that inspect or verify credentials.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod,
    KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use sallyport_domain::clock::Timestamp;
use sallyport_domain::entropy::Entropy;
use secrecy::SecretString;
use time::OffsetDateTime;
use x509_parser::extensions::ParsedExtension;

use crate::keys::{KeyError, Purpose};
use crate::pem;
use crate::ring::KeyRing;

/// How long a CA certificate is valid, in seconds: ten years. Standing keys may live nearly as long.
pub const AUTHORITY_VALIDITY: i64 = 3_652 * 86_400;
/// Certificates begin this many seconds before they are made, for clocks that are behind.
const BACKDATED: i64 = 60;
/// CA certificates begin earlier still, so that they never begin after a leaf that another replica signs.
const AUTHORITY_BACKDATED: i64 = 3_600;
/// Longest common name and organization name, in characters (RFC 5280 appendix A.1, `ub-common-name`).
const NAME_MAX: usize = 64;

/// What a certificate is wanted for.
#[derive(Clone, Copy, Debug)]
pub struct KeyPairRequest<'r> {
    /// Whose key it is: MRN of the credential, or of the service account for a standing key.
    pub subject_mrn: &'r str,
    /// MRN of the scope it belongs to.
    pub scope_mrn: &'r str,
    /// When it ends. Cut to the authority's own end.
    pub not_after: Timestamp,
    /// The current time.
    pub now: Timestamp,
}

/// A fresh key pair and its certificate. The private key exists nowhere else.
#[derive(Debug)]
pub struct KeyPairCredential {
    /// The private key: PEM `PRIVATE KEY` (PKCS#8, RFC 5958), EC P-384.
    pub private_key_pem: SecretString,
    /// Its certificate alone, as PEM.
    pub certificate_pem: String,
    /// The certificate of the authority that signed it, as PEM.
    pub chain_pem: String,
    /// The public key: SEC1 uncompressed point, 97 bytes. What is kept to check signatures with.
    pub public_key: Vec<u8>,
    /// The certificate's serial number: 32 hexadecimal digits.
    pub serial: String,
    /// When the certificate ends; the request's `not_after` in whole seconds, unless the authority ends sooner.
    pub not_after: Timestamp,
}

/// A P-384 key as rcgen wants it, without a second copy of the private part.
struct P384Key(EcdsaKeyPair);

impl PublicKeyData for P384Key {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P384_SHA384
    }
}

impl SigningKey for P384Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.0.sign(&SystemRandom::new(), message).map_err(|_| rcgen::Error::RingUnspecified)?;
        Ok(signature.as_ref().to_vec())
    }
}

/// A certification authority, parsed once and ready to sign.
pub(crate) struct Authority {
    issuer: Issuer<'static, P384Key>,
    pem: String,
    not_after: i64,
}

impl Authority {
    /// From its key and PEM certificate; `None` unless the two belong together and the certificate is a CA's.
    pub(crate) fn open(key: EcdsaKeyPair, pem: &[u8]) -> Option<Self> {
        let pem = str::from_utf8(pem).ok()?;
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        let (rest, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
        let key = P384Key(key);
        let is_ca = certificate.basic_constraints().ok()?.is_some_and(|c| c.value.ca);
        let same_key = certificate.public_key().subject_public_key.data.as_ref() == key.der_bytes();
        if !rest.is_empty() || !is_ca || !same_key {
            return None;
        }
        let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
        let key_id = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        })?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(name);
        params.key_identifier_method = KeyIdMethod::PreSpecified(key_id);
        params.key_usages = AUTHORITY_USAGES.to_vec();
        Some(Self {
            issuer: Issuer::new(params, key),
            pem: pem.to_owned(),
            not_after: certificate.validity().not_after.timestamp(),
        })
    }

    /// The certificate.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }
}

const AUTHORITY_USAGES: [KeyUsagePurpose; 2] = [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];

/// The self-signed certificate (DER) of a new authority.
pub(crate) fn authority_certificate(
    key: EcdsaKeyPair,
    id: &str,
    now: Timestamp,
    entropy: &dyn Entropy,
) -> Result<Vec<u8>, KeyError> {
    let short: String = id.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    let mut params = CertificateParams::default();
    params.not_before = moment(now.seconds().saturating_sub(AUTHORITY_BACKDATED))?;
    params.not_after = moment(now.seconds().saturating_add(AUTHORITY_VALIDITY))?;
    params.serial_number = Some(SerialNumber::from_slice(&serial(entropy)));
    params.distinguished_name = common_name(&format!("Sallyport CA {short}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = AUTHORITY_USAGES.to_vec();
    let certificate = params.self_signed(&P384Key(key)).map_err(|_| KeyError::Generation(Purpose::Certificate))?;
    Ok(certificate.der().to_vec())
}

impl KeyRing {
    /// Makes a P-384 key and its certificate (some 180 µs): X.509 v3, `ecdsa-with-SHA384`, key usage
    /// `digitalSignature`, extended key usage `clientAuth`, no CA.
    ///
    /// MRNs are longer than a common name may be (64), so the common name is the MRN only where it fits, else its last
    /// segment, the id. The whole MRN stands as a URI in the subject alternative names, with the scheme `mrn:` (RFC 5280
    /// section 4.2.1.6 wants an absolute URI). The scope's MRN is the organization name where it fits.
    ///
    /// # Errors
    /// [`KeyError::NoSigningKey`] without an authority; [`KeyError::Certificate`] when the request cannot be put into a
    /// certificate (an end in the past, an MRN beyond ASCII).
    pub fn issue_key_pair(
        &self,
        request: &KeyPairRequest<'_>,
        entropy: &dyn Entropy,
    ) -> Result<KeyPairCredential, KeyError> {
        let failed = |_| KeyError::Generation(Purpose::Certificate);
        let authority = self.authority.as_ref().ok_or(KeyError::NoSigningKey(Purpose::Certificate))?;
        let not_after = request.not_after.seconds().min(authority.not_after);
        if not_after < request.now.seconds() {
            return Err(KeyError::Certificate("it would end before it begins"));
        }
        let uri = format!("mrn:{}", request.subject_mrn);
        let uri = uri.try_into().map_err(|_| KeyError::Certificate("the subject's MRN is not ASCII"))?;
        let mut name = common_name(fitting_name(request.subject_mrn));
        if request.scope_mrn.chars().count() <= NAME_MAX {
            name.push(DnType::OrganizationName, request.scope_mrn);
        }
        let serial = serial(entropy);
        let mut params = CertificateParams::default();
        params.not_before = moment(request.now.seconds().saturating_sub(BACKDATED))?;
        params.not_after = moment(not_after)?;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.distinguished_name = name;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let key = P384Key(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).map_err(failed)?);
        let certificate =
            params.signed_by(&key, &authority.issuer).map_err(|_| KeyError::Signing(Purpose::Certificate))?;
        let private = key.0.to_pkcs8v1().map_err(failed)?;
        Ok(KeyPairCredential {
            private_key_pem: SecretString::from(pem::encode("PRIVATE KEY", private.as_ref())),
            certificate_pem: pem::encode("CERTIFICATE", certificate.der()),
            chain_pem: authority.pem.clone(),
            public_key: key.der_bytes().to_vec(),
            serial: serial.iter().map(|byte| format!("{byte:02x}")).collect(),
            not_after: Timestamp::from_seconds(not_after),
        })
    }
}

/// A positive number of exactly 16 bytes, 126 of its bits random (RFC 5280 section 4.1.2.2).
fn serial(entropy: &dyn Entropy) -> [u8; 16] {
    let mut serial = [0; 16];
    entropy.fill(&mut serial);
    serial[0] = (serial[0] & 0x7f) | 0x40;
    serial
}

/// The MRN if it fits into a common name, else its last segment as far as that fits.
fn fitting_name(mrn: &str) -> &str {
    if mrn.chars().count() <= NAME_MAX {
        return mrn;
    }
    let last = mrn.rsplit('/').next().unwrap_or(mrn);
    last.char_indices().nth(NAME_MAX).map_or(last, |(end, _)| &last[..end])
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn moment(seconds: i64) -> Result<OffsetDateTime, KeyError> {
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| KeyError::Certificate("its time is out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::sign_service_account_jwt;
    use crate::keys::{SlotState, StoredKey};
    use crate::service_account_jwt::UnverifiedServiceAccountJwt;
    use crate::testing::{ACCOUNT, Installation, NOW, SCOPE, installation};
    use rustls_pki_types::{PrivatePkcs8KeyDer, UnixTime};
    use sallyport_domain::entropy::SystemEntropy;
    use secrecy::ExposeSecret as _;
    use std::time::Duration;
    use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

    fn issue(ring: &KeyRing, mrn: &str, seconds: i64) -> KeyPairCredential {
        let request =
            KeyPairRequest { subject_mrn: mrn, scope_mrn: SCOPE, not_after: NOW.plus_seconds(seconds), now: NOW };
        ring.issue_key_pair(&request, &SystemEntropy).unwrap()
    }

    /// Verifies the chain as a TLS server would that asks for client certificates.
    fn verify(certificate_pem: &str, ca_pem: &str, now: Timestamp) -> Result<(), webpki::Error> {
        let leaf = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).unwrap();
        let authorities: Vec<CertificateDer<'_>> =
            CertificateDer::pem_slice_iter(ca_pem.as_bytes()).map(Result::unwrap).collect();
        let anchors: Vec<_> = authorities.iter().map(|der| anchor_from_trusted_cert(der).unwrap()).collect();
        let time = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.seconds()).unwrap()));
        EndEntityCert::try_from(&leaf)?
            .verify_for_usage(
                &[webpki::aws_lc_rs::ECDSA_P384_SHA384],
                &anchors,
                &[],
                time,
                KeyUsage::client_auth(),
                None,
                None,
            )
            .map(|_| ())
    }

    #[test]
    fn the_chain_verifies_while_it_is_valid_and_not_a_second_longer() {
        let ring = &installation().ring;
        let pem = issue(ring, ACCOUNT, 3_600).certificate_pem;
        for (after, valid) in [(-61, false), (-60, true), (0, true), (3_600, true), (3_601, false)] {
            assert_eq!(verify(&pem, ring.ca_pem(), NOW.plus_seconds(after)).is_ok(), valid, "{after}");
        }
        assert!(verify(&pem, Installation::new().ring.ca_pem(), NOW).is_err(), "a foreign authority");
    }

    #[test]
    fn certificates_of_a_retired_authority_still_verify() {
        let (old, new) = (installation(), Installation::new());
        let pem = issue(&old.ring, ACCOUNT, 3_600).certificate_pem;
        let retired = StoredKey { state: SlotState::Retired, ..old.stored(Purpose::Certificate).clone() };
        let both = format!("{}{}", new.ring.ca_pem(), KeyRing::open(&[retired], &old.master).unwrap().ca_pem());
        assert!(verify(&pem, &both, NOW).is_ok());
        assert!(verify(&issue(&new.ring, ACCOUNT, 3_600).certificate_pem, &both, NOW).is_ok());
    }

    #[test]
    fn the_certificate_has_the_agreed_shape() {
        let credential = issue(&installation().ring, ACCOUNT, 3_600);
        let der = CertificateDer::from_pem_slice(credential.certificate_pem.as_bytes()).unwrap();
        let (_, leaf) = x509_parser::parse_x509_certificate(&der).unwrap();
        let authority = CertificateDer::from_pem_slice(credential.chain_pem.as_bytes()).unwrap();
        let (_, authority) = x509_parser::parse_x509_certificate(&authority).unwrap();
        assert_eq!(leaf.version(), x509_parser::x509::X509Version::V3);
        assert_eq!(leaf.signature_algorithm.algorithm.to_id_string(), "1.2.840.10045.4.3.3");
        assert_eq!(leaf.raw_serial().len(), 16);
        assert!(leaf.raw_serial()[0] < 0x80);
        assert_eq!(leaf.raw_serial_as_string().replace(':', ""), credential.serial);
        assert_eq!(leaf.tbs_certificate.issuer.as_raw(), authority.tbs_certificate.subject.as_raw());
        let issuer = leaf.issuer().to_string();
        assert!(issuer.starts_with("CN=Sallyport CA ") && issuer.len() == 24, "{issuer}");
        assert_eq!(leaf.subject().to_string(), format!("CN=00000000-0000-7000-8000-000000000001, O={SCOPE}"));
        assert_eq!(leaf.validity().not_before.timestamp(), NOW.seconds() - 60);
        assert_eq!(leaf.validity().not_after.timestamp(), NOW.seconds() + 3_600);
        let usage = leaf.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.digital_signature() && !usage.value.key_cert_sign());
        assert!(leaf.extended_key_usage().unwrap().unwrap().value.client_auth);
        assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
        let names = leaf.subject_alternative_name().unwrap().unwrap();
        let uri = format!("mrn:{ACCOUNT}");
        assert_eq!(names.value.general_names, [x509_parser::extensions::GeneralName::URI(&uri)]);
        let key_id = |certificate: &x509_parser::certificate::X509Certificate<'_>, authority: bool| {
            certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) if !authority => Some(id.0.to_vec()),
                ParsedExtension::AuthorityKeyIdentifier(id) if authority => {
                    id.key_identifier.as_ref().map(|i| i.0.to_vec())
                }
                _ => None,
            })
        };
        assert!(key_id(&leaf, false).is_some());
        assert_eq!(key_id(&leaf, true), key_id(&authority, false));
        assert_eq!(leaf.public_key().subject_public_key.data.as_ref(), credential.public_key);
        assert!(authority.basic_constraints().unwrap().unwrap().value.ca);
        assert!(authority.key_usage().unwrap().unwrap().value.key_cert_sign());
    }

    #[test]
    fn the_private_key_is_pkcs8_and_signs_for_the_public_key() {
        let credential = issue(&installation().ring, ACCOUNT, 60);
        let pem = credential.private_key_pem.expose_secret();
        assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----\n"));
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, der.secret_pkcs8_der()).unwrap();
        assert_eq!(key.public_key().as_ref(), credential.public_key);
        assert_eq!(credential.public_key.len(), 97);
        let token = sign_service_account_jwt(pem, ACCOUNT, NOW, Some(b"")).unwrap();
        let parsed = UnverifiedServiceAccountJwt::parse(&token).unwrap();
        assert_eq!(parsed.verify(&credential.public_key, NOW, Some(b""), true), Ok(()));
        assert!(!format!("{credential:?}").contains(&pem[30..60]));
    }

    #[test]
    fn names_fit_and_every_certificate_is_unlike_the_others() {
        let ring = &installation().ring;
        let long = "x".repeat(200);
        for mrn in ["//platform.api.mondoo.app", &format!("//a/b/{long}"), &long, ""] {
            assert!(verify(&issue(ring, mrn, 60).certificate_pem, ring.ca_pem(), NOW).is_ok(), "{mrn}");
        }
        assert_eq!(fitting_name(&format!("//a/{}", "é".repeat(70))).chars().count(), 64);
        let (one, two) = (issue(ring, ACCOUNT, 60), issue(ring, ACCOUNT, 60));
        assert_ne!(one.serial, two.serial);
        assert_ne!(one.public_key, two.public_key);
    }

    #[test]
    fn the_end_is_cut_to_the_authoritys_and_may_not_lie_in_the_past() {
        let ring = &installation().ring;
        let forever = issue(ring, ACCOUNT, 100 * AUTHORITY_VALIDITY);
        assert_eq!(forever.not_after, NOW.plus_seconds(AUTHORITY_VALIDITY));
        assert!(verify(&forever.certificate_pem, ring.ca_pem(), NOW).is_ok());
        for (mrn, seconds) in [(ACCOUNT, -1), ("//é", 60)] {
            let request =
                KeyPairRequest { subject_mrn: mrn, scope_mrn: SCOPE, not_after: NOW.plus_seconds(seconds), now: NOW };
            let error = ring.issue_key_pair(&request, &SystemEntropy).unwrap_err();
            assert!(matches!(error, KeyError::Certificate(_)), "{mrn}: {error}");
        }
    }

    #[test]
    fn an_authority_must_be_a_ca_for_its_key() {
        let good = installation();
        let key = || EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).unwrap();
        assert!(Authority::open(key(), &good.stored(Purpose::Certificate).public).is_none(), "another key");
        assert!(Authority::open(key(), b"").is_none());
        let credential = issue(&good.ring, ACCOUNT, 60);
        let der = PrivatePkcs8KeyDer::from_pem_slice(credential.private_key_pem.expose_secret().as_bytes()).unwrap();
        let leaf = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, der.secret_pkcs8_der()).unwrap();
        assert!(Authority::open(leaf, credential.certificate_pem.as_bytes()).is_none(), "a leaf");
    }
}
