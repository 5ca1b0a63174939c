//! GraphiQL for browsers, out of the program itself: nothing is fetched from anywhere else, and the page may talk to nobody but
//! the server it came from. `scripts/vendor-graphiql` made the files that are not ours.

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};

/// Where scripts, styles, fonts and answers may come from; and that no other site may frame the page. The styles that GraphiQL
/// sets on its elements are inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; font-src 'self' data:; \
                      img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file whose name tells its version never changes.
const FOR_EVER: &str = "public, max-age=31536000, immutable";
/// Ours may, with the next version of the program.
const ASK_AGAIN: &str = "no-cache";

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// The page, whose links are relative to `/graphql`.
pub(crate) fn page() -> Response {
    let page = include_str!("../assets/graphiql/index.html");
    (headers("text/html; charset=utf-8", ASK_AGAIN), page).into_response()
}

/// A file that the page asks for.
pub(crate) fn file(name: &str) -> Option<Response> {
    let (kind, keep, bytes): (_, _, &'static [u8]) = match name {
        "graphiql-2.4.7.min.js" => {
            (SCRIPT, FOR_EVER, include_bytes!("../assets/graphiql/graphiql-2.4.7.min.js").as_slice())
        }
        "graphiql-2.4.7.min.css" => {
            (STYLE, FOR_EVER, include_bytes!("../assets/graphiql/graphiql-2.4.7.min.css").as_slice())
        }
        "react-18.3.1.min.js" => {
            (SCRIPT, FOR_EVER, include_bytes!("../assets/graphiql/react-18.3.1.min.js").as_slice())
        }
        "react-dom-18.3.1.min.js" => {
            (SCRIPT, FOR_EVER, include_bytes!("../assets/graphiql/react-dom-18.3.1.min.js").as_slice())
        }
        "start.js" => (SCRIPT, ASK_AGAIN, include_bytes!("../assets/graphiql/start.js").as_slice()),
        "start.css" => (STYLE, ASK_AGAIN, include_bytes!("../assets/graphiql/start.css").as_slice()),
        _ => return None,
    };
    Some((headers(kind, keep), bytes).into_response())
}

fn headers(kind: &'static str, keep: &'static str) -> [(HeaderName, HeaderValue); 5] {
    [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static(keep)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// L14: whoever opens the page runs this program's scripts and nobody else's.
    #[test]
    fn the_page_loads_only_files_that_are_embedded() {
        let page = include_str!("../assets/graphiql/index.html");
        let links: Vec<&str> =
            page.split(['"', '\n']).filter(|part| part.ends_with(".js") || part.ends_with(".css")).collect();
        assert_eq!(links.len(), 6, "{links:?}");
        for link in links {
            let name = link.strip_prefix("graphql/").unwrap();
            let found = file(name).unwrap();
            let versioned = name.contains(|c: char| c.is_ascii_digit());
            assert_eq!(found.headers()[header::CACHE_CONTROL] == FOR_EVER, versioned, "{name}");
            let kind = if link.ends_with(".js") { SCRIPT } else { STYLE };
            assert_eq!(found.headers()[header::CONTENT_TYPE], kind, "{name}");
        }
        assert!(!page.contains("//"), "an address elsewhere");
        assert!(!page.contains("<script>") && !page.contains("<style>"), "inline");
        assert!(file("../index.html").is_none() && file("react-18.3.1.LICENSE").is_none());
    }
}
