//! What a webhook's texts can say of the request: the one function that the template engine will take over.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use crate::{Error, Result};

/// Names with their keys and values, such as `remoteRef` with `key`, and each Secret under its name.
pub(super) type Context = BTreeMap<String, BTreeMap<String, Zeroizing<String>>>;

/// Whose values are escaped in a URL: those that an ExternalSecret gives.
const FOREIGN: &str = "remoteRef";

/// Where a text is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// As a URL: values of `remoteRef` are escaped, so that a key adds no part to it.
    Url,
    /// As it is.
    Plain,
}

/// Fills in `{{ .name.key }}` and `{{ index .name .other.key }}`.
///
/// # Errors
/// [`Error::Invalid`] names the place, and what is there instead; never a value.
pub(super) fn render(field: &str, template: &str, context: &Context, used: Use) -> Result<Zeroizing<String>> {
    let mut out = Zeroizing::new(String::with_capacity(template.len()));
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let (expression, after) = after.split_once("}}").ok_or_else(|| Error::invalid(field, "has a {{ without its }}"))?;
        let (name, value) = evaluate(field, expression.trim(), context)?;
        match (used, name == FOREIGN) {
            (Use::Url, true) => out.extend(url::form_urlencoded::byte_serialize(value.as_bytes())),
            _ => out.push_str(value),
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn evaluate<'a, 'e>(field: &str, expression: &'e str, context: &'a Context) -> Result<(&'e str, &'a str)> {
    let words: Vec<&str> = expression.split_whitespace().collect();
    match words[..] {
        [path] => look_up(field, path, context),
        ["index", map, key] => {
            let map = map.strip_prefix('.').unwrap_or(map);
            let (_, key) = look_up(field, key, context)?;
            let found = context.get(map).and_then(|keys| keys.get(key));
            let found = found.ok_or_else(|| Error::invalid(field, format!("{{{{ {expression} }}}} means nothing here")))?;
            Ok((map, found.as_str()))
        }
        _ => {
            let why = format!(
                "{{{{ {expression} }}}} is not understood: this version knows {{{{ .remoteRef.key }}}} and {{{{ .secretname.key }}}}"
            );
            Err(Error::invalid(field, why))
        }
    }
}

fn look_up<'a, 'e>(field: &str, path: &'e str, context: &'a Context) -> Result<(&'e str, &'a str)> {
    let parts = path.strip_prefix('.').and_then(|p| p.split_once('.'));
    let (name, key) =
        parts.ok_or_else(|| Error::invalid(field, format!("{{{{ {path} }}}} is no path such as .remoteRef.key")))?;
    let unknown = |what: &str, there: Vec<&String>| {
        let there: Vec<&str> = there.into_iter().map(String::as_str).collect();
        Error::invalid(field, format!("{{{{ {path} }}}}: there is no {what}; there is {}", there.join(", ")))
    };
    let keys = context.get(name).ok_or_else(|| unknown(name, context.keys().collect()))?;
    let value = keys.get(key).ok_or_else(|| unknown(key, keys.keys().collect()))?;
    Ok((name, value.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context {
        let keys =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), Zeroizing::new((*v).to_owned()))).collect();
        BTreeMap::from([
            ("remoteRef".to_owned(), keys(&[("key", "a/b ?c"), ("remoteKey", "deep"), ("deep", "payload"), ("version", "")])),
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
            ("{{ .auth.a.b }}", Use::Plain, "dotted"),
            ("a }} b", Use::Plain, "a }} b"),
        ] {
            assert_eq!(render("f", template, &context(), used).expect(template).as_str(), expected);
        }
    }

    #[test]
    fn what_is_not_there_or_not_understood_is_named_without_values() {
        for (template, needle) in [
            ("{{ .remoteRef.property }}", "there is no property; there is deep, key, remoteKey, version"),
            ("{{ .nobody.x }}", "there is no nobody; there is auth, remoteRef"),
            ("{{ .remoteRef.key | upper }}", "is not understood"),
            ("{{ .remoteRef.key", "without its }}"),
            ("{{ key }}", "is no path"),
            ("{{}}", "is not understood"),
            ("{{ index .remoteRef .auth.token }}", "means nothing"),
        ] {
            let error = render("spec.provider.webhook.url", template, &context(), Use::Plain).expect_err(template).to_string();
            assert!(error.contains(needle) && error.starts_with("spec.provider.webhook.url:"), "{error}");
            assert!(!error.contains("CANARY") && !error.contains("payload"), "{error}");
        }
    }
}
