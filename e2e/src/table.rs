//! Tables for the terminal.

/// Renders rows with a heading, columns aligned; numbers to the right.
pub fn render(heading: &[&str], rows: &[Vec<String>]) -> String {
    let columns = heading.len();
    let width = |c: usize| rows.iter().map(|r| r[c].chars().count()).chain([heading[c].chars().count()]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let numeric =
        |c: usize| rows.iter().all(|r| r[c].is_empty() || r[c].starts_with(|ch: char| ch.is_ascii_digit() || ch == '-'));
    let line = |cells: &[String]| {
        let cell = |(c, text): (usize, &String)| {
            let pad = " ".repeat(widths[c].saturating_sub(text.chars().count()));
            if numeric(c) && c > 0 { format!("{pad}{text}") } else { format!("{text}{pad}") }
        };
        cells.iter().enumerate().map(cell).collect::<Vec<_>>().join("   ").trim_end().to_owned()
    };
    let mut out = line(&heading.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>());
    for row in rows {
        out.push('\n');
        out.push_str(&line(row));
    }
    out
}

/// What `kubectl get` shows: the API server's own Table answer, for machines without kubectl.
///
/// # Errors
/// What the client answers.
pub async fn of_objects(client: &kube::Client, plural: &str, namespace: &str) -> kube::Result<String> {
    let request = http::Request::get(format!("/apis/external-secrets.io/v1/namespaces/{namespace}/{plural}"))
        .header("accept", "application/json;as=Table;g=meta.k8s.io;v=v1")
        .body(Vec::new())
        .map_err(kube::Error::HttpError)?;
    let answer: serde_json::Value = client.request(request).await?;
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let columns = list(&answer["columnDefinitions"]);
    let shown: Vec<usize> = (0..columns.len()).filter(|&i| columns[i]["priority"].as_i64().unwrap_or(0) == 0).collect();
    let heading: Vec<String> = shown.iter().map(|&i| columns[i]["name"].as_str().unwrap_or_default().to_uppercase()).collect();
    let cell = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => String::new(),
        other => other.to_string(),
    };
    let rows: Vec<Vec<String>> =
        list(&answer["rows"]).iter().map(|row| shown.iter().map(|&i| cell(&row["cells"][i])).collect()).collect();
    let heading: Vec<&str> = heading.iter().map(String::as_str).collect();
    Ok(render(&heading, &rows))
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_are_aligned_and_numbers_stand_to_the_right() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), "100".to_owned()]];
        assert_eq!(super::render(&["NAME", "N"], &rows), "NAME     N\na        1\nlong   100");
    }
}
