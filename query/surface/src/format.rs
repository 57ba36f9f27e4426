//! Formats of an answer, and which one a client gets.

use axum::http::{HeaderMap, StatusCode, header};

use crate::problem::Problem;

/// Format of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON; of rows an array of objects.
    Json,
    /// RFC 4180 with a header.
    Csv,
    /// An Arrow IPC stream.
    Arrow,
    /// Text for people; of rows a table.
    Table,
}

impl Format {
    /// Those of rows.
    pub const ROWS: &'static [Format] = &[Format::Json, Format::Csv, Format::Arrow, Format::Table];
    /// Those of a document that has no columns.
    pub const DOCUMENT: &'static [Format] = &[Format::Json, Format::Table];

    /// The `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Csv => "text/csv; charset=utf-8",
            Format::Arrow => "application/vnd.apache.arrow.stream",
            Format::Table => "text/plain; charset=utf-8",
        }
    }

    /// The media type alone.
    pub fn media_type(self) -> &'static str {
        match self {
            Format::Csv => "text/csv",
            Format::Table => "text/plain",
            other => other.content_type(),
        }
    }

    /// The format that a client gets of those that there are: the one that its `Accept` likes
    /// best, of several that it likes as much the one that it names first, and the first there is
    /// where it does not say. A 406 if none fits.
    pub fn negotiate(headers: &HeaderMap, there_are: &[Format]) -> Result<Format, Problem> {
        let usual = there_are.first().copied().unwrap_or(Format::Json);
        let lines: Vec<&str> =
            headers.get_all(header::ACCEPT).iter().filter_map(|it| it.to_str().ok()).collect();
        let wanted = lines.join(",");
        if wanted.trim().is_empty() {
            return Ok(usual);
        }
        let ranges: Vec<(&str, u16)> = wanted.split(',').filter_map(range).collect();
        let mut best: Option<(Format, u16, usize)> = None;
        for &format in there_are {
            let Some((weight, place)) = weight(&ranges, format.media_type()) else { continue };
            if best.is_none_or(|(_, w, p)| weight > w || (weight == w && place < p)) {
                best = Some((format, weight, place));
            }
        }
        best.map(|(format, ..)| format).ok_or_else(|| {
            let names: Vec<&str> = there_are.iter().map(|format| format.media_type()).collect();
            let detail = format!("the answer comes as {}, not as {wanted:?}", names.join(", "));
            Problem::new(StatusCode::NOT_ACCEPTABLE, "no such format", detail)
        })
    }
}

/// A media range and its weight in thousandths.
fn range(text: &str) -> Option<(&str, u16)> {
    let mut parts = text.split(';').map(str::trim);
    let media = parts.next().filter(|media| !media.is_empty())?;
    let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
    let weight = weight.and_then(|weight| weight.parse::<f32>().ok()).unwrap_or(1.0);
    Some((media, (weight.clamp(0.0, 1.0) * 1_000.0) as u16))
}

/// Weight of a media type, and the place of the range that gives it: the most exact one counts.
fn weight(ranges: &[(&str, u16)], media: &str) -> Option<(u16, usize)> {
    let kind = media.split('/').next().unwrap_or_default();
    let exactness = |range: &str| {
        if range.eq_ignore_ascii_case(media) {
            Some(2)
        } else if range.strip_suffix("/*").is_some_and(|of| of.eq_ignore_ascii_case(kind)) {
            Some(1)
        } else if range == "*/*" || range == "*" {
            Some(0)
        } else {
            None
        }
    };
    let mut found: Option<(u8, u16, usize)> = None;
    for (place, (range, weight)) in ranges.iter().enumerate() {
        if let Some(exact) = exactness(range)
            && found.is_none_or(|(known, ..)| exact > known)
        {
            found = Some((exact, *weight, place));
        }
    }
    found.filter(|(_, weight, _)| *weight > 0).map(|(_, weight, place)| (weight, place))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(accept: &str) -> Result<Format, u16> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        Format::negotiate(&headers, Format::ROWS).map_err(|problem| problem.status)
    }

    #[test]
    fn the_client_gets_what_it_likes_best() {
        for (accept, format) in [
            ("", Format::Json),
            ("*/*", Format::Json),
            ("text/csv", Format::Csv),
            ("text/*", Format::Csv),
            ("text/plain, text/csv", Format::Table),
            ("text/plain;q=0.1, text/csv", Format::Csv),
            ("text/html, application/json;q=0.9", Format::Json),
            ("text/html,application/xhtml+xml,*/*;q=0.8", Format::Json),
            ("application/json;q=0, */*", Format::Csv),
            ("APPLICATION/JSON", Format::Json),
            ("application/vnd.apache.arrow.stream", Format::Arrow),
        ] {
            assert_eq!(chosen(accept), Ok(format), "{accept:?}");
        }
        for accept in ["image/png", "application/json;q=0", "text/html, image/*"] {
            assert_eq!(chosen(accept), Err(406), "{accept:?}");
        }
    }
}
