//! The taxonomy: every failure of every provider is one of six, and each maps to one requeue rule.

use std::time::Duration;

/// A provider's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a provider could not answer. Messages hold the provider's own code and a hint, never a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The provider said with authority that nothing is there: the only error that a deletion policy acts on.
    #[error("not found: {0}")]
    NotFound(String),
    /// The provider knows who asks and says no, or does not take the credentials.
    #[error("denied: {0}")]
    Denied(String),
    /// The provider wants fewer requests.
    #[error("throttled by the provider: {message}")]
    Throttled {
        /// When it wants to hear from us again.
        retry_after: Option<Duration>,
        /// The provider's words.
        message: String,
    },
    /// Something that a person wrote is wrong.
    #[error("{field}: {why}")]
    Invalid {
        /// Where it stands, such as `spec.provider.vault.server`.
        field: String,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// The provider can't do that.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// The provider could not be reached, or failed.
    #[error("unavailable: {message}")]
    Unavailable {
        /// What happened.
        message: String,
        /// Whether everybody who uses this provider meets the same: it can't be reached, or serves nobody.
        everybody: bool,
    },
}

impl Error {
    /// Something that a person wrote is wrong.
    pub fn invalid(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), why: why.into() }
    }

    /// One request failed; others may not.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::Unavailable { message: message.into(), everybody: false }
    }

    /// The provider can't be reached, or serves nobody.
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self::Unavailable { message: message.into(), everybody: true }
    }

    /// The same error in other words.
    #[cfg(feature = "remote-generators")]
    pub(crate) fn map_text(self, change: impl Fn(String) -> String) -> Self {
        match self {
            Self::NotFound(text) => Self::NotFound(change(text)),
            Self::Denied(text) => Self::Denied(change(text)),
            Self::Throttled { retry_after, message } => Self::Throttled { retry_after, message: change(message) },
            Self::Invalid { field, why } => Self::Invalid { field: change(field), why: change(why) },
            Self::Unsupported(text) => Self::Unsupported(change(text)),
            Self::Unavailable { message, everybody } => Self::Unavailable { message: change(message), everybody },
        }
    }

    /// A stable word for metric labels.
    pub const fn category(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "not_found",
            Self::Denied(_) => "denied",
            Self::Throttled { .. } => "throttled",
            Self::Invalid { .. } => "invalid",
            Self::Unsupported(_) => "unsupported",
            Self::Unavailable { .. } => "unavailable",
        }
    }
}

/// Makes text of a foreign server fit for a condition: one line, at most 200 characters, with every one of `secrets` cut out.
pub fn foreign_text(text: &str, secrets: &[&str]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|s| !s.is_empty()) {
        text = text.replace(secret, "[redacted]");
        // As a server repeats it in JSON, where line breaks and quotes are escaped.
        let quoted = serde_json::Value::from(*secret).to_string();
        text = text.replace(&quoted[1..quoted.len() - 1], "[redacted]");
    }
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(200) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_one_short_line_without_our_secrets() {
        assert_eq!(foreign_text("no\n\tgood: hvs.abc", &["hvs.abc", ""]), "no good: [redacted]");
        assert_eq!(foreign_text("bad a\nb", &["a\nb"]), "bad [redacted]");
        assert_eq!(foreign_text(r#"bad "a\nb\"c""#, &["a\nb\"c"]), "bad \"[redacted]\"");
        assert_eq!(foreign_text(&"é".repeat(300), &[]).chars().count(), 201);
    }
}
