//! As much of JSON Schema as docs/report.schema.json uses. A keyword that is not known here is a failure.

use std::sync::OnceLock;

use serde_json::Value;

/// docs/report.schema.json.
pub(crate) fn report_schema() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        // Compiled in: the rig has no documents.
        serde_json::from_str(include_str!("../../../docs/report.schema.json")).unwrap()
    })
}

/// Asserts that a report is what the schema says, and has no field that the schema does not know.
#[track_caller]
pub(crate) fn conforms(report: &Value) {
    let faults = faults(report_schema(), report);
    assert!(faults.is_empty(), "{faults:#?}\nin {report:#}");
}

/// What is wrong with a report.
pub(crate) fn faults(schema: &Value, report: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    check(schema, report, "report", true, &mut faults);
    faults
}

/// `whole`: the schema describes the value as a whole, and is not a condition about some of its fields.
fn check(schema: &Value, value: &Value, at: &str, whole: bool, faults: &mut Vec<String>) {
    let schema = schema.as_object().unwrap();
    let mut fault = |text: String| faults.push(format!("{at}: {text}"));
    for (keyword, rule) in schema {
        match keyword.as_str() {
            "type" if !is_of_type(value, rule.as_str().unwrap()) => fault(format!("no {rule}")),
            "const" if value != rule => fault(format!("not {rule}")),
            "enum" if !rule.as_array().unwrap().contains(value) => fault(format!("none of {rule}")),
            "minimum" if value.as_f64() < rule.as_f64() => fault(format!("less than {rule}")),
            "maximum" if value.as_f64() > rule.as_f64() => fault(format!("more than {rule}")),
            "required" => {
                let names = rule.as_array().unwrap().iter();
                for name in names.filter_map(Value::as_str) {
                    if value.get(name).is_none() {
                        fault(format!("has no {name}"));
                    }
                }
            }
            "$schema" | "title" | "description" | "type" | "const" | "enum" | "minimum"
            | "maximum" | "properties" | "items" | "allOf" | "if" | "then" | "else" => {}
            unknown => panic!("{at}: the schema has {unknown:?}, which is not checked"),
        }
    }
    let rules = schema.get("properties").and_then(Value::as_object);
    for (name, field) in value.as_object().into_iter().flatten() {
        let at = format!("{at}.{name}");
        match rules.and_then(|rules| rules.get(name)) {
            Some(rule) => check(rule, field, &at, whole, faults),
            None if whole && rules.is_some() => faults.push(format!("{at}: not in the schema")),
            None => {}
        }
    }
    if let (Some(rule), Some(items)) = (schema.get("items"), value.as_array()) {
        for (index, item) in items.iter().enumerate() {
            check(rule, item, &format!("{at}[{index}]"), whole, faults);
        }
    }
    for rule in schema
        .get("allOf")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        check(rule, value, at, false, faults);
    }
    if let Some(condition) = schema.get("if") {
        let mut unmet = Vec::new();
        check(condition, value, at, false, &mut unmet);
        let branch = if unmet.is_empty() { "then" } else { "else" };
        if let Some(rule) = schema.get(branch) {
            check(rule, value, at, false, faults);
        }
    }
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        other => panic!("the schema has a type {other:?}, which is not checked"),
    }
}
