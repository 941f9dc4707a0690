//! The webhook's own certificate: made, judged and renewed. Pure but for the keys.
//!
//! Each one is signed by an authority of its own, whose key is thrown away at once: nobody can sign another. The authority of the
//! one before stays trusted until it ends, so that replicas which still serve that one are believed.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use lockstep_providers::SecretBytes;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

/// Clocks differ: a certificate holds from this long before it was made.
const SKEW: Duration = Duration::from_secs(300);
/// Authorities that are trusted beside the newest.
const KEPT: usize = 2;

/// A certificate with its key and what it is trusted by, as a Secret of type `kubernetes.io/tls` holds them.
#[derive(Clone)]
pub struct Pair {
    /// PEM of the certificate, and of what it hangs on.
    pub certificate: Vec<u8>,
    /// PEM of its key.
    pub key: SecretBytes,
    /// PEM of the authorities.
    pub authorities: Vec<u8>,
}

/// A pair that can be served.
pub struct Served {
    /// For the handshake.
    pub key: Arc<CertifiedKey>,
    /// When it ends.
    pub ends: Timestamp,
    /// When the next one should be made: when a third of its time is left.
    pub renew: Timestamp,
}

/// Reads a pair, as a server does.
///
/// # Errors
/// A sentence without anything of the key.
pub fn served(certificate: &[u8], key: &[u8]) -> Result<Served, String> {
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(certificate).collect::<Result<_, _>>().map_err(|_| "tls.crt is no PEM".to_owned())?;
    let leaf = chain.first().ok_or("tls.crt holds no certificate")?;
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| "tls.crt holds no X.509 certificate".to_owned())?;
    let time = |at: i64| Timestamp::from_second(at).map_err(|_| "its time is none".to_owned());
    let (begins, ends) = (time(parsed.validity().not_before.timestamp())?, time(parsed.validity().not_after.timestamp())?);
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "tls.key is no PEM of a key".to_owned())?;
    let key =
        CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|_| "tls.key is not the key of tls.crt")?;
    // One of ours begins a little before it was made.
    let skew = SignedDuration::try_from(SKEW).unwrap_or_default();
    let left = (ends.duration_since(begins) - skew).max(SignedDuration::ZERO) / 3;
    Ok(Served { key: Arc::new(key), ends, renew: ends.checked_sub(left).unwrap_or(begins) })
}

/// Whether a pair may be served now: for all of these names, trusted by its authorities.
///
/// # Errors
/// Why not, in a sentence without anything of the key.
pub fn judge(pair: &Pair, names: &[String], now: Timestamp) -> Result<Served, String> {
    let served = served(&pair.certificate, pair.key.expose())?;
    if served.renew <= now {
        return Err(format!("it ends at {}", served.ends));
    }
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pair.authorities).flatten());
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let verifier = verifier.map_err(|_| "ca.crt holds no authority".to_owned())?;
    let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0)));
    let (leaf, more) = served.key.cert.split_first().ok_or("tls.crt holds no certificate")?;
    for name in names {
        let server = ServerName::try_from(name.as_str()).map_err(|_| format!("{name} is no name of a server"))?;
        let verified = verifier.verify_server_cert(leaf, more, &server, &[], at);
        verified.map_err(|error| format!("it is not trusted as {name} ({error})"))?;
    }
    Ok(served)
}

/// A new pair for these names. What `before` was trusted by stays trusted.
///
/// # Errors
/// A sentence, when a name can't stand in a certificate.
pub fn make(names: &[String], validity: Duration, before: Option<&Pair>, now: Timestamp) -> Result<Pair, String> {
    let failed = |what: &'static str| move |error: rcgen::Error| format!("{what} can't be made ({error})");
    let time = |at: Timestamp| OffsetDateTime::from_unix_timestamp(at.as_second()).map_err(|_| "the clock is wrong".to_owned());
    let begins = time(now - SKEW)?;
    let ends = time(now.checked_add(validity).map_err(|_| "the validity is too long".to_owned())?)?;
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, format!("lockstep webhook authority {}", now.as_second()));
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    (authority.not_before, authority.not_after) = (begins, ends);
    let mut leaf = CertificateParams::new(names.to_vec()).map_err(failed("a certificate"))?;
    leaf.distinguished_name.push(DnType::CommonName, "lockstep webhook");
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    (leaf.not_before, leaf.not_after) = (begins, ends);

    let authority_key = KeyPair::generate().map_err(failed("a key"))?;
    let key = KeyPair::generate().map_err(failed("a key"))?;
    let authority_certificate = authority.self_signed(&authority_key).map_err(failed("an authority"))?;
    let certificate = leaf.signed_by(&key, &Issuer::new(authority, authority_key)).map_err(failed("a certificate"))?;
    let mut authorities = authority_certificate.pem().into_bytes();
    for older in before.map(|pair| still_valid(&pair.authorities, now)).unwrap_or_default().iter().take(KEPT) {
        authorities.extend_from_slice(pem_of(older).as_bytes());
    }
    let key = Zeroizing::new(key.serialize_pem());
    Ok(Pair { certificate: certificate.pem().into_bytes(), key: SecretBytes::from(key.as_str()), authorities })
}

fn still_valid(authorities: &[u8], now: Timestamp) -> Vec<CertificateDer<'static>> {
    let ends = |der: &CertificateDer<'_>| X509Certificate::from_der(der).map(|(_, c)| c.validity().not_after.timestamp());
    let all = CertificateDer::pem_slice_iter(authorities).flatten();
    all.filter(|der| ends(der).is_ok_and(|ends| ends > now.as_second())).collect()
}

fn pem_of(der: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn names() -> Vec<String> {
        ["lockstep-webhook.lockstep-system.svc", "127.0.0.1"].map(str::to_owned).to_vec()
    }

    fn why(pair: &Pair, names: &[String], now: Timestamp) -> String {
        judge(pair, names, now).err().unwrap_or_default()
    }

    #[test]
    fn a_certificate_is_good_for_its_names_until_a_third_of_its_time_is_left() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let pair = make(&names(), 90 * DAY, None, now).unwrap();
        let served = judge(&pair, &names(), now).unwrap();
        let days = served.renew.duration_since(now).as_secs() / 86_400;
        assert_eq!((days, served.ends.duration_since(now).as_secs() / 86_400), (60, 90));
        assert_eq!(why(&pair, &names(), now + 61 * DAY), format!("it ends at {}", served.ends));
        assert!(why(&pair, &["other.svc".into()], now).contains("it is not trusted as other.svc"));
        assert!(why(&pair, &names(), now - DAY).contains("it is not trusted as lockstep-webhook.lockstep-system.svc"));
    }

    #[test]
    fn what_is_none_or_does_not_belong_together_is_named() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let (pair, other) = (make(&names(), DAY, None, now).unwrap(), make(&names(), DAY, None, now).unwrap());
        let bytes = |text: &str| SecretBytes::from(text);
        for (wrong, needle) in [
            (Pair { certificate: vec![], ..pair.clone() }, "tls.crt holds no certificate"),
            (Pair { certificate: pem_of(&CertificateDer::from(vec![1, 2])).into_bytes(), ..pair.clone() }, "no X.509"),
            (Pair { key: bytes(""), ..pair.clone() }, "tls.key is no PEM"),
            (
                Pair { key: bytes("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"), ..pair.clone() },
                "tls.key is not",
            ),
            (Pair { key: other.key.clone(), ..pair.clone() }, "tls.key is not the key of tls.crt"),
            (Pair { authorities: vec![], ..pair.clone() }, "ca.crt holds no authority"),
            (Pair { authorities: other.authorities.clone(), ..pair.clone() }, "it is not trusted as"),
        ] {
            let why = why(&wrong, &names(), now);
            assert!(why.contains(needle), "{why}");
        }
    }

    #[test]
    fn the_one_before_stays_trusted_until_it_ends_and_no_more_than_a_few_do() {
        let mut now = Timestamp::from_second(1_800_000_000).unwrap();
        let first = make(&names(), 3 * DAY, None, now).unwrap();
        now += 2 * DAY;
        let second = make(&names(), 3 * DAY, Some(&first), now).unwrap();
        let of_both = |leaf: &Pair| Pair { authorities: second.authorities.clone(), ..leaf.clone() };
        // A replica that serves the first is still believed.
        assert!(judge(&of_both(&first), &names(), now - DAY).is_ok());
        assert!(judge(&second, &names(), now).is_ok());
        let third = make(&names(), 3 * DAY, Some(&second), now + 2 * DAY).unwrap();
        assert_eq!(CertificateDer::pem_slice_iter(&third.authorities).count(), 2, "the first has ended");
        let mut pair = first;
        for _ in 0..6 {
            pair = make(&names(), 3 * DAY, Some(&pair), now).unwrap();
        }
        assert_eq!(CertificateDer::pem_slice_iter(&pair.authorities).count(), 1 + KEPT);
    }
}
