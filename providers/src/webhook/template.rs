//! What a webhook's texts can say of the request: Go templates over the remote reference and the Secrets of the store.

use std::collections::BTreeMap;

use gotemplate::{Limits, Map, MissingKey, Options, Template, Text, Type, Value};
use zeroize::Zeroizing;

use crate::{Error, Result};

/// Names with their keys and values, such as `remoteRef` with `key`, and each Secret under its name.
pub(super) type Context = BTreeMap<String, BTreeMap<String, Zeroizing<String>>>;

/// Whose values are escaped in a URL: those that an ExternalSecret gives.
const FOREIGN: &str = "remoteRef";
/// A request is small, and is made often.
const LIMITS: Limits = Limits { steps: 100_000, output: 1 << 20, memory: 16 << 20, depth: 50 };

/// Where a text is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// As a URL: values of `remoteRef` are escaped, so that a key adds no part to it.
    Url,
    /// As it is.
    Plain,
}

/// Executes a template.
///
/// # Errors
/// [`Error::Invalid`] names the field, the place in the template, and what is there instead; never a value.
pub(super) fn render(field: &str, template: &str, context: &Context, used: Use) -> Result<Zeroizing<String>> {
    if !template.contains("{{") {
        return Ok(Zeroizing::new(template.to_owned()));
    }
    let invalid = |error: gotemplate::Error| {
        let hint = if error.message.contains("no entry for key") { names(context) } else { String::new() };
        Error::invalid(field, format!("{error}{hint}"))
    };
    let template = parse(field, template).map_err(invalid)?;
    let mut output = template.render(&data(context, used)).map_err(invalid)?;
    match String::from_utf8(std::mem::take(&mut *output)) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(broken) => {
            drop(Zeroizing::new(broken.into_bytes()));
            Err(Error::invalid(field, "makes bytes that are no text"))
        }
    }
}

fn parse(field: &str, template: &str) -> std::result::Result<Template, gotemplate::Error> {
    let options = Options { missing_key: MissingKey::Error, limits: LIMITS, sprig: true, ..Options::default() };
    Template::parse(field.rsplit('.').next().unwrap_or(field), template, &options)
}

/// What is wrong with a template before anything is known that it is filled with.
pub(super) fn problem(field: &str, template: &str) -> Option<String> {
    parse(field, template).err().map(|error| format!("{field}: {error}"))
}

/// The context as a template sees it: maps of text.
fn data(context: &Context, used: Use) -> Value {
    let escaped = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let of_name = |(name, keys): (&String, &BTreeMap<String, Zeroizing<String>>)| {
        let mut entries = BTreeMap::new();
        for (key, value) in keys {
            if used == Use::Url && name == FOREIGN {
                let value = Value::from(escaped(value).as_str());
                // `index .remoteRef .remoteRef.remoteKey` asks with what is escaped.
                entries.insert(Text::from(escaped(key)), value.clone());
                entries.insert(Text::from(key.as_str()), value);
            } else {
                entries.insert(Text::from(key.as_str()), Value::from(value.as_str()));
            }
        }
        (Text::from(name.as_str()), Value::Map(Map::new(entries, Type::Str)))
    };
    Value::Map(Map::new(context.iter().map(of_name).collect(), Type::Map(Box::new(Type::Str))))
}

/// What there is, for a message.
fn names(context: &Context) -> String {
    let all = context.iter().flat_map(|(name, keys)| keys.keys().map(move |key| format!(".{name}.{key}")));
    format!("; there is {}", all.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context {
        let keys =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), Zeroizing::new((*v).to_owned()))).collect();
        BTreeMap::from([
            (
                "remoteRef".to_owned(),
                keys(&[("key", "a/b ?c"), ("remoteKey", "team/deep"), ("team/deep", "payload"), ("version", "")]),
            ),
            ("auth".to_owned(), keys(&[("token", "CANARY&"), ("a.b", "dotted")])),
        ])
    }

    #[test]
    fn paths_are_filled_in_and_what_an_object_gives_is_escaped_in_a_url() {
        for (template, used, expected) in [
            ("plain", Use::Plain, "plain"),
            ("{{ .remoteRef.key }}|{{.auth.token}}", Use::Plain, "a/b ?c|CANARY&"),
            (
                "https://x/{{ .remoteRef.key }}?t={{ .auth.token }}&v={{ .remoteRef.version }}",
                Use::Url,
                "https://x/a%2Fb+%3Fc?t=CANARY&&v=",
            ),
            ("{{ index .remoteRef .remoteRef.remoteKey }}", Use::Plain, "payload"),
            ("{{ index .remoteRef .remoteRef.remoteKey }}", Use::Url, "payload"),
            (r#"{{ index .auth "a.b" }}"#, Use::Plain, "dotted"),
            ("{{ if .remoteRef.version }}v{{ else }}latest{{ end }}", Use::Plain, "latest"),
            (r#"{{ printf "%s:%s" "u" .auth.token | urlquery }}"#, Use::Plain, "u%3ACANARY%26"),
            ("a }} b", Use::Plain, "a }} b"),
        ] {
            assert_eq!(render("f", template, &context(), used).expect(template).as_str(), expected);
        }
    }

    #[test]
    fn what_is_not_there_or_not_understood_is_named_without_values() {
        for (template, needle) in [
            (
                "{{ .remoteRef.property }}",
                r#"map has no entry for key "property"; there is .auth.a.b, .auth.token, .remoteRef.key"#,
            ),
            ("{{ .nobody.x }}", r#"no entry for key "nobody""#),
            ("{{ .remoteRef.key | env }}", r#"template url line 1 column 21: function "env" not defined"#),
            ("{{ .remoteRef.key", "unclosed action"),
            ("{{ key }}", "not defined"),
            ("{{}}", "missing value for command"),
            ("{{ .auth.token.x }}", "can't evaluate field x in type string"),
            ("{{ range 1000000 }}x{{ end }}", "more than 100000 steps"),
            (r#"{{ printf "\xff" }}"#, "no text"),
        ] {
            let error = render("spec.provider.webhook.url", template, &context(), Use::Plain).expect_err(template).to_string();
            assert!(error.contains(needle) && error.starts_with("spec.provider.webhook.url:"), "{error}");
            assert!(!error.contains("CANARY") && !error.contains("payload"), "{error}");
        }
    }
}
