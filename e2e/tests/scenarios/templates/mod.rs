//! Templates through Go and through our engine: they agree in every byte of output, and in what is an error.

mod corners;
mod generate;
mod sprig;
mod table;

use std::io::Write;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gotemplate::{List, Map, MissingKey, Options, Template, Type, Value as Go};
use lockstep_e2e::components::{Component, find_or_build};
use lockstep_e2e::harness::root;
use serde_json::{Value, json};

/// How many random templates are tried; another number with `TEMPLATES`, another beginning with `TEMPLATES_SEED`.
const RANDOM: usize = 4_000;

/// A template with what it is rendered with.
struct Question {
    template: String,
    missing: &'static str,
    delimiters: (&'static str, &'static str),
    /// With Sprig's functions.
    sprig: bool,
    /// Any shape, or with only text in it the shape that templates of Secrets get.
    data: Value,
    is_text: bool,
}

impl Question {
    fn to_json(&self) -> Value {
        let data = if self.is_text { "data" } else { "any" };
        json!({"template": self.template, "missing": self.missing, "left": self.delimiters.0, "right": self.delimiters.1, "sprig": self.sprig, data: self.data})
    }

    /// Our answer: the output, or the error.
    fn answer(&self) -> Result<Vec<u8>, String> {
        let missing_key = match self.missing {
            "error" => MissingKey::Error,
            "zero" => MissingKey::Zero,
            _ => MissingKey::Invalid,
        };
        let delimiters = (self.delimiters.0.to_owned(), self.delimiters.1.to_owned());
        let options = Options { missing_key, delimiters, sprig: self.sprig, ..Options::default() };
        let data = match self.is_text {
            true => {
                let fields = self.data.as_object().unwrap().iter();
                Go::map_of_text(fields.map(|(key, value)| (key.as_str(), value.as_str().unwrap())))
            }
            false => typed(&self.data),
        };
        let template = Template::parse("t", &self.template, &options).map_err(|error| error.to_string())?;
        template.render(&data).map(|output| output.to_vec()).map_err(|error| error.to_string())
    }
}

/// JSON as the oracle gives it to Go: whole numbers are `int`.
fn typed(value: &Value) -> Go {
    match value {
        Value::Null => Go::Nil,
        Value::Bool(value) => Go::Bool(*value),
        Value::Number(number) => number.as_i64().map_or_else(
            || {
                let float = number.as_f64().unwrap();
                if float == float as i64 as f64 { Go::int(float as i64) } else { Go::Float(float) }
            },
            Go::int,
        ),
        Value::String(text) => Go::from(text.as_str()),
        Value::Array(items) => Go::List(List::new(items.iter().map(typed).collect(), Type::Any)),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| (key.as_str().into(), typed(value))).collect();
            Go::Map(Map::new(fields, Type::Any))
        }
    }
}

fn text_data() -> Value {
    json!({"user": "app", "pass": "p<a>\"s's&", "n": "12", "empty": "", "uni": "gr\u{f6}\u{df}e", "json": "{\"a\": [1, 2.5, null]}", "a": "1", "b": "2"})
}

fn any_data() -> Value {
    json!({
        "s": "text", "i": 3, "f": 2.5, "neg": -7, "t": true, "nil": null, "l": [1, "two", 3.5, null, [1, 2]],
        "m": {"k": "v", "n": 1, "deep": {"x": "y"}, "nil": null}, "e": [], "em": {}, "big": 1e21, "z": 0,
    })
}

/// The program that asks Go.
fn oracle() -> std::path::PathBuf {
    find_or_build(Component::Templates, &|text| eprintln!("{text}")).unwrap()
}

/// Go's answers.
fn ask_go(questions: &[Question]) -> Vec<Result<Vec<u8>, String>> {
    let mut child = Command::new(oracle()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let lines: Vec<String> = questions.iter().map(|question| question.to_json().to_string()).collect();
    let writer = std::thread::spawn(move || lines.iter().for_each(|line| writeln!(input, "{line}").unwrap()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let answer = |line: &str| {
        let answer: Value = serde_json::from_str(line).unwrap();
        match answer["error"].as_str().unwrap() {
            "" => Ok(STANDARD.decode(answer["output"].as_str().unwrap()).unwrap()),
            error => Err(error.to_owned()),
        }
    };
    let answers: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(answer).collect();
    assert_eq!(answers.len(), questions.len(), "Go answers every question");
    answers
}

/// What a comparison came to; agreed ones with their templates.
struct Compared {
    tried: usize,
    /// Differ as the docs say.
    listed: usize,
    rendered: Vec<String>,
}

/// Runs all through both; fails with those that differ.
fn compare(what: &str, questions: &[Question]) -> Compared {
    let (mut rendered, mut differing, mut listed) = (Vec::new(), Vec::new(), 0);
    for (question, go) in questions.iter().zip(ask_go(questions)) {
        let ours = question.answer();
        let same = match (&go, &ours) {
            (Ok(theirs), Ok(ours)) => theirs == ours,
            (Err(_), Err(_)) => true,
            _ => {
                let known = table::is_known_answer(&go, &ours);
                listed += usize::from(known);
                known
            }
        };
        if same && go.is_ok() && ours.is_ok() {
            rendered.push(question.template.clone());
        }
        if !same {
            let show = |answer: &Result<Vec<u8>, String>| match answer {
                Ok(output) => format!("{:?}", String::from_utf8_lossy(output)),
                Err(error) => format!("error: {error}"),
            };
            differing.push(format!(
                "{}\n  missingkey={}, {} data\n  Go:   {}\n  ours: {}",
                question.template,
                question.missing,
                if question.is_text { "text" } else { "any" },
                show(&go),
                show(&ours)
            ));
        }
    }
    let agreed = questions.len() - differing.len() - listed;
    let with_output = rendered.len();
    let tried = questions.len();
    println!(
        "{what}: {tried} tried, {agreed} agreed ({with_output} with output), {listed} as listed, {} differing",
        differing.len()
    );
    assert!(differing.is_empty(), "{} differ:\n{}", differing.len(), differing[..differing.len().min(8)].join("\n\n"));
    assert!(with_output * 4 > questions.len(), "most of what is tried must not be errors only");
    table::tell(what, &[tried, agreed, with_output, listed, differing.len()]);
    Compared { tried, listed, rendered }
}

fn number(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}

/// A corpus's templates, each with three meanings of missing keys and two kinds of data, and with other delimiters.
fn corpus(file: &str, sprig: bool) -> Vec<Question> {
    let text = std::fs::read_to_string(root().join("e2e/templates").join(file)).unwrap();
    let mut questions = Vec::new();
    for template in text.split("\n===\n") {
        // What takes long and looks at no data is asked once.
        let is_slow =
            ["-----BEGIN", "MII", "genCA", "genSigned", "derivePassword", "crypt"].iter().any(|word| template.contains(word));
        if is_slow {
            let template = template.trim_end_matches('\n').to_owned();
            questions.push(Question {
                template,
                missing: "error",
                delimiters: ("", ""),
                sprig,
                data: text_data(),
                is_text: true,
            });
            continue;
        }
        for missing in ["error", "default", "zero"] {
            for (data, is_text) in [(text_data(), true), (any_data(), false)] {
                let template = template.trim_end_matches('\n').to_owned();
                questions.push(Question { template, missing, delimiters: ("", ""), sprig, data, is_text });
            }
        }
        let template = template.trim_end_matches('\n').replace("{{", "[[").replace("}}", "]]");
        questions.push(Question {
            template,
            missing: "error",
            delimiters: ("[[", "]]"),
            sprig,
            data: text_data(),
            is_text: true,
        });
    }
    questions
}

#[test]
fn the_corpus_of_templates_means_to_us_what_it_means_to_go() {
    compare("the language, by hand", &corpus("corpus.txt", false));
}

#[test]
fn random_templates_mean_to_us_what_they_mean_to_go() {
    let mut dice = generate::Dice::new(number("TEMPLATES_SEED", 1) as u64);
    let questions: Vec<Question> = (0..number("TEMPLATES", RANDOM))
        .map(|_| {
            let is_text = dice.below(5) == 0;
            let missing = dice.one(&["error", "default", "zero"]);
            let data = if is_text { text_data() } else { any_data() };
            Question { template: generate::template(&mut dice), missing, delimiters: ("", ""), sprig: false, data, is_text }
        })
        .collect();
    compare("the language, at random", &questions);
}

/// Calls of Sprig's functions with all kinds of arguments.
fn calls() -> Vec<Question> {
    let listed = Command::new(oracle()).arg("functions").output().unwrap();
    let signatures = String::from_utf8(listed.stdout).unwrap();
    let known: Vec<sprig::Signature> =
        signatures.lines().map(sprig::signature).filter(|s| !table::is_left_out(&s.name)).collect();
    let mut dice = generate::Dice::new(number("TEMPLATES_SEED", 1) as u64);
    let question = |_| {
        let template = if dice.percent(60) { sprig::any(&mut dice, &known) } else { corners::special(&mut dice) };
        let missing = dice.one(&["error", "default"]);
        Question { template, missing, delimiters: ("", ""), sprig: true, data: any_data(), is_text: false }
    };
    // Go does not survive what contains itself.
    let may_be_asked = |question: &Question| {
        !table::is_known_to_differ(&question.template)
            && !question.answer().is_err_and(|error| error.contains("would contain itself"))
    };
    (0..number("TEMPLATES", 3 * RANDOM)).map(question).filter(may_be_asked).collect()
}

#[test]
fn sprig_means_to_us_what_it_means_to_go() {
    let corpus = compare("functions, by hand", &corpus("sprig.txt", true));
    let random = compare("functions, at random", &calls());
    table::check(&corpus, &random);
}

#[test]
fn what_is_said_to_differ_from_go_differs() {
    let question = |template: &str| Question {
        template: template.to_owned(),
        missing: "error",
        delimiters: ("", ""),
        sprig: true,
        data: text_data(),
        is_text: true,
    };
    let questions: Vec<Question> = table::DIFFERENT.iter().map(|(template, _)| question(template)).collect();
    for (question, go) in questions.iter().zip(ask_go(&questions)) {
        let ours = question.answer();
        assert!(go.clone().ok() != ours.clone().ok(), "{} is no difference any more: {go:?} and {ours:?}", question.template);
    }
}

#[test]
fn go_reads_the_pkcs12_stores_that_we_write_and_we_read_go_s() {
    let text = std::fs::read_to_string(root().join("e2e/templates/sprig.txt")).unwrap();
    let block = |kind: &str| {
        let start = text.find(&format!("-----BEGIN {kind}-----")).unwrap();
        let end = format!("-----END {kind}-----\n");
        text[start..start + text[start..].find(&end).unwrap() + end.len()].to_owned()
    };
    let (key, rest) = (block("PRIVATE KEY"), &text[text.find("filterPEM").unwrap()..]);
    // The leaf that the key belongs to, and another behind it.
    let certificates: Vec<&str> = rest
        .split_inclusive("-----END CERTIFICATE-----\n")
        .take(2)
        .map(|part| &part[part.find("-----BEGIN CERTIFICATE").unwrap()..])
        .collect();
    let chain = certificates.concat();
    let question = |template: String| Question {
        template,
        missing: "error",
        delimiters: ("", ""),
        sprig: true,
        data: json!({"key": key, "leaf": certificates[0], "chain": chain}),
        is_text: true,
    };
    let written = |template: &str| String::from_utf8(question(template.to_owned()).answer().unwrap()).unwrap();
    let read = |template: String| String::from_utf8(ask_go(&[question(template)]).remove(0).unwrap()).unwrap();
    for (write, password, with) in [
        ("{{ pemToPkcs12 .leaf .key }}", "", certificates[0]),
        (r#"{{ pemToPkcs12Pass .chain .key "hunter2" }}"#, "hunter2", certificates[0]),
        ("{{ fullPemToPkcs12 .chain .key }}", "", &chain),
        (r#"{{ fullPemToPkcs12Pass .chain .key "hunter2" }}"#, "hunter2", &chain),
    ] {
        let store = written(write);
        assert_eq!(read(format!(r#"{{{{ "{store}" | b64dec | pkcs12keyPass "{password}" }}}}"#)), key, "{write}");
        assert_eq!(read(format!(r#"{{{{ "{store}" | b64dec | pkcs12certPass "{password}" }}}}"#)), with, "{write}");
        assert_eq!(written(&format!(r#"{{{{ "{store}" | b64dec | pkcs12certPass "{password}" }}}}"#)), with, "{write}");
    }
    for (how, password) in [
        ("LegacyRC2", "hunter2"),
        ("LegacyDES", "hünter€"),
        ("LegacyDES", ""),
        ("Modern2023", "hünter€"),
        ("Modern2026", "hunter2"),
        ("Passwordless", ""),
    ] {
        let store = read(format!(r#"{{{{ goPkcs12 "{how}" "{password}" .key .chain }}}}"#));
        let of = |function: &str, password: &str| {
            question(format!(r#"{{{{ "{store}" | b64dec | {function} "{password}" }}}}"#)).answer()
        };
        assert_eq!(of("pkcs12keyPass", password).unwrap(), key.as_bytes(), "{how}");
        assert_eq!(of("pkcs12certPass", password).unwrap(), chain.as_bytes(), "{how}");
        let wrong = of("pkcs12keyPass", "wrong");
        assert!(how == "Passwordless" || wrong.is_err(), "{how}: {wrong:?}");
    }
    // A store of Java's kind, which Go does not read: another library does.
    const READ: &str = "import base64, sys\nfrom cryptography.hazmat.primitives.serialization import Encoding, pkcs12\n\
        store = pkcs12.load_pkcs12(base64.b64decode(sys.argv[1]), sys.argv[2].encode() or None)\n\
        print(''.join(c.certificate.public_bytes(Encoding.PEM).decode() for c in store.additional_certs))";
    let python = lockstep_e2e::python::programs(&|text| eprintln!("{text}")).unwrap().join("python");
    for (write, password) in
        [("{{ pemTruststoreToPKCS12 .chain }}", ""), (r#"{{ pemTruststoreToPKCS12Pass .chain "pw" }}"#, "pw")]
    {
        let store = written(write);
        let output = Command::new(&python).args(["-c", READ, &store, password]).output().unwrap();
        let read = String::from_utf8(output.stdout).unwrap();
        assert!(
            certificates.iter().all(|certificate| read.contains(certificate)),
            "{write}: {read}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
