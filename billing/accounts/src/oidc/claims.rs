//! Claims by name.

use serde_json::{Map, Value};

use crate::name::check_text;

/// The texts of a claim: its value, or its values. Its name may be a path with dots.
pub(super) fn values<'a>(
    claims: &'a Map<String, Value>,
    name: &str,
) -> impl Iterator<Item = &'a str> + use<'a> {
    let (one, several) = match find(claims, name) {
        Some(Value::String(text)) => (Some(text.as_str()), &[][..]),
        Some(Value::Array(values)) => (None, values.as_slice()),
        _ => (None, &[][..]),
    };
    one.into_iter().chain(several.iter().filter_map(Value::as_str))
}

/// The one text of the claim that tells users apart.
pub(super) fn subject<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    let text = find(claims, name)?.as_str()?;
    check_text("subject", text).is_ok().then_some(text)
}

/// A name with dots that is one claim comes before a path.
fn find<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(name) {
        return Some(value);
    }
    let (first, rest) = name.split_once('.')?;
    find(claims.get(first)?.as_object()?, rest)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_are_found_by_name_and_by_path() {
        let claims = json!({
            "sub": "42",
            "groups": ["ops", 7, "dev"],
            "https://a.example/role": "admin",
            "realm": { "roles": ["r"], "a.b": "c" },
            "control": "a\nb",
            "empty": "",
        });
        let Value::Object(claims) = claims else { panic!() };
        let of = |name| values(&claims, name).collect::<Vec<_>>();
        assert_eq!(of("sub"), ["42"]);
        assert_eq!(of("groups"), ["ops", "dev"]);
        assert_eq!(of("https://a.example/role"), ["admin"]);
        assert_eq!(of("realm.roles"), ["r"]);
        assert_eq!(of("realm.a.b"), ["c"]);
        assert!(of("realm").is_empty() && of("realm.x").is_empty() && of("x").is_empty());
        assert_eq!(subject(&claims, "sub"), Some("42"));
        for none in ["groups", "control", "empty", "x"] {
            assert_eq!(subject(&claims, none), None, "{none}");
        }
    }
}
