//! Paths into JSON as Go's `gjson` reads them: what `property` of a remote reference means.
//!
//! Works on the text itself, so that numbers and white space come out as they went in. `testdata/golden.json` holds what the
//! Go library (1.20.0) answers to a thousand paths; a test compares. Of its modifiers only `@pretty` is missing. Work and
//! depth are bounded: a hostile path ends in an error.

mod json;
mod modifiers;
mod multi;
mod path;
mod query;

use std::cell::Cell;

use json::{Kind, Res, container_at, elements, members};
use path::{ArrayPath, ObjectPath, split_possible_pipe};

/// How many bytes all steps of one path may look at.
const WORK: u64 = 64 << 20;
/// How deep paths, values and modifiers may nest.
const DEPTH: u32 = 96;

/// Evaluates a path on valid JSON. None: nothing is there.
///
/// # Errors
/// A sentence when the path uses `@pretty`, or takes too much work.
pub fn get(json: &str, path: &str) -> Result<Option<String>, String> {
    if path.len() > 4096 {
        return Err("the path is longer than 4096 bytes".into());
    }
    let limits = Limits { work: Cell::new(WORK), depth: Cell::new(DEPTH) };
    let found = limits.get(json, path)?;
    Ok(found.exists().then(|| found.text()))
}

/// What is left of the bounds.
struct Limits {
    work: Cell<u64>,
    depth: Cell<u32>,
}

/// How far a walk into a container came.
#[derive(Default)]
struct Walk {
    value: Option<Res>,
    /// Whether the search is over.
    hit: bool,
    pipe: Option<String>,
}

impl Walk {
    fn hit(value: Res) -> Self {
        Self { value: Some(value), hit: true, pipe: None }
    }
}

type Answer<T> = Result<T, String>;

impl Limits {
    fn spend(&self, bytes: usize) -> Answer<()> {
        let left = self.work.get().checked_sub(bytes as u64 + 16).ok_or("the path takes too much work")?;
        self.work.set(left);
        Ok(())
    }

    fn nested<T>(&self, f: impl FnOnce() -> Answer<T>) -> Answer<T> {
        let left = self.depth.get().checked_sub(1).ok_or("the path or the value is nested too deeply")?;
        self.depth.set(left);
        let answer = f();
        self.depth.set(left + 1);
        answer
    }

    fn get(&self, json: &str, path: &str) -> Answer<Res> {
        self.spend(json.len() + path.len())?;
        self.nested(|| self.get_inner(json, path))
    }

    fn get_inner(&self, json: &str, path: &str) -> Answer<Res> {
        let mut path = path;
        if path.len() > 1 {
            let special = match path.as_bytes()[0] {
                b'@' => self.modifier(json, path)?,
                b'!' => multi::literal(path),
                _ => None,
            };
            if let Some((text, rest)) = special {
                return match rest.strip_prefix(['.', '|']) {
                    Some(rest) => self.get(&text, rest),
                    None => Ok(json::parse(&text)),
                };
            }
            if path.starts_with(['[', '{']) {
                let (selectors, rest) = multi::selectors(path);
                match selectors {
                    Some(selectors) if rest.is_empty() => return Ok(json::parse(&self.multipath(json, path, &selectors)?)),
                    Some(selectors) if rest.starts_with(['.', '|']) => {
                        let built = self.multipath(json, path, &selectors)?;
                        return self.get(&built, &rest[1..]);
                    }
                    // The library goes on with what is left of a malformed multipath.
                    _ => path = rest,
                }
            }
        }
        let walk = match path.strip_prefix("..") {
            Some(path) => self.array(&[json.trim()], path)?,
            None => match container_at(json) {
                Some(container) => self.container(container, path)?,
                None => return Ok(Res::missing()),
            },
        };
        let value = walk.value.unwrap_or_else(Res::missing);
        match walk.pipe {
            Some(pipe) => self.get(&value.raw, &pipe),
            None => Ok(value),
        }
    }

    fn container(&self, raw: &str, path: &str) -> Answer<Walk> {
        self.spend(raw.len())?;
        self.nested(|| if raw.starts_with('{') { self.object(raw, path) } else { self.array(&elements(raw), path) })
    }

    fn object(&self, raw: &str, path: &str) -> Answer<Walk> {
        let wanted = ObjectPath::parse(path);
        let mut walk = Walk { pipe: wanted.pipe.map(str::to_owned), ..Walk::default() };
        for (key, value) in members(raw) {
            if !wanted.matches(&json::unquote(key)) {
                continue;
            }
            match wanted.more {
                None => return Ok(Walk { pipe: walk.pipe, ..Walk::hit(json::parse_token(value)) }),
                Some(more) if value.starts_with(['{', '[']) => {
                    let inner = self.container(value, more)?;
                    walk.pipe = walk.pipe.or(inner.pipe);
                    walk.value = walk.value.or(inner.value);
                    if inner.hit {
                        walk.hit = true;
                        return Ok(walk);
                    }
                }
                Some(_) => {}
            }
        }
        Ok(walk)
    }

    fn array(&self, items: &[&str], path: &str) -> Answer<Walk> {
        let wanted = ArrayPath::parse(path);
        let pipe = wanted.pipe.map(str::to_owned);
        if let Some(sub) = wanted.each {
            return self.each(items, sub);
        }
        if let Some(query) = &wanted.query {
            return self.query(items, query, wanted.more, pipe);
        }
        if wanted.hashed {
            let count = Res { kind: Kind::Number, raw: items.len().to_string() };
            return Ok(if wanted.part == "#" { Walk { pipe, ..Walk::hit(count) } } else { Walk { pipe, ..Walk::default() } });
        }
        let index = wanted.part.bytes().all(|b| b.is_ascii_digit()).then(|| wanted.part.parse::<usize>().ok()).flatten();
        let Some(item) = index.and_then(|i| items.get(i)) else { return Ok(Walk { pipe, ..Walk::default() }) };
        match wanted.more {
            None => Ok(Walk { pipe, ..Walk::hit(json::parse_token(item)) }),
            Some(more) if item.starts_with(['{', '[']) => self.container(item, more),
            Some(_) => Ok(Walk::default()),
        }
    }

    /// `#.sub`: the sub-path of every element.
    fn each(&self, items: &[&str], sub: &str) -> Answer<Walk> {
        let (sub, pipe) = split_possible_pipe(sub).map_or((sub, None), |(left, right)| (left, Some(right.to_owned())));
        let mut found = Vec::new();
        for item in items {
            let value = self.get(item, sub)?;
            if value.exists() {
                found.push(value.raw_or_text());
            }
        }
        Ok(Walk { pipe, ..Walk::hit(json::array_of(&found)) })
    }

    fn query(&self, items: &[&str], query: &query::Query, more: Option<&str>, pipe: Option<String>) -> Answer<Walk> {
        let mut walk = Walk { pipe, ..Walk::default() };
        let mut found = Vec::new();
        let mut more = more;
        for item in items {
            let element = json::parse_token(item);
            let candidate = match element.kind {
                Kind::Json => self.get(item, &query.path)?,
                _ if !query.path.is_empty() => continue,
                _ => element.clone(),
            };
            if !query.matches(&candidate) {
                continue;
            }
            let value = match more {
                None => element,
                Some(sub) => {
                    if let Some((left, right)) = split_possible_pipe(sub) {
                        more = Some(left);
                        walk.pipe = Some(right.to_owned());
                    }
                    self.get(item, more.unwrap_or_default())?
                }
            };
            if !query.all {
                return Ok(Walk { value: Some(value), hit: true, pipe: walk.pipe });
            }
            let raw = value.raw_or_text();
            if !raw.is_empty() {
                found.push(raw);
            }
        }
        walk.value = query.all.then(|| json::array_of(&found));
        Ok(walk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Golden {
        documents: std::collections::BTreeMap<String, String>,
        rows: Vec<(String, String, Option<String>)>,
    }

    #[test]
    fn a_thousand_paths_give_what_the_go_library_gives() {
        let golden: Golden = serde_json::from_str(include_str!("testdata/golden.json")).unwrap();
        let mut wrong = Vec::new();
        for (document, path, expected) in &golden.rows {
            let got = get(&golden.documents[document], path);
            if got.as_ref() != Ok(expected) {
                wrong.push(format!("{document} {path}\n   go {expected:?}\n  got {got:?}"));
            }
        }
        assert!(golden.rows.len() > 900, "{}", golden.rows.len());
        assert!(
            wrong.is_empty(),
            "{} of {} differ:\n{}",
            wrong.len(),
            golden.rows.len(),
            wrong[..wrong.len().min(40)].join("\n")
        );
    }

    #[test]
    fn hostile_paths_and_values_end_in_an_error_and_not_in_an_abort() {
        let deep = format!("{}1{}", "[".repeat(120), "]".repeat(120));
        assert!(get(&deep, &"0.".repeat(119)).is_err());
        let wide = format!("[{}]", vec!["[1,2,3]"; 20_000].join(","));
        for path in [
            "@dig:@dig:@dig:@dig:#",
            "#.#.#.@tostr.@tostr.@tostr.@tostr",
            &"[".repeat(2000),
            &"{@this,".repeat(500),
            &"#(".repeat(2000),
            &"@reverse.".repeat(400),
        ] {
            let _ = get(&wide, path);
        }
        assert!(get("{}", &"a".repeat(5000)).is_err());
        assert!(get("{\"a\":1}", "@pretty").unwrap_err().contains("@pretty"));
        let stars = "*a".repeat(200);
        let long = format!("{{\"{}\":1}}", "a".repeat(5000));
        let _ = get(&long, &stars);
    }

    proptest::proptest! {
        #[test]
        fn no_path_panics(path in "[a-c0-2#@!|.()\\[\\]{}\"=<>%~*?:, \\\\é]{0,24}", doc in 0usize..4) {
            let docs = [r#"{"a":{"b":[1,{"c":"x"}]},"é":null}"#, r#"[1,"2",[3],{"a":4}]"#, r#""text é""#, "12.50"];
            let _ = get(docs[doc], &path);
        }

        #[test]
        fn modifiers_do_not_panic(path in "(@(keys|values|tostr|fromstr|flatten|join|reverse|group|dig|ugly|this|valid)(:[a-z{}\":#.()]{0,8})?[|.]?){1,4}", doc in 0usize..4) {
            let docs = [r#"{"a":{"b":[1,{"c":"x"}]},"é":null}"#, r#"[1,"2",[3],{"a":4}]"#, r#""text é""#, "12.50"];
            let _ = get(docs[doc], &path);
        }
    }
}
