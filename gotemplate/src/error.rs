//! What is wrong with a template, and where.

/// An error of parsing or executing a template.
///
/// It quotes the template's own text and names types; it never holds a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The template's name.
    pub template: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in bytes, from 1.
    pub column: usize,
    /// The expression, if execution failed; shortened.
    pub expression: Option<String>,
    /// What is wrong.
    pub message: String,
}

/// Longest expression in a message, in characters.
const QUOTED: usize = 60;

impl Error {
    pub(crate) fn at(template: &str, source: &str, offset: usize, message: String) -> Self {
        let before = source.get(..offset.min(source.len())).unwrap_or(source);
        let line = before.matches('\n').count() + 1;
        let column = before.len() - before.rfind('\n').map_or(0, |newline| newline + 1) + 1;
        Self { template: template.to_owned(), line, column, expression: None, message }
    }

    pub(crate) fn with_expression(self, expression: &str) -> Self {
        let mut quoted: String = expression.split_whitespace().collect::<Vec<_>>().join(" ");
        if let Some((end, _)) = quoted.char_indices().nth(QUOTED) {
            quoted.truncate(end);
            quoted.push_str("...");
        }
        Self { expression: Some(quoted).filter(|q| !q.is_empty()), ..self }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "template {} line {} column {}: ", self.template, self.line, self.column)?;
        match &self.expression {
            Some(expression) => write!(f, "at <{expression}>: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Error {}
