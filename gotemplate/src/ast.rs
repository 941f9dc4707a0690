//! A parsed template.

use crate::number::Number;
use crate::text::Text;

/// Where something stands in the source, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

#[derive(Debug)]
pub(crate) enum Node {
    Text(Text),
    Action(Pipe),
    If(Branches),
    With(Branches),
    Range { pipe: Pipe, body: Vec<Node>, otherwise: Vec<Node> },
    Template { at: Span, name: String, pipe: Option<Pipe> },
    Break,
    Continue,
}

/// `if` with all of its `else if`, or `with` with all of its `else with`.
#[derive(Debug)]
pub(crate) struct Branches {
    pub(crate) branches: Vec<(Pipe, Vec<Node>)>,
    pub(crate) otherwise: Vec<Node>,
}

#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) at: Span,
    /// Variables that are set: declared, or assigned.
    pub(crate) sets: Vec<String>,
    pub(crate) assigns: bool,
    pub(crate) commands: Vec<Command>,
}

#[derive(Debug)]
pub(crate) struct Command {
    /// At least one.
    pub(crate) words: Vec<Expr>,
}

#[derive(Debug)]
pub(crate) struct Expr {
    pub(crate) at: Span,
    pub(crate) kind: ExprKind,
}

#[derive(Debug)]
pub(crate) enum ExprKind {
    Bool(bool),
    Dot,
    Nil,
    Number(Number),
    Str(Text),
    /// `.a.b`
    Field(Vec<String>),
    /// `$x.a.b`: the variable with its dollar sign, then fields.
    Variable(String, Vec<String>),
    /// `(…).a.b`
    Chain(Box<Expr>, Vec<String>),
    Function(String),
    Pipe(Box<Pipe>),
}

impl Node {
    /// Whether a definition of it counts: another one of the same name may replace blanks.
    pub(crate) fn is_blank(&self) -> bool {
        matches!(self, Self::Text(text) if text.lossy().trim().is_empty())
    }
}
