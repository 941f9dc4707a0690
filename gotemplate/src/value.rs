//! Go's values, as far as templates meet them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::exec::Meter;
use crate::sprig::dates::Time;
use crate::sprig::semver::Version;
use crate::text::Text;

/// A Go type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// `interface {}`
    Any,
    /// `bool`
    Bool,
    /// `int`, or with its size: `int64`, `int32`, `int16`, `int8`.
    Int(Option<u8>),
    /// `uint`, or with its size.
    Uint(Option<u8>),
    /// `float64`
    Float,
    /// `complex128`
    Complex,
    /// `string`
    Str,
    /// `[]T`
    List(Box<Type>),
    /// `map[string]T`
    Map(Box<Type>),
    /// `time.Time`
    Time,
    /// `sprig.certificate`
    Certificate,
    /// `*semver.Version`
    Version,
}

impl std::fmt::Display for Type {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => f.write_str("interface {}"),
            Self::Bool => f.write_str("bool"),
            Self::Int(None) => f.write_str("int"),
            Self::Int(Some(size)) => write!(f, "int{size}"),
            Self::Uint(None) => f.write_str("uint"),
            Self::Uint(Some(size)) => write!(f, "uint{size}"),
            Self::Float => f.write_str("float64"),
            Self::Complex => f.write_str("complex128"),
            Self::Str => f.write_str("string"),
            Self::List(of) => write!(f, "[]{of}"),
            Self::Map(of) => write!(f, "map[string]{of}"),
            Self::Time => f.write_str("time.Time"),
            Self::Certificate => f.write_str("sprig.certificate"),
            Self::Version => f.write_str("*semver.Version"),
        }
    }
}

impl Type {
    /// What a variable of the type holds before it is set.
    pub(crate) fn zero(&self) -> Value {
        match self {
            Self::Any => Value::Nil,
            Self::Bool => Value::Bool(false),
            Self::Int(size) => Value::Int(0, *size),
            Self::Uint(size) => Value::Uint(0, *size),
            Self::Float => Value::Float(0.0),
            Self::Complex => Value::Complex(0.0, 0.0),
            Self::Str => Value::Str(Text::from("")),
            Self::List(of) => Value::List(List::nil((**of).clone())),
            Self::Map(of) => Value::Map(Map::nil((**of).clone())),
            Self::Time => Value::Time(Time::default()),
            Self::Certificate => Value::Certificate(Rc::new(Certificate::default())),
            Self::Version => Value::Nil,
        }
    }
}

/// A value. `Debug` shows types and sizes, and no value.
#[derive(Clone)]
pub enum Value {
    /// Nothing: `nil`, and what is not there.
    Nil,
    /// A bool.
    Bool(bool),
    /// A signed integer; `None` is `int`, else its size in bits.
    Int(i64, Option<u8>),
    /// An unsigned integer.
    Uint(u64, Option<u8>),
    /// A float64.
    Float(f64),
    /// A complex128.
    Complex(f64, f64),
    /// A string.
    Str(Text),
    /// A slice.
    List(List),
    /// A map with string keys.
    Map(Map),
    /// A point in time.
    Time(Time),
    /// A certificate with its key.
    Certificate(Rc<Certificate>),
    /// A semantic version.
    Version(Rc<Version>),
}

/// What `genCA` and its like make: both in PEM.
#[derive(Default)]
pub struct Certificate {
    /// The certificate.
    pub cert: Text,
    /// Its private key.
    pub key: Text,
}

impl Value {
    /// An `int`.
    pub fn int(value: impl Into<i64>) -> Self {
        Self::Int(value.into(), None)
    }

    /// A `map[string]string`.
    pub fn map_of_text<K: Into<Text>, V: Into<Text>>(entries: impl IntoIterator<Item = (K, V)>) -> Self {
        let entries = entries.into_iter().map(|(key, value)| (key.into(), Self::Str(value.into())));
        Self::Map(Map::new(entries.collect(), Type::Str))
    }

    /// Its type; none for [`Value::Nil`].
    pub fn type_of(&self) -> Option<Type> {
        Some(match self {
            Self::Nil => return None,
            Self::Bool(_) => Type::Bool,
            Self::Int(_, size) => Type::Int(*size),
            Self::Uint(_, size) => Type::Uint(*size),
            Self::Float(_) => Type::Float,
            Self::Complex(..) => Type::Complex,
            Self::Str(_) => Type::Str,
            Self::List(list) => Type::List(Box::new(list.of().clone())),
            Self::Map(map) => Type::Map(Box::new(map.of().clone())),
            Self::Time(_) => Type::Time,
            Self::Certificate(_) => Type::Certificate,
            Self::Version(_) => Type::Version,
        })
    }

    /// Its type in words, for messages.
    pub(crate) fn type_name(&self) -> String {
        self.type_of().map_or_else(|| "nil".to_owned(), |of| of.to_string())
    }

    /// Whether `if` takes its first branch.
    pub(crate) fn is_true(&self) -> bool {
        match self {
            Self::Nil => false,
            Self::Bool(value) => *value,
            Self::Int(value, _) => *value != 0,
            Self::Uint(value, _) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Complex(real, imaginary) => *real != 0.0 || *imaginary != 0.0,
            Self::Str(text) => !text.bytes().is_empty(),
            Self::List(list) => !list.items().is_empty(),
            Self::Map(map) => !map.is_empty(),
            Self::Time(_) | Self::Certificate(_) | Self::Version(_) => true,
        }
    }
}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Str(text) => write!(f, "string {text:?}"),
            Self::List(list) => write!(f, "{} of {}", self.type_name(), list.items().len()),
            Self::Map(map) => write!(f, "{} of {}", self.type_name(), map.len()),
            other => f.write_str(&other.type_name()),
        }
    }
}

impl From<Text> for Value {
    fn from(text: Text) -> Self {
        Self::Str(text)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Str(text.into())
    }
}

/// A slice; it never changes.
#[derive(Clone)]
pub struct List(Rc<ListData>);

struct ListData {
    items: Vec<Value>,
    of: Type,
    is_nil: bool,
}

impl List {
    /// `[]of{items…}`
    pub fn new(items: Vec<Value>, of: Type) -> Self {
        Self(Rc::new(ListData { items, of, is_nil: false }))
    }

    /// `[]of(nil)`: as empty as an empty one, but `null` in JSON.
    pub(crate) fn nil(of: Type) -> Self {
        Self(Rc::new(ListData { items: Vec::new(), of, is_nil: true }))
    }

    /// Whether it was never made.
    pub(crate) fn is_nil(&self) -> bool {
        self.0.is_nil
    }

    /// Whether both are one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// What is in it.
    pub fn items(&self) -> &[Value] {
        &self.0.items
    }

    /// The type of its items.
    pub fn of(&self) -> &Type {
        &self.0.of
    }
}

/// A map; like Go's it is one thing under all of its names.
#[derive(Clone)]
pub struct Map(Rc<MapData>);

struct MapData {
    entries: RefCell<BTreeMap<Text, Value>>,
    of: Type,
    is_nil: bool,
}

impl Map {
    /// `map[string]of{entries…}`
    pub fn new(entries: BTreeMap<Text, Value>, of: Type) -> Self {
        Self(Rc::new(MapData { entries: RefCell::new(entries), of, is_nil: false }))
    }

    /// `map[string]of(nil)`
    pub(crate) fn nil(of: Type) -> Self {
        Self(Rc::new(MapData { entries: RefCell::default(), of, is_nil: true }))
    }

    /// Whether it was never made: it can't be written to.
    pub(crate) fn is_nil(&self) -> bool {
        self.0.is_nil
    }

    /// Whether both are one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// Sets a key.
    ///
    /// # Errors
    /// For a nil map, and for a value with this very map in it: Go would print that until its memory ends.
    pub(crate) fn set(&self, meter: &mut Meter, key: Text, value: Value) -> Result<(), String> {
        if self.is_nil() {
            return Err("assignment to entry in nil map".into());
        }
        if self.is_within(meter, &value)? {
            return Err("the map would contain itself".into());
        }
        meter.memory(size_of::<Value>() + key.bytes().len())?;
        self.0.entries.borrow_mut().insert(key, value);
        Ok(())
    }

    fn is_within(&self, meter: &mut Meter, value: &Value) -> Result<bool, String> {
        let mut waiting = vec![value.clone()];
        while let Some(value) = waiting.pop() {
            meter.steps(1)?;
            match value {
                Value::Map(map) if map.is(self) => return Ok(true),
                Value::Map(map) => waiting.extend(map.entries().into_iter().map(|(_, value)| value)),
                Value::List(list) => waiting.extend(list.items().iter().cloned()),
                _ => {}
            }
        }
        Ok(false)
    }

    /// Removes a key.
    pub(crate) fn unset(&self, key: &[u8]) {
        self.0.entries.borrow_mut().remove(key);
    }

    /// The type of its values.
    pub fn of(&self) -> &Type {
        &self.0.of
    }

    /// How many keys it has.
    pub fn len(&self) -> usize {
        self.0.entries.borrow().len()
    }

    /// Whether it has no key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Option<Value> {
        self.0.entries.borrow().get(key).cloned()
    }

    /// Its entries in the order of their keys.
    pub fn entries(&self) -> Vec<(Text, Value)> {
        self.0.entries.borrow().iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

/// Values may be nested as deep as a template likes; they end one after another, and not within each other.
fn drop_deep(mut waiting: Vec<Value>) {
    while let Some(value) = waiting.pop() {
        match value {
            Value::List(mut list) => {
                if let Some(data) = Rc::get_mut(&mut list.0) {
                    waiting.append(&mut data.items);
                }
            }
            Value::Map(mut map) => {
                if let Some(data) = Rc::get_mut(&mut map.0) {
                    waiting.extend(std::mem::take(data.entries.get_mut()).into_values());
                }
            }
            _ => {}
        }
    }
}

impl Drop for ListData {
    fn drop(&mut self) {
        drop_deep(std::mem::take(&mut self.items));
    }
}

impl Drop for MapData {
    fn drop(&mut self) {
        drop_deep(std::mem::take(self.entries.get_mut()).into_values().collect());
    }
}
