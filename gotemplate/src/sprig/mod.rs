//! Sprig 3's functions, and the ones that External Secrets' templates have beside them.
//!
//! What they do was read off <https://masterminds.github.io/sprig/> and off Go's answers (the differential test in `e2e/`), their quirks included.
//! `env`, `expandenv` and `getHostByName` are not among them: a template must not see the process that renders it.

mod case;
mod certs;
mod chance;
mod crypto;
pub(crate) mod dates;
mod decimal;
mod dicts;
mod encoding;
mod json;
mod jwk;
mod lists;
mod numbers;
mod paths;
mod pem;
mod pkcs12;
mod reflect;
mod regexps;
pub(crate) mod semver;
mod strings;
mod texts;
mod urls;
mod yaml;

use std::rc::Rc;

use crate::exec::Meter;
use crate::format;
use crate::functions::{Answer, Function, Param, function};
use crate::text::Text;
use crate::value::{List, Map, Type, Value};

const A: Param = Param::Any;
const S: Param = Param::Of(Type::Str);
const I: Param = Param::Of(Type::Int(None));
const F: Param = Param::Of(Type::Float);
const B: Param = Param::Of(Type::Bool);
const U32: Param = Param::Of(Type::Uint(Some(32)));
const TIME: Param = Param::Of(Type::Time);
const CERT: Param = Param::Of(Type::Certificate);
const D: Param = Param::Dict;
const L: Param = Param::Anys;

/// Ordered by name.
pub(crate) static FUNCTIONS: &[Function] = &[
    function("abbrev", &[I, S], None, texts::abbrev),
    function("abbrevboth", &[I, I, S], None, texts::abbrevboth),
    function("add", &[], Some(A), numbers::add),
    function("add1", &[A], None, numbers::add1),
    function("add1f", &[A], None, decimal::add1f),
    function("addf", &[], Some(A), decimal::addf),
    function("adler32sum", &[S], None, encoding::adler32sum),
    function("ago", &[A], None, dates::ago),
    function("all", &[], Some(A), reflect::all),
    function("any", &[], Some(A), reflect::any),
    function("append", &[A, A], None, lists::push),
    function("atoi", &[S], None, numbers::atoi),
    function("b32dec", &[S], None, encoding::b32dec),
    function("b32enc", &[S], None, encoding::b32enc),
    function("b64dec", &[S], None, encoding::b64dec),
    function("b64enc", &[S], None, encoding::b64enc),
    function("base", &[S], None, paths::base),
    function("bcrypt", &[S], None, crypto::bcrypt),
    function("biggest", &[A], Some(A), numbers::max),
    function("buildCustomCert", &[S, S], None, certs::build_custom_cert),
    function("camelcase", &[S], None, case::camelcase),
    function("cat", &[], Some(A), strings::cat),
    function("ceil", &[A], None, numbers::ceil),
    function("certSANs", &[S], None, pem::cert_sans),
    function("chunk", &[I, A], None, lists::chunk),
    function("clean", &[S], None, paths::clean),
    function("coalesce", &[], Some(A), reflect::coalesce),
    function("compact", &[A], None, lists::compact),
    function("concat", &[], Some(A), lists::concat),
    function("contains", &[S, S], None, strings::contains),
    function("date", &[S, A], None, dates::date),
    function("dateInZone", &[S, A, S], None, dates::date_in_zone),
    function("dateModify", &[S, TIME], None, dates::date_modify),
    function("date_in_zone", &[S, A, S], None, dates::date_in_zone),
    function("date_modify", &[S, TIME], None, dates::date_modify),
    function("decryptAES", &[S, S], None, crypto::decrypt_aes),
    function("deepCopy", &[A], None, dicts::deep_copy),
    function("deepEqual", &[A, A], None, reflect::deep_equal),
    function("default", &[A], Some(A), reflect::default),
    function("derivePassword", &[U32, S, S, S, S], None, crypto::derive_password),
    function("dict", &[], Some(A), dicts::dict),
    function("dig", &[], Some(A), dicts::dig),
    function("dir", &[S], None, paths::dir),
    function("div", &[A, A], None, numbers::div),
    function("divf", &[A], Some(A), decimal::divf),
    function("duration", &[A], None, dates::duration),
    function("durationRound", &[A], None, dates::duration_round),
    function("empty", &[A], None, reflect::empty),
    function("encryptAES", &[S, S], None, crypto::encrypt_aes),
    function("ext", &[S], None, paths::ext),
    function("fail", &[S], None, reflect::fail),
    function("filterCertChain", &[S, S], None, pem::filter_cert_chain),
    function("filterPEM", &[S, S], None, pem::filter_pem),
    function("first", &[A], None, lists::first),
    function("float64", &[A], None, numbers::float64),
    function("floor", &[A], None, numbers::floor),
    function("fromJson", &[S], None, json::from_json),
    function("fromYaml", &[S], None, yaml::from_yaml),
    function("fullPemToPkcs12", &[S, S], None, pkcs12::full_pem_to_pkcs12),
    function("fullPemToPkcs12Pass", &[S, S, S], None, pkcs12::full_pem_to_pkcs12),
    function("genCA", &[S, I], None, certs::gen_ca),
    function("genCAWithKey", &[S, I, S], None, certs::gen_ca),
    function("genPrivateKey", &[S], None, certs::gen_private_key),
    function("genSelfSignedCert", &[S, L, L, I], None, certs::gen_self_signed),
    function("genSelfSignedCertWithKey", &[S, L, L, I, S], None, certs::gen_self_signed),
    function("genSignedCert", &[S, L, L, I, CERT], None, certs::gen_signed),
    function("genSignedCertWithKey", &[S, L, L, I, CERT, S], None, certs::gen_signed),
    function("get", &[D, S], None, dicts::get),
    function("has", &[A, A], None, lists::has),
    function("hasKey", &[D, S], None, dicts::has_key),
    function("hasPrefix", &[S, S], None, strings::has_prefix),
    function("hasSuffix", &[S, S], None, strings::has_suffix),
    function("hello", &[], None, reflect::hello),
    function("hexdec", &[S], None, encoding::hexdec),
    function("htmlDate", &[A], None, dates::html_date),
    function("htmlDateInZone", &[A, S], None, dates::html_date),
    function("htpasswd", &[S, S], Some(S), crypto::htpasswd),
    function("indent", &[I, S], None, strings::indent),
    function("initial", &[A], None, lists::initial),
    function("initials", &[S], None, texts::initials),
    function("int", &[A], None, numbers::int),
    function("int64", &[A], None, numbers::int64_of),
    function("isAbs", &[S], None, paths::is_abs),
    function("join", &[S, A], None, strings::join),
    function("jwkPrivateKeyPem", &[S], None, jwk::private_key_pem),
    function("jwkPublicKeyPem", &[S], None, jwk::public_key_pem),
    function("kebabcase", &[S], None, case::kebabcase),
    function("keys", &[], Some(D), dicts::keys),
    function("kindIs", &[S, A], None, reflect::kind_is),
    function("kindOf", &[A], None, reflect::kind_of),
    function("last", &[A], None, lists::last),
    function("list", &[], Some(A), lists::list),
    function("lower", &[S], None, strings::lower),
    function("max", &[A], Some(A), numbers::max),
    function("maxf", &[A], Some(A), numbers::maxf),
    function("merge", &[D], Some(D), dicts::merge),
    function("mergeOverwrite", &[D], Some(D), dicts::merge_overwrite),
    function("min", &[A], Some(A), numbers::min),
    function("minf", &[A], Some(A), numbers::minf),
    function("mod", &[A, A], None, numbers::modulo),
    function("mul", &[A], Some(A), numbers::mul),
    function("mulf", &[A], Some(A), decimal::mulf),
    function("mustAppend", &[A, A], None, lists::push),
    function("mustChunk", &[I, A], None, lists::chunk),
    function("mustCompact", &[A], None, lists::compact),
    function("mustDateModify", &[S, TIME], None, dates::must_date_modify),
    function("mustDeepCopy", &[A], None, dicts::deep_copy),
    function("mustFirst", &[A], None, lists::first),
    function("mustFromJson", &[S], None, json::must_from_json),
    function("mustHas", &[A, A], None, lists::has),
    function("mustInitial", &[A], None, lists::initial),
    function("mustLast", &[A], None, lists::last),
    function("mustMerge", &[D], Some(D), dicts::merge),
    function("mustMergeOverwrite", &[D], Some(D), dicts::merge_overwrite),
    function("mustPrepend", &[A, A], None, lists::prepend),
    function("mustPush", &[A, A], None, lists::push),
    function("mustRegexFind", &[S, S], None, regexps::find),
    function("mustRegexFindAll", &[S, S, I], None, regexps::find_all),
    function("mustRegexMatch", &[S, S], None, regexps::must_match),
    function("mustRegexReplaceAll", &[S, S, S], None, regexps::replace_all),
    function("mustRegexReplaceAllLiteral", &[S, S, S], None, regexps::replace_all_literal),
    function("mustRegexSplit", &[S, S, I], None, regexps::split),
    function("mustRest", &[A], None, lists::rest),
    function("mustReverse", &[A], None, lists::reverse),
    function("mustSlice", &[A], Some(A), lists::slice),
    function("mustToDate", &[S, S], None, dates::must_to_date),
    function("mustToJson", &[A], None, json::must_to_json),
    function("mustToPrettyJson", &[A], None, json::must_to_pretty_json),
    function("mustToRawJson", &[A], None, json::to_raw_json),
    function("mustUniq", &[A], None, lists::uniq),
    function("mustWithout", &[A], Some(A), lists::without),
    function("must_date_modify", &[S, TIME], None, dates::must_date_modify),
    function("nindent", &[I, S], None, strings::nindent),
    function("nospace", &[S], None, texts::nospace),
    function("now", &[], None, dates::now),
    function("omit", &[D], Some(S), dicts::omit),
    function("osBase", &[S], None, paths::base),
    function("osClean", &[S], None, paths::clean),
    function("osDir", &[S], None, paths::dir),
    function("osExt", &[S], None, paths::ext),
    function("osIsAbs", &[S], None, paths::is_abs),
    function("pemToPkcs12", &[S, S], None, pkcs12::pem_to_pkcs12),
    function("pemToPkcs12Pass", &[S, S, S], None, pkcs12::pem_to_pkcs12),
    function("pemTruststoreToPKCS12", &[S], None, pkcs12::pem_truststore),
    function("pemTruststoreToPKCS12Pass", &[S, S], None, pkcs12::pem_truststore),
    function("pick", &[D], Some(S), dicts::pick),
    function("pkcs12cert", &[S], None, pkcs12::cert),
    function("pkcs12certPass", &[S, S], None, pkcs12::cert_pass),
    function("pkcs12key", &[S], None, pkcs12::key),
    function("pkcs12keyPass", &[S, S], None, pkcs12::key_pass),
    function("pluck", &[S], Some(D), dicts::pluck),
    function("plural", &[S, S, I], None, strings::plural),
    function("prepend", &[A, A], None, lists::prepend),
    function("push", &[A, A], None, lists::push),
    function("quote", &[], Some(A), strings::quote),
    function("randAlpha", &[I], None, chance::alpha),
    function("randAlphaNum", &[I], None, chance::alpha_num),
    function("randAscii", &[I], None, chance::ascii),
    function("randBytes", &[I], None, chance::bytes),
    function("randInt", &[I, I], None, chance::int),
    function("randNumeric", &[I], None, chance::numeric),
    function("regexFind", &[S, S], None, regexps::find),
    function("regexFindAll", &[S, S, I], None, regexps::find_all),
    function("regexMatch", &[S, S], None, regexps::is_match),
    function("regexQuoteMeta", &[S], None, regexps::quote_meta),
    function("regexReplaceAll", &[S, S, S], None, regexps::replace_all),
    function("regexReplaceAllLiteral", &[S, S, S], None, regexps::replace_all_literal),
    function("regexSplit", &[S, S, I], None, regexps::split),
    function("repeat", &[I, S], None, strings::repeat),
    function("replace", &[S, S, S], None, strings::replace),
    function("rest", &[A], None, lists::rest),
    function("reverse", &[A], None, lists::reverse),
    function("round", &[A, I], Some(F), numbers::round),
    function("rsaDecrypt", &[S, S, S, S], None, crypto::rsa_decrypt),
    function("semver", &[S], None, semver::semver),
    function("semverCompare", &[S, S], None, semver::semver_compare),
    function("seq", &[], Some(I), numbers::seq),
    function("set", &[D, S, A], None, dicts::set),
    function("sha1sum", &[S], None, encoding::sha1sum),
    function("sha256sum", &[S], None, encoding::sha256sum),
    function("sha512sum", &[S], None, encoding::sha512sum),
    function("shuffle", &[S], None, chance::shuffle),
    function("slice", &[A], Some(A), lists::slice),
    function("snakecase", &[S], None, case::snakecase),
    function("sortAlpha", &[A], None, strings::sort_alpha),
    function("split", &[S, S], None, strings::split),
    function("splitList", &[S, S], None, strings::split_list),
    function("splitn", &[S, I, S], None, strings::splitn),
    function("squote", &[], Some(A), strings::squote),
    function("sub", &[A, A], None, numbers::sub),
    function("subf", &[A], Some(A), decimal::subf),
    function("substr", &[I, I, S], None, strings::substr),
    function("swapcase", &[S], None, texts::swapcase),
    function("ternary", &[A, A, B], None, reflect::ternary),
    function("title", &[S], None, texts::title),
    function("toDate", &[S, S], None, dates::to_date),
    function("toDecimal", &[A], None, numbers::to_decimal),
    function("toJson", &[A], None, json::to_json),
    function("toPrettyJson", &[A], None, json::to_pretty_json),
    function("toRawJson", &[A], None, json::to_raw_json),
    function("toString", &[A], None, strings::to_string),
    function("toStrings", &[A], None, strings::to_strings),
    function("toYaml", &[A], None, yaml::to_yaml),
    function("trim", &[S], None, strings::trim),
    function("trimAll", &[S, S], None, strings::trim_all),
    function("trimPrefix", &[S, S], None, strings::trim_prefix),
    function("trimSuffix", &[S, S], None, strings::trim_suffix),
    function("trimall", &[S, S], None, strings::trim_all),
    function("trunc", &[I, S], None, strings::trunc),
    function("tuple", &[], Some(A), lists::list),
    function("typeIs", &[S, A], None, reflect::type_is),
    function("typeIsLike", &[S, A], None, reflect::type_is_like),
    function("typeOf", &[A], None, reflect::type_of),
    function("uniq", &[A], None, lists::uniq),
    function("unixEpoch", &[TIME], None, dates::unix_epoch),
    function("unset", &[D, S], None, dicts::unset),
    function("until", &[I], None, numbers::until),
    function("untilStep", &[I, I, I], None, numbers::until_step),
    function("untitle", &[S], None, texts::untitle),
    function("upper", &[S], None, strings::upper),
    function("urlJoin", &[D], None, urls::url_join),
    function("urlParse", &[S], None, urls::url_parse),
    function("uuidv4", &[], None, chance::uuidv4),
    function("values", &[D], None, dicts::values),
    function("without", &[A], Some(A), lists::without),
    function("wrap", &[I, S], None, texts::wrap),
    function("wrapWith", &[I, S, S], None, texts::wrap_with),
];

/// Functions whose answers differ from call to call: chance, or the clock.
pub(crate) const VOLATILE: &[&str] = &[
    "ago",
    "bcrypt",
    "date",
    "dateInZone",
    "date_in_zone",
    "durationRound",
    "encryptAES",
    "fullPemToPkcs12",
    "fullPemToPkcs12Pass",
    "genCA",
    "genCAWithKey",
    "genPrivateKey",
    "genSelfSignedCert",
    "genSelfSignedCertWithKey",
    "genSignedCert",
    "genSignedCertWithKey",
    "htmlDate",
    "htmlDateInZone",
    "htpasswd",
    "now",
    "pemToPkcs12",
    "pemToPkcs12Pass",
    "pemTruststoreToPKCS12",
    "pemTruststoreToPKCS12Pass",
    "randAlpha",
    "randAlphaNum",
    "randAscii",
    "randBytes",
    "randInt",
    "randNumeric",
    "shuffle",
    "uuidv4",
];

// The executor has checked the types of arguments against the table; what these answer for another type is never seen.

fn text(value: &Value) -> &[u8] {
    match value {
        Value::Str(text) => text.bytes(),
        _ => &[],
    }
}

/// As UTF-8, with U+FFFD for what is none.
fn utf8(value: &Value) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(text(value))
}

fn int(value: &Value) -> i64 {
    match value {
        Value::Int(int, _) => *int,
        _ => 0,
    }
}

fn dict(value: &Value) -> Map {
    match value {
        Value::Map(map) => map.clone(),
        _ => Map::nil(Type::Any),
    }
}

/// A string that was made.
fn made(meter: &mut Meter, bytes: impl Into<Vec<u8>>) -> Answer {
    let bytes = bytes.into();
    meter.memory(bytes.len())?;
    Ok(Value::Str(Text::new(bytes)))
}

fn anys(meter: &mut Meter, items: Vec<Value>) -> Answer {
    list_of(meter, items, Type::Any)
}

fn list_of(meter: &mut Meter, items: Vec<Value>, of: Type) -> Answer {
    meter.steps(items.len())?;
    meter.memory(items.len() * size_of::<Value>())?;
    Ok(Value::List(List::new(items, of)))
}

fn dict_of(meter: &mut Meter, entries: impl IntoIterator<Item = (Text, Value)>, of: Type) -> Answer {
    let entries: std::collections::BTreeMap<_, _> = entries.into_iter().collect();
    meter.steps(entries.len())?;
    meter.memory(entries.keys().map(|key| key.bytes().len() + 2 * size_of::<Value>()).sum())?;
    Ok(Value::Map(Map::new(entries, of)))
}

/// Sprig's `strval`: strings as they are, anything else as `%v` prints it.
fn strval(meter: &mut Meter, value: &Value) -> Result<Text, String> {
    match value {
        Value::Str(text) => Ok(text.clone()),
        other => Ok(Text::new(format::sprint(meter, std::slice::from_ref(other))?)),
    }
}

fn certificate(cert: String, key: String) -> Value {
    Value::Certificate(Rc::new(crate::value::Certificate { cert: cert.into(), key: key.into() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_ordered_so_that_each_is_found() {
        assert!(FUNCTIONS.windows(2).all(|pair| pair[0].name < pair[1].name));
        assert!(VOLATILE.windows(2).all(|pair| pair[0] < pair[1]));
        let known = |name: &&'static str| FUNCTIONS.iter().any(|function| function.name == *name);
        // Those that see the process, ask a resolver, or read a cluster as somebody else (CVE-2026-22822, CVE-2026-34984, Helm's lookup).
        let forbidden = ["env", "expandenv", "getHostByName", "getSecretKey", "lookup"];
        assert!(VOLATILE.iter().all(known) && !forbidden.iter().any(known));
    }
}
