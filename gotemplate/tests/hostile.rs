//! Templates that would take all there is end in an error that says where, in the stack of an ordinary thread.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "tests fail by panicking")]

use gotemplate::{Error, Limits, List, Map, Options, Template, Type, Value};

fn render(source: &str, data: &Value) -> Result<Vec<u8>, Error> {
    Template::parse("t", source, &Options::default())?.render(data).map(|output| output.to_vec())
}

fn failure(source: &str) -> String {
    render(source, &Value::map_of_text([("secret", "CANARY")])).expect_err("an error").to_string()
}

#[test]
fn recursion_without_end_is_an_error() {
    let error = failure(
        r#"{{ define "r" }}{{ if true }}{{ with . }}{{ template "r" . }}{{ end }}{{ end }}{{ end }}{{ template "r" . }}"#,
    );
    assert!(error.contains("runs deeper than 200 levels"), "{error}");
    let error =
        failure(r#"{{ define "a" }}{{ template "b" }}{{ end }}{{ define "b" }}{{ template "a" }}{{ end }}{{ template "a" }}"#);
    assert!(error.contains("at <") && error.contains("deeper"), "{error}");
}

#[test]
fn nesting_in_the_text_is_bounded() {
    let parens = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(failure(&parens).contains("nested deeper than 100 levels"));
    assert!(failure(&"{{ if true }}".repeat(100_000)).contains("nested deeper than 100 levels"));
    assert!(failure(&r#"{{ block "b" . }}"#.repeat(100_000)).contains("nested deeper"));
    // As deep as it may be, it runs.
    let deep = format!("{}x{}", "{{ if true }}".repeat(98), "{{ end }}".repeat(98));
    assert_eq!(render(&deep, &Value::Nil).unwrap(), b"x");
    let parens = format!("{{{{ {}1{} }}}}", "(".repeat(99), ")".repeat(99));
    assert_eq!(render(&parens, &Value::Nil).unwrap(), b"1");
}

#[test]
fn many_branches_are_not_deep() {
    let source = format!("{{{{ if false }}}}a{}{{{{ else }}}}z{{{{ end }}}}", "{{ else if false }}b".repeat(5_000));
    assert_eq!(render(&source, &Value::Nil).unwrap(), b"z");
}

#[test]
fn loops_texts_and_output_are_bounded() {
    let error = failure("{{ range 1000000000000 }}{{ end }}");
    assert!(error.contains("more than 1000000 steps"), "{error}");
    let error = failure("{{ $x := `aaaaaaaa` }}{{ range 60 }}{{ $x = print $x $x }}{{ end }}");
    assert!(error.contains("longer than the 4194304 bytes"), "{error}");
    let error = failure("{{ range 999999 }}0123456789{{ end }}");
    assert!(error.contains("the output is longer than 4194304 bytes"), "{error}");
    assert!(failure(r#"{{ range 1000 }}{{ $x := printf "%900000d" 1 }}{{ end }}"#).contains("bytes on its way"));
    for verb in ["%.900000f", "%.900000e", "%.900000g", "%.900000x", "%#.900000g", "%0900000f"] {
        let source = format!(r#"{{{{ range 1000 }}}}{{{{ $x := printf "{verb}" 1.0 }}}}{{{{ end }}}}"#);
        assert!(failure(&source).contains("bytes on its way"), "{verb}");
    }
    assert!(failure(r#"{{ range 1000 }}{{ $x := printf "%.900000U" 65 }}{{ end }}"#).contains("bytes on its way"));
}

#[test]
fn deep_values_are_dropped_and_not_printed_without_end() {
    let mut value = Value::List(List::new(Vec::new(), Type::Any));
    for _ in 0..200_000 {
        value = Value::List(List::new(vec![value], Type::Any));
    }
    let error = render("{{ . }}", &value).expect_err("too deep").to_string();
    assert!(error.contains("nested deeper than 100 levels"), "{error}");
    drop(value);
}

#[test]
fn no_error_holds_a_value() {
    let map = Map::new([("secret".into(), Value::from("CANARY")), ("n".into(), Value::int(4711))].into(), Type::Any);
    let data = Value::Map(map);
    for source in [
        "{{ .secret.x }}",
        "{{ index .secret 100 }}",
        "{{ index . .n }}",
        "{{ eq .secret 1 }}",
        "{{ lt .secret .n }}",
        "{{ range .secret }}{{ end }}",
        "{{ len .n }}",
        "{{ slice .secret .n }}",
        "{{ printf .n }}",
        "{{ call .secret }}",
        "{{ .secret 1 }}",
        "{{ template .secret }}",
        "{{ eq . . }}",
    ] {
        let error = render(source, &data).expect_err(source);
        let text = format!("{error} {error:?}");
        assert!(!text.contains("CANARY") && !text.contains("4711"), "{source}: {text}");
    }
    assert!(!format!("{data:?}").contains("CANARY"));
}

#[test]
fn an_error_says_line_column_and_expression() {
    let error = render("line one\n  {{ .user | len | printf `%d` | lt 1 }}", &Value::map_of_text([("user", "app")])).unwrap_err();
    assert_eq!((error.line, error.column), (2, 34), "{error}");
    let error = render("a\nb {{ index . `x` `y` }}", &Value::map_of_text([("x", "v")])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "template t line 2 column 6: at <index . `x` `y`>: error calling index: cannot index slice/array with type string"
    );
    let error = render("{{ if .x }}\nx", &Value::Nil).unwrap_err();
    assert_eq!(error.to_string(), "template t line 1 column 12: this is not ended: {{end}} is missing");
    let error = render("{{ upper .x }}", &Value::Nil).unwrap_err();
    assert_eq!(error.to_string(), "template t line 1 column 4: function \"upper\" not defined");
}

#[test]
fn limits_are_those_of_the_options() {
    let limits = Limits { output: 3, ..Limits::default() };
    let template = Template::parse("t", "{{ . }}", &Options { limits, ..Options::default() }).unwrap();
    assert_eq!(&*template.render(&Value::from("abc")).unwrap(), b"abc");
    assert!(template.render(&Value::from("abcd")).is_err());
}

/// Each would take minutes or gigabytes if it were let.
#[test]
fn what_sprig_is_abused_for_ends_in_an_error() {
    let options = Options { sprig: true, ..Options::default() };
    for source in [
        r#"{{ $a := repeat 1000000 "a" }}{{ $l := list $a $a $a $a $a $a $a $a $a $a }}{{ range 4 }}{{ $l = concat $l $l $l $l $l $l $l $l $l $l }}{{ end }}{{ join "" $l }}"#,
        r#"{{ $b := repeat 4000000 "a" }}{{ cat $b $b $b $b $b $b $b $b $b $b $b $b $b $b $b $b $b $b $b $b }}"#,
        r#"{{ regexReplaceAll "a+" (repeat 500000 "a") (repeat 1000000 "$0") }}"#,
        r#"{{ regexReplaceAll "a" (repeat 500000 "a") (repeat 1000000 "${9}") }}"#,
        r#"{{ regexFindAll ".*[^A-Z]|[A-Z]" (repeat 500000 "A") -1 }}"#,
        r#"{{ regexMatch (print "[" (repeat 6000000 "a") "]") "" }}"#,
        r#"{{ mustRegexMatch (print "[" (repeat 8000 "[:")) "" }}"#,
        r#"{{ $f := repeat 2000000 "%z" }}{{ range 1000 }}{{ $x := printf $f }}{{ end }}"#,
        r#"{{ printf (repeat 15000000 "%[") }}"#,
        r#"{{ $b := repeat 4000000 "2" }}{{ $d := dict }}{{ range $i := until 5000 }}{{ $_ := set $d (print $i) (now.Format $b) }}{{ end }}"#,
        r#"{{ $t := toDate "MST" (print "GMT+" (repeat 1000000 "0") "5") }}{{ $t.Format (repeat 1000000 "MST") }}{{ fail "x" }}"#,
        r#"{{ splitList "" (repeat 4000000 "a") }}"#,
        r#"{{ regexFindAll "" (repeat 500000 "a") -1 }}"#,
        r#"{{ replace "a" "" (repeat 4000000 "a") | snakecase }}{{ camelcase (repeat 4000000 "a") }}{{ camelcase (repeat 4000000 "a") }}"#,
        r#"{{ $b := repeat 4000000 "a" }}{{ range 300000 }}{{ $x := sha512sum $b }}{{ end }}"#,
        r#"{{ $b := repeat 4000000 "a" }}{{ range 300000 }}{{ $x := contains "b" $b }}{{ end }}"#,
        r#"{{ $a := repeat 4000000 "a" }}{{ $b := repeat 4000000 "a" }}{{ range 300000 }}{{ $x := eq $a $b }}{{ end }}"#,
        r#"{{ $d := dict }}{{ range $i := until 20000 }}{{ $_ := set $d (print $i) 1 }}{{ end }}{{ range 200000 }}{{ range $d }}{{ break }}{{ end }}{{ end }}"#,
        r#"{{ filterPEM "X" (repeat 20000 "-----BEGIN A:A-----
") }}"#,
        r#"{{ filterPEM "X" (repeat 200000 "-----BEGIN A-----
") }}"#,
        r#"{{ $k := genPrivateKey "ecdsa" }}{{ range 300000 }}{{ $c := genCAWithKey "x" 1 $k }}{{ end }}"#,
        r#"{{ genCAWithKey (repeat 1000000 "a") 1 (genPrivateKey "ecdsa") }}"#,
        r#"{{ genCAWithKey "x" -1000000 (genPrivateKey "ecdsa") }}"#,
        r#"{{ semverCompare (repeat 120000 "1 - 2 ") "1" }}"#,
        r#"{{ $t := now }}{{ range 3000 }}{{ $t = $t.AddDate 100000000 0 0 }}{{ end }}{{ fail "x" }}"#,
        r#"{{ abbrevboth -9223372036854775808 10 "aaaaaaaaaaaaaaa" }}{{ fail "x" }}"#,
        r#"{{ $d := dict }}{{ range $i := until 256 }}{{ $_ := set $d (printf "%02x" $i) 1 }}{{ $_ := set $d (printf "%03x" $i) 1 }}{{ end }}{{ toYaml $d }}{{ fail "x" }}"#,
        r#"{{ fromYaml (print "a: &a " (repeat 1000000 "x") "\nb: [" (repeat 60 "*a,") "]") | toJson }}{{ fail "x" }}"#,
        r#"{{ $x := toJson (repeat 4000000 "<") }}{{ $y := toJson (repeat 4000000 "<") }}{{ $z := toJson (repeat 4000000 "<") }}"#,
    ] {
        let rendered = Template::parse("t", source, &options).and_then(|template| template.render(&Value::Nil));
        let error = rendered.map(|_| ()).expect_err(source);
        assert!(error.message.len() < 300, "{error}");
    }
}

#[test]
fn what_is_wrong_with_a_pattern_or_an_index_of_the_data_is_not_repeated() {
    let options = Options { sprig: true, ..Options::default() };
    let data = Value::map_of_text([("password", "S3CR[ET"), ("pin", "4711")]);
    for source in [
        r#"{{ regexFind .password "x" }}"#,
        r#"{{ regexFind (print "(?P<" .password) "x" }}"#,
        r#"{{ index "" (int .pin) }}"#,
        r#"{{ slice (list 1) (int .pin) }}"#,
        r#"{{ indent (sub 0 .pin | int) "x" }}"#,
        r#"{{ mustToDate "2006" .password }}"#,
        r#"{{ mustFromJson .password }}"#,
        r#"{{ fail .password }}"#,
        r#"{{ urlParse (print "http://[" .password) }}"#,
        r#"{{ semver .password }}"#,
        r#"{{ genSelfSignedCertWithKey "x" (list .password) nil 1 (genPrivateKey "ecdsa") }}"#,
        r#"{{ jwkPublicKeyPem .password }}"#,
        r#"{{ pkcs12key .password }}"#,
        r#"{{ rsaDecrypt "RSA-OAEP" "SHA1" .password .password }}"#,
        r#"{{ decryptAES "x" .password }}"#,
        r#"{{ semverCompare .password "1.0.0" }}"#,
    ] {
        let rendered = Template::parse("t", source, &options).and_then(|template| template.render(&data));
        let text = format!("{0} {0:?}", rendered.map(|_| ()).expect_err(source));
        assert!(!text.contains("S3CR") && !text.contains("4711"), "{source}: {text}");
    }
}
