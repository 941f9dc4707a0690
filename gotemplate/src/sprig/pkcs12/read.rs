//! Reads a PKCS#12 store (RFC 7292) with a bound on the work that all its parts may ask for together. `p12-keystore`, which writes ours, bounds
//! the work of each part, but neither their number nor that of a secret, and what an encrypted part holds is seen only once it is open.

use aws_lc_rs::{hmac, pbkdf2};
use cbc::Decryptor;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockCipherDecrypt, BlockModeDecrypt, InnerIvInit, KeyInit, KeyIvInit};
use des::TdesEde3;
use pkcs5::pbes2;
use pkcs8::der::asn1::{ContextSpecific, ObjectIdentifier, OctetString};
use pkcs8::der::{Any, Decode};
use pkcs8::spki::AlgorithmIdentifierOwned;
use pkcs12::cms::encrypted_data::EncryptedData;
use pkcs12::kdf::{Pkcs12KeyType, derive_key};
use pkcs12::pbe_params::{EncryptedPrivateKeyInfo, Pbes2Params, Pkcs12PbeParams};
use pkcs12::safe_bag::SafeContents;
use pkcs12::{AuthenticatedSafe, CertBag, MacData, Pfx};
use rc2::Rc2;
use sha1::Sha1;
use sha2::{Sha224, Sha256, Sha384, Sha512};
use zeroize::Zeroizing;

use super::super::pem::keys::Der;
use crate::exec::Meter;

/// Largest store that is read, in bytes.
const LARGEST: usize = 64 << 10;
/// Runs of a hash function to a step of the meter: SHA-2 in software takes about 0.2 µs for one, and a step stands for 2 µs.
const HASHES: u64 = 10;
/// Why a store is not read: its form, or a password that does not fit, which shows in a MAC or a padding.
const WRONG: &str = "the input is no PKCS#12 store, or the password is another (is it still base64? use b64dec)";

const DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
const ENCRYPTED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.6");
const X509: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.22.1");
const PBMAC1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.5.14");
const SHA1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.14.3.2.26");
const SHA224: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.4");
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3");
const HMAC_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.2.9");
const HMAC_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.2.10");
const HMAC_SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.2.11");

/// What a store holds that templates ask for, in its order.
#[derive(Default)]
pub(super) struct Contents {
    /// PKCS#8 keys.
    pub(super) keys: Vec<Der>,
    pub(super) certificates: Vec<Vec<u8>>,
}

fn fits<T, E>(read: Result<T, E>) -> Result<T, String> {
    read.map_err(|_| WRONG.to_owned())
}

fn parameters(how: &AlgorithmIdentifierOwned) -> Result<&Any, String> {
    how.parameters.as_ref().ok_or_else(|| WRONG.to_owned())
}

struct Reader<'a> {
    meter: &'a mut Meter,
    password: &'a str,
    /// The password as PKCS#12's own derivation has it: UTF-16 and a zero (RFC 7292, B.1), or nothing at all.
    wide: Zeroizing<Vec<u8>>,
}

/// Reads a store, whose integrity is checked if it has a MAC.
///
/// # Errors
/// One text for whatever is wrong with the form or the password; another if its parts together ask for more work than the template has left.
pub(super) fn read(meter: &mut Meter, input: &[u8], password: &str) -> Result<Contents, String> {
    meter.memory(4 * input.len())?;
    if input.len() > LARGEST {
        return Err(format!("the PKCS#12 store is larger than {LARGEST} bytes"));
    }
    meter.steps(100 + input.len() / 16)?;
    let store = fits(Pfx::from_der(input))?;
    let wide = Zeroizing::new(password.encode_utf16().chain([0]).flat_map(u16::to_be_bytes).collect());
    let mut reader = Reader { meter, password, wide };
    if let Some(mac) = &store.mac_data {
        let content = store.auth_safe.content.value();
        let mut is_whole = reader.is_whole(mac, content)?;
        // Some programs write no zero after no password.
        if !is_whole && password.is_empty() {
            reader.wide.clear();
            is_whole = reader.is_whole(mac, content)?;
        }
        if !is_whole {
            return Err(WRONG.to_owned());
        }
    }
    if store.auth_safe.content_type != DATA {
        return Err(WRONG.to_owned());
    }
    let safes = fits(store.auth_safe.content.decode_as::<OctetString>())?;
    let mut contents = Contents::default();
    for safe in fits(AuthenticatedSafe::from_der(safes.as_bytes()))? {
        let bags = match safe.content_type {
            DATA => Zeroizing::new(fits(safe.content.decode_as::<OctetString>())?.into_bytes().into_vec()),
            ENCRYPTED_DATA => {
                let sealed = fits(safe.content.decode_as::<EncryptedData>())?.enc_content_info;
                let Some(content) = sealed.encrypted_content else { continue };
                reader.opened(&sealed.content_enc_alg, content.as_bytes())?
            }
            _ => return Err(WRONG.to_owned()),
        };
        reader.bags(&bags, &mut contents)?;
    }
    Ok(contents)
}

impl Reader<'_> {
    fn bags(&mut self, bags: &[u8], contents: &mut Contents) -> Result<(), String> {
        for bag in fits(SafeContents::from_der(bags))? {
            match bag.bag_id {
                pkcs12::PKCS_12_KEY_BAG_OID => {
                    let key = fits(ContextSpecific::<Any>::from_der(&bag.bag_value))?.value;
                    contents.keys.push(key_of(&Zeroizing::new(fits(pkcs8::der::Encode::to_der(&key))?))?);
                }
                pkcs12::PKCS_12_PKCS8_KEY_BAG_OID => {
                    let sealed = fits(ContextSpecific::<EncryptedPrivateKeyInfo>::from_der(&bag.bag_value))?.value;
                    let key = self.opened(&sealed.encryption_algorithm, sealed.encrypted_data.as_bytes())?;
                    contents.keys.push(key_of(&key)?);
                }
                pkcs12::PKCS_12_CERT_BAG_OID => {
                    let certificate = fits(ContextSpecific::<CertBag>::from_der(&bag.bag_value))?.value;
                    if certificate.cert_id != X509 {
                        return Err(WRONG.to_owned());
                    }
                    contents.certificates.push(certificate.cert_value.into_bytes().into_vec());
                }
                // Secrets, revocation lists and what else there may be: nobody asks for it.
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes the steps for a derivation before it begins.
    fn takes(&mut self, rounds: u32, hashes: u64) -> Result<(), String> {
        let steps = u64::from(rounds) * hashes / HASHES;
        self.meter
            .steps(usize::try_from(steps).unwrap_or(usize::MAX))
            .map_err(|why| format!("the PKCS#12 store asks for too many rounds to derive its keys: {why}"))
    }

    fn opened(&mut self, how: &AlgorithmIdentifierOwned, sealed: &[u8]) -> Result<Der, String> {
        match how.oid {
            pbes2::PBES2_OID => {
                let how = fits(parameters(how)?.decode_as::<pbes2::Parameters>())?;
                let pbes2::Kdf::Pbkdf2(derivation) = &how.kdf else {
                    return Err("the PKCS#12 store is encrypted with scrypt, which is not supported".into());
                };
                // Each round of HMAC is two runs, and the longest key is two blocks of the shortest hash.
                self.takes(derivation.iteration_count, 4)?;
                fits(how.decrypt(self.password, sealed)).map(Zeroizing::new)
            }
            pkcs12::PKCS_12_PBE_WITH_SHAAND3_KEY_TRIPLE_DES_CBC => self.opened_by::<TdesEde3>(how, 24, sealed),
            pkcs12::PKCS_12_PBEWITH_SHAAND40_BIT_RC2_CBC => self.opened_by::<Rc2>(how, 5, sealed),
            _ => Err(WRONG.to_owned()),
        }
    }

    /// PKCS#12's own schemes (RFC 7292, appendix C), of the time before PBES2.
    fn opened_by<C>(&mut self, how: &AlgorithmIdentifierOwned, key_length: usize, sealed: &[u8]) -> Result<Der, String>
    where
        C: BlockCipherDecrypt + KeyInit,
        Decryptor<C>: KeyIvInit + InnerIvInit,
    {
        let how = fits(parameters(how)?.decode_as::<Pkcs12PbeParams>())?;
        // Two blocks of SHA-1 are the longest key, and one the vector.
        self.takes(fits(how.iterations.try_into())?, 3)?;
        let derived =
            |kind, length| Zeroizing::new(derive_key::<Sha1>(&self.wide, how.salt.as_bytes(), kind, how.iterations, length));
        let (key, vector) = (derived(Pkcs12KeyType::EncryptionKey, key_length), derived(Pkcs12KeyType::Iv, 8));
        let cipher = fits(Decryptor::<C>::new_from_slices(&key, &vector))?;
        fits(cipher.decrypt_padded_vec::<Pkcs7>(sealed)).map(Zeroizing::new)
    }

    /// Whether the MAC fits, and with it the password.
    fn is_whole(&mut self, mac: &MacData, content: &[u8]) -> Result<bool, String> {
        let digest = mac.mac.algorithm.oid;
        let key = if digest == PBMAC1 {
            self.pbmac1_key(fits(parameters(&mac.mac.algorithm)?.decode_as())?)?
        } else {
            self.takes(fits(mac.iterations.try_into())?, 1)?;
            let (password, salt, rounds) = (&self.wide, mac.mac_salt.as_bytes(), mac.iterations);
            let kind = Pkcs12KeyType::Mac;
            let (derived, algorithm) = match digest {
                SHA1 => (derive_key::<Sha1>(password, salt, kind, rounds, 20), hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
                SHA224 => (derive_key::<Sha224>(password, salt, kind, rounds, 28), hmac::HMAC_SHA224),
                SHA256 => (derive_key::<Sha256>(password, salt, kind, rounds, 32), hmac::HMAC_SHA256),
                SHA384 => (derive_key::<Sha384>(password, salt, kind, rounds, 48), hmac::HMAC_SHA384),
                SHA512 => (derive_key::<Sha512>(password, salt, kind, rounds, 64), hmac::HMAC_SHA512),
                _ => return Err(WRONG.to_owned()),
            };
            hmac::Key::new(algorithm, &Zeroizing::new(derived))
        };
        Ok(hmac::verify(&key, content, mac.mac.digest.as_bytes()).is_ok())
    }

    /// The key of a PBMAC1 (RFC 9579), whose parameters have the form of those of PBES2.
    fn pbmac1_key(&mut self, how: Pbes2Params) -> Result<hmac::Key, String> {
        if how.kdf.oid != pbes2::PBKDF2_OID {
            return Err(WRONG.to_owned());
        }
        let derivation = fits(parameters(&how.kdf)?.decode_as::<pbes2::Pbkdf2Params>())?;
        let function = match derivation.prf {
            pbes2::Pbkdf2Prf::HmacWithSha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            pbes2::Pbkdf2Prf::HmacWithSha384 => pbkdf2::PBKDF2_HMAC_SHA384,
            pbes2::Pbkdf2Prf::HmacWithSha512 => pbkdf2::PBKDF2_HMAC_SHA512,
            _ => return Err(WRONG.to_owned()),
        };
        let algorithm = match how.encryption.oid {
            HMAC_SHA256 => hmac::HMAC_SHA256,
            HMAC_SHA384 => hmac::HMAC_SHA384,
            HMAC_SHA512 => hmac::HMAC_SHA512,
            _ => return Err(WRONG.to_owned()),
        };
        // RFC 9579 wants the length to be said, and none that is easily guessed.
        let length = derivation.key_length.filter(|length| (20..=64).contains(length)).ok_or(WRONG)?;
        self.takes(derivation.iteration_count, 4)?;
        let rounds = fits(derivation.iteration_count.try_into())?;
        let mut key = Zeroizing::new([0; 64]);
        let key = &mut key[..usize::from(length)];
        pbkdf2::derive(function, rounds, derivation.salt.as_ref(), self.password.as_bytes(), key);
        Ok(hmac::Key::new(algorithm, key))
    }
}

/// A key, if it is one.
fn key_of(der: &[u8]) -> Result<Der, String> {
    fits(pkcs8::PrivateKeyInfoRef::from_der(der))?;
    Ok(Zeroizing::new(der.to_vec()))
}

#[cfg(test)]
mod tests {
    use pkcs8::der::{Encode, Tag};
    use pkcs12::cms::content_info::{CmsVersion, ContentInfo};
    use pkcs12::cms::enveloped_data::EncryptedContentInfo;
    use pkcs12::pfx::Version;
    use pkcs12::safe_bag::SafeBag;

    use super::*;
    use crate::exec::Limits;

    fn octets(bytes: Vec<u8>) -> Any {
        Any::new(Tag::OctetString, bytes).unwrap()
    }

    fn data(bytes: Vec<u8>) -> ContentInfo {
        ContentInfo { content_type: DATA, content: octets(bytes) }
    }

    fn any(what: &impl Encode) -> Any {
        Any::from_der(&what.to_der().unwrap()).unwrap()
    }

    fn by(how: &pbes2::Parameters) -> AlgorithmIdentifierOwned {
        AlgorithmIdentifierOwned { oid: pbes2::PBES2_OID, parameters: Some(any(how)) }
    }

    /// AES-256 with a key that takes so many rounds.
    fn aes(rounds: u32) -> pbes2::Parameters {
        pbes2::Parameters::generate_pbkdf2_sha256_aes256cbc(rounds, b"salt", [7; 16]).unwrap()
    }

    fn shrouded(how: AlgorithmIdentifierOwned, encrypted: Vec<u8>) -> SafeBag {
        let encrypted_data = OctetString::new(encrypted).unwrap();
        let key = EncryptedPrivateKeyInfo { encryption_algorithm: how, encrypted_data };
        SafeBag { bag_id: pkcs12::PKCS_12_PKCS8_KEY_BAG_OID, bag_value: key.to_der().unwrap(), bag_attributes: None }
    }

    /// A key that takes all that `pkcs5` reads: a minute for each.
    fn costly() -> SafeBag {
        shrouded(by(&aes(100_000_000)), vec![1; 32])
    }

    fn store(safes: Vec<ContentInfo>) -> Vec<u8> {
        let auth_safe = data(safes.to_der().unwrap());
        Pfx { version: Version::V3, auth_safe, mac_data: None }.to_der().unwrap()
    }

    /// Bags inside an encrypted part: nobody sees what they ask for before it is open.
    fn sealed(bags: &Vec<SafeBag>) -> ContentInfo {
        let content = aes(1).encrypt("pw", &bags.to_der().unwrap()).unwrap();
        let enc_content_info = EncryptedContentInfo {
            content_type: DATA,
            content_enc_alg: by(&aes(1)),
            encrypted_content: Some(OctetString::new(content).unwrap()),
        };
        let sealed = EncryptedData { version: CmsVersion::V0, enc_content_info, unprotected_attrs: None };
        ContentInfo { content_type: ENCRYPTED_DATA, content: any(&sealed) }
    }

    fn why(store: &[u8]) -> String {
        read(&mut Meter::new(Limits::default()), store, "pw").map(|_| ()).unwrap_err()
    }

    #[test]
    fn the_work_of_all_parts_together_is_bounded_also_of_those_in_encrypted_parts() {
        // An Ed25519 key (RFC 8410).
        let key = [&b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20"[..], &[1; 32]].concat();
        let open = |rounds| shrouded(by(&aes(rounds)), aes(rounds).encrypt("pw", &key).unwrap());
        let mut meter = Meter::new(Limits { steps: 20_000, ..Limits::default() });
        let contents = read(&mut meter, &store(vec![sealed(&vec![open(1000); 20])]), "pw").unwrap();
        assert_eq!(contents.keys.len(), 20);
        let mut meter = Meter::new(Limits { steps: 20_000, ..Limits::default() });
        let much = read(&mut meter, &store(vec![sealed(&vec![open(1000); 60])]), "pw").map(|_| ());
        assert!(much.unwrap_err().ends_with("rounds to derive its keys: the template takes more than 20000 steps"));
        for safe in [sealed(&vec![costly()]), data(vec![costly()].to_der().unwrap())] {
            assert!(why(&store(vec![safe])).contains("too many rounds"));
        }
    }

    #[test]
    fn the_memory_that_scrypt_asks_for_is_not_taken() {
        let how = pkcs5::pbes2::ScryptParams {
            salt: pkcs5::pbes2::Salt::new(b"salt").unwrap(),
            cost_parameter: 1 << 20,
            block_size: 8,
            parallelization: 16,
            key_length: None,
        };
        let how = pbes2::Parameters { kdf: how.into(), encryption: aes(1).encryption };
        assert_eq!(
            why(&store(vec![sealed(&vec![shrouded(by(&how), vec![1; 32])])])),
            "the PKCS#12 store is encrypted with scrypt, which is not supported"
        );
    }

    #[test]
    fn secrets_are_not_opened() {
        let mut secret = costly();
        secret.bag_id = pkcs12::PKCS_12_SECRET_BAG_OID;
        let contents = read(&mut Meter::new(Limits::default()), &store(vec![sealed(&vec![secret])]), "pw").unwrap();
        assert!(contents.keys.is_empty() && contents.certificates.is_empty());
    }

    #[test]
    fn a_mac_that_asks_for_too_much_or_is_none_of_ours_is_not_computed() {
        let with = |oid, iterations| {
            let mac = pkcs12::DigestInfo {
                algorithm: AlgorithmIdentifierOwned { oid, parameters: None },
                digest: OctetString::new(vec![1; 20]).unwrap(),
            };
            let mac = MacData { mac, mac_salt: OctetString::new(vec![]).unwrap(), iterations };
            let safes: Vec<ContentInfo> = Vec::new();
            Pfx { version: Version::V3, auth_safe: data(safes.to_der().unwrap()), mac_data: Some(mac) }.to_der().unwrap()
        };
        assert!(why(&with(SHA1, i32::MAX)).contains("too many rounds"));
        for (oid, iterations) in [(SHA1, -1), (SHA256, 0), (SHA1, 1), (PBMAC1, 1), (DATA, 1)] {
            assert_eq!(why(&with(oid, iterations)), WRONG);
        }
    }
}
