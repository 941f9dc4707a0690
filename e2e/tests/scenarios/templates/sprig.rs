//! Random calls of Sprig's functions: what they take is asked of Go, what it is taken from is here.

use super::generate::Dice;

/// A function with the Go types of its parameters; the last may be `...T`.
pub struct Signature {
    pub name: String,
    params: Vec<String>,
}

/// Reads `name func(a, b...) c`.
pub fn signature(line: &str) -> Signature {
    let (name, rest) = line.split_once(" func(").unwrap();
    let (mut depth, mut current, mut params) = (0, String::new(), Vec::new());
    for sign in rest.chars() {
        match sign {
            ')' if depth == 0 => break,
            ',' if depth == 0 => params.push(std::mem::take(&mut current)),
            _ => {
                depth += i32::from("([{".contains(sign)) - i32::from(")]}".contains(sign));
                current.push(sign);
            }
        }
    }
    params.push(current);
    let params = params.iter().map(|param| param.trim().to_owned()).filter(|param| !param.is_empty()).collect();
    Signature { name: name.to_owned(), params }
}

const STRINGS: &[&str] = &[
    r#""""#,
    r#""a""#,
    r#""abc""#,
    r#""Hello World""#,
    r#""hello_world-foo""#,
    r#""fooBarBaz""#,
    r#""HTTPServer2Go""#,
    r#""12""#,
    r#""-3.50""#,
    r#""0x1F""#,
    r#""1e3""#,
    r#""true""#,
    r#"" a  b ""#,
    "\"gr\u{f6}\u{df}e \u{c4}\u{d6}\"",
    r#""a,b,c""#,
    r#""a.b.c""#,
    r#""$1-$2""#,
    r#""(a)(b)?""#,
    r#""[a-c]+""#,
    r#""\\d+""#,
    "\"\u{65e5}\u{672c}\u{8a9e}\"",
    r#""a\nb\n""#,
    r#""{\"a\":[1,2.5,null],\"b\":{\"c\":\"d\"}}""#,
    r#""a: 1\nb:\n- x\n- k: z\n""#,
    r#""YWJj""#,
    r#""YWJ""#,
    r#""MFRGG===""#,
    r#""2006-01-02""#,
    r#""2021-03-04""#,
    r#""1h30m""#,
    r#""1.2.3""#,
    r#""^1.2""#,
    r#""~1.x || >= 2""#,
    r#""v2.0.0-rc.1+b""#,
    r#""http://u:p@h:80/p/a?q=1#f""#,
    r#""/a/../b/./c.txt""#,
    r#""x=y""#,
    "\"\u{df}\"",
    r#""title case words""#,
    r#""0""#,
    r#""010""#,
    r#""9223372036854775808""#,
    r#""UTC""#,
    r#""Europe/Berlin""#,
    r#""string""#,
    r#""int""#,
    r#""616263""#,
    r#""${1}x""#,
    r#""%d""#,
    r#""<a>&\"'""#,
    r#""1:30""#,
    r#""2001-01-01""#,
    r#""y""#,
    r##""# x""##,
    r#"" lead""#,
    r#""a: b""#,
    r#""null""#,
    r#""tRUE False""#,
    r#""snake_case_2go ABC_d""#,
    r#""a--b__c""#,
    "\"\u{1c6} \u{fb01}\"",
];
const INTS: &[&str] = &["0", "1", "2", "3", "5", "7", "10", "-1", "-3", "20", "100"];
const FLOATS: &[&str] = &["0.5", "1.0", "2.25", "-1.5", "1e21", "0.1", "3.14159", "1e-7", "107091442172969.62"];
const LISTS: &[&str] = &[
    "(list)",
    "(list 1 2 3)",
    r#"(list "b" "a" "c")"#,
    r#"(list 1 "a" nil 2.5)"#,
    r#"(list "" 0 nil "x")"#,
    r#"(list (list 1 2) (dict "a" 1))"#,
    r#"(splitList "," "a,b,c,d")"#,
    "(until 5)",
    ".l",
    r#"(list 1 1 "a" "a" 1.0)"#,
    "(rest (list))",
];
const DICTS: &[&str] = &[
    "(dict)",
    r#"(dict "a" 1 "b" "x")"#,
    r#"(dict "a" (dict "b" (dict "c" 1)) "l" (list 1 2))"#,
    ".m",
    r#"(dict "host" "h" "scheme" "https" "path" "/p q" "query" "a=b")"#,
    r#"(dict "a" "" "z" nil "n" 0)"#,
    r#"(fromJson "{\"x\":1,\"a\":{\"y\":[1]}}")"#,
    r#"(dict "a" (list 3) "b" (dict "q" true))"#,
];
const OTHERS: &[&str] = &[
    "true",
    "false",
    "nil",
    ".s",
    ".i",
    ".f",
    ".nil",
    ".",
    "(int64 5)",
    "(float64 1.5)",
    r#"(semver "1.2.3-beta")"#,
    r#"(split "," "a,b")"#,
    "'a'",
    "1i",
];
const TIMES: &[&str] = &[r#"(toDate "2006-01-02" "2021-03-04")"#, r#"(toDate "2006-01-02 15:04:05" "1999-12-31 23:59:59")"#];
const STAGES: &[&str] = &[
    "toJson",
    "toString",
    "quote",
    "typeOf",
    "kindOf",
    "len",
    "toPrettyJson",
    "toYaml",
    r#"printf "%v""#,
    "upper",
    r#"join "-""#,
    "sortAlpha",
    "b64enc",
    r#"default "d""#,
    "empty",
    "toRawJson",
    r#"printf "%s""#,
    r#"printf "%+v""#,
    r#"printf "%q""#,
];

fn argument(dice: &mut Dice, of: &str, known: &[Signature], depth: usize) -> String {
    if depth > 0 && dice.percent(25) {
        return format!("({})", call(dice, known, depth - 1));
    }
    let of = if dice.percent(4) { "interface {}" } else { of };
    let pools: &[&[&str]] = match of {
        "string" => &[STRINGS],
        "int" | "uint32" => &[INTS],
        "float64" => &[FLOATS, INTS],
        "bool" => &[&["true", "false"]],
        "time.Time" => &[TIMES],
        "map[string]interface {}" => &[DICTS],
        "[]interface {}" => &[LISTS],
        "sprig.certificate" => &[&["nil"]],
        _ => &[STRINGS, INTS, FLOATS, LISTS, LISTS, DICTS, OTHERS, TIMES],
    };
    let pool = dice.one(pools);
    dice.one(pool).to_owned()
}

fn call(dice: &mut Dice, known: &[Signature], depth: usize) -> String {
    let function = &known[dice.below(known.len())];
    let mut words = vec![function.name.clone()];
    for param in &function.params {
        match param.strip_prefix("...") {
            Some(of) => {
                for _ in 0..dice.one(&[0, 1, 1, 2, 3]) {
                    words.push(argument(dice, of, known, depth));
                }
            }
            None => words.push(argument(dice, param, known, depth)),
        }
    }
    if dice.percent(2) {
        words.pop();
    }
    words.join(" ")
}

/// A call of any function with what it takes, mostly.
pub fn any(dice: &mut Dice, known: &[Signature]) -> String {
    let depth = dice.one(&[0, 0, 1, 2]);
    let call = call(dice, known, depth);
    let stage = if dice.percent(30) { format!(" | {}", dice.one(STAGES)) } else { String::new() };
    format!("{{{{ {call}{stage} }}}}")
}
