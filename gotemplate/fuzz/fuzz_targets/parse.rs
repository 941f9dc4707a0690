//! No text may be more than an error to the parser.
#![no_main]

use gotemplate::{Options, Template};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = Template::parse("fuzz", text, &Options { sprig: true, ..Options::default() });
    let _ = gotemplate::regexp::Regexp::new(text);
});
