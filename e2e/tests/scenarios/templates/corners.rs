//! Random calls that bring the corners of single functions out: regexps, YAML and JSON, URLs, versions, dates, numbers, words.

use super::generate::Dice;

fn some(dice: &mut Dice, of: &[&str], least: usize, most: usize) -> String {
    (0..least + dice.below(most - least + 1)).map(|_| dice.one(of)).collect()
}

/// Go's literal of a text.
fn literal(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

fn regexp(dice: &mut Dice) -> String {
    const PARTS: &[&str] = &[
        "a",
        "b",
        "c",
        ".",
        r"\d",
        r"\w",
        r"\s",
        r"\W",
        "[a-c]",
        "[^b]",
        "[[:alpha:]]",
        "(",
        "(?:",
        ")",
        "|",
        "*",
        "+",
        "?",
        "*?",
        "+?",
        "{2}",
        "{1,3}",
        "{,2}",
        "{2,",
        "^",
        "$",
        r"\b",
        r"\B",
        "(?i)",
        "(?i:",
        "(?P<n>",
        "x",
        r"\.",
        r"\pL",
        r"[\d-]",
        "[a-]",
        "[]a]",
        r"\Q.",
        r"\E",
        r"\z",
        r"\A",
        "(?s)",
        "(?m)",
        "\u{e9}",
        "[\u{e9}-\u{fc}]",
        r"\x41",
        r"\101",
        r"[^\w]",
        "-",
        "{",
        "}",
        r"\-",
        "/",
        "[&&]",
        "[a&&b]",
        r"\pN",
        r"\p{Lu}",
        "\n",
        "(?-s)",
        r"\a",
        r"\1",
        r"[\]]",
        "\u{17f}",
        "K",
    ];
    const TEXTS: &[&str] = &[
        "a", "b", "c", "A", "B", "1", "2", " ", "-", "\u{e9}", "_", ".", "\n", "x", "aa", "ab", "&", "\u{212a}", "\u{17f}", "k",
        "s", "[", "]", "/",
    ];
    const WITH: &[&str] = &["$1", "<$0>", "${1}x", "$n", "-", "$$", "$1x", "${n}y", "$", "${", "$2"];
    let (pattern, text) = (literal(&some(dice, PARTS, 1, 6)), literal(&some(dice, TEXTS, 0, 10)));
    let function = dice.one(&[
        "regexMatch",
        "mustRegexMatch",
        "mustRegexFind",
        "mustRegexFindAll",
        "mustRegexReplaceAll",
        "mustRegexReplaceAllLiteral",
        "mustRegexSplit",
    ]);
    match function {
        "mustRegexReplaceAll" | "mustRegexReplaceAllLiteral" => {
            format!("{function} {pattern} {text} {} | quote", literal(dice.one(WITH)))
        }
        "mustRegexFindAll" | "mustRegexSplit" => {
            format!("{function} {pattern} {text} {} | toJson", dice.one(&["-1", "0", "1", "2", "3"]))
        }
        _ => format!("{function} {pattern} {text} | quote"),
    }
}

fn yaml_text(dice: &mut Dice) -> String {
    const PARTS: &[&str] = &[
        "a",
        "b",
        " ",
        "  ",
        ": ",
        ":",
        "#",
        " #",
        "-",
        "- ",
        "?",
        "[",
        "]",
        "{",
        "}",
        ",",
        "&",
        "*",
        "!",
        "|",
        ">",
        "'",
        "\"",
        "%",
        "@",
        "`",
        "1",
        "0",
        ".",
        "e",
        "+",
        "_",
        "true",
        "no",
        "null",
        "~",
        "\n",
        "\n\n",
        " \n",
        "\t",
        "\u{e9}",
        "\u{a0}",
        "\u{1f600}",
        "\\",
        "word",
        "longer words here ",
        "0x",
        "2001-01-01",
        "=",
        "<<",
        ".inf",
        "---",
        "...",
        "\r",
        "\u{7}",
        "y",
        "n",
        "T",
        "on",
    ];
    let most = dice.one(&[1, 1, 2, 2, 3, 4, 6, 40]);
    some(dice, PARTS, 1, most)
}

fn json(dice: &mut Dice, depth: usize) -> serde_json::Value {
    use serde_json::{Value, json};
    match dice.below(if depth == 0 { 5 } else { 9 }) {
        0..3 => Value::from(yaml_text(dice)),
        3 => dice.one(&[0_f64, -5.0, 12.0, 2.5, 1e21, 1e-9, 123_456.789, 4_439_438_962_780.65, 9e18, 1e19, 1e20]).into(),
        4 => [json!(true), json!(null), json!([]), json!({})][dice.below(4)].clone(),
        5 | 6 => (0..dice.below(4)).map(|_| json(dice, depth - 1)).collect(),
        _ => {
            let fields = (0..dice.below(5)).map(|_| {
                let key =
                    if dice.percent(30) { yaml_text(dice) } else { format!("{}{}", dice.one(&["k", "a.", "0"]), dice.below(20)) };
                (key, json(dice, depth - 1))
            });
            Value::Object(fields.collect())
        }
    }
}

fn url(dice: &mut Dice) -> String {
    const PARTS: &[&str] = &[
        "http",
        "https",
        "://",
        "//",
        "/",
        ":",
        "@",
        "?",
        "#",
        "a",
        "b.c",
        "%20",
        "%zz",
        "%2F",
        "[::1]",
        "[fe80::1%25en0]",
        "8080",
        "user",
        "pw",
        "=",
        "&",
        "+",
        " ",
        "\u{e9}",
        ";",
        "*",
        "..",
        ".",
        "mailto:",
        "%",
        "\"",
        "<",
        "~",
        "!",
        "'",
        "(",
        ",",
        "$",
    ];
    let start = dice.one(&["", "", "http://", "https://u:p@", "//", "/", "ftp://h:1/"]);
    let url = literal(&format!("{start}{}", some(dice, PARTS, 1, 9)));
    if dice.percent(50) { format!("urlParse {url} | toJson") } else { format!("urlJoin (urlParse {url})") }
}

fn version(dice: &mut Dice) -> String {
    let count = dice.one(&[1, 2, 3, 3]);
    let parts: Vec<&str> = (0..count)
        .map(|_| if dice.percent(15) { dice.one(&["01", "x", "*"]) } else { dice.one(&["0", "1", "2", "3", "10"]) })
        .collect();
    let pre =
        if dice.percent(30) { dice.one(&["-alpha", "-beta.2", "-rc.1", "-0", "-01", "-alpha.beta", "-1-2", "--"]) } else { "" };
    let metadata = if dice.percent(10) { dice.one(&["+b", "+1.2", "+x-y"]) } else { "" };
    format!("{}{}{pre}{metadata}", dice.one(&["", "", "v"]), parts.join("."))
}

fn semver(dice: &mut Dice) -> String {
    let constraints = (0..dice.one(&[1, 1, 1, 2, 3])).map(|_| {
        let operator = dice.one(&["", "=", "!=", ">", "<", ">=", "<=", "~", "^", "~>", "=>", "=<", "> ", "~ "]);
        let version =
            if dice.percent(80) { version(dice) } else { dice.one(&["1.x", "1.2.x", "*", "x", "2.*", "1", "1.2"]).to_owned() };
        format!("{operator}{version}")
    });
    let constraints: Vec<String> = constraints.collect();
    let joined = constraints.join(dice.one(&[", ", " ", ",", " || "]));
    let constraint = if dice.percent(10) { format!("{} - {}", version(dice), version(dice)) } else { joined };
    let (one, other) = (literal(&version(dice)), literal(&version(dice)));
    match dice.below(4) {
        0 | 1 => format!("semverCompare {} {one}", literal(&constraint)),
        2 => format!(
            "(semver {one}).{}",
            dice.one(&["Major", "Minor", "Patch", "Prerelease", "Metadata", "Original", "IncPatch", "IncMinor", "IncMajor"])
        ),
        _ => format!("(semver {one}).Compare (semver {other})"),
    }
}

fn date(dice: &mut Dice) -> String {
    const LAYOUTS: &[&str] = &[
        "2006-01-02",
        "2006-01-02T15:04:05Z07:00",
        "Mon Jan _2 15:04:05 2006",
        "02 Jan 06 15:04 MST",
        "2006-01-02 15:04:05.999999999 -0700 MST",
        "Monday, 02-Jan-06 3:04PM",
        "2006 002",
        "15:04:05.000",
        "Jan 2, 2006 at 3:04pm (MST)",
        "1/2/06",
        "__2 2006",
        "2006-01-02 03:04:05 pm",
        "January 2",
        "Z0700 -07",
        "15h04m",
        "05,000",
        "2006.01",
        "_2006",
        "20060102150405",
        "-07:00:00",
        "Z070000",
    ];
    const DATES: &[&str] = &[
        "2021-03-04",
        "2021-03-04T05:06:07Z",
        "2021-03-04T05:06:07.123+02:00",
        "Thu Mar  4 05:06:07 2021",
        "04 Mar 21 05:06 CET",
        "2021-03-04 05:06:07.1 +0100 CET",
        "Thursday, 04-Mar-21 5:06AM",
        "2021 063",
        "05:06:07.123",
        "Mar 4, 2021 at 5:06pm (PST)",
        "3/4/21",
        " 63 2021",
        "2021-02-30",
        "2020-02-29",
        "1969-12-31",
        "0001-01-01",
        "9999-12-31",
        "2021-03-04 12:00:00 am",
        "GMT+3",
        "-03:30:15",
    ];
    const ZONES: &[&str] =
        &["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Nope", "", "Local", "Australia/Lord_Howe"];
    let layout = dice.below(DATES.len());
    // Half of them fit.
    let text = if dice.percent(50) { layout } else { dice.below(DATES.len()) };
    let (from, text) = (literal(LAYOUTS[layout.min(LAYOUTS.len() - 1)]), literal(DATES[text]));
    let time = format!("(toDate {from} {text})");
    match dice.below(9) {
        0..3 => format!("{time}.String"),
        3 | 4 => format!("(mustToDate {from} {text}).Format {}", literal(dice.one(LAYOUTS))),
        5 | 6 => {
            let seconds = (dice.below(200_000_000_000) as i64 - 100_000_000_000).to_string();
            let time = if dice.percent(50) { seconds } else { time };
            let layout = format!(
                "{}{}",
                dice.one(LAYOUTS),
                dice.one(&["", " x", "Jan", "MST", ".00", "Z07:00", "01", "_2", "06", "PM", "15", "002"])
            );
            format!("dateInZone {} {time} {}", literal(&layout), literal(dice.one(ZONES)))
        }
        7 => {
            let function = dice.one(&["dateModify", "mustDateModify"]);
            format!(
                "({function} {} {time}).String",
                literal(dice.one(&["1h", "-1.5h", "90m", "1x", "", "24h30m", "1ns", ".5s", "1us", "-"]))
            )
        }
        _ => {
            let function = dice.one(&["duration", "durationRound"]);
            format!(
                "{function} {}",
                dice.one(&[
                    r#""3600""#,
                    r#""95""#,
                    "(int64 3661)",
                    r#""2h""#,
                    r#""50h""#,
                    r#""1000h""#,
                    r#""-1m""#,
                    r#""1.5s""#,
                    "5",
                    r#""x""#
                ])
            )
        }
    }
}

fn numbers(dice: &mut Dice) -> String {
    let number = |dice: &mut Dice| match dice.below(8) {
        0 => (dice.below(200) as i64 - 100).to_string(),
        1 => (dice.below(usize::MAX) as i64).to_string(),
        2 => format!("{:.3}", dice.below(1_000_000) as f64 / 999.0),
        3 => format!("{:?}", (dice.below(1_000_000) as f64 / 7.0)),
        _ => dice
            .one(&[
                r#""1e3""#,
                r#""x""#,
                "1.5e300",
                r#""0x1f""#,
                r#""1_0""#,
                r#"(float64 "NaN")"#,
                r#"(float64 "-inf")"#,
                r#""010""#,
                "true",
                "nil",
                r#""1.0""#,
                r#""5.00""#,
                r#""-7""#,
            ])
            .to_owned(),
    };
    let function = dice.one(&[
        "add",
        "sub",
        "mul",
        "div",
        "mod",
        "max",
        "min",
        "maxf",
        "minf",
        "addf",
        "subf",
        "mulf",
        "divf",
        "floor",
        "ceil",
        "round",
        "int",
        "int64",
        "float64",
        "add1",
        "add1f",
        "toDecimal",
        "atoi",
        "seq",
        "untilStep",
    ]);
    let below = |dice: &mut Dice, least: i64, most: usize| (dice.below(most) as i64 + least).to_string();
    match function {
        "round" => format!("round {} {} {}", number(dice), below(dice, -5, 30), dice.one(&["", "0.3", "0.9"])),
        "seq" => (0..dice.below(5)).fold("seq".to_owned(), |words, _| words + " " + &below(dice, -6, 15)),
        "untilStep" => format!("untilStep {} {} {}", below(dice, -9, 18), below(dice, -20, 40), below(dice, -4, 8)),
        "atoi" => format!(
            "atoi {}",
            dice.one(&[r#""1""#, r#""-2""#, r#""+3""#, r#""x""#, r#""99999999999999999999""#, r#""1_0""#, r#""""#])
        ),
        _ => {
            let count = match function {
                "sub" | "div" | "mod" => 2,
                "floor" | "ceil" | "int" | "int64" | "float64" | "add1" | "add1f" | "toDecimal" => 1,
                _ => 1 + dice.below(4),
            };
            (0..count).fold(function.to_owned(), |words, _| words + " " + &number(dice))
        }
    }
}

fn words(dice: &mut Dice) -> String {
    const PARTS: &[&str] = &[
        "foo", "Bar", "BAZ", "HTTP", "x", "1", "23", "_", "-", " ", "  ", "\u{e9}", "\u{c9}a", ".", "!", "\u{65e5}", "2go", "aB",
        "\t", "\u{1c6}", "\u{df}", "\u{130}", "\u{149}", "\u{1fb3}", "\u{fb01}", "\u{345}", "\u{1c4}", "\u{1fbc}", "a\u{301}",
        "1st", "4K", "\n", "\"", "\u{663}",
    ];
    let text = literal(&some(dice, PARTS, 0, 6));
    let function = dice.one(&[
        "camelcase",
        "snakecase",
        "kebabcase",
        "title",
        "untitle",
        "swapcase",
        "upper",
        "lower",
        "initials",
        "nospace",
        "trim",
        "wrap 5",
        r#"wrapWith 4 "|""#,
        "abbrev 7",
        "abbrevboth 5 10",
        "abbrevboth 2 9",
        "trunc 4",
        "trunc -3",
        "substr 1 4",
        "indent 2",
        "nindent 1",
        r#"replace "" "-""#,
        r#"replace "a" "bb""#,
        r#"trimAll " -x""#,
        r#"splitList """#,
        r#"splitn "" 3"#,
        r#"splitn "a" 2"#,
        "quote",
        "squote",
        "b64enc",
        "b32enc",
        "sha256sum",
        "adler32sum",
        r#"printf "%q""#,
        "regexQuoteMeta",
        "repeat 2",
        "hexdec",
        "b64dec",
        "b32dec",
    ]);
    format!("{function} {text} | toJson")
}

fn merged(dice: &mut Dice) -> String {
    fn value(dice: &mut Dice, depth: usize) -> String {
        if depth == 0 || dice.percent(30) {
            return dice
                .one(&["1", r#""""#, r#""x""#, "nil", "0", "(list)", "(list 1)", "(list 2 3)", "false", "true", "(dict)"])
                .to_owned();
        }
        map(dice, depth - 1)
    }
    fn map(dice: &mut Dice, depth: usize) -> String {
        let fields: String =
            (0..dice.below(4)).map(|_| format!(" \"{}\" {}", dice.one(&["a", "b", "c"]), value(dice, depth))).collect();
        format!("(dict{fields})")
    }
    let function = dice.one(&["merge", "mergeOverwrite", "mustMerge", "mustMergeOverwrite"]);
    let maps: String = (0..=dice.below(3)).map(|_| format!(" {}", map(dice, 2))).collect();
    format!("{function}{maps} | toJson")
}

fn encoded(dice: &mut Dice) -> String {
    let text = literal(&some(
        dice,
        &["A", "B", "C", "a", "b", "c", "0", "1", "9", "+", "/", "=", "\n", "\r\n", "==", "-", "\u{e9}"],
        0,
        12,
    ));
    format!("{} {text} | quote", dice.one(&["b64dec", "b32dec", "hexdec"]))
}

fn path(dice: &mut Dice) -> String {
    let text = literal(&some(dice, &["/", "//", ".", "..", "a", "b.c", ".d", "\u{e9}", "/..", "./"], 0, 7));
    format!("{} {text} | quote", dice.one(&["base", "dir", "clean", "ext", "isAbs", "osBase", "osDir"]))
}

/// A call with what brings its corners out.
pub fn special(dice: &mut Dice) -> String {
    let call = match dice.below(11) {
        0 | 1 => regexp(dice),
        2 => format!("toYaml (fromJson {})", literal(&json(dice, 3).to_string())),
        3 => format!("{} (fromJson {})", dice.one(&["toJson", "toPrettyJson", "toRawJson"]), literal(&json(dice, 3).to_string())),
        4 => url(dice),
        5 => semver(dice),
        6 => date(dice),
        7 => numbers(dice),
        8 => words(dice),
        9 => merged(dice),
        _ => {
            if dice.percent(50) {
                encoded(dice)
            } else {
                path(dice)
            }
        }
    };
    format!("{{{{ {call} }}}}")
}
