//! Templates through Go and through our engine: they agree in every byte of output, and in what is an error.

mod generate;

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
    /// Any shape, or with only text in it the shape that templates of Secrets get.
    data: Value,
    is_text: bool,
}

impl Question {
    fn to_json(&self) -> Value {
        let data = if self.is_text { "data" } else { "any" };
        json!({"template": self.template, "missing": self.missing, "left": self.delimiters.0, "right": self.delimiters.1, data: self.data})
    }

    /// Our answer: the output, or the error.
    fn answer(&self) -> Result<Vec<u8>, String> {
        let missing_key = match self.missing {
            "error" => MissingKey::Error,
            "zero" => MissingKey::Zero,
            _ => MissingKey::Invalid,
        };
        let delimiters = (self.delimiters.0.to_owned(), self.delimiters.1.to_owned());
        let options = Options { missing_key, delimiters, ..Options::default() };
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

/// Go's answers.
fn ask_go(questions: &[Question]) -> Vec<Result<Vec<u8>, String>> {
    let program = find_or_build(Component::Templates, &|text| eprintln!("{text}")).unwrap();
    let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
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

/// Runs all through both; fails with those that differ.
fn compare(what: &str, questions: &[Question]) {
    let (mut rendered, mut differing) = (0, Vec::new());
    for (question, go) in questions.iter().zip(ask_go(questions)) {
        let ours = question.answer();
        let same = match (&go, &ours) {
            (Ok(theirs), Ok(ours)) => theirs == ours,
            (Err(_), Err(_)) => true,
            _ => false,
        };
        rendered += usize::from(same && go.is_ok());
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
    let agreed = questions.len() - differing.len();
    println!("{what}: {} tried, {agreed} agreed ({rendered} with output), {} differing", questions.len(), differing.len());
    assert!(differing.is_empty(), "{} differ:\n{}", differing.len(), differing[..differing.len().min(8)].join("\n\n"));
    assert!(rendered * 4 > questions.len(), "most of what is tried must not be errors only");
}

#[test]
fn the_corpus_of_templates_means_to_us_what_it_means_to_go() {
    let text = std::fs::read_to_string(root().join("e2e/templates/corpus.txt")).unwrap();
    let mut questions = Vec::new();
    for template in text.split("\n===\n") {
        for missing in ["error", "default", "zero"] {
            for (data, is_text) in [(text_data(), true), (any_data(), false)] {
                let template = template.trim_end_matches('\n').to_owned();
                questions.push(Question { template, missing, delimiters: ("", ""), data, is_text });
            }
        }
        // The same with other delimiters.
        let template = template.trim_end_matches('\n').replace("{{", "[[").replace("}}", "]]");
        questions.push(Question { template, missing: "error", delimiters: ("[[", "]]"), data: text_data(), is_text: true });
    }
    compare("corpus", &questions);
}

#[test]
fn random_templates_mean_to_us_what_they_mean_to_go() {
    let number = |name: &str, usual: usize| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(usual);
    let mut dice = generate::Dice::new(number("TEMPLATES_SEED", 1) as u64);
    let questions: Vec<Question> = (0..number("TEMPLATES", RANDOM))
        .map(|_| {
            let is_text = dice.below(5) == 0;
            let missing = dice.one(&["error", "default", "zero"]);
            let data = if is_text { text_data() } else { any_data() };
            Question { template: generate::template(&mut dice), missing, delimiters: ("", ""), data, is_text }
        })
        .collect();
    compare("random", &questions);
}
