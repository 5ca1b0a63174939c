//! What the work costs that no server can leave out: signatures, key pairs, certificates, and a write to disk.

use std::hint::black_box;
use std::io::{Seek as _, Write as _};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ED25519, EcdsaKeyPair,
    Ed25519KeyPair, KeyPair as _, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair,
    VerificationAlgorithm,
};
use sallyport_credentials::{KeyPairRequest, KeyRing, MasterKey, RotationPolicy, plan_rotation};
use sallyport_domain::clock::{Clock as _, SystemClock, Timestamp};
use sallyport_domain::entropy::SystemEntropy;
use sallyport_testkit::Algorithm;

use crate::tokens::Door;

/// How long each is measured, each time.
const TIME: Duration = Duration::from_millis(60);
/// How long it is tried how many fit between two looks at the clock.
const TRY: Duration = Duration::from_millis(5);
/// Bytes of a token's signing input, about.
const MESSAGE: usize = 1_300;

/// Time of one, each.
#[derive(Clone, Copy, Default, Debug)]
pub struct Primitives {
    /// Verifying RSASSA-PKCS1-v1_5 with SHA-256, 2048 bits.
    pub rsa_verify: Duration,
    /// Verifying ECDSA on P-256 with SHA-256.
    pub es256_verify: Duration,
    /// Verifying Ed25519.
    pub ed25519_verify: Duration,
    /// Signing Ed25519.
    pub ed25519_sign: Duration,
    /// Making a P-384 key pair.
    pub p384_key_pair: Duration,
    /// Signing ECDSA on P-384 with SHA-384.
    pub p384_sign: Duration,
    /// Making a P-384 key pair with its certificate, as the server does it.
    pub certificate: Duration,
    /// Appending 4 KiB to a file and waiting until they are on disk.
    pub sync: Duration,
}

impl Primitives {
    /// Measures all of them, in the calling thread.
    ///
    /// # Errors
    /// When a key cannot be made, or the folder for temporary files not be written to.
    pub fn measure() -> Result<Self> {
        let random = SystemRandom::new();
        let message = vec![b'x'; MESSAGE];
        let rsa = RsaKeyPair::generate(KeySize::Rsa2048).map_err(failed)?;
        let mut rsa_signature = vec![0; rsa.public_modulus_len()];
        rsa.sign(&RSA_PKCS1_SHA256, &random, &message, &mut rsa_signature).map_err(failed)?;
        let p256 = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(failed)?;
        let p256_signature = p256.sign(&random, &message).map_err(failed)?;
        let ed25519 = Ed25519KeyPair::generate().map_err(failed)?;
        let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).map_err(failed)?;
        let (ring, now) = (ring()?, SystemClock.now());
        Ok(Self {
            rsa_verify: verify(&RSA_PKCS1_2048_8192_SHA256, rsa.public_key().as_ref(), &message, &rsa_signature)?,
            es256_verify: verify(
                &ECDSA_P256_SHA256_FIXED,
                p256.public_key().as_ref(),
                &message,
                p256_signature.as_ref(),
            )?,
            ed25519_verify: verify(&ED25519, ed25519.public_key().as_ref(), &message, ed25519.sign(&message).as_ref())?,
            ed25519_sign: time(|| Ok(ed25519.sign(&message)))?,
            p384_key_pair: time(|| EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).map_err(failed))?,
            p384_sign: time(|| p384.sign(&random, &message).map_err(failed))?,
            certificate: time(|| Ok(ring.issue_key_pair(&key_pair_request(now), &SystemEntropy)?))?,
            sync: sync()?,
        })
    }

    /// What these are on average; zero where there are none.
    pub fn mean(all: &[Self]) -> Self {
        let of = |time: fn(&Self) -> Duration| mean(all.iter().map(time));
        Self {
            rsa_verify: of(|p| p.rsa_verify),
            es256_verify: of(|p| p.es256_verify),
            ed25519_verify: of(|p| p.ed25519_verify),
            ed25519_sign: of(|p| p.ed25519_sign),
            p384_key_pair: of(|p| p.p384_key_pair),
            p384_sign: of(|p| p.p384_sign),
            certificate: of(|p| p.certificate),
            sync: of(|p| p.sync),
        }
    }

    /// The verification of a token by this algorithm; nothing for those that no variant uses.
    pub fn verification(&self, algorithm: Algorithm) -> Duration {
        match algorithm {
            Algorithm::Rs256 => self.rsa_verify,
            Algorithm::Es256 => self.es256_verify,
            Algorithm::EdDsa => self.ed25519_verify,
            _ => Duration::ZERO,
        }
    }

    /// All of them with their names.
    pub const fn rows(&self) -> [(&'static str, Duration); 8] {
        [
            ("RSA-2048 verify", self.rsa_verify),
            ("ES256 verify", self.es256_verify),
            ("Ed25519 verify", self.ed25519_verify),
            ("Ed25519 sign", self.ed25519_sign),
            ("P-384 key pair", self.p384_key_pair),
            ("P-384 sign", self.p384_sign),
            ("key pair with certificate", self.certificate),
            ("4 KiB to disk (fdatasync)", self.sync),
        ]
    }
}

/// What an exchange cannot cost less than, at some time.
#[derive(Clone, Copy, Debug)]
pub struct Least {
    /// The bare primitives.
    pub primitives: Primitives,
    /// Processor time of one `/livez`.
    pub livez: Duration,
}

impl Least {
    /// Of an exchange of such a token at such a door: the cheapest request, and the cryptography.
    pub fn exchange(&self, algorithm: Algorithm, door: Door) -> Duration {
        let Self { primitives, livez } = self;
        let minted = if door.gives_key_pair() { primitives.certificate } else { primitives.ed25519_sign };
        *livez + primitives.verification(algorithm) + minted
    }
}

/// The average; zero of none.
pub fn mean(times: impl ExactSizeIterator<Item = Duration>) -> Duration {
    let count = u32::try_from(times.len()).unwrap_or(u32::MAX);
    times.sum::<Duration>().checked_div(count).unwrap_or_default()
}

/// A ring with one key of each purpose, as on a first start.
///
/// # Errors
/// When a key cannot be made.
pub fn ring() -> Result<KeyRing> {
    let (now, master) = (SystemClock.now(), MasterKey::generate(&SystemEntropy)?);
    let mut keys = Vec::new();
    for change in plan_rotation(&keys, now, &RotationPolicy::default()) {
        change.apply(&mut keys, now, &SystemEntropy, &master)?;
    }
    Ok(KeyRing::open(&keys, &master)?)
}

/// A key pair as an exchange asks for one.
pub const fn key_pair_request(now: Timestamp) -> KeyPairRequest<'static> {
    KeyPairRequest {
        subject_mrn: "//agents.api.mondoo.app/spaces/bench-space-0/serviceaccounts/01a205a9-0d77-741f-8aa8-87f7764b0606/credentials/01a205a9-0dbb-79d2-8f7a-70bf49a71b3f",
        scope_mrn: "//captain.api.mondoo.app/spaces/bench-space-0",
        not_after: now.plus_seconds(3_600),
        now,
    }
}

fn failed<E: std::fmt::Debug>(error: E) -> anyhow::Error {
    anyhow!("a primitive failed: {error:?}")
}

fn verify(
    algorithm: &'static dyn VerificationAlgorithm,
    public: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Result<Duration> {
    let key = ParsedPublicKey::new(algorithm, public).map_err(failed)?;
    time(|| key.verify_sig(message, signature).map_err(failed))
}

/// The time of one, on average: with whatever else the machine does meanwhile, as in the server's time.
fn time<T>(mut work: impl FnMut() -> Result<T>) -> Result<Duration> {
    let (began, mut tried) = (Instant::now(), 0_u32);
    while began.elapsed() < TRY {
        black_box(work()?);
        tried += 1;
    }
    let (began, mut done) = (Instant::now(), 0_u32);
    while began.elapsed() < TIME {
        for _ in 0..(tried / 10).max(1) {
            black_box(work()?);
            done += 1;
        }
    }
    Ok(began.elapsed() / done.max(1))
}

/// How long a disk that does nothing else takes for what a commit asks of it, a thousand times a second for so long; shortest
/// first. Without growing a file, so that the file system has nothing to write about it.
///
/// # Errors
/// When the folder for temporary files cannot be written to.
pub fn disk(window: Duration) -> Result<Vec<Duration>> {
    const COMMITS: usize = 128;
    let commit = vec![0x5a; 32 * 1_024];
    let mut file = tempfile::tempfile().context("the folder for temporary files")?;
    for _ in 0..COMMITS {
        file.write_all(&commit)?;
    }
    file.sync_all()?;
    let (mut times, deadline) = (Vec::new(), Instant::now() + window);
    while times.is_empty() || Instant::now() < deadline {
        if times.len() % COMMITS == 0 {
            file.rewind()?;
        }
        file.write_all(&commit)?;
        let began = Instant::now();
        file.sync_data()?;
        times.push(began.elapsed());
        sleep(Duration::from_millis(1).saturating_sub(began.elapsed()));
    }
    times.sort_unstable();
    Ok(times)
}

/// The median: now and then a disk takes a hundred times as long, which says nothing of the others.
fn sync() -> Result<Duration> {
    let mut file = tempfile::tempfile().context("the folder for temporary files")?;
    let block = [0x5a; 4_096];
    let mut times = Vec::new();
    let deadline = Instant::now() + TIME;
    while times.len() < 5 || Instant::now() < deadline {
        let began = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    times.get(times.len() / 2).copied().context("nothing was measured")
}
