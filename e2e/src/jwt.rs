//! Tokens of service accounts, checked as a cloud checks them: by the issuer's published keys.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// An issuer and its keys.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// `iss` of its tokens.
    pub name: String,
    /// Its JWKS.
    pub keys: Value,
}

/// What is wrong with a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Its time is over.
    Expired,
    /// Anything else.
    Other(String),
}

impl Issuer {
    /// The claims of a token that this issuer signed and that is still good.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn check(&self, token: &str) -> Result<Value, Wrong> {
        let other = |why: &str| Wrong::Other(why.to_owned());
        let mut parts = token.split('.');
        let (Some(head), Some(body), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(other("Couldn't parse the token"));
        };
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| other("Couldn't decode the token"));
        let json = |text: &str| serde_json::from_slice::<Value>(&decode(text)?).map_err(|_| other("Couldn't parse the token"));
        let (header, claims) = (json(head)?, json(body)?);
        let keys = self.keys["keys"].as_array().into_iter().flatten();
        let key = keys
            .into_iter()
            .find(|key| key["kid"] == header["kid"])
            .ok_or_else(|| other("No key of the issuer signed the token"))?;
        let number = |name: &str| decode(key[name].as_str().unwrap_or_default());
        let (message, signature) = (format!("{head}.{body}"), decode(signature)?);
        let checked = match key["kty"].as_str() {
            Some("RSA") => {
                let public = RsaPublicKeyComponents { n: number("n")?, e: number("e")? };
                public.verify(&RSA_PKCS1_2048_8192_SHA256, message.as_bytes(), &signature)
            }
            Some("EC") => {
                let point = [vec![4], number("x")?, number("y")?].concat();
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message.as_bytes(), &signature)
            }
            _ => return Err(other("The issuer's key is of a kind that is not understood")),
        };
        checked.map_err(|_| other("The signature of the token is wrong"))?;
        if claims["iss"].as_str() != Some(&self.name) {
            return Err(other("No OpenIDConnect provider found in your account for the issuer of the token"));
        }
        if claims["exp"].as_i64().unwrap_or(0) < jiff::Timestamp::now().as_second() {
            return Err(Wrong::Expired);
        }
        Ok(claims)
    }
}
