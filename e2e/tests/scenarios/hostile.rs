//! The seeds of the fuzz targets, and what is made of them: always the same.

use lockstep_e2e::harness::root;
use lockstep_e2e::interposer::Chance;

type Target = fn(&[u8]);

const TARGETS: &[(&str, Target)] = &[
    ("values", lockstep::hostile::values),
    ("template", lockstep::hostile::template),
    ("gjson", lockstep::hostile::gjson_path),
    ("rewrites", lockstep::hostile::rewrites),
    ("times", lockstep::hostile::times),
    ("target_path", lockstep::hostile::target_path),
    ("manifests", lockstep::hostile::manifests),
    ("answers", lockstep_providers::hostile::answers),
    ("json_path", lockstep_providers::hostile::json_path),
    ("credentials", lockstep_providers::hostile::credentials),
    ("urls", lockstep_providers::hostile::urls),
];

/// Bytes that mean something to one of the languages.
const TOKENS: &[&str] = &[
    "{{",
    "}}",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'",
    "\\",
    "\n",
    "\0",
    "..",
    "*",
    "?",
    "@",
    "$",
    "|",
    "#",
    "&a",
    "*a",
    "<<: *a",
    "1e999",
    "-0",
    "9223372036854775808",
    "\u{202e}",
    "\u{fffd}",
    "-----BEGIN ",
    "-----END ",
    "%s",
    "{{ . }}",
    "(a*)*",
    "{1000}",
    "://",
    "[::]",
    "\u{feff}",
];

fn changed(seed: &[u8], others: &[Vec<u8>], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=chance.below(4) {
        let at = chance.below(bytes.len() + 1);
        let to = at + chance.below(bytes.len() - at + 1);
        match chance.below(8) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] ^= 1 << chance.below(8),
            2 => drop(bytes.splice(at..at, TOKENS[chance.below(TOKENS.len())].bytes())),
            3 => drop(bytes.drain(at..to)),
            4 => {
                let part = bytes[at..to].to_vec();
                let times = [2, 10, 300][chance.below(3)];
                bytes.splice(at..at, part.iter().copied().cycle().take((part.len() * times).min(20_000)));
            }
            5 => {
                let other = &others[chance.below(others.len())];
                let from = chance.below(other.len() + 1);
                bytes.splice(at..to, other[from..].iter().copied());
            }
            6 => {
                let token = TOKENS[chance.below(TOKENS.len())];
                bytes.splice(at..at, token.repeat([3, 100, 5000][chance.below(3)]).bytes());
            }
            _ => bytes.extend(std::iter::repeat_n(0xff_u8, chance.below(64))),
        }
    }
    bytes
}

#[test]
fn the_corpus_and_what_is_made_of_it_ends_in_an_answer_or_an_error_that_tells_nothing() {
    let rounds: usize = std::env::var("LOCKSTEP_HOSTILE").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    for (name, target) in TARGETS {
        let folder = root().join("e2e/fuzz/seeds").join(name);
        let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let seeds: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
        assert!(seeds.len() >= 3, "{name}");
        let mut chance = Chance::new(1);
        // As in the operator, whose threads have this stack.
        std::thread::scope(|scope| {
            let work = || {
                for seed in &seeds {
                    target(seed);
                    for _ in 0..rounds {
                        let bytes = changed(seed, &seeds, &mut chance);
                        let told = std::panic::catch_unwind(|| target(&bytes));
                        assert!(told.is_ok(), "{name}: {:?}", String::from_utf8_lossy(&bytes));
                    }
                }
            };
            std::thread::Builder::new().stack_size(2 << 20).spawn_scoped(scope, work).unwrap().join().unwrap();
        });
    }
}

#[test]
fn every_target_has_seeds_and_a_program_for_the_fuzzer() {
    let folder = |name: &str| -> Vec<String> {
        let entries = std::fs::read_dir(root().join("e2e/fuzz").join(name)).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().to_string_lossy().trim_end_matches(".rs").to_owned()).collect();
        names.sort();
        names
    };
    let mut all: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    all.sort_unstable();
    assert_eq!(
        (folder("seeds"), folder("fuzz_targets")),
        (all.iter().map(|n| (*n).to_owned()).collect(), all.iter().map(|n| (*n).to_owned()).collect())
    );
    let manifest = std::fs::read_to_string(root().join("e2e/fuzz/Cargo.toml")).unwrap();
    assert!(all.iter().all(|name| manifest.contains(&format!("name = \"{name}\""))));
}
