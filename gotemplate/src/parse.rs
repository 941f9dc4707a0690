//! From text to a tree.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::ast::{Branches, Command, Expr, ExprKind, Node, Pipe, Span};
use crate::error::Error;
use crate::exec::Options;
use crate::functions;
use crate::lex::{Kind, Lexer, Token, unquote, unquote_rune};
use crate::number::Number;
use crate::text::Text;

/// How deep control structures and parentheses may be nested. Go's limit is 10,000 parentheses, on a stack that grows.
const NESTING: usize = 100;

/// A parsed template, with those that it defines.
#[derive(Debug)]
pub struct Template {
    pub(crate) name: String,
    pub(crate) source: String,
    pub(crate) trees: BTreeMap<String, Vec<Node>>,
    pub(crate) options: Options,
    calls: BTreeSet<String>,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// What is wrong, and where; functions that do not exist are found here.
    pub fn parse(name: &str, source: &str, options: &Options) -> Result<Self, Error> {
        let (left, right) = options.delimiters();
        let mut parser = Parser {
            name,
            source,
            options,
            calls: BTreeSet::new(),
            lexer: Lexer::new(source, left, right),
            ahead: VecDeque::new(),
            variables: vec!["$".to_owned()],
            ranges: 0,
            depth: 0,
            trees: BTreeMap::new(),
            last: 0,
        };
        parser.top()?;
        let (trees, calls) = (parser.trees, parser.calls);
        Ok(Self { name: name.to_owned(), source: source.to_owned(), trees, options: options.clone(), calls })
    }

    /// Whether its output may differ although its data are the same: it calls for chance, or for the clock.
    pub fn is_volatile(&self) -> bool {
        self.calls.iter().any(|name| functions::is_volatile(name))
    }
}

struct Parser<'a> {
    name: &'a str,
    source: &'a str,
    options: &'a Options,
    calls: BTreeSet<String>,
    lexer: Lexer<'a>,
    ahead: VecDeque<Token>,
    variables: Vec<String>,
    ranges: usize,
    depth: usize,
    trees: BTreeMap<String, Vec<Node>>,
    /// Where the last token that was taken ends.
    last: usize,
}

type Result<T, E = Error> = std::result::Result<T, E>;

/// What ends a list of nodes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    End,
    Else,
}

enum Found {
    Node(Node),
    Ended(Ended),
}

impl<'a> Parser<'a> {
    fn wrong<T>(&self, at: usize, why: impl Into<String>) -> Result<T> {
        Err(Error::at(self.name, self.source, at, why.into()))
    }

    fn text(&self, token: Token) -> &'a str {
        &self.source[token.at.start..token.at.end]
    }

    fn fill(&mut self, count: usize) -> Result<()> {
        while self.ahead.len() < count {
            match self.lexer.next() {
                Ok(token) => self.ahead.push_back(token),
                Err((at, why)) => return self.wrong(at, why),
            }
        }
        Ok(())
    }

    fn peek(&mut self) -> Result<Token> {
        self.fill(1)?;
        Ok(self.ahead[0])
    }

    fn next(&mut self) -> Result<Token> {
        let token = self.peek()?;
        self.ahead.pop_front();
        self.last = token.at.end;
        Ok(token)
    }

    fn peek_non_space(&mut self) -> Result<Token> {
        while self.peek()?.kind == Kind::Space {
            self.next()?;
        }
        self.peek()
    }

    fn next_non_space(&mut self) -> Result<Token> {
        self.peek_non_space()?;
        self.next()
    }

    fn unexpected<T>(&self, token: Token, context: &str) -> Result<T> {
        let what = match token.kind {
            Kind::Eof => "the end of the template".to_owned(),
            _ => format!("{:?}", self.text(token)),
        };
        self.wrong(token.at.start, format!("unexpected {what} in {context}"))
    }

    fn expect(&mut self, kind: Kind, context: &str) -> Result<Token> {
        let token = self.next_non_space()?;
        if token.kind == kind { Ok(token) } else { self.unexpected(token, context) }
    }

    /// Goes a level deeper; the caller comes back by [`Self::leave`].
    fn enter(&mut self, at: usize) -> Result<()> {
        self.depth += 1;
        if self.depth > NESTING {
            return self.wrong(at, format!("nested deeper than {NESTING} levels"));
        }
        Ok(())
    }

    fn leave(&mut self) {
        self.depth -= 1;
    }

    fn top(&mut self) -> Result<()> {
        let mut root = Vec::new();
        while self.peek()?.kind != Kind::Eof {
            if self.peek()?.kind == Kind::LeftDelim {
                self.fill(2)?;
                // A blank may stand before the keyword.
                let second = if self.ahead[1].kind == Kind::Space { 2 } else { 1 };
                self.fill(second + 1)?;
                if self.ahead[second].kind == Kind::Define {
                    (0..=second).try_for_each(|_| self.next().map(drop))?;
                    self.definition()?;
                    continue;
                }
            }
            let at = self.peek()?.at.start;
            match self.text_or_action()? {
                Found::Node(node) => root.push(node),
                Found::Ended(Ended::End) => return self.wrong(at, "unexpected {{end}}"),
                Found::Ended(Ended::Else) => return self.wrong(at, "unexpected {{else}}"),
            }
        }
        let name = self.name.to_owned();
        self.add(name, root, 0)
    }

    fn definition(&mut self) -> Result<()> {
        let token = self.next_non_space()?;
        let name = self.template_name(token, "define clause")?;
        self.expect(Kind::RightDelim, "define clause")?;
        let body = self.separate_body("define clause")?;
        self.add(name, body, token.at.start)
    }

    /// The body of a definition: it sees no variables, and stands in no range.
    fn separate_body(&mut self, context: &str) -> Result<Vec<Node>> {
        let variables = std::mem::replace(&mut self.variables, vec!["$".to_owned()]);
        let ranges = std::mem::take(&mut self.ranges);
        let (body, ended) = self.list()?;
        if ended != Ended::End {
            return self.wrong(self.last, format!("unexpected {{{{else}}}} in {context}"));
        }
        self.variables = variables;
        self.ranges = ranges;
        Ok(body)
    }

    fn add(&mut self, name: String, body: Vec<Node>, at: usize) -> Result<()> {
        let is_blank = |body: &[Node]| body.iter().all(Node::is_blank);
        match self.trees.get(&name) {
            Some(there) if !is_blank(there) => {
                if !is_blank(&body) {
                    return self.wrong(at, format!("multiple definition of template {name:?}"));
                }
            }
            _ => drop(self.trees.insert(name, body)),
        }
        Ok(())
    }

    fn list(&mut self) -> Result<(Vec<Node>, Ended)> {
        let at = self.last;
        self.enter(at)?;
        let mut nodes = Vec::new();
        while self.peek_non_space()?.kind != Kind::Eof {
            match self.text_or_action()? {
                Found::Node(node) => nodes.push(node),
                Found::Ended(ended) => {
                    self.leave();
                    return Ok((nodes, ended));
                }
            }
        }
        self.wrong(at, "this is not ended: {{end}} is missing")
    }

    fn text_or_action(&mut self) -> Result<Found> {
        let token = self.next_non_space()?;
        match token.kind {
            Kind::Text => Ok(Found::Node(Node::Text(Text::from(self.text(token))))),
            Kind::LeftDelim => self.action(),
            _ => self.unexpected(token, "input"),
        }
    }

    fn action(&mut self) -> Result<Found> {
        let token = self.peek_non_space()?;
        let node = match token.kind {
            Kind::Block => self.block()?,
            Kind::Break | Kind::Continue => {
                self.next()?;
                let (node, name) =
                    if token.kind == Kind::Break { (Node::Break, "{{break}}") } else { (Node::Continue, "{{continue}}") };
                self.expect(Kind::RightDelim, name)?;
                if self.ranges == 0 {
                    return self.wrong(token.at.start, format!("{name} outside {{{{range}}}}"));
                }
                node
            }
            Kind::Else => {
                self.next()?;
                // `else if` and `else with` leave their keyword to whoever began.
                if !matches!(self.peek_non_space()?.kind, Kind::If | Kind::With) {
                    self.expect(Kind::RightDelim, "else")?;
                }
                return Ok(Found::Ended(Ended::Else));
            }
            Kind::End => {
                self.next()?;
                self.expect(Kind::RightDelim, "end")?;
                return Ok(Found::Ended(Ended::End));
            }
            Kind::If => {
                self.next()?;
                Node::If(self.branches(Kind::If, "if")?)
            }
            Kind::With => {
                self.next()?;
                Node::With(self.branches(Kind::With, "with")?)
            }
            Kind::Range => self.range()?,
            Kind::Template => self.template()?,
            _ => Node::Action(self.pipeline("command", Kind::RightDelim)?),
        };
        Ok(Found::Node(node))
    }

    fn branches(&mut self, keyword: Kind, context: &str) -> Result<Branches> {
        let mark = self.variables.len();
        let mut branches = Vec::new();
        let mut otherwise = Vec::new();
        loop {
            let pipe = self.pipeline(context, Kind::RightDelim)?;
            let (body, ended) = self.list()?;
            branches.push((pipe, body));
            if ended == Ended::End {
                break;
            }
            if self.peek()?.kind == keyword {
                self.next()?;
                continue;
            }
            otherwise = self.otherwise()?;
            break;
        }
        self.variables.truncate(mark);
        Ok(Branches { branches, otherwise })
    }

    /// What stands behind `{{else}}`.
    fn otherwise(&mut self) -> Result<Vec<Node>> {
        let (body, ended) = self.list()?;
        if ended == Ended::Else {
            return self.wrong(self.last, "expected end; found {{else}}");
        }
        Ok(body)
    }

    fn range(&mut self) -> Result<Node> {
        self.next()?;
        let mark = self.variables.len();
        let pipe = self.pipeline("range", Kind::RightDelim)?;
        self.ranges += 1;
        let (body, ended) = self.list()?;
        self.ranges -= 1;
        let otherwise = if ended == Ended::Else { self.otherwise()? } else { Vec::new() };
        self.variables.truncate(mark);
        Ok(Node::Range { pipe, body, otherwise })
    }

    fn template(&mut self) -> Result<Node> {
        let start = self.next()?.at.start;
        let token = self.next_non_space()?;
        let name = self.template_name(token, "template clause")?;
        let pipe = match self.peek_non_space()?.kind {
            Kind::RightDelim => {
                self.next()?;
                None
            }
            _ => Some(self.pipeline("template clause", Kind::RightDelim)?),
        };
        Ok(Node::Template { at: Span { start, end: token.at.end }, name, pipe })
    }

    fn block(&mut self) -> Result<Node> {
        let start = self.next()?.at.start;
        let token = self.next_non_space()?;
        let name = self.template_name(token, "block clause")?;
        let pipe = Some(self.pipeline("block clause", Kind::RightDelim)?);
        let body = self.separate_body("block clause")?;
        self.add(name.clone(), body, token.at.start)?;
        Ok(Node::Template { at: Span { start, end: token.at.end }, name, pipe })
    }

    fn template_name(&mut self, token: Token, context: &str) -> Result<String> {
        if !matches!(token.kind, Kind::String | Kind::RawString) {
            return self.unexpected(token, context);
        }
        let bytes = self.string(token)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn string(&self, token: Token) -> Result<Vec<u8>> {
        unquote(self.text(token)).map_or_else(|| self.wrong(token.at.start, "invalid syntax in a string"), Ok)
    }

    fn pipeline(&mut self, context: &str, end: Kind) -> Result<Pipe> {
        let start = self.peek_non_space()?.at.start;
        let mut pipe = Pipe { at: Span { start, end: start }, sets: Vec::new(), assigns: false, commands: Vec::new() };
        self.declarations(&mut pipe, context)?;
        loop {
            let token = self.peek_non_space()?;
            match token.kind {
                kind if kind == end => {
                    pipe.at.end = token.at.start;
                    self.next()?;
                    self.check(&pipe, context)?;
                    return Ok(pipe);
                }
                Kind::Bool
                | Kind::CharConstant
                | Kind::Complex
                | Kind::Dot
                | Kind::Field
                | Kind::Identifier
                | Kind::Number
                | Kind::Nil
                | Kind::RawString
                | Kind::String
                | Kind::Variable
                | Kind::LeftParen => {
                    let command = self.command()?;
                    pipe.commands.push(command);
                }
                _ => return self.unexpected(token, context),
            }
        }
    }

    fn declarations(&mut self, pipe: &mut Pipe, context: &str) -> Result<()> {
        while self.peek_non_space()?.kind == Kind::Variable {
            // What follows the variable decides whether it is set or read.
            self.fill(2)?;
            let next = if self.ahead[1].kind == Kind::Space { 2 } else { 1 };
            self.fill(next + 1)?;
            let sign = self.ahead[next];
            let is_comma = sign.kind == Kind::Char && self.text(sign) == ",";
            if !is_comma && !matches!(sign.kind, Kind::Assign | Kind::Declare) {
                return Ok(());
            }
            let variable = self.next()?;
            let name = self.text(variable).to_owned();
            self.next_non_space()?;
            self.variables.push(name.clone());
            pipe.sets.push(name);
            if !is_comma {
                pipe.assigns = sign.kind == Kind::Assign;
                return Ok(());
            }
            if context != "range" || pipe.sets.len() >= 2 {
                return self.wrong(sign.at.start, format!("too many declarations in {context}"));
            }
            if !matches!(self.peek_non_space()?.kind, Kind::Variable | Kind::RightDelim | Kind::RightParen) {
                return self.wrong(sign.at.start, "range can only initialize variables");
            }
        }
        Ok(())
    }

    fn check(&self, pipe: &Pipe, context: &str) -> Result<()> {
        if pipe.commands.is_empty() {
            return self.wrong(pipe.at.start, format!("missing value for {context}"));
        }
        for (i, command) in pipe.commands.iter().enumerate().skip(1) {
            let first = &command.words[0];
            if matches!(first.kind, ExprKind::Bool(_) | ExprKind::Dot | ExprKind::Nil | ExprKind::Number(_) | ExprKind::Str(_)) {
                return self.wrong(first.at.start, format!("non executable command in pipeline stage {}", i + 1));
            }
        }
        Ok(())
    }

    fn command(&mut self) -> Result<Command> {
        let start = self.peek_non_space()?.at.start;
        let mut words = Vec::new();
        loop {
            self.peek_non_space()?;
            if let Some(operand) = self.operand()? {
                words.push(operand);
            }
            let token = self.peek()?;
            match token.kind {
                Kind::Space => {
                    self.next()?;
                    continue;
                }
                Kind::RightDelim | Kind::RightParen => {}
                Kind::Pipe => drop(self.next()?),
                _ => return self.unexpected(token, "operand"),
            }
            break;
        }
        if words.is_empty() { self.wrong(start, "empty command") } else { Ok(Command { words }) }
    }

    fn operand(&mut self) -> Result<Option<Expr>> {
        let Some(mut expr) = self.term()? else { return Ok(None) };
        let mut fields = Vec::new();
        while self.peek()?.kind == Kind::Field {
            let token = self.next()?;
            fields.push(self.text(token)[1..].to_owned());
            expr.at.end = token.at.end;
        }
        if fields.is_empty() {
            return Ok(Some(expr));
        }
        match &mut expr.kind {
            ExprKind::Field(there) | ExprKind::Variable(_, there) => there.append(&mut fields),
            ExprKind::Bool(_) | ExprKind::Str(_) | ExprKind::Number(_) | ExprKind::Nil | ExprKind::Dot => {
                return self.wrong(expr.at.start, "unexpected . after this term");
            }
            _ => {
                let at = expr.at;
                expr = Expr { at, kind: ExprKind::Chain(Box::new(expr), fields) };
            }
        }
        Ok(Some(expr))
    }

    fn term(&mut self) -> Result<Option<Expr>> {
        let token = self.peek_non_space()?;
        let text = self.text(token);
        let at = token.at;
        let kind = match token.kind {
            Kind::Identifier => {
                if functions::find(text, self.options.sprig).is_none() {
                    return self.wrong(at.start, format!("function {text:?} not defined"));
                }
                self.calls.insert(text.to_owned());
                ExprKind::Function(text.to_owned())
            }
            Kind::Dot => ExprKind::Dot,
            Kind::Nil => ExprKind::Nil,
            Kind::Variable => {
                if !self.variables.iter().any(|name| name == text) {
                    return self.wrong(at.start, format!("undefined variable {text:?}"));
                }
                ExprKind::Variable(text.to_owned(), Vec::new())
            }
            Kind::Field => ExprKind::Field(vec![text[1..].to_owned()]),
            Kind::Bool => ExprKind::Bool(text == "true"),
            Kind::CharConstant => match unquote_rune(text) {
                Some(rune) => ExprKind::Number(Number::of_char(rune)),
                None => return self.wrong(at.start, format!("malformed character constant: {text}")),
            },
            Kind::Number | Kind::Complex => match Number::parse(text) {
                Ok(number) => ExprKind::Number(number),
                Err(why) => return self.wrong(at.start, why),
            },
            Kind::String | Kind::RawString => ExprKind::Str(Text::new(self.string(token)?)),
            Kind::LeftParen => {
                self.next()?;
                self.enter(at.start)?;
                let pipe = self.pipeline("parenthesized pipeline", Kind::RightParen)?;
                self.leave();
                return Ok(Some(Expr { at: Span { start: at.start, end: self.last }, kind: ExprKind::Pipe(Box::new(pipe)) }));
            }
            _ => return Ok(None),
        };
        self.next()?;
        Ok(Some(Expr { at, kind }))
    }
}
