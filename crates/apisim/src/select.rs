//! Label and field selectors.

use serde_json::Value;

use crate::error::ApiError;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

/// What a list or a watch is limited to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    labels: Vec<Rule>,
    fields: Vec<Rule>,
}

impl Selector {
    pub(crate) fn parse(labels: Option<&str>, fields: Option<&str>, built_in: bool) -> Result<Self, ApiError> {
        let labels = rules(labels.unwrap_or_default())?;
        let fields = rules(fields.unwrap_or_default())?;
        for rule in &fields {
            let (Rule::In(field, _) | Rule::NotIn(field, _) | Rule::Exists(field) | Rule::Absent(field)) = rule;
            if !built_in && field != "metadata.name" && field != "metadata.namespace" {
                return Err(ApiError::bad_request(format!("field label not supported: {field}")));
            }
        }
        Ok(Self { labels, fields })
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let label = |name: &str| object["metadata"]["labels"].get(name).and_then(Value::as_str).map(str::to_owned);
        let field = |path: &str| {
            // An absent field counts as empty, as on a real server.
            let value = path.split('.').try_fold(object, |value, step| value.get(step));
            Some(value.and_then(Value::as_str).unwrap_or_default().to_owned())
        };
        self.labels.iter().all(|rule| holds(rule, label)) && self.fields.iter().all(|rule| holds(rule, field))
    }
}

fn holds(rule: &Rule, value: impl Fn(&str) -> Option<String>) -> bool {
    match rule {
        Rule::In(name, among) => value(name).is_some_and(|value| among.contains(&value)),
        Rule::NotIn(name, among) => value(name).is_none_or(|value| !among.contains(&value)),
        Rule::Exists(name) => value(name).is_some(),
        Rule::Absent(name) => value(name).is_none(),
    }
}

fn rules(text: &str) -> Result<Vec<Rule>, ApiError> {
    let mut depth = 0;
    let parts = text.split(|letter| {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        letter == ',' && depth == 0
    });
    parts.map(str::trim).filter(|part| !part.is_empty()).map(rule).collect()
}

fn rule(text: &str) -> Result<Rule, ApiError> {
    let own = |text: &str| text.trim().to_owned();
    let among = |text: &str| -> Option<Vec<String>> {
        let inner = text.trim().strip_prefix('(')?.strip_suffix(')')?;
        Some(inner.split(',').map(own).collect())
    };
    let bad = || ApiError::bad_request(format!("unable to parse requirement: {text}"));
    if let Some((name, set)) = text.split_once(" notin ") {
        return Ok(Rule::NotIn(own(name), among(set).ok_or_else(bad)?));
    }
    if let Some((name, set)) = text.split_once(" in ") {
        return Ok(Rule::In(own(name), among(set).ok_or_else(bad)?));
    }
    if let Some((name, value)) = text.split_once("!=") {
        return Ok(Rule::NotIn(own(name), vec![own(value)]));
    }
    if let Some((name, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Ok(Rule::In(own(name), vec![own(value)]));
    }
    match text.strip_prefix('!') {
        Some(name) => Ok(Rule::Absent(own(name))),
        None if text.contains([' ', '(', ')']) => Err(bad()),
        None => Ok(Rule::Exists(own(text))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels() {
        let object = json!({"metadata": {"name": "n", "labels": {"app": "a", "x/y": ""}}});
        let matches = |text: &str| Selector::parse(Some(text), None, false).unwrap().matches(&object);
        for text in
            ["", "app", "app=a", "app==a", "app in (a,b),x/y", "!b", "b!=c", "b notin (c)", "app notin (b, c)", "x/y="]
        {
            assert!(matches(text), "{text}");
        }
        for text in ["b", "app=b", "app in (b, c)", "!app", "app!=a", "app notin (a)", "app,b"] {
            assert!(!matches(text), "{text}");
        }
        assert!(Selector::parse(Some("app in a"), None, false).is_err());
    }

    #[test]
    fn fields() {
        let object = json!({"metadata": {"name": "n"}, "spec": {"nodeName": "w"}});
        let matches = |text: &str| Selector::parse(None, Some(text), true).unwrap().matches(&object);
        assert!(matches("metadata.name=n,spec.nodeName=w"));
        assert!(!matches("metadata.name!=n"));
        assert!(Selector::parse(None, Some("spec.nodeName=w"), false).is_err());
    }
}
