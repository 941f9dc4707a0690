//! The report: a table for people, JSON for programs.

use std::io::{IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use serde_json::json;

use super::{Check, Finding, Level};

fn word(level: Level) -> (&'static str, Style) {
    let colour = |colour: AnsiColor| Style::new().fg_color(Some(colour.into())).bold();
    match level {
        Level::Ok => ("ok", colour(AnsiColor::Green)),
        Level::Hint => ("hint", colour(AnsiColor::Cyan)),
        Level::Unknown => ("unknown", colour(AnsiColor::Magenta)),
        Level::Warning => ("warning", colour(AnsiColor::Yellow)),
    }
}

/// Writes the table; colours are left out where no terminal is.
///
/// # Errors
/// When the output can't be written.
pub fn table(findings: &[Finding], out: &mut impl Write) -> std::io::Result<()> {
    let width = Check::ALL.iter().map(|check| check.name().len()).max().unwrap_or(0);
    for finding in findings {
        let (word, style) = word(finding.level);
        let object = finding.object.as_ref().map(|object| format!("{object}: ")).unwrap_or_default();
        writeln!(out, "{style}{word:<7}{style:#}  {:<width$}  {object}{}", finding.check.name(), finding.message)?;
        if !finding.action.is_empty() {
            writeln!(out, "{:7}  {:width$}  → {}", "", "", finding.action)?;
        }
    }
    let count = |level: Level| findings.iter().filter(|f| f.level == level).count();
    let (warnings, unknown, hints) = (count(Level::Warning), count(Level::Unknown), count(Level::Hint));
    writeln!(out, "\n{warnings} to mend, {unknown} that can't be seen from here, {hints} hints")
}

/// The report as one JSON object.
pub fn json(findings: &[Finding]) -> String {
    let warnings = findings.iter().filter(|f| f.level == Level::Warning).count();
    json!({"findings": findings, "warnings": warnings}).to_string()
}

/// Prints it; answers whether there is something to mend.
///
/// # Errors
/// When the output can't be written.
pub fn print(findings: &[Finding], as_json: bool) -> std::io::Result<bool> {
    match as_json {
        true => writeln!(std::io::stdout().lock(), "{}", json(findings))?,
        false => {
            let mut out = anstream::AutoStream::auto(std::io::stdout());
            let _ = std::io::stdout().is_terminal();
            table(findings, &mut out)?;
        }
    }
    Ok(findings.iter().any(|f| f.level == Level::Warning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_name_the_object_and_what_to_do() {
        let findings = [
            Finding::about_all(Check::NeverSynced, Level::Ok, "every ExternalSecret has synced", ""),
            Finding::warning(Check::UnusedStore, "SecretStore a/b".into(), "nobody reads from it", "delete it"),
        ];
        let mut text = Vec::new();
        table(&findings, &mut anstream::StripStream::new(&mut text)).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(
            text,
            "ok       never-synced        every ExternalSecret has synced\n\
             warning  unused-store        SecretStore a/b: nobody reads from it\n\
             \u{20}                            → delete it\n\n1 to mend, 0 that can't be seen from here, 0 hints\n"
        );
        let json: serde_json::Value = serde_json::from_str(&json(&findings)).unwrap();
        assert_eq!(json["findings"][1]["check"], "unused-store");
        assert_eq!((&json["findings"][1]["level"], &json["warnings"]), (&"warning".into(), &1.into()));
    }
}
