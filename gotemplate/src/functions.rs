//! What templates can call: names, the types of parameters, and where the code is.

use crate::builtins;
use crate::exec::Meter;
use crate::sprig;
use crate::value::{Type, Value};

/// The type of a parameter, as Go declares it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Param {
    /// `interface {}` or `reflect.Value`: anything, and nil.
    Any,
    /// Of this type and no other.
    Of(Type),
    /// `map[string]interface {}`
    Dict,
    /// `[]interface {}`
    Anys,
}

impl Param {
    /// The type that it takes, unless it takes any.
    pub(crate) fn of(&self) -> Option<Type> {
        match self {
            Self::Any => None,
            Self::Of(of) => Some(of.clone()),
            Self::Dict => Some(Type::Map(Box::new(Type::Any))),
            Self::Anys => Some(Type::List(Box::new(Type::Any))),
        }
    }
}

/// What a function answers: an error says what is wrong, and holds no value.
pub(crate) type Answer = Result<Value, String>;

pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) fixed: &'static [Param],
    pub(crate) rest: Option<Param>,
    pub(crate) call: fn(&mut Meter, &[Value]) -> Answer,
}

const STR: Param = Param::Of(Type::Str);
const ANY: Param = Param::Any;

pub(crate) const fn function(
    name: &'static str,
    fixed: &'static [Param],
    rest: Option<Param>,
    call: fn(&mut Meter, &[Value]) -> Answer,
) -> Function {
    Function { name, fixed, rest, call }
}

/// Ordered by name.
static FUNCTIONS: &[Function] = &[
    // `and` and `or` evaluate their arguments one by one: the executor does it.
    function("and", &[ANY], Some(ANY), builtins::never),
    function("call", &[ANY], Some(ANY), builtins::call),
    function("eq", &[ANY], Some(ANY), builtins::eq),
    function("ge", &[ANY, ANY], None, builtins::ge),
    function("gt", &[ANY, ANY], None, builtins::gt),
    function("html", &[], Some(ANY), builtins::html),
    function("index", &[ANY], Some(ANY), builtins::index),
    function("js", &[], Some(ANY), builtins::js),
    function("le", &[ANY, ANY], None, builtins::le),
    function("len", &[ANY], None, builtins::len),
    function("lt", &[ANY, ANY], None, builtins::lt),
    function("ne", &[ANY, ANY], None, builtins::ne),
    function("not", &[ANY], None, builtins::not),
    function("or", &[ANY], Some(ANY), builtins::never),
    function("print", &[], Some(ANY), builtins::print),
    function("printf", &[STR], Some(ANY), builtins::printf),
    function("println", &[], Some(ANY), builtins::println),
    function("slice", &[ANY], Some(ANY), builtins::slice),
    function("urlquery", &[], Some(ANY), builtins::urlquery),
];

fn named(table: &'static [Function], name: &str) -> Option<&'static Function> {
    table.binary_search_by(|function| function.name.cmp(name)).ok().map(|i| &table[i])
}

/// The function of a name; Sprig's `slice` takes the place of the language's.
pub(crate) fn find(name: &str, with_sprig: bool) -> Option<&'static Function> {
    let of_sprig = if with_sprig { named(sprig::FUNCTIONS, name) } else { None };
    of_sprig.or_else(|| named(FUNCTIONS, name))
}

/// The names of all functions.
pub fn names() -> impl Iterator<Item = &'static str> {
    sprig::FUNCTIONS.iter().map(|function| function.name).chain(FUNCTIONS.iter().map(|function| function.name))
}

/// Whether a function's answers differ from call to call: by chance, or by the clock.
pub fn is_volatile(name: &str) -> bool {
    sprig::VOLATILE.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_ordered_so_that_each_is_found() {
        assert!(FUNCTIONS.windows(2).all(|pair| pair[0].name < pair[1].name));
        assert!(FUNCTIONS.iter().all(|function| find(function.name, false).is_some()) && find("env", true).is_none());
        assert!(find("upper", false).is_none() && find("upper", true).is_some());
    }
}
