//! Random templates: mostly sound, with types that do not fit, and now and then a sign too many.

/// A sequence of numbers that a seed decides (SplitMix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.roll() % end as u64) as usize
    }

    pub fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// True in so many of a hundred.
    pub fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }
}

const NUMBERS: &[&str] = &[
    "0",
    "1",
    "-1",
    "3",
    "10",
    "2.5",
    "-0.0",
    "1e3",
    "1e6",
    "1e21",
    "1e-7",
    "0x1F",
    "-0x1e",
    "0b11",
    "0o17",
    "017",
    "1_000",
    "'a'",
    r"'\n'",
    "1i",
    "2+3i",
    "123456789",
    "1.0",
    "100000",
    "99999999.5",
    "0x1p-2",
    "0x1.8p3",
    "1_0.5",
    "9223372036854775807",
    "18446744073709551615",
    "1e400",
    "08",
    "1__0",
    "0.1e-3",
];
const STRINGS: &[&str] = &[
    r#""x""#,
    r#""a b""#,
    "`raw`",
    "\"\u{fc}\"",
    r#""\x41\n""#,
    r#""""#,
    r#""%d""#,
    r#""<&\"'>""#,
    r#""\u00e4""#,
    r#""k""#,
    r#""\xff""#,
];
const FIELDS: &[&str] = &[
    ".user",
    ".n",
    ".m.k",
    ".m.deep.x",
    ".l",
    ".nope",
    ".m.nope",
    ".m.nil",
    ".nil",
    ".i",
    ".f",
    ".s",
    ".t",
    "$.m",
    "$.user",
    ".m",
    ".e",
    ".neg",
    ".big",
    ".",
    ".uni",
    ".em",
    ".z",
    ".m.deep",
    ".nil.x",
    ".m.nil.x",
    ".nope.x",
];
const VERBS: &[&str] = &[
    "%v",
    "%d",
    "%s",
    "%q",
    "%x",
    "%X",
    "%5d",
    "%-5d|",
    "%05d",
    "%+d",
    "%t",
    "%T",
    "%#v",
    "%+v",
    "%e",
    "%f",
    "%.2f",
    "%8.3f",
    "%g",
    "%G",
    "%c",
    "%U",
    "%#U",
    "%b",
    "%o",
    "%#o",
    "%O",
    "%#x",
    "% x",
    "%6.2s|",
    "%-8s|",
    "%08.3f",
    "%+.1e",
    "%[2]v",
    "%[1]v %[1]T",
    "%*d",
    "%.*f",
    "%%",
    "%z",
    "%!",
    "%",
    "%5t",
    "%#q",
    "%+q",
    "%.3x",
    "% #x",
    "%5%",
    "%.0f",
    "%#g",
    "%6.3g",
    "%[3]d",
    "%[x]d",
    "%.[2]*[1]f",
    "%w",
    "%5c|",
    "%-5q|",
    "%.1q",
    "%20v|",
    "%-20v|",
    "%020d",
    "%.5d",
    "%+5d",
    "% d",
    "%#.3f",
    "%.10g",
    "%#b",
    "%x %X",
    "%.0d",
    "%6U",
    "%#.2e",
    "%-010d|",
    "%+s",
    "%\u{e9}",
    "%08q",
    "%1000d",
];
const FUNCTIONS: &[&str] = &[
    "and", "or", "not", "len", "index", "slice", "html", "js", "urlquery", "print", "println", "printf", "printf", "printf",
    "eq", "ne", "lt", "le", "gt", "ge", "call",
];
const STAGES: &[&str] = &[
    "len",
    "not",
    "html",
    "js",
    "urlquery",
    "print",
    "println",
    r#"printf "%v""#,
    r#"printf "%s""#,
    r#"printf "%q""#,
    "index .m",
    "eq 1",
    "print 1",
    "and 1",
    "or 0",
    "lt 2",
    ".m",
    r#"printf "%T""#,
    "slice",
    "1",
    "index",
    "(len)",
    "$x",
    "not | not",
];

fn expression(dice: &mut Dice, depth: usize) -> String {
    if depth == 0 || dice.percent(45) {
        return match dice.below(6) {
            0 => dice.one(NUMBERS),
            1 => dice.one(STRINGS),
            2 => dice.one(&["true", "false", "nil"]),
            3 => dice.one(&["$x", "$y", "$"]),
            _ => dice.one(FIELDS),
        }
        .to_owned();
    }
    let fields = if dice.percent(15) { dice.one(&[".k", ".deep.x"]) } else { "" };
    format!("({}){fields}", pipeline(dice, depth - 1))
}

fn call(dice: &mut Dice, depth: usize) -> String {
    let function = dice.one(FUNCTIONS);
    let mut count = match function {
        "not" | "len" | "call" => 1,
        "ne" | "lt" | "le" | "gt" | "ge" => 2,
        "eq" | "index" => dice.one(&[1, 2, 2, 3]),
        "slice" => 1 + dice.below(4),
        _ => dice.one(&[0, 1, 1, 2, 2, 3]),
    };
    if dice.percent(4) {
        count = dice.below(5);
    }
    let mut words = vec![function.to_owned()];
    if function == "printf" {
        let verbs: String = (0..dice.one(&[1, 1, 1, 2])).map(|_| dice.one(VERBS)).collect();
        words.push(format!("\"{verbs}\""));
        count = dice.one(&[1, 1, 2, 3]);
    }
    words.extend((0..count).map(|_| expression(dice, depth.saturating_sub(1))));
    words.join(" ")
}

fn pipeline(dice: &mut Dice, depth: usize) -> String {
    let first = if dice.percent(50) { call(dice, depth) } else { expression(dice, depth) };
    let mut stages = vec![first];
    stages.extend((0..dice.one(&[0, 0, 0, 1, 1, 2])).map(|_| dice.one(STAGES).to_owned()));
    stages.join(" | ")
}

fn action(dice: &mut Dice, inside: &str) -> String {
    let left = dice.one(&["{{", "{{", "{{", "{{- ", "{{ "]);
    let right = dice.one(&["}}", "}}", "}}", " -}}", " }}"]);
    format!("{left}{inside}{right}")
}

fn control(dice: &mut Dice, keyword: &str, depth: usize, in_range: bool) -> String {
    let sets = dice.one(&["", "", "$x := ", "$y := "]);
    let pipe = pipeline(dice, 1);
    let mut text = action(dice, &format!("{keyword} {sets}{pipe}")) + &body(dice, depth, in_range);
    if dice.percent(25) {
        let pipe = pipeline(dice, 1);
        text += &action(dice, &format!("else {keyword} {pipe}"));
        text += &body(dice, depth, in_range);
    }
    if dice.percent(45) {
        text += &(action(dice, "else") + &body(dice, depth, in_range));
    }
    text + &action(dice, "end")
}

fn range(dice: &mut Dice, depth: usize, in_range: bool) -> String {
    let sets = dice.one(&["", "", "$i, $x := ", "$x := ", "$x, $y = ", "$x = ", "$i, $e := "]);
    let over = match dice.below(8) {
        0 => pipeline(dice, 1),
        _ => dice.one(&[".l", ".m", "3", ".e", ".em", ".i", ".nil", "."]).to_owned(),
    };
    let mut text = action(dice, &format!("range {sets}{over}")) + &body(dice, depth, true);
    if dice.percent(30) {
        text += &(action(dice, "else") + &body(dice, depth, in_range));
    }
    text + &action(dice, "end")
}

fn node(dice: &mut Dice, depth: usize, in_range: bool) -> String {
    if depth == 0 {
        let pipe = pipeline(dice, 1);
        return action(dice, &pipe);
    }
    match dice.below(100) {
        0..30 => dice.one(&[" text ", "\n", "x", " \t", "", "{", "}} "]).to_owned(),
        30..60 => {
            let pipe = pipeline(dice, 2);
            action(dice, &pipe)
        }
        60..66 => {
            let (sets, pipe) = (dice.one(&["$x := ", "$y := ", "$x = ", "$y = ", "$z := "]), pipeline(dice, 1));
            action(dice, &format!("{sets}{pipe}"))
        }
        66..76 => control(dice, "if", depth - 1, in_range),
        76..84 => control(dice, "with", depth - 1, in_range),
        84..94 => range(dice, depth - 1, in_range),
        94..96 if in_range => {
            let keyword = dice.one(&["break", "continue"]);
            action(dice, keyword)
        }
        96..98 => {
            let (name, data) = (dice.one(&["d", "e", "f"]), dice.one(&["", ".", "$x", ".m"]));
            action(dice, &format!("template \"{name}\" {data}"))
        }
        98 => action(dice, "block \"f\" .") + &body(dice, depth - 1, false) + "{{end}}",
        _ => dice.one(&["{{/* c */}}", "{{- /* c */ -}}", "{{/* c"]).to_owned(),
    }
}

fn body(dice: &mut Dice, depth: usize, in_range: bool) -> String {
    (0..dice.below(4)).map(|_| node(dice, depth, in_range)).collect()
}

/// A template.
pub fn template(dice: &mut Dice) -> String {
    let mut text = r#"{{$x := 1}}{{$y := "y"}}"#.to_owned();
    for _ in 0..=dice.below(3) {
        text += &node(dice, 3, false);
    }
    if text.contains("range") {
        // Go would count to the end.
        for (large, small) in
            [("9223372036854775807", "922"), ("18446744073709551615", "184"), ("123456789", "1234"), ("100000", "100")]
        {
            text = text.replace(large, small);
        }
    }
    if dice.percent(40) {
        text = format!(r#"{{{{define "d"}}}}[{{{{.}}}}]{{{{end}}}}{{{{define "e"}}}}{{{{template "d" .}}}}{{{{end}}}}{text}"#);
    }
    if dice.percent(5) {
        let signs: Vec<char> = text.chars().collect();
        let at = dice.below(signs.len());
        let (added, skipped) = (dice.one(&["{{", "}}", " ", "|", "(", ")", "\"", "$", ".", " -}}", ",", ":="]), dice.below(3));
        text =
            signs[..at].iter().collect::<String>() + added + &signs[(at + skipped).min(signs.len())..].iter().collect::<String>();
    }
    text
}
