//! From the providers' data and `spec.target.template` to what the target holds. [`render`] is pure; [`content`] reads the
//! templates that stand elsewhere, and renders where nobody else has to wait for it.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use aws_lc_rs::pbkdf2;

use gotemplate::{Map, MissingKey, Options, Text, Type, Value};
use lockstep_crds::external_secret::{DecodingStrategy, Template, TemplateAs, TemplateFrom, TemplateMergePolicy, TemplateRef};
use lockstep_crds::{ExternalSecret, PushSecret};
use lockstep_providers::SecretBytes;

use super::data::{self, MAX_SECRET_BYTES, ValueError};
use super::manifest::Path;
use super::status::Failure;
use crate::context::Context;
use crate::hash::PartsHash;
use crate::keys::ObjectKey;
use crate::resolver::{ObjectResolver, keys_of};

/// What the target is to hold.
#[derive(Clone, Default)]
pub struct Content {
    /// Its data.
    pub data: BTreeMap<String, SecretBytes>,
    /// Its labels and annotations; none: those of the object.
    pub metadata: Option<Metadata>,
    /// Hash of all that was rendered, if rendering it again would give something else.
    pub volatile: Option<String>,
    /// What goes into a target of another kind, in order.
    pub placed: Vec<Placed>,
}

/// A part of a target of another kind.
#[derive(Clone)]
pub struct Placed {
    /// Where it goes.
    pub path: Path,
    /// Where its template stands, for messages.
    pub field: String,
    /// What.
    pub value: serde_json::Value,
}

/// What a template gives beside data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

impl Content {
    /// Data alone.
    pub fn of_data(data: BTreeMap<String, SecretBytes>) -> Self {
        Self { data, ..Self::default() }
    }
}

/// What a template's result becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Data,
    Labels,
    Annotations,
    /// Into a target of another kind.
    Path(Path),
}

impl Place {
    fn of(target: Option<&str>, field: &str, paths: bool) -> Result<Self, String> {
        let target = target.filter(|target| !target.is_empty());
        match target.map(str::to_ascii_lowercase).as_deref() {
            None | Some("data") => Ok(Self::Data),
            Some("labels" | "metadata.labels") => Ok(Self::Labels),
            Some("annotations" | "metadata.annotations") => Ok(Self::Annotations),
            Some(_) if paths => {
                Path::parse(target.unwrap_or_default()).map(Self::Path).map_err(|why| format!("{field}.target: {why}"))
            }
            Some(_) => Err(format!(
                "{field}.target is none of Data, Labels and Annotations; a path into the target is for targets of another kind (spec.target.manifest)"
            )),
        }
    }
}

/// A template and what its result is.
pub struct Document {
    /// Where it stands, for messages.
    field: String,
    /// The key that it gives, unless it gives keys and values.
    key: Option<String>,
    text: SecretBytes,
    /// It stands in a Secret: not a word of it is repeated.
    is_secret: bool,
    place: Place,
    decoding: DecodingStrategy,
}

/// Whether the template, and not the object, says what labels and annotations the target has.
pub fn gives_metadata(template: &Template) -> bool {
    template.metadata.is_some()
        || template
            .template_from
            .iter()
            .any(|from| matches!(Place::of(from.target.as_deref(), "", true), Ok(Place::Labels | Place::Annotations)))
}

/// Whether templates are read from ConfigMaps or Secrets.
pub fn has_sources(object: &ExternalSecret) -> bool {
    let from = object.spec.target.template.iter().flat_map(|template| &template.template_from);
    from.into_iter().any(|from| from.config_map.is_some() || from.secret.is_some())
}

/// What the target is to hold: the providers' data, through the templates if there are any.
///
/// # Errors
/// What is wrong with a template or with what it is read from.
pub async fn content(
    ctx: &Arc<Context>,
    key: &ObjectKey,
    object: &ExternalSecret,
    data: BTreeMap<String, SecretBytes>,
    resolver: &ObjectResolver<'_>,
) -> Result<Content, Failure> {
    let Some(template) = object.spec.target.template.as_ref().filter(|template| is_used(template)) else {
        return Ok(Content::of_data(data));
    };
    let mut documents = Vec::new();
    let paths = object.spec.target.manifest.is_some();
    for (i, from) in template.template_from.iter().enumerate() {
        documents.extend(read(resolver, from, &format!("spec.target.template.templateFrom[{i}]"), Some(object), paths).await?);
    }
    let invalid = |why| Failure { category: "invalid", ..Failure::rejected(why) };
    let (template, uid) = (template.clone(), object.metadata.uid.clone().unwrap_or_default());
    let known = ctx.marks().get(key).cloned();
    // A template may take seconds: other objects do not wait for it.
    let rendered = apart(ctx, move || render(&template, &documents, data, &uid, known)).await;
    let (content, mark) = rendered.and_then(|rendered| rendered).map_err(invalid)?;
    match mark {
        Some(mark) => drop(ctx.marks().insert(key.clone(), mark)),
        None => drop(ctx.marks().remove(key)),
    }
    Ok(content)
}

/// The same for what is pushed; it has no marks, for there is no target that could carry one.
///
/// # Errors
/// What is wrong with a template or with what it is read from.
pub async fn of_push(
    ctx: &Arc<Context>,
    resolver: &ObjectResolver<'_>,
    template: &Template,
    object: &PushSecret,
    data: BTreeMap<String, SecretBytes>,
) -> Result<Content, Failure> {
    if !is_used(template) {
        return Ok(Content::of_data(data));
    }
    let mut documents = Vec::new();
    for (i, from) in template.template_from.iter().enumerate() {
        documents.extend(read(resolver, from, &format!("spec.template.templateFrom[{i}]"), None, false).await?);
    }
    let (template, uid) = (template.clone(), object.metadata.uid.clone().unwrap_or_default());
    let invalid =
        |why: String| Failure { category: "invalid", ..Failure::rejected(why.replace("spec.target.template", "spec.template")) };
    let rendered = apart(ctx, move || render(&template, &documents, data, &uid, None)).await;
    rendered.and_then(|rendered| rendered).map(|(content, _)| content).map_err(invalid)
}

/// Runs what a tenant's text makes the operator do where nobody else waits for it, so many at once.
///
/// # Errors
/// A sentence when it panics, or when the operator is stopping.
pub async fn apart<T: Send + 'static>(ctx: &Context, work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let stopping = || "the operator is stopping".to_owned();
    let _permit = ctx.renders.acquire().await.map_err(|_| stopping())?;
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        if !error.is_panic() {
            return stopping();
        }
        ctx.metrics.panicked();
        tracing::error!("rendering a template panicked; please report it");
        "rendering failed unexpectedly; please report it".into()
    })
}

/// What is wrong with a template that stands at `field`, as far as can be said before anything is read. `paths` says whether it is
/// for a target of another kind than Secret.
pub fn problems(field: &str, template: &Template, paths: bool) -> Vec<String> {
    let mut found = Vec::new();
    let mut texts: Vec<(String, &str, &str)> = Vec::new();
    for (key, text) in &template.data {
        let field = format!("{field}.data[{key}]");
        if let Err(why) = data::check_key(key) {
            found.push(format!("{field}: the key {why}"));
        }
        texts.push((field, key, text));
    }
    for (i, from) in template.template_from.iter().enumerate() {
        let field = format!("{field}.templateFrom[{i}]");
        if let Err(why) = Place::of(from.target.as_deref(), &field, paths) {
            found.push(why);
        }
        texts.extend(from.literal.as_deref().map(|text| (format!("{field}.literal"), "keys and values", text)));
    }
    if let Some(metadata) = &template.metadata {
        for (kind, map) in [("labels", &metadata.labels), ("annotations", &metadata.annotations)] {
            texts.extend(map.iter().map(|(key, text)| (format!("{field}.metadata.{kind}[{key}]"), key.as_str(), text.as_str())));
        }
    }
    for (field, name, text) in texts {
        if let Err(error) = gotemplate::Template::parse(name, text, &options()) {
            found.push(format!("{field}: {error}"));
        }
    }
    found
}

fn is_used(template: &Template) -> bool {
    !template.data.is_empty() || !template.template_from.is_empty() || template.metadata.is_some()
}

async fn read(
    resolver: &ObjectResolver<'_>,
    from: &TemplateFrom,
    field: &str,
    writer: Option<&ExternalSecret>,
    paths: bool,
) -> Result<Vec<Document>, Failure> {
    let invalid = |why: String| Failure { category: "invalid", ..Failure::rejected(why) };
    let place = Place::of(from.target.as_deref(), field, paths).map_err(invalid)?;
    let decoding = from.values_decoding_strategy.unwrap_or_default();
    let mut documents = Vec::new();
    if let Some(literal) = &from.literal {
        let text = SecretBytes::from(literal.as_str());
        documents.push(Document {
            field: format!("{field}.literal"),
            key: None,
            text,
            is_secret: false,
            place: place.clone(),
            decoding,
        });
    }
    for (kind, reference) in [("configMap", &from.config_map), ("secret", &from.secret)] {
        let Some(TemplateRef { name, items }) = reference else { continue };
        let field = format!("{field}.{kind}");
        let is_written = |object: &ExternalSecret| {
            let written = match &object.spec.target.manifest {
                None => "secret",
                Some(manifest) if manifest.kind == "ConfigMap" && manifest.api_version == "v1" => "configMap",
                Some(_) => "",
            };
            written == kind && object.target_name() == name
        };
        if writer.is_some_and(is_written) {
            return Err(invalid(format!(
                "{field}: {name} is the target itself; a template that reads what it writes has no end"
            )));
        }
        let there = match kind {
            "configMap" => resolver.config_map(&field, name).await,
            _ => resolver.secret(&field, name).await,
        }
        .map_err(|error| Failure::reading(&[(field.clone(), error)]))?;
        for item in items {
            let Some(text) = there.get(&item.key) else {
                let names = keys_of(there.keys());
                return Err(invalid(format!("{field}: {name} has no key {}; it has {names}", item.key)));
            };
            let key = (item.template_as == TemplateAs::Values).then(|| item.key.clone());
            documents.push(Document {
                field: format!("{field} {name}, key {}", item.key),
                key,
                text: text.clone(),
                is_secret: kind == "secret",
                place: place.clone(),
                decoding,
            });
        }
    }
    if documents.is_empty() {
        return Err(invalid(format!("{field} names neither configMap nor secret nor literal")));
    }
    Ok(documents)
}

/// Renders all: templates from elsewhere first, then those of the spec, which win.
///
/// # Errors
/// A sentence that names the template, line, column and expression, and no value.
pub fn render(
    template: &Template,
    documents: &[Document],
    data: BTreeMap<String, SecretBytes>,
    uid: &str,
    known: Option<Mark>,
) -> Result<(Content, Option<Mark>), String> {
    let mut renderer = Renderer { fields: fields(&data), names: keys_of(data.keys()), volatile: false, size: 0 };
    let inputs = inputs(template, documents, &data, uid);
    let keeps = template.merge_policy == TemplateMergePolicy::Merge || (template.data.is_empty() && documents.is_empty());
    let mut content = Content::of_data(if keeps { data } else { BTreeMap::new() });
    let mut metadata = Metadata::default();
    for document in documents {
        let name = document.key.as_deref().unwrap_or("keys and values");
        let rendered = renderer.render(&document.field, name, document.text.expose(), document.is_secret)?;
        if let Place::Path(path) = &document.place {
            let value = structure(&document.field, document.key.as_deref(), rendered, document.decoding)?;
            content.placed.push(Placed { path: path.clone(), field: document.field.clone(), value });
            continue;
        }
        let values = match &document.key {
            Some(key) => BTreeMap::from([(key.clone(), rendered)]),
            None => keys_and_values(&document.field, &rendered)?,
        };
        for (i, (key, value)) in values.into_iter().enumerate() {
            // A key that was rendered may hold a value: it is not repeated.
            let field = match &document.key {
                Some(_) => document.field.clone(),
                None => format!("{}: entry {}", document.field, i + 1),
            };
            let value = data::decode(value, document.decoding).map_err(|error| match error {
                ValueError::Missing(why) | ValueError::Unusable(why) => format!("{field}: {why}"),
            })?;
            put(&mut content.data, &mut metadata, &document.place, &field, key, value)?;
        }
    }
    for (key, text) in &template.data {
        let field = format!("spec.target.template.data[{key}]");
        let value = renderer.render(&field, key, text.as_bytes(), false)?;
        put(&mut content.data, &mut metadata, &Place::Data, &field, key.clone(), value)?;
    }
    let of_spec = template.metadata.clone().unwrap_or_default();
    for (kind, place, texts) in
        [("labels", &Place::Labels, &of_spec.labels), ("annotations", &Place::Annotations, &of_spec.annotations)]
    {
        for (key, text) in texts {
            let field = format!("spec.target.template.metadata.{kind}[{key}]");
            let value = renderer.render(&field, key, text.as_bytes(), false)?;
            put(&mut content.data, &mut metadata, place, &field, key.clone(), value)?;
        }
    }
    content.metadata = gives_metadata(template).then_some(metadata);
    let mark = renderer.volatile.then(|| Mark::of(&inputs, uid, known));
    content.volatile = mark.as_ref().map(|mark| mark.shown.clone());
    Ok((content, mark))
}

/// What is written down of the inputs of something rendered by chance.
#[derive(Clone)]
pub struct Mark {
    /// Of this process alone: tells whether the inputs are those of before.
    digest: [u8; 32],
    /// What stands in the target. It is slow to compute: whoever may read the target might try out values that are not in it.
    shown: String,
}

/// Rounds of PBKDF2: some hundredths of a second for each value that somebody tries out.
const ROUNDS: NonZeroU32 = NonZeroU32::new(100_000).unwrap();

impl Mark {
    fn of(digest: &[u8; 32], uid: &str, known: Option<Self>) -> Self {
        if let Some(known) = known.filter(|known| known.digest == *digest) {
            return known;
        }
        let mut slow = [0; 16];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, uid.as_bytes(), digest, &mut slow);
        Self { digest: *digest, shown: slow.iter().map(|b| format!("{b:02x}")).collect() }
    }
}

fn put(
    data: &mut BTreeMap<String, SecretBytes>,
    metadata: &mut Metadata,
    place: &Place,
    field: &str,
    key: String,
    value: SecretBytes,
) -> Result<(), String> {
    let text = |value: &SecretBytes| value.as_text().map(str::to_owned).ok_or_else(|| format!("{field}: the value is no text"));
    match place {
        // What has a path was put aside before.
        Place::Data | Place::Path(_) => {
            data::check_key(&key).map_err(|why| format!("{field}: the key {why}"))?;
            data.insert(key, value);
        }
        Place::Labels => {
            let text = text(&value)?;
            if !is_qualified_name(&key) || !(text.is_empty() || is_name(&text)) {
                return Err(format!(
                    "{field}: that is no label: a value has at most 63 characters of A-Z a-z 0-9 - _ ., and begins and ends with a letter or a digit"
                ));
            }
            metadata.labels.insert(key, text);
        }
        Place::Annotations => {
            let text = text(&value)?;
            if !is_qualified_name(&key) {
                return Err(format!("{field}: that is no name of an annotation"));
            }
            metadata.annotations.insert(key, text);
        }
    }
    Ok(())
}

/// A label's value, and what is behind the slash of a label's name (`IsQualifiedName` of the Kubernetes API).
fn is_name(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    text.len() <= 63 && ends(text.chars().next()) && ends(text.chars().last()) && text.chars().all(inner)
}

fn is_qualified_name(text: &str) -> bool {
    let part = |part: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !part.is_empty() && part.chars().all(inner) && !part.starts_with('-') && !part.ends_with('-')
    };
    match text.split_once('/') {
        Some((prefix, name)) => prefix.len() <= 253 && prefix.split('.').all(part) && is_name(name),
        None => is_name(text),
    }
}

/// The data as templates see them: strings by key.
fn fields(data: &BTreeMap<String, SecretBytes>) -> Value {
    let text = |bytes: &SecretBytes| Value::Str(Text::new(bytes.expose().to_vec()));
    Value::Map(Map::new(data.iter().map(|(key, bytes)| (key.as_str().into(), text(bytes))).collect(), Type::Str))
}

/// The way that every template is rendered: with Sprig, and an error where a key is missing.
pub fn options() -> Options {
    Options { missing_key: MissingKey::Error, sprig: true, ..Options::default() }
}

struct Renderer {
    fields: Value,
    names: String,
    volatile: bool,
    size: usize,
}

impl Renderer {
    fn render(&mut self, field: &str, name: &str, text: &[u8], is_secret: bool) -> Result<SecretBytes, String> {
        let source = std::str::from_utf8(text).map_err(|_| format!("{field} is no UTF-8"))?;
        let wrong = |error: gotemplate::Error| {
            if is_secret {
                return format!(
                    "{field}: wrong in line {} column {}; what stands there is in a Secret and not shown",
                    error.line, error.column
                );
            }
            let hint =
                if error.message.contains("no entry for key") { format!("; there is {}", self.names) } else { String::new() };
            format!("{field}: {error}{hint}")
        };
        let template = gotemplate::Template::parse(name, source, &options()).map_err(wrong)?;
        self.volatile |= template.is_volatile();
        let mut rendered = template.render(&self.fields).map_err(wrong)?;
        self.size += rendered.len();
        if self.size > 4 * MAX_SECRET_BYTES {
            return Err(format!("{field}: all templates together render more than {} bytes", 4 * MAX_SECRET_BYTES));
        }
        Ok(SecretBytes::new(std::mem::take(&mut *rendered)))
    }
}

/// What a template gave, for a path: what its YAML says, or one key with its text.
fn structure(
    field: &str,
    key: Option<&str>,
    rendered: SecretBytes,
    decoding: DecodingStrategy,
) -> Result<serde_json::Value, String> {
    let text = rendered.as_text().ok_or_else(|| format!("{field}: the result is no UTF-8"))?;
    match key {
        Some(key) => {
            let decoded = data::decode(SecretBytes::from(text), decoding).map_err(|error| match error {
                ValueError::Missing(why) | ValueError::Unusable(why) => format!("{field}: {why}"),
            })?;
            let text = decoded.as_text().ok_or_else(|| format!("{field}: the value is no text"))?;
            Ok(serde_json::json!({(key): text}))
        }
        None => {
            let options = serde_saphyr::options! { with_snippet: false };
            serde_saphyr::from_str_with_options(text, options).map_err(|_| format!("{field}: the result is no YAML"))
        }
    }
}

/// Reads what a template gave as YAML: a map from keys to scalars.
fn keys_and_values(field: &str, rendered: &SecretBytes) -> Result<BTreeMap<String, SecretBytes>, String> {
    let text = rendered.as_text().ok_or_else(|| format!("{field}: the result is no UTF-8"))?;
    if text.trim().is_empty() {
        return Ok(BTreeMap::new());
    }
    let options = serde_saphyr::options! { with_snippet: false };
    // What the reader says may quote the text, which holds values.
    let read: Result<BTreeMap<String, Option<String>>, _> = serde_saphyr::from_str_with_options(text, options);
    let read = read.map_err(|_| format!("{field}: the result is no YAML with keys and values that are text"))?;
    Ok(read.into_iter().map(|(key, value)| (key, SecretBytes::from(value.unwrap_or_default()))).collect())
}

/// A hash of all that goes into rendering, salted with the object's UID.
fn inputs(template: &Template, documents: &[Document], data: &BTreeMap<String, SecretBytes>, uid: &str) -> [u8; 32] {
    let mut hash = PartsHash::default();
    let mut part = |bytes: &[u8]| hash.add(bytes);
    part(uid.as_bytes());
    part(&serde_json::to_vec(template).unwrap_or_default());
    for document in documents {
        part(document.field.as_bytes());
        part(document.text.expose());
    }
    for (key, value) in data {
        part(key.as_bytes());
        part(value.expose());
    }
    hash.whole()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(spec: serde_json::Value) -> Template {
        serde_json::from_value(spec).unwrap()
    }

    fn document(key: Option<&str>, text: &str, place: Place) -> Document {
        let decoding = DecodingStrategy::None;
        Document {
            field: "from".into(),
            key: key.map(Into::into),
            text: SecretBytes::from(text),
            is_secret: false,
            place,
            decoding,
        }
    }

    fn provided() -> BTreeMap<String, SecretBytes> {
        [("user", "app"), ("pass", "canary-1")].map(|(k, v)| (k.to_owned(), SecretBytes::from(v))).into()
    }

    fn render(
        template: &Template,
        documents: &[Document],
        data: BTreeMap<String, SecretBytes>,
        uid: &str,
    ) -> Result<Content, String> {
        super::render(template, documents, data, uid, None).map(|(content, _)| content)
    }

    fn shown(content: &Content) -> Vec<(String, String)> {
        content.data.iter().map(|(k, v)| (k.clone(), v.as_text().unwrap().to_owned())).collect()
    }

    #[test]
    fn the_spec_wins_over_templates_from_elsewhere_and_they_over_the_provider() {
        let documents = [
            document(Some("a"), "from {{ .user }}", Place::Data),
            document(Some("b"), "from", Place::Data),
            document(None, "user: 'kv'\nc: \"{{ .user }}\"\nn: 12\nempty:\n", Place::Data),
        ];
        let spec = template(json!({"data": {"a": "spec {{ .user | upper }}"}, "mergePolicy": "Merge"}));
        let content = render(&spec, &documents, provided(), "uid").unwrap();
        let expected =
            [("a", "spec APP"), ("b", "from"), ("c", "app"), ("empty", ""), ("n", "12"), ("pass", "canary-1"), ("user", "kv")];
        assert_eq!(shown(&content), expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert!(content.metadata.is_none() && content.volatile.is_none());
        let replace = template(json!({"data": {"a": "{{ .user }}"}}));
        assert_eq!(shown(&render(&replace, &[], provided(), "uid").unwrap()), [("a".to_owned(), "app".to_owned())]);
    }

    #[test]
    fn metadata_is_rendered_and_alone_leaves_the_data_as_they_are() {
        let spec =
            template(json!({"metadata": {"labels": {"team": "{{ .user }}"}, "annotations": {"a": "x"}, "finalizers": ["f/x"]}}));
        let content = render(&spec, &[document(None, "l: '{{ .user }}'", Place::Labels)], provided(), "uid").unwrap();
        let metadata = content.metadata.unwrap();
        assert_eq!(metadata.labels, BTreeMap::from([("l".into(), "app".into()), ("team".into(), "app".into())]));
        assert_eq!(metadata.annotations, BTreeMap::from([("a".into(), "x".into())]));
        let alone = render(&template(json!({"metadata": {"labels": {"a": "b"}}})), &[], provided(), "uid").unwrap();
        assert_eq!(alone.data.len(), 2);
    }

    #[test]
    fn an_error_names_the_place_and_the_keys_there_are_and_no_value() {
        for (spec, expected) in [
            (
                json!({"data": {"k": "{{ .nope }}"}}),
                "spec.target.template.data[k]: template k line 1 column 4: at <.nope>: map has no entry for key \"nope\"; there is pass, user",
            ),
            (
                json!({"data": {"k": "{{ .pass | nope }}"}}),
                "spec.target.template.data[k]: template k line 1 column 12: function \"nope\" not defined",
            ),
            (json!({"data": {"k": "{{ .pass"}}), "spec.target.template.data[k]: template k line 1 column 9: unclosed action"),
            (json!({"data": {"k": "{{ .pass | fail }}"}}), "the template says that it fails"),
            (json!({"data": {"k": "{{ env \"HOME\" }}"}}), "function \"env\" not defined"),
            (
                json!({"data": {"k": "{{ define \"r\" }}{{ template \"r\" . }}{{ end }}{{ template \"r\" . }}"}}),
                "does it call itself?",
            ),
            (json!({"data": {"k": "{{ range until 1000000 }}{{ $.pass }}{{ end }}"}}), "line 1 column"),
            (json!({"data": {"k": "{{ .pass | pkcs12key }}"}}), "no PKCS#12 store"),
            (json!({"data": {"k": "{{ mustRegexFind \"(\" .pass }}"}}), "regexp is not valid"),
            (json!({"data": {"a b": "x"}}), "spec.target.template.data[a b]: the key is no key that a Secret can have"),
        ] {
            let error = render(&template(spec.clone()), &[], provided(), "uid").err().unwrap();
            assert!(error.contains(expected) && !error.contains("canary"), "{spec}: {error}");
        }
        for text in ["{{ .pass }}", "- {{ .pass }}", "a: [{{ .pass }}]", "a: {{ .pass }}: x"] {
            let error = render(&Template::default(), &[document(None, text, Place::Data)], provided(), "uid").err().unwrap();
            assert!(error.contains("no YAML with keys and values") && !error.contains("canary"), "{text}: {error}");
        }
        let mut binary = document(Some("k"), "////", Place::Labels);
        binary.decoding = DecodingStrategy::Base64;
        let error = render(&Template::default(), &[binary], provided(), "uid").err().unwrap();
        assert!(error.contains("the value is no text"), "{error}");
    }

    #[test]
    fn a_key_that_was_rendered_and_a_template_of_a_secret_are_not_repeated() {
        for (document, needle) in [
            (document(None, "'{{ .pass }}/=': x", Place::Data), "from: entry 1: the key is no key that a Secret can have"),
            (document(None, "'{{ .pass }} ': x", Place::Labels), "from: entry 1: that is no label"),
            (document(None, "l: '{{ .pass }}\\n'", Place::Labels), "from: entry 1: that is no label"),
            (document(None, "a: x\nb: '{{ .pass }}'", Place::Data), "from: entry 1: the value is not Base64"),
            (
                Document { is_secret: true, ..document(Some("k"), "x {{ nope `canary-2` }}", Place::Data) },
                "from: wrong in line 1 column 6",
            ),
        ] {
            let document = Document {
                decoding: if needle.contains("Base64") { DecodingStrategy::Base64 } else { DecodingStrategy::None },
                ..document
            };
            let error = render(&Template::default(), &[document], provided(), "uid").err().unwrap();
            assert!(error.contains(needle) && !error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn chance_is_told_by_a_hash_of_the_inputs() {
        let spec = template(json!({"data": {"k": "{{ randAlphaNum 10 }}"}}));
        let inputs = |data, uid| render(&spec, &[], data, uid).unwrap().volatile.unwrap();
        assert_eq!(inputs(provided(), "uid"), inputs(provided(), "uid"));
        assert_ne!(inputs(provided(), "uid"), inputs(provided(), "other"));
        assert_ne!(inputs(provided(), "uid"), inputs(BTreeMap::new(), "uid"));
    }
}
