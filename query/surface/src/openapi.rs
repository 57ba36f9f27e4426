//! The OpenAPI document, made from the routes.

use axum::http::Method;
use serde_json::{Map, Value, json};

use crate::format::Format;
use crate::route::{Access, Answer, Parameter, Place, Route};

/// `GET /v1/openapi.json`.
pub(crate) static DOCUMENT: Route = Route {
    method: Method::GET,
    path: "/v1/openapi.json",
    summary: "This document",
    tag: "service",
    parameters: &[],
    page: None,
    body: None,
    answer: Answer { status: 200, formats: &[Format::Json], schema: || json!({"type": "object"}) },
    access: Access::PRINCIPALS,
    quiet: false,
};

/// The document of some routes.
pub fn document(routes: &[&Route]) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in routes {
        let of_path = paths.entry(route.path).or_insert_with(|| json!({}));
        of_path[route.method.as_str().to_ascii_lowercase()] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Nilometer",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Metering, billing and placement. Every answer is within what the \
                            principal may see. Pages: `limit` and `offset`; the header `Link` \
                            leads to the next one. An answer that breaks off ends the connection \
                            before its last chunk.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {
                    "type": "http", "scheme": "bearer",
                    "description": "A key, or the token of listen.token.",
                },
            },
            "responses": {"Problem": problem_response()},
            "schemas": {"Problem": problem_schema()},
        },
        "security": [{"bearer": []}, {}],
    })
}

fn operation(route: &Route) -> Value {
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": route.summary,
        "tags": [route.tag],
        "responses": {
            route.answer.status.to_string(): answer(route),
            "default": {"$ref": "#/components/responses/Problem"},
        },
    });
    let parameters: Vec<Value> = route.all_parameters().map(|it| parameter(&it)).collect();
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(body) = &route.body {
        operation["requestBody"] = json!({
            "required": true,
            "content": {"application/json": {"schema": (body.schema)()}},
        });
    }
    match route.access {
        Access::Everyone => operation["security"] = json!([]),
        Access::Roles(roles) => {
            let roles: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
            operation["description"] = format!("For the roles {}.", roles.join(", ")).into();
        }
    }
    operation
}

/// `GET /v1/invoices/{id}` is `get_invoices_id`.
fn operation_id(route: &Route) -> String {
    let words = route.path.split(|c: char| !c.is_ascii_alphanumeric());
    let words = words.filter(|word| !["", "v1"].contains(word));
    let method = route.method.as_str().to_ascii_lowercase();
    std::iter::once(method.as_str()).chain(words).collect::<Vec<_>>().join("_")
}

fn parameter(parameter: &Parameter) -> Value {
    let place = match parameter.place {
        Place::Path => "path",
        Place::Query => "query",
    };
    json!({
        "name": parameter.name, "in": place, "required": parameter.required,
        "description": parameter.doc, "schema": parameter.kind.schema(),
    })
}

fn answer(route: &Route) -> Value {
    let content: Map<String, Value> = route
        .answer
        .formats
        .iter()
        .map(|format| {
            let schema = match format {
                Format::Json => (route.answer.schema)(),
                Format::Arrow => json!({"type": "string", "contentEncoding": "binary"}),
                Format::Csv | Format::Table => json!({"type": "string"}),
            };
            (format.media_type().to_owned(), json!({"schema": schema}))
        })
        .collect();
    let mut headers = json!({
        "x-missing-rows": {
            "description": "Rows that the answer lacks because files are damaged.",
            "schema": {"type": "string"},
        },
    });
    if route.page.is_some() {
        headers["Link"] = json!({
            "description": "The next page, with rel=\"next\"; not there on the last one.",
            "schema": {"type": "string"},
        });
        headers["x-total-rows"] = json!({
            "description": "Rows of all pages.", "schema": {"type": "integer"},
        });
    }
    json!({"description": route.summary, "content": content, "headers": headers})
}

fn problem_response() -> Value {
    json!({
        "description": "A problem (RFC 9457): 400 the request is not as this document has it, 401 \
                        no valid credentials, 403 not for this role, 404 not there, 405 another \
                        method, 406 no such format, 408 and 413 beyond a limit, 409 not now, 415 \
                        not JSON, 422 asks for what cannot be, 429 too often, 5xx our failure.",
        "content": {
            "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}},
        },
    })
}

fn problem_schema() -> Value {
    let text = json!({"type": "string"});
    json!({
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": text, "title": text, "detail": text, "parameter": text,
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "line": {"type": "integer", "minimum": 0},
            "column": {"type": "integer", "minimum": 0},
        },
    })
}
