use std::collections::BTreeMap;
use std::sync::Arc;

use gotemplate::regexp::Regexp;

use crate::Payload;

/// Which remote secrets are looked for: those that match all that is set.
#[derive(Clone, Debug, Default)]
pub struct Find {
    /// Matches somewhere in the name: RE2 syntax.
    pub name: Option<Regexp>,
    /// Where to look, in the provider's own form.
    pub path: Option<String>,
    /// Tags, labels or custom metadata that a remote secret must have.
    pub tags: BTreeMap<String, String>,
}

impl Find {
    /// Whether a name is one of those looked for.
    pub fn admits_name(&self, name: &str) -> bool {
        self.name.as_ref().is_none_or(|regexp| regexp.is_match(name.as_bytes()))
    }

    /// Whether a remote secret has the tags that are looked for; it may have more.
    pub fn admits_tags<'a>(&self, tag: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.tags.iter().all(|(name, value)| tag(name) == Some(value))
    }
}

/// A remote secret that was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// What it is called in the answer.
    pub name: String,
    /// The key to read it with.
    pub key: String,
    /// Its value, where the search gave it; else it is read.
    pub payload: Option<Arc<Payload>>,
}
