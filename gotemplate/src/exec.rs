//! From a tree and data to text.

use std::time::{Duration, Instant};

use zeroize::{Zeroize, Zeroizing};

use crate::ast::{Branches, Command, Expr, ExprKind, Node, Pipe, Span};
use crate::error::Error;
use crate::format;
use crate::functions::{self, Function, Param};
use crate::methods;
use crate::number::Number;
use crate::parse::Template;
use crate::value::{Type, Value};

/// What a template may use up. Templates come from anybody, and Go would let them run without an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Nodes and commands that are executed, and items that functions look at.
    pub steps: u64,
    /// Bytes of output.
    pub output: usize,
    /// Bytes of all texts and lists that are made on the way.
    pub memory: usize,
    /// How deep templates, control structures and parentheses may be within each other while they run.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { steps: 1_000_000, output: 4 << 20, memory: 64 << 20, depth: 200 }
    }
}

/// What a key means that a map does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissingKey {
    /// `<no value>`, as Go has it without an option.
    #[default]
    Invalid,
    /// The zero of the map's type.
    Zero,
    /// An error.
    Error,
}

/// How a template is read and executed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `missingkey=`
    pub missing_key: MissingKey,
    /// Other delimiters than `{{` and `}}`; an empty one is the usual one.
    pub delimiters: (String, String),
    /// With Sprig's functions, and not the language's own alone.
    pub sprig: bool,
    /// What it may use up.
    pub limits: Limits,
}

impl Options {
    pub(crate) fn delimiters(&self) -> (&str, &str) {
        let or = |given: &'_ str, usual: &'static str| if given.is_empty() { None } else { Some(usual) };
        let left = or(&self.delimiters.0, "").map_or("{{", |_| self.delimiters.0.as_str());
        let right = or(&self.delimiters.1, "").map_or("}}", |_| self.delimiters.1.as_str());
        (left, right)
    }
}

/// Counts what is used up.
pub(crate) struct Meter {
    steps: u64,
    memory: usize,
    limits: Limits,
    /// Steps at which the clock is looked at again.
    look: u64,
    begun: Instant,
}

/// What a template may take on the wall clock: a last resort, for what steps do not measure well.
const LONGEST: Duration = Duration::from_secs(10);
/// Longest text that a function takes or gives.
const TEXT: usize = 4 << 20;
/// Most variables at once.
const VARIABLES: usize = 1000;

impl Meter {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { steps: limits.steps, memory: limits.memory, limits, look: limits.steps, begun: Instant::now() }
    }

    /// Takes so many steps.
    pub(crate) fn steps(&mut self, count: usize) -> Result<(), String> {
        self.steps = self
            .steps
            .checked_sub(count as u64)
            .ok_or_else(|| format!("the template takes more than {} steps", self.limits.steps))?;
        if self.steps < self.look {
            self.look = self.steps.saturating_sub(256);
            return self.in_time();
        }
        Ok(())
    }

    /// Whether there is time left.
    pub(crate) fn in_time(&self) -> Result<(), String> {
        match self.begun.elapsed() > LONGEST {
            true => Err(format!("the template takes longer than {} s", LONGEST.as_secs())),
            false => Ok(()),
        }
    }

    /// What a function takes for its arguments, before it looks at them: work is measured by their sizes.
    fn arguments(&mut self, arguments: &[Value]) -> Result<(), String> {
        let mut cost = 0;
        for argument in arguments {
            cost += match argument {
                Value::Str(text) if text.bytes().len() > TEXT => {
                    return Err(format!("a text is longer than the {TEXT} bytes that a function takes"));
                }
                Value::Str(text) => text.bytes().len() / 64,
                Value::List(list) => list.items().len() / 4,
                Value::Map(map) => map.len() / 4,
                _ => 0,
            };
        }
        self.steps(cost)
    }

    /// Takes so many bytes, before they are made.
    pub(crate) fn memory(&mut self, bytes: usize) -> Result<(), String> {
        self.memory = self
            .memory
            .checked_sub(bytes)
            .ok_or_else(|| format!("the template makes more than {} bytes on its way", self.limits.memory))?;
        Ok(())
    }
}

impl Template {
    /// Executes the template; its output is wiped when it is dropped.
    ///
    /// # Errors
    /// What went wrong, and at which expression.
    pub fn render(&self, data: &Value) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut machine = Machine {
            template: self,
            meter: Meter::new(self.options.limits),
            output: Zeroizing::new(Vec::new()),
            variables: vec![("$", data.clone())],
            depth: 0,
        };
        let root = self.trees.get(&self.name).map(Vec::as_slice).unwrap_or_default();
        machine.walk(data, root)?;
        Ok(machine.output)
    }
}

type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

struct Machine<'a> {
    template: &'a Template,
    meter: Meter,
    output: Zeroizing<Vec<u8>>,
    variables: Vec<(&'a str, Value)>,
    depth: usize,
}

impl<'a> Machine<'a> {
    fn wrong<T>(&self, at: Span, why: impl Into<String>) -> Result<T> {
        let source = &self.template.source;
        let error = Error::at(&self.template.name, source, at.start, why.into());
        Err(error.with_expression(source.get(at.start..at.end).unwrap_or_default()))
    }

    fn or_wrong<T>(&self, at: Span, result: Result<T, String>) -> Result<T> {
        result.or_else(|why| self.wrong(at, why))
    }

    fn step(&mut self, at: Span) -> Result<()> {
        let counted = self.meter.steps(1);
        self.or_wrong(at, counted)
    }

    /// Runs something a level deeper.
    fn deeper<T>(&mut self, at: Span, run: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let limit = self.template.options.limits.depth;
        if self.depth >= limit {
            return self.wrong(at, format!("the template runs deeper than {limit} levels; does it call itself?"));
        }
        self.depth += 1;
        let result = run(self);
        self.depth -= 1;
        result
    }

    fn write(&mut self, at: Span, bytes: &[u8]) -> Result<()> {
        let limit = self.template.options.limits.output;
        if self.output.len() + bytes.len() > limit {
            return self.wrong(at, format!("the output is longer than {limit} bytes"));
        }
        if self.output.capacity() - self.output.len() < bytes.len() {
            // What a vector leaves behind when it grows is not wiped.
            let room = (self.output.len() + bytes.len()).max(2 * self.output.capacity()).max(256);
            let mut larger = Vec::with_capacity(room);
            larger.extend_from_slice(&self.output);
            std::mem::replace(&mut *self.output, larger).zeroize();
        }
        self.output.extend_from_slice(bytes);
        Ok(())
    }

    fn walk(&mut self, dot: &Value, nodes: &'a [Node]) -> Result<Flow> {
        for node in nodes {
            let flow = self.walk_one(dot, node)?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn walk_one(&mut self, dot: &Value, node: &'a Node) -> Result<Flow> {
        match node {
            Node::Text(text) => {
                self.step(Span::default())?;
                self.write(Span::default(), text.bytes())?;
            }
            Node::Action(pipe) => {
                let value = self.pipeline(dot, pipe)?;
                if pipe.sets.is_empty() {
                    let mut text = Zeroizing::new(Vec::new());
                    let printed = format::print_top(&mut self.meter, &mut text, &value);
                    self.or_wrong(pipe.at, printed)?;
                    self.write(pipe.at, &text)?;
                }
            }
            Node::If(branches) => return self.branch(dot, branches, false),
            Node::With(branches) => return self.branch(dot, branches, true),
            Node::Range { pipe, body, otherwise } => return self.range(dot, pipe, body, otherwise),
            Node::Template { at, name, pipe } => self.call_template(dot, *at, name, pipe.as_ref())?,
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    fn branch(&mut self, dot: &Value, branches: &'a Branches, is_with: bool) -> Result<Flow> {
        let at = branches.branches.first().map(|(pipe, _)| pipe.at).unwrap_or_default();
        let mark = self.variables.len();
        let flow = self.deeper(at, |machine| {
            for (pipe, body) in &branches.branches {
                let value = machine.pipeline(dot, pipe)?;
                if value.is_true() {
                    return machine.walk(if is_with { &value } else { dot }, body);
                }
            }
            machine.walk(dot, &branches.otherwise)
        });
        self.variables.truncate(mark);
        flow
    }

    fn range(&mut self, dot: &Value, pipe: &'a Pipe, body: &'a [Node], otherwise: &'a [Node]) -> Result<Flow> {
        let before = self.variables.len();
        let flow = self.deeper(pipe.at, |machine| {
            let value = machine.pipeline(dot, pipe)?;
            let items: Box<dyn Iterator<Item = (Value, Value)>> = match &value {
                Value::Nil => Box::new(std::iter::empty()),
                Value::List(list) => {
                    let list = list.clone();
                    let item = move |i: usize| (Value::Int(i as i64, None), list.items()[i].clone());
                    let count = if let Value::List(list) = &value { list.items().len() } else { 0 };
                    Box::new((0..count).map(item))
                }
                Value::Map(map) => {
                    let counted = machine.meter.steps(map.len() / 4);
                    machine.or_wrong(pipe.at, counted)?;
                    Box::new(map.entries().into_iter().map(|(key, value)| (Value::Str(key), value)))
                }
                Value::Int(..) | Value::Uint(..) if pipe.sets.len() > 1 => {
                    return machine.wrong(pipe.at, "can't iterate over a number with more than one variable");
                }
                Value::Int(end, size) => {
                    let size = *size;
                    Box::new((0..*end).map(move |i| (Value::Nil, Value::Int(i, size))))
                }
                Value::Uint(end, size) => {
                    let size = *size;
                    Box::new((0..*end).map(move |i| (Value::Nil, Value::Uint(i, size))))
                }
                other => return machine.wrong(pipe.at, format!("range can't iterate over type {}", other.type_name())),
            };
            let mark = machine.variables.len();
            let mut ran = false;
            for (index, item) in items {
                ran = true;
                machine.step(pipe.at)?;
                machine.set_range_variables(pipe, index, &item)?;
                let flow = machine.walk(&item, body)?;
                machine.variables.truncate(mark);
                if flow == Flow::Break {
                    break;
                }
            }
            if ran { Ok(Flow::On) } else { machine.walk(dot, otherwise) }
        });
        self.variables.truncate(before);
        flow
    }

    fn set_range_variables(&mut self, pipe: &'a Pipe, index: Value, item: &Value) -> Result<()> {
        let (first, second) = match pipe.sets.as_slice() {
            [] => return Ok(()),
            [only] => ((only, item.clone()), None),
            [first, second, ..] => ((first, index), Some((second, item.clone()))),
        };
        if pipe.assigns {
            self.assign(pipe.at, first.0, first.1)?;
            return second.map_or(Ok(()), |(name, value)| self.assign(pipe.at, name, value));
        }
        // The pipeline declared them, in this order and last of all.
        let top = self.variables.len();
        match second {
            None => self.variables[top - 1].1 = first.1,
            Some((_, value)) => {
                self.variables[top - 1].1 = value;
                self.variables[top - 2].1 = first.1;
            }
        }
        Ok(())
    }

    fn call_template(&mut self, dot: &Value, at: Span, name: &str, pipe: Option<&'a Pipe>) -> Result<()> {
        let template = self.template;
        let Some(tree) = template.trees.get(name) else { return self.wrong(at, format!("template {name:?} not defined")) };
        let dot = match pipe {
            Some(pipe) => self.pipeline(dot, pipe)?,
            None => Value::Nil,
        };
        let outer = std::mem::replace(&mut self.variables, vec![("$", dot.clone())]);
        self.step(at)?;
        let flow = self.deeper(at, |machine| machine.walk(&dot, tree));
        self.variables = outer;
        flow.map(drop)
    }

    fn assign(&mut self, at: Span, name: &str, value: Value) -> Result<()> {
        match self.variables.iter_mut().rev().find(|(there, _)| *there == name) {
            Some((_, place)) => {
                *place = value;
                Ok(())
            }
            None => self.wrong(at, format!("undefined variable: {name}")),
        }
    }

    fn pipeline(&mut self, dot: &Value, pipe: &'a Pipe) -> Result<Value> {
        let mut value = None;
        for command in &pipe.commands {
            self.step(pipe.at)?;
            value = Some(self.command(dot, command, value)?);
        }
        let value = value.unwrap_or(Value::Nil);
        for name in &pipe.sets {
            if pipe.assigns {
                self.assign(pipe.at, name, value.clone())?;
            } else if self.variables.len() >= VARIABLES {
                return self.wrong(pipe.at, format!("more than {VARIABLES} variables at once"));
            } else {
                self.variables.push((name, value.clone()));
            }
        }
        Ok(value)
    }

    fn command(&mut self, dot: &Value, command: &'a Command, last: Option<Value>) -> Result<Value> {
        let first = &command.words[0];
        let has_arguments = command.words.len() > 1 || last.is_some();
        match &first.kind {
            ExprKind::Function(name) => return self.call(dot, first.at, name, &command.words[1..], last),
            ExprKind::Field(fields) => return self.call_field(dot, first.at, dot.clone(), fields, &command.words[1..], last),
            ExprKind::Chain(inner, fields) => {
                let value = self.chained(dot, inner)?;
                return self.call_field(dot, first.at, value, fields, &command.words[1..], last);
            }
            ExprKind::Variable(name, fields) if !fields.is_empty() => {
                let value = self.variable(first.at, name)?;
                return self.call_field(dot, first.at, value, fields, &command.words[1..], last);
            }
            _ => {}
        }
        if has_arguments {
            return self.wrong(first.at, "can't give argument to non-function");
        }
        match &first.kind {
            ExprKind::Nil => self.wrong(first.at, "nil is not a command"),
            _ => self.evaluate(dot, first),
        }
    }

    /// Something that takes no argument.
    fn evaluate(&mut self, dot: &Value, expr: &'a Expr) -> Result<Value> {
        self.step(expr.at)?;
        match &expr.kind {
            ExprKind::Bool(value) => Ok(Value::Bool(*value)),
            ExprKind::Dot => Ok(dot.clone()),
            ExprKind::Nil => Ok(Value::Nil),
            ExprKind::Number(number) => self.ideal(expr.at, number),
            ExprKind::Str(text) => Ok(Value::Str(text.clone())),
            ExprKind::Field(fields) => self.fields(expr.at, dot.clone(), fields, false),
            ExprKind::Variable(name, fields) => {
                let value = self.variable(expr.at, name)?;
                self.fields(expr.at, value, fields, false)
            }
            ExprKind::Chain(inner, fields) => {
                let value = self.chained(dot, inner)?;
                self.fields(expr.at, value, fields, false)
            }
            ExprKind::Function(name) => self.call(dot, expr.at, name, &[], None),
            ExprKind::Pipe(pipe) => self.deeper(expr.at, |machine| machine.pipeline(dot, pipe)),
        }
    }

    /// What stands before the fields of a chain.
    fn chained(&mut self, dot: &Value, inner: &'a Expr) -> Result<Value> {
        match inner.kind {
            ExprKind::Nil => self.wrong(inner.at, "indirection through explicit nil"),
            _ => self.evaluate(dot, inner),
        }
    }

    /// The type of a constant where nothing else says it: as it is written.
    fn ideal(&self, at: Span, number: &Number) -> Result<Value> {
        match number {
            Number { complex: Some((real, imaginary)), .. } => Ok(Value::Complex(*real, *imaginary)),
            Number { float: Some(float), looks_float: true, .. } => Ok(Value::Float(*float)),
            Number { int: Some(int), .. } => Ok(Value::Int(*int, None)),
            _ => self.wrong(at, "the constant overflows int"),
        }
    }

    fn variable(&self, at: Span, name: &str) -> Result<Value> {
        match self.variables.iter().rev().find(|(there, _)| *there == name) {
            Some((_, value)) => Ok(value.clone()),
            None => self.wrong(at, format!("undefined variable: {name}")),
        }
    }

    /// A field with the words behind it: of a time or a version it may be a method that takes them.
    fn call_field(
        &mut self,
        dot: &Value,
        at: Span,
        value: Value,
        fields: &[String],
        words: &'a [Expr],
        last: Option<Value>,
    ) -> Result<Value> {
        let has_arguments = !words.is_empty() || last.is_some();
        let Some((name, before)) = fields.split_last().filter(|_| has_arguments) else {
            return self.fields(at, value, fields, has_arguments);
        };
        let receiver = self.fields(at, value.clone(), before, false)?;
        let Some(params) = methods::params(&receiver, name) else { return self.fields(at, value, fields, true) };
        let count = words.len() + usize::from(last.is_some());
        if count != params.len() {
            return self.wrong(at, format!("wrong number of args for {name}: want {} got {count}", params.len()));
        }
        let mut arguments = Vec::with_capacity(count);
        for (word, param) in words.iter().zip(params) {
            arguments.push(self.argument(dot, word, param)?);
        }
        if let (Some(last), Some(param)) = (last, params.last()) {
            arguments.push(self.validate(at, last, param)?);
        }
        let charged = self.meter.arguments(&arguments).and_then(|()| methods::charge(&mut self.meter, &receiver, &arguments));
        self.or_wrong(at, charged)?;
        match methods::call(&receiver, name, &arguments) {
            Some(value) => Ok(value),
            None => self.wrong(at, format!("can't evaluate field {name} in type {}", receiver.type_name())),
        }
    }

    fn fields(&mut self, at: Span, mut value: Value, fields: &[String], has_arguments: bool) -> Result<Value> {
        // A nil that a map holds is another one than that of a key which is not there.
        let mut held = false;
        for (i, field) in fields.iter().enumerate() {
            let is_last = i + 1 == fields.len();
            let missing = self.template.options.missing_key;
            let charged = methods::charge(&mut self.meter, &value, &[]);
            self.or_wrong(at, charged)?;
            match &value {
                Value::Nil if held => return self.wrong(at, format!("nil pointer evaluating interface {{}}.{field}")),
                Value::Nil if missing == MissingKey::Error => {
                    return self.wrong(at, format!("nil data; no entry for key {field:?}"));
                }
                Value::Nil => {}
                Value::Map(_) if has_arguments && is_last => {
                    return self.wrong(at, format!("{field} is not a method but has arguments"));
                }
                Value::Map(map) => {
                    let found = map.get(field.as_bytes());
                    held = found.is_some();
                    value = match (found, missing) {
                        (Some(found), _) => found,
                        (None, MissingKey::Invalid) => Value::Nil,
                        (None, MissingKey::Zero) => {
                            held = *map.of() == Type::Any;
                            map.of().zero()
                        }
                        (None, MissingKey::Error) => return self.wrong(at, format!("map has no entry for key {field:?}")),
                    };
                }
                other => {
                    match methods::call(other, field, &[]).filter(|_| methods::params(other, field).is_none_or(<[_]>::is_empty)) {
                        Some(_) if has_arguments && is_last => {
                            return self.wrong(at, format!("{field} is not a method but has arguments"));
                        }
                        Some(answer) => {
                            held = true;
                            value = answer;
                        }
                        None => {
                            let of = other.type_name();
                            return self.wrong(at, format!("can't evaluate field {field} in type {of}"));
                        }
                    }
                }
            }
        }
        Ok(value)
    }

    fn call(&mut self, dot: &Value, at: Span, name: &str, words: &'a [Expr], last: Option<Value>) -> Result<Value> {
        let Some(function) = functions::find(name, self.template.options.sprig) else {
            return self.wrong(at, format!("{name:?} is not a defined function"));
        };
        let count = words.len() + usize::from(last.is_some());
        let fixed = function.fixed.len();
        if count < fixed || (count > fixed && function.rest.is_none()) {
            let least = if function.rest.is_some() { "at least " } else { "" };
            return self.wrong(at, format!("wrong number of args for {name}: want {least}{fixed} got {count}"));
        }
        if matches!(name, "and" | "or") {
            return self.short_circuit(dot, name == "or", words, last);
        }
        let mut arguments = Vec::with_capacity(count);
        for (i, word) in words.iter().enumerate() {
            let param = param_of(function, i);
            let value = self.argument(dot, word, param)?;
            arguments.push(value);
        }
        if let Some(last) = last {
            let param = param_of(function, words.len());
            let value = self.validate(at, last, param)?;
            arguments.push(value);
        }
        let charged = self.meter.arguments(&arguments);
        let answer = charged.and_then(|()| (function.call)(&mut self.meter, &arguments));
        answer.or_else(|why| {
            let end = words.last().map_or(at.end, |word| word.at.end);
            self.wrong(Span { start: at.start, end }, format!("error calling {name}: {why}"))
        })
    }

    fn short_circuit(&mut self, dot: &Value, until: bool, words: &'a [Expr], last: Option<Value>) -> Result<Value> {
        let mut value = Value::Nil;
        for word in words {
            value = self.argument(dot, word, &Param::Any)?;
            if value.is_true() == until {
                return Ok(value);
            }
        }
        Ok(last.unwrap_or(value))
    }

    fn argument(&mut self, dot: &Value, word: &'a Expr, param: &Param) -> Result<Value> {
        let expected = |what: &str| format!("expected {what}");
        match (&word.kind, param.of()) {
            (ExprKind::Nil, Some(of)) if !can_be_nil(&of) => self.wrong(word.at, format!("cannot assign nil to {of}")),
            (ExprKind::Bool(_) | ExprKind::Number(_) | ExprKind::Str(_), Some(of)) => match literal(&word.kind, &of) {
                Some(value) => Ok(value),
                None => self.wrong(word.at, expected(&of.to_string())),
            },
            _ => {
                let value = self.evaluate(dot, word)?;
                self.validate(word.at, value, param)
            }
        }
    }

    fn validate(&self, at: Span, value: Value, param: &Param) -> Result<Value> {
        let Some(of) = param.of() else { return Ok(value) };
        match value.type_of() {
            None if can_be_nil(&of) => Ok(of.zero()),
            None => self.wrong(at, format!("invalid value; expected {of}")),
            Some(is) if is == of => Ok(value),
            Some(is) => self.wrong(at, format!("wrong type for value; expected {of}; got {is}")),
        }
    }
}

fn param_of(function: &'static Function, index: usize) -> &'static Param {
    function.fixed.get(index).or(function.rest.as_ref()).unwrap_or(&Param::Any)
}

fn can_be_nil(of: &Type) -> bool {
    matches!(of, Type::Any | Type::List(_) | Type::Map(_) | Type::Version)
}

/// A constant as the type that a parameter has.
fn literal(kind: &ExprKind, of: &Type) -> Option<Value> {
    match (kind, of) {
        (ExprKind::Bool(value), Type::Bool) => Some(Value::Bool(*value)),
        (ExprKind::Str(text), Type::Str) => Some(Value::Str(text.clone())),
        (ExprKind::Number(number), Type::Int(size)) => number.int.map(|int| Value::Int(int, *size)),
        (ExprKind::Number(number), Type::Uint(size)) => number.uint.map(|uint| Value::Uint(uint, *size)),
        (ExprKind::Number(number), Type::Float) => number.float.map(Value::Float),
        (ExprKind::Number(number), Type::Complex) => number.complex.map(|(real, imaginary)| Value::Complex(real, imaginary)),
        _ => None,
    }
}
