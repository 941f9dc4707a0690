//! No template may be more than an error to the executor, and no error may hold what the data hold.
#![no_main]

use gotemplate::{Limits, Options, Template, Value};
use libfuzzer_sys::fuzz_target;

/// In every value of the data, and in no template that the fuzzer writes.
const CANARY: &str = "canary-5f2a";

fuzz_target!(|text: &str| {
    if text.contains(CANARY) {
        return;
    }
    let limits = Limits { steps: 20_000, output: 1 << 16, memory: 1 << 22, depth: 50 };
    let options = Options { sprig: true, limits, ..Options::default() };
    let Ok(template) = Template::parse("fuzz", text, &options) else { return };
    let json = format!("{{\"k\": [1, 2.5, null, \"{CANARY}\"]}}");
    let pem = format!("-----BEGIN {CANARY}-----\nAAAA\n-----END {CANARY}-----\n");
    let data = Value::map_of_text([("a", CANARY), ("j", json.as_str()), ("p", pem.as_str()), ("e", "")]);
    if let Err(error) = template.render(&data) {
        assert!(!error.to_string().contains(CANARY), "{error}");
    }
});
