//! Go's `text/template`, for templates that come from anybody and values that nobody may see.
//!
//! With [`Options::sprig`] there are Sprig's functions, and the ones that External Secrets' templates have beside them.
//!
//! A template means here what it means to Go: syntax, typing, truth, printing, the order of maps. What Go would do without an end
//! or with all of the memory there is (recursion, loops, texts that double) ends in an error: see [`Limits`]. No error holds a
//! value, only the template's own text. The differential test in `e2e/` runs templates through Go and through this crate.
//!
//! ```
//! use gotemplate::{Options, Template, Value};
//! let template = Template::parse("greeting", "Hello {{ .name | printf \"%-5s\" }}!", &Options::default())?;
//! let data = Value::map_of_text([("name", "you")]);
//! assert_eq!(&*template.render(&data)?, b"Hello you  !");
//! # Ok::<(), gotemplate::Error>(())
//! ```

mod ast;
mod builtins;
mod error;
mod exec;
mod format;
mod functions;
mod lex;
mod methods;
mod number;
mod parse;
pub mod regexp;
mod sprig;
mod text;
mod value;

pub use error::Error;
pub use exec::{Limits, MissingKey, Options};
pub use functions::{is_volatile, names};
pub use parse::Template;
pub use sprig::dates::Time;
pub use sprig::semver::Version;
pub use text::Text;
pub use value::{Certificate, List, Map, Type, Value};
