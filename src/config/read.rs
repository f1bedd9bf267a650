//! From text to types. Unknown keys are told all at once, with the nearest that is known: what is known, the types say.

use super::problem::Problem;
use super::schema::File;
use schemars::schema_for;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// Reads the file; `None` where it cannot be told what it asks for.
pub(super) fn read(text: &str, problems: &mut Vec<Problem>) -> Option<File> {
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            problems.push(of_toml(&error));
            return None;
        }
    };
    let schema = schema();
    check_keys(table.get_ref(), &schema, &schema, "", problems);
    let (mut file, before) = (File::default(), problems.len());
    for (key, value) in table.into_inner() {
        match key.get_ref().as_ref() {
            "server" => file.server = part(value, problems).unwrap_or_default(),
            "limits" => file.limits = part(value, problems).unwrap_or_default(),
            "http2" => file.http2 = part(value, problems).unwrap_or_default(),
            "ids" => file.ids = part(value, problems).unwrap_or_default(),
            "dns" => file.dns = part(value, problems),
            "error_pages" => file.error_pages = named(value, problems),
            "access_log" => file.access_log = part(value, problems),
            "listen" => file.listen = parts(value, problems),
            "route" => file.route = parts(value, problems),
            "upstream" => file.upstream = named(value, problems),
            _ => {}
        }
    }
    // What was not read would be missed elsewhere.
    (problems.len() == before).then_some(file)
}

/// One table. Each is read for itself, so that a mistake in one hides none in another.
fn part<T: DeserializeOwned>(value: Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<T> {
    T::deserialize(ValueDeserializer::from(value)).map_err(|error| problems.push(of_toml(&error))).ok()
}

fn parts<T: DeserializeOwned>(value: Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Vec<T> {
    let span = value.span();
    match value.into_inner() {
        DeValue::Array(all) => all.into_iter().filter_map(|one| part(one, problems)).collect(),
        other => part(Spanned::new(span, other), problems).unwrap_or_default(),
    }
}

fn named<T: DeserializeOwned>(
    value: Spanned<DeValue<'_>>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, T> {
    let span = value.span();
    match value.into_inner() {
        DeValue::Table(all) => {
            let read = all.into_iter().map(|(key, one)| (key.into_inner().into_owned(), part(one, problems)));
            read.filter_map(|(key, one)| Some((key, one?))).collect()
        }
        other => part(Spanned::new(span, other), problems).unwrap_or_default(),
    }
}

fn of_toml(error: &toml::de::Error) -> Problem {
    let mut lines = error.message().lines();
    let what = lines.next().unwrap_or("this is not TOML").to_owned();
    let remedy = lines.collect::<Vec<_>>().join(" ");
    Problem { span: error.span(), what, remedy }
}

/// The file as JSON Schema.
pub(super) fn schema() -> Json {
    serde_json::to_value(schema_for!(File)).expect("a schema is JSON")
}

/// What a schema says itself, or what it refers to.
pub(super) fn resolve<'a>(schema: &'a Json, whole: &'a Json) -> &'a Json {
    let one_of_some = schema.get("anyOf").and_then(Json::as_array);
    if let Some(one) =
        one_of_some.and_then(|all| all.iter().find(|one| one.get("type") != Some(&"null".into())))
    {
        return resolve(one, whole);
    }
    let named = schema.get("$ref").and_then(Json::as_str).and_then(|name| name.strip_prefix('#'));
    named.and_then(|name| whole.pointer(name)).map_or(schema, |schema| resolve(schema, whole))
}

fn check_keys(table: &DeTable<'_>, schema: &Json, whole: &Json, path: &str, problems: &mut Vec<Problem>) {
    let schema = resolve(schema, whole);
    let known = schema.get("properties").and_then(Json::as_object);
    let any = schema.get("additionalProperties").filter(|any| any.is_object());
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        match known.and_then(|known| known.get(name)).or(any) {
            Some(schema) => {
                let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
                check_value(value.get_ref(), schema, whole, &path, problems);
            }
            None => problems.push(unknown(name, key.span(), known, path)),
        }
    }
}

fn check_value(value: &DeValue<'_>, schema: &Json, whole: &Json, path: &str, problems: &mut Vec<Problem>) {
    let schema = resolve(schema, whole);
    match value {
        // Of another type, which is told as such.
        DeValue::Table(table)
            if schema.get("properties").or(schema.get("additionalProperties")).is_some() =>
        {
            check_keys(table, schema, whole, path, problems);
        }
        DeValue::Array(list) => {
            let Some(items) = schema.get("items") else { return };
            for value in list.iter() {
                check_value(value.get_ref(), items, whole, path, problems);
            }
        }
        _ => {}
    }
}

/// Names that differ in more than a third of their letters are different words.
fn unknown(
    name: &str,
    span: std::ops::Range<usize>,
    known: Option<&Map<String, Json>>,
    path: &str,
) -> Problem {
    let known: Vec<&str> = known.into_iter().flat_map(Map::keys).map(String::as_str).collect();
    let distance = |other: &&str| strsim::damerau_levenshtein(name, other);
    let nearest = known.iter().copied().min_by_key(distance);
    let nearest = nearest.filter(|nearest| distance(nearest) <= nearest.len().max(name.len()).div_ceil(3));
    let remedy = match nearest {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => {
            format!("known are {}", known.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", "))
        }
    };
    let place = if path.is_empty() { "the file".to_owned() } else { format!("`{path}`") };
    Problem::at(span, format!("{place} has no key `{name}`"), remedy)
}
