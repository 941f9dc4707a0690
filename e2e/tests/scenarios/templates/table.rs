//! The table of functions in the docs, which the comparison with Go writes.

use std::collections::BTreeMap;

use gotemplate::regexp::Regexp;
use gotemplate::{Options, Template};
use lockstep_e2e::harness::root;

use super::Compared;

/// Templates that mean something else to us than to Go, and why. A test holds that they do.
pub const DIFFERENT: &[(&str, &str)] = &[
    (
        r#"{{ printf "%#v" (toDate "2006" "2021") }}"#,
        "`%#v` and `%d` of times and versions show their text, and not what they are made of inside",
    ),
    (
        r#"{{ now.Month }}"#,
        "of times there are the methods Format, Unix, UnixMilli, UnixNano, Year, Day, Hour, Minute, Second, Nanosecond, YearDay, AddDate, Before, After, Equal, IsZero, UTC and String; for months and weekdays use `date`",
    ),
    (r#"{{ deepCopy (semver "1.2.3") }}"#, "the copy of a version is that version, and not 0.0.0"),
    (r#"{{ snakecase "\xff" }}"#, "bytes that are no UTF-8 become U+FFFD in snakecase and kebabcase"),
    (r#"{{ fromYaml "y: 1" }}"#, "keys are the text that they are, not `true`; numbers and words of YAML 1.1 are read in values"),
    (r#"{{ fromYaml "k: 1e400" }}"#, "a number that no float holds is an error"),
    (
        "{{ toYaml \"\u{2028}a\" }}",
        "texts with the line ends U+0085, U+2028 or U+2029, or with U+FEFF, are written in another style, and read back the same",
    ),
    (r#"{{ fromJson "[\"\\ud800\"]" }}"#, "half a surrogate pair is an error, and not U+FFFD"),
    (r#"{{ htpasswd "a" "b" "sha" }}"#, "takes the algorithm (`bcrypt`, `sha`) as well, as External Secrets' Sprig does"),
    (r#"{{ genPrivateKey "dsa" }}"#, "DSA is not supported"),
    (
        r#"{{ regexFind "[é-ü](?i)(?U)?" "é" }}"#,
        "a flag that is set between a part and its repetition holds behind the repetition",
    ),
    (r#"{{ regexMatch "^.$" "\xff" }}"#, "bytes that are no UTF-8 are no runes to a regexp"),
    (r#"{{ repeat 70000000 "x" | len }}"#, "a template may take a million steps, make 64 MB on its way and put out 4 MB"),
    (
        r#"{{ $d := dict }}{{ $_ := set $d "d" $d }}{{ len $d }}"#,
        "a dictionary can't be put into itself: Go would print it until its memory ends",
    ),
];

/// Words of templates that are not compared at random.
const KNOWN: &[&str] = &[
    r"%#v",
    r"(?:snake|kebab)case [^|]*\\xff",
    r"(?i)deepcopy .*semver",
    r"\.Month",
    r"(?s)fromYaml.*(?:y|Y|n|on|no|true|null|0|1)[^ ]*: ",
];

/// Functions of the language alone, whose random templates have a test of their own.
const OF_ORDER: &[&str] = &["keys", "values"];

/// Whether a function is not called at random: chance, the clock, the order of maps, or our words in its errors.
pub fn is_left_out(name: &str) -> bool {
    gotemplate::is_volatile(name) || OF_ORDER.contains(&name) || name == "fail"
}

/// Whether a template has something in it that is listed as different.
pub fn is_known_to_differ(template: &str) -> bool {
    KNOWN.iter().any(|known| Regexp::new(known).unwrap().is_match(template.as_bytes()))
}

/// Whether two answers differ as the docs say: an interface that holds nothing, or an index, is no plain value to Go where it comes
/// right out of the data; and Go's slices reach behind the end of a list.
pub fn is_known_answer(go: &Result<Vec<u8>, String>, ours: &Result<Vec<u8>, String>) -> bool {
    match (go, ours) {
        (Err(theirs), Ok(_)) => {
            theirs.contains("cannot index slice/array with type interface {}") || theirs.contains("; got interface {}")
        }
        (Ok(_), Err(ours)) => ours.contains("slice index out of bounds"),
        _ => false,
    }
}

fn calls(templates: &[&Compared]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for template in templates.iter().flat_map(|compared| &compared.rendered) {
        for word in template.split(|sign: char| !sign.is_alphanumeric() && sign != '_') {
            *counts.entry(word.to_owned()).or_default() += 1;
        }
    }
    counts
}

/// Writes the row of numbers of a comparison anew and compares it with the one in the docs; `UPDATE_DOCS=1` puts it there.
pub fn tell(what: &str, numbers: &[usize]) {
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    // Other seeds and numbers are for whoever looks for more.
    if std::env::var_os("TEMPLATES").is_some() || std::env::var_os("TEMPLATES_SEED").is_some() {
        return;
    }
    let _one = ONE.lock();
    let path = root().join("docs/templates.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let row = format!("| {what} |{}", numbers.iter().map(|n| format!(" {n} |")).collect::<String>());
    let there = text.lines().find(|line| line.starts_with(&format!("| {what} |"))).unwrap_or_else(|| panic!("no row of {what}"));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, text.replace(there, &row)).unwrap();
        return;
    }
    assert_eq!(there, row, "docs/templates.md is not what the comparison says: run it with UPDATE_DOCS=1 and --test-threads=1");
}

/// Writes the table anew and compares it with the one in the docs; `UPDATE_DOCS=1` puts it there.
pub fn check(corpus: &Compared, random: &Compared) {
    let counts = calls(&[corpus, random]);
    let mut names: Vec<&str> = gotemplate::names().collect();
    names.sort_unstable();
    names.dedup();
    let mut rows = String::new();
    for name in names {
        let differs = DIFFERENT.iter().find(|(template, _)| template.contains(&format!("{{ {name} "))).map(|(_, why)| *why);
        let compared = counts.get(name).copied().unwrap_or(0);
        let says = match differs {
            // What chance or the clock gives is compared in its form alone, by unit tests of the crate.
            None if gotemplate::is_volatile(name) => "of chance, or of the clock: form tested".to_owned(),
            Some(why) => format!("same, but: {why}"),
            None => "same".to_owned(),
        };
        // The language's own have comparisons of their own.
        let is_own = Template::parse("own", &format!("{{{{ {name} }}}}"), &Options::default()).is_ok() && name != "slice";
        let is_compared = compared >= 1 || gotemplate::is_volatile(name) || is_own || name == "fail";
        assert!(is_compared, "{name} is in {compared} templates only");
        rows.push_str(&format!("| `{name}` | {says} |\n"));
    }
    assert!(corpus.tried > 0 && random.tried > 0 && corpus.listed + random.listed < corpus.tried);
    let wanted = format!("| function | next to Go |\n|---|---|\n{rows}");
    let path = root().join("docs/templates.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (start, end) = ("<!-- functions: written by the comparison with Go -->\n", "<!-- end of functions -->");
    let (before, rest) = text.split_once(start).unwrap();
    let (there, after) = rest.split_once(end).unwrap();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{start}{wanted}{end}{after}")).unwrap();
        return;
    }
    assert!(there == wanted, "docs/templates.md is not what the comparison says: run it with UPDATE_DOCS=1");
    for (template, why) in DIFFERENT {
        assert!(text.contains(why), "docs/templates.md does not say how {template} differs: {why}");
    }
}
