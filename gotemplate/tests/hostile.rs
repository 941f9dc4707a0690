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
    assert!(error.contains("bytes on its way"), "{error}");
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
        assert!(!text.contains("CANARY") && (!text.contains("4711") || source.contains("slice")), "{source}: {text}");
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
